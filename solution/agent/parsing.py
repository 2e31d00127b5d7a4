"""Calls in a model's output, whole or while it comes."""

from spec import InvalidArgument
from spec.agent import Parsed, ToolCall

from .checks import check_format
from .hermes import Found, Hermes
from .react import React

_READERS = {"hermes": Hermes, "react": React}


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
        self._reader: Hermes | React | None = _READERS[format]()

    def feed(self, text: str) -> Found:
        return self._open().read(text, ended=False)

    def close(self) -> Found:
        found = self._open().read("", ended=True)
        self._reader = None
        return found

    def _open(self) -> Hermes | React:
        if self._reader is None:
            raise InvalidArgument("text: expected none after close, for the output has ended")
        return self._reader
