"""How well a model calls functions: BFCL's questions, each answered freely and with calls constrained."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from solution.models import Decoder, load
from solution.models.tokenizer import Tokenizer
from solution.models.vocabulary import Vocabulary, read_vocabulary
from spec.agent import Reply

from .agent import told_of
from .hermes import START
from .judging import SETS, Question, is_right, is_valid, json_schema, narrowed, read_bfcl
from .parsing import parse_tool_calls
from .prompt import Definitions
from .vocabulary import token_bytes
from .writing import Writer

FREE, CONSTRAINED = "free", "constrained"
MOST = 128  # tokens of an answer; right ones have at most 113 of SmolLM2, half of them 51


@dataclass(frozen=True)
class Answer:
    """calls: whether it has one, or what was meant to be one. cut: whether it had no end within MOST tokens.
    valid, right: what `judging.py` says of it."""

    set: str
    id: str
    mode: str
    reply: Reply
    calls: bool
    cut: bool
    valid: bool
    right: bool
    seconds: float


def draw(folder: Path, limit: int, seed: int) -> list[tuple[str, Question]]:
    """So many questions of each set, or all for 0, one of each set in turn: whoever stops early has had about
    as many of each."""
    drawn = []
    for name in SETS:
        questions = read_bfcl(folder, name)
        order = Random(seed).sample(range(len(questions)), min(limit or len(questions), len(questions)))
        drawn.append([(name, questions[i]) for i in order])
    return [each for turn in zip_longest(*drawn) for each in turn if each is not None]


def definitions(question: Question) -> Definitions:
    """Its functions as an agent gives them to its model."""
    return [
        told_of(name, function["description"], narrowed(json_schema(function["parameters"])))
        for name, function in question.functions.items()
    ]


class Subject:
    """A model that is asked, greedily, each question by itself."""

    def __init__(self, decoder: Decoder, vocabulary: Vocabulary) -> None:
        self._decoder, self._tokenizer = decoder, Tokenizer(vocabulary)
        self._words = token_bytes(vocabulary)

    @classmethod
    def open(cls, path: Path) -> "Subject":
        return cls(load(path), read_vocabulary(path))

    def __call__(self, question: Question, constrained: bool) -> Reply:
        tools = definitions(question)
        return self._writer(tools, constrained)(question.messages, tools)

    def prompt(self, question: Question) -> str:
        writer = self._writer(definitions(question), False)
        return self._tokenizer.decode(writer.prompt(question.messages))

    def _writer(self, tools: Definitions, constrained: bool) -> Writer:
        return Writer(self._decoder, self._tokenizer, self._words, tools, MOST, constrained=constrained)


def answers(
    questions: Iterable[tuple[str, Question]], ask: Callable[[Question, bool], Reply]
) -> Iterator[Answer]:
    """Two of each question. Where the free one has no call nothing would be constrained, and it counts as
    both."""
    for name, question in questions:
        answer = _answer(name, question, ask, FREE)
        yield answer
        if START in answer.reply.text:
            yield _answer(name, question, ask, CONSTRAINED)
        else:
            yield replace(answer, mode=CONSTRAINED)


def _answer(name: str, question: Question, ask: Callable[[Question, bool], Reply], mode: str) -> Answer:
    begun = perf_counter()
    reply = ask(question, mode == CONSTRAINED)
    seconds = perf_counter() - begun
    parsed = parse_tool_calls(reply.text, "hermes")
    calls = bool(parsed.calls or parsed.problems)
    valid, right = is_valid(question, parsed), is_right(question, parsed.calls)
    return Answer(name, question.id, mode, reply, calls, reply.finish == "length", valid, right, seconds)


def summary(found: Sequence[Answer]) -> list[dict[str, Any]]:
    """For each set and mode: how many answers; which shares of them call, have a call that was cut, and are
    right; of the calls that were not cut, which share is valid; the mean seconds of an answer."""
    rows = []
    for name, mode in dict.fromkeys((each.set, each.mode) for each in found):
        some = [each for each in found if (each.set, each.mode) == (name, mode)]
        ended = [each for each in some if each.calls and not each.cut]
        row = {"set": name, "mode": mode, "answers": len(some)}
        row["calls"] = sum(each.calls for each in some) / len(some)
        row["cut"] = sum(each.calls and each.cut for each in some) / len(some)
        row["valid"] = sum(each.valid for each in ended) / len(ended) if ended else None
        row["right"] = sum(each.right for each in some) / len(some)
        row["seconds"] = sum(each.seconds for each in some) / len(some)
        rows.append(row)
    return rows
