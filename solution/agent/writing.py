"""A model of `solution.models` as the model of an agent, greedy, with calls in Hermes form.

What follows `<tool_call>` is constrained to a call of one of the tools. A model whose chat template knows
tools in this form was trained to say when it calls; with any other one, `leaning.py` says so at a question,
the reply ends after a call, and `prompt.py` tells it of the tools.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from solution.models import Decoder, load
from solution.models.tokenizer import Tokenizer
from solution.models.vocabulary import read_vocabulary
from spec import ContextTooLong, NotSupported
from spec.agent import Message, Reply, Schema

from .constraint import JsonConstraint
from .grammar import an_object, grammar
from .hermes import END, START
from .leaning import Reader, tool_for
from .prompt import Definitions, told, with_values
from .vocabulary import token_bytes


class Writer:
    """One conversation after another: of each, only what is new is read."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        vocabulary: Sequence[bytes],
        tools: Definitions,
        max_tokens: int,
        *,
        constrained: bool = True,
        say: Callable[[str], None] = lambda piece: None,
    ) -> None:
        """vocabulary: `token_bytes`. tools: as an agent gives them to its model. max_tokens: of a reply.
        say: is told each reply in pieces, and may raise.

        Raises NotSupported, with the tool's name, for parameters that `JsonConstraint` does not take.
        """
        model = decoder.start()
        self._tokenizer, self._tools, self._max_tokens, self._say = tokenizer, tools, max_tokens, say
        self._talk, self._aside, self._max_length = Reader(model), Reader(decoder.start()), model.max_length
        self._constraint: JsonConstraint | None = None
        if constrained and tools:
            words = [*vocabulary, *[b""] * (model.vocab_size - len(vocabulary))]
            self._constraint = JsonConstraint(calls_of(tools), words, sorted(tokenizer.eos_ids))
        self._is_trained = bool(tools) and START in tokenizer.decode(
            tokenizer.chat([{"role": "user", "content": "?"}], tools=tools)
        )

    @classmethod
    def open(cls, path: Path, tools: Definitions, max_tokens: int, **options: Any) -> "Writer":
        vocabulary = read_vocabulary(path)
        words = token_bytes(vocabulary)
        return cls(load(path), Tokenizer(vocabulary), words, tools, max_tokens, **options)

    def __call__(self, messages: Sequence[Message], tools: Definitions) -> Reply:
        """tools: those that it was made with."""
        prompt = self.prompt(messages)
        room = min(self._max_tokens, self._max_length - len(prompt))
        if room < 1:
            raise ContextTooLong(
                f"messages: expected fewer than {self._max_length} tokens, got {len(prompt)}"
            )
        written = Written(self._tokenizer, self._say)
        name = self._tool_asked_for(messages, prompt)
        if name is not None:
            written.put(f'{START}\n{{"name": {json.dumps(name)}, "arguments":')
        finish = self._write(prompt, written, room)
        written.close()
        return Reply(written.text, finish, len(prompt) + len(written.ids))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """What it reads before it writes."""
        if self._is_trained:
            return self._tokenizer.chat(with_values(messages), tools=self._tools)
        return self._tokenizer.chat(told(messages, self._tools) if self._tools else messages)

    def _tool_asked_for(self, messages: Sequence[Message], prompt: Sequence[int]) -> str | None:
        if self._is_trained or not self._tools or messages[-1]["role"] != "user":
            return None
        question = messages[-1]["content"]
        return tool_for(question, self._tools, self._tokenizer, self._talk, prompt, self._aside)

    def _write(self, prompt: list[int], written: "Written", room: int) -> str:
        """How it ended: "stop", or "length"."""
        ends = self._tokenizer.eos_ids
        done = 0  # characters of the reply up to the end of its last call
        state = self._state_in(written.text)
        written.tell()
        while len(written.ids) < room:
            logits = self._talk.logits(prompt + written.ids)[-1]
            if state is not None:
                logits = mx.where(self._constraint.allowed(state), logits, -mx.inf)
            token = int(mx.argmax(logits))
            if token in ends:
                return "stop"
            written.add(token)
            if state is not None:
                state = self._constraint.advance(state, token)
                if self._constraint.is_complete(state):
                    written.put(f"\n{END}")
                    state = None
            elif self._constraint is not None and START in written.text[done:]:
                written.cut(written.text.index(START, done) + len(START))
                written.put("\n")
                state = self._constraint.start()
            if state is None and END in written.text[done:]:
                done = len(written.text)
                if not self._is_trained:
                    return "stop"
            written.tell()
        return "length"

    def _state_in(self, text: str) -> Any:
        """Where the constraint is in a reply that was begun."""
        if not text or self._constraint is None:
            return None
        state = self._constraint.start()
        for token in self._tokenizer.encode(text.removeprefix(f"{START}\n")):
            state = self._constraint.advance(state, token)
        return state


class Written:
    """A reply as it grows, whole characters alone; `tell` says what was not said yet."""

    def __init__(self, tokenizer: Tokenizer, say: Callable[[str], None]) -> None:
        self._tokenizer, self._say = tokenizer, say
        self._detokenizer = tokenizer.detokenizer()
        self.ids: list[int] = []
        self.text = ""
        self._told = 0  # characters

    def add(self, token: int) -> None:
        self.ids.append(token)
        self.text += self._detokenizer.feed(token)

    def put(self, text: str) -> None:
        for token in self._tokenizer.encode(text):
            self.add(token)

    def cut(self, length: int) -> None:
        """To so many characters, none of which is in a token with one that goes."""
        text, self.ids, self.text = self.text[:length], [], ""
        self._detokenizer = self._tokenizer.detokenizer()
        self.put(text)

    def tell(self) -> None:
        if len(self.text) > self._told:
            self._say(self.text[self._told :])
            self._told = len(self.text)

    def close(self) -> None:
        self.text += self._detokenizer.close()
        self.tell()


def calls_of(tools: Definitions) -> Schema:
    """The schema of a call of one of these. Raises NotSupported as `Writer` does."""
    functions = [tool["function"] for tool in tools]
    for function in functions:
        try:
            grammar(function["parameters"])
        except NotSupported as error:
            raise NotSupported(f"tool {function['name']}: {error}") from None
    return {
        "anyOf": [
            an_object({"name": {"enum": [each["name"]]}, "arguments": each["parameters"]})
            for each in functions
        ]
    }
