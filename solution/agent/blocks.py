"""JSON inside other text: where it ends, which call it is, and its parts as they were written."""

import json
import re
from typing import NoReturn

from spec.agent import ParseProblem, ToolCall

SPACE = " \t\n\r"  # white space of JSON
_GAP = f"[{SPACE}]*+"
_SPACE = re.compile(_GAP)
_PLAIN = r'[^"\\\x00-\x1f]*+'
_KEY = re.compile(rf'{_GAP}"({_PLAIN}(?:\\.{_PLAIN})*+)"{_GAP}:{_GAP}')
_NEXT = re.compile(f"{_GAP}([,}}])")
_USUAL = re.compile(
    rf'{_GAP}\{{{_GAP}"name"{_GAP}:{_GAP}"([^"\\\x00-\x1f]++)"{_GAP},{_GAP}"(?:argument|parameter)s"{_GAP}:{_GAP}'
)
_USUAL_END = re.compile(rf"{_GAP}\}}{_GAP}")
_REST = r'[^"\\]*+(?:\\.[^"\\]*+)*+'  # of a string, without its quote
INSIDE = re.compile(_REST, re.DOTALL)

Members = dict[str, tuple[object, str]]  # values of an object, and how they were written
Found = list[str | ToolCall | ParseProblem]


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"expected JSON, got {name}")


_JSON = json.JSONDecoder(parse_constant=_refuse)


class Pending:
    """Text that has begun to be something, and is not all there. parts: as far as it was read."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def wait(self, text: str, start: int, at: int) -> tuple[None, str, int]:
        self.parts.append(text[start:at])
        return None, text, at

    def again(self, text: str, start: int) -> tuple[str, int]:
        """All of it in one text, and where it begins there."""
        if not self.parts:
            return text, start
        text, self.parts = "".join([*self.parts, text[start:]]), []
        return text, 0


def value_of(text: str) -> object:
    """Of JSON text. Raises ValueError or RecursionError."""
    return _JSON.decode(text)


def front_value(text: str) -> tuple[str, int] | None:
    """The JSON value at the front of a text, as arguments, and where it ends; None if there is none."""
    start = _SPACE.match(text).end()
    try:
        value, end = _JSON.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return _arguments(value, text[start:end]), end


def whole_value(text: str) -> tuple[bool, ToolCall | None]:
    """Whether a text is one JSON value, and the call that it is."""
    found = front_object(text, 0)
    if found is None:
        other = front_value(text)
        found = other and (None, _SPACE.match(text, other[1]).end())
    if found is None or found[1] < len(text):
        return False, None
    return True, found[0]


def front_object(text: str, at: int) -> tuple[ToolCall | None, int] | None:
    """The call that the object here is, and where it ends, white space included; None if none is complete.

    It is read member by member, because arguments stay as they were written.
    """
    try:
        usual = _USUAL.match(text, at)
        if usual is not None:
            start = usual.end()
            value, end = _JSON.raw_decode(text, start)
            close = _USUAL_END.match(text, end)
            if close is not None:
                return ToolCall(None, usual[1], _arguments(value, text[start:end])), close.end()
        start = _SPACE.match(text, at).end()
        if not text.startswith("{", start):
            return None
        members, end = _members(text, start + 1)
    except (ValueError, RecursionError):
        return None
    return call_of(members), _SPACE.match(text, end).end()


def _members(text: str, at: int) -> tuple[Members, int]:
    """Of the object whose brace is before `at`, and where it ends."""
    found: Members = {}
    after = _NEXT.match(text, at)
    if after is not None and after[1] == "}":
        return found, after.end()
    while True:
        key = _KEY.match(text, at)
        if key is None:
            raise ValueError("expected a key")
        name, start = key[1], key.end()
        if "\\" in name:
            name = _JSON.decode(f'"{name}"')
        value, end = _JSON.raw_decode(text, start)
        found[name] = value, text[start:end]
        after = _NEXT.match(text, end)
        if after is None:
            raise ValueError("expected a comma or a brace")
        at = after.end()
        if after[1] == "}":
            return found, at


def call_of(members: Members, id: str | None = None) -> ToolCall | None:
    name, _ = members.get("name", ("", ""))
    given = members.get("arguments") or members.get("parameters")
    if given is None or not name or not isinstance(name, str):
        return None
    return ToolCall(id, name, _arguments(*given))


def outside(plain: str) -> re.Pattern[str]:
    """What may stand outside of strings, and the strings between that are all there."""
    return re.compile(f'{plain}(?:"{_REST}"{plain})*+', re.DOTALL)


def unfinished(text: str, at: int, *tags: str) -> int:
    """Where, from `at` on, a tag begins that is not all there; the end of the text if none does."""
    start = text.rfind("<", max(at, len(text) - max(map(len, tags))))
    is_one = start >= 0 and any(tag.startswith(text[start:]) for tag in tags)
    return start if is_one else len(text)


def _arguments(value: object, text: str) -> str:
    """A string is the text of JSON itself: models that know the wire format put their arguments into one."""
    return value if isinstance(value, str) else text
