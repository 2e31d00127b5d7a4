"""Calls in a model's output, whole or while it comes."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from spec import InvalidArgument
from spec.agent import Parsed, ToolCall

from .blocks import Found
from .checks import check_format
from .hermes import Hermes
from .llama3 import Llama3
from .openai import openai
from .react import react


class Reader(Protocol):
    def read(self, piece: str, *, ended: bool) -> Found: ...


class AtTheEnd:
    """A format whose text is read once all of it is there."""

    def __init__(self, found: Callable[[str], Found]) -> None:
        self.pieces: list[str] = []
        self.found = found

    def read(self, piece: str, *, ended: bool) -> Found:
        self.pieces.append(piece)
        return [each for each in self.found("".join(self.pieces)) if each != ""] if ended else []


_READERS: dict[str, Callable[[], Reader]] = {
    "hermes": Hermes,
    "react": partial(AtTheEnd, react),
    "llama3": Llama3,
    "openai": partial(AtTheEnd, openai),
}


def parse_tool_calls(text: str, format: str) -> Parsed:
    check_format(format)
    content, calls, problems = [], [], []
    for each in _READERS[format]().read(text, ended=True):
        kind = content if isinstance(each, str) else calls if isinstance(each, ToolCall) else problems
        kind.append(each)
    return Parsed("".join(content), calls, problems)


class StreamingToolParser:
    def __init__(self, format: str) -> None:
        check_format(format)
        self._reader: Reader | None = _READERS[format]()

    def feed(self, text: str) -> Found:
        return self._open().read(text, ended=False)

    def close(self) -> Found:
        found = self._open().read("", ended=True)
        self._reader = None
        return found

    def _open(self) -> Reader:
        if self._reader is None:
            raise InvalidArgument("text: expected none after close, for the output has ended")
        return self._reader
