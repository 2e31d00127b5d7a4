"""Text to tokens and back."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spec import InvalidArgument, NotSupported

from .chat import Message, check_messages, render
from .hiding import Hider, escaped, take_out_marks
from .vocabulary import Vocabulary, read_vocabulary

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what bytes decode to that are no character, or no whole one yet
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a token of one byte, in vocabularies that fall back on bytes


class Tokenizer:
    """The tokenizer of one model."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._backend = vocabulary.backend
        take_out_marks(self._backend)
        self._hider = Hider(vocabulary.special)
        self._template = vocabulary.template
        self._names = dict(vocabulary.names)
        self.eos_ids = vocabulary.eos_ids
        """Tokens that end a text or a turn."""

    @classmethod
    def open(cls, path: str | Path) -> "Tokenizer":
        """path: a folder in Hugging Face's form, with a tokenizer.json, or a GGUF file.

        Raises InvalidArgument when it is neither; NotSupported for a vocabulary in a GGUF file that is no
        byte-level BPE.
        """
        return cls(read_vocabulary(Path(path)))

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The tokens of a text and no others.

        special: whether `<|im_end|>` and the like in the text become the tokens of that name. Without it they
            are read as the characters they are written in, whatever the text.
        """
        shown = escaped(text) if special else self._hider.text(text)
        return list(self._backend.encode(shown, add_special_tokens=False).ids)

    def framed(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts as the model was trained to read them: with the token that begins a text, if it
        has one, or between [CLS] and [SEP]."""
        hidden = [self._hider.text(text) for text in texts]
        return [list(encoding.ids) for encoding in self._backend.encode_batch_fast(hidden)]

    def chat(
        self, messages: Sequence[Message], *, generate: bool = True, tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """The tokens of a conversation, by the model's own template.

        messages: {"role": …, "content": …} each, as far as the template knows what else is in them.
        generate: whether it ends where the assistant's answer begins.
        tools: definitions, for templates that know what to do with them; others leave them out.

        Special tokens come from the template. None comes from the messages: none that a string in them holds,
        and none that begins or ends in one and goes on in what stands beside it. What is not seen: a template
        that cuts a string in its middle and joins the pieces to a special token. And a token that the
        vocabulary adds but does not call special, such as <think> of some models, is found in messages too.

        Raises NotSupported for a model without a template, InvalidArgument for an unknown role and where the
        template refuses.
        """
        if self._template is None:
            raise NotSupported("chat: expected a model with a chat template, this one has none")
        check_messages(messages)
        parts = self._hider.part(messages)
        given = {**self._names, "tools": self._hider.part(tools)} if tools else self._names
        text = render(self._template, parts, generate=generate, names=given)
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens, special ones by name. Bytes that are no character become U+FFFD.

        Raises InvalidArgument for an id outside the vocabulary."""
        ids = list(ids)
        for id in ids:
            self._name(id)
        return str(self._backend.decode(ids, skip_special_tokens=False))

    def detokenizer(self) -> "Detokenizer":
        return Detokenizer(self)

    def is_byte(self, id: int) -> bool:
        """Whether the token is one byte that only counts together with its neighbours."""
        return BYTE.fullmatch(self._name(id)) is not None

    def _name(self, id: int) -> str:
        name = self._backend.id_to_token(id) if id >= 0 else None
        if name is None:
            raise InvalidArgument(f"ids: expected tokens of the vocabulary, got {id}")
        return str(name)


class Detokenizer:
    """Text out of tokens that come one by one. The pieces make up `decode` of all of them, and no piece ends
    inside a character; so a token may bring nothing, and a later one more than its own.

    Only the last tokens are decoded again: those of the piece before, because some decoders treat the first
    token of a text in another way, and those after it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._told: list[int] = []  # the tokens of the piece before
        self._open: list[int] = []  # tokens since

    def feed(self, token: int) -> str:
        """What is certain now and was not told yet."""
        self._open.append(token)
        text = self._rest()
        if text.endswith(BROKEN) or self._tokenizer.is_byte(token):
            return ""
        self._told, self._open = self._open, []
        return text

    def close(self) -> str:
        """What is left when no more tokens come."""
        text = self._rest()
        self._told, self._open = [], []
        return text

    def _rest(self) -> str:
        before = self._tokenizer.decode(self._told)
        return self._tokenizer.decode(self._told + self._open)[len(before) :]
