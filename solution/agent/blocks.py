"""JSON inside other text: where it ends, which call it is, and its parts as they were written."""

import json
import re
from typing import NoReturn

from spec.agent import ToolCall

SPACE = " \t\n\r"  # white space of JSON
_GAP = f"[{SPACE}]*+"
_SPACE = re.compile(_GAP)
_PLAIN = r'[^"\\\x00-\x1f]*+'
_KEY = re.compile(rf'{_GAP}"({_PLAIN}(?:\\.{_PLAIN})*+)"{_GAP}:{_GAP}')
_NEXT = re.compile(f"{_GAP}([,}}])")
_USUAL = re.compile(
    rf'{_GAP}\{{{_GAP}"name"{_GAP}:{_GAP}"([^"\\\x00-\x1f]++)"{_GAP},{_GAP}"arguments"{_GAP}:{_GAP}'
)
_USUAL_END = re.compile(rf"{_GAP}\}}{_GAP}\Z")

Members = dict[str, tuple[object, str]]  # values of an object, and how they were written


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"expected JSON, got {name}")


_JSON = json.JSONDecoder(parse_constant=_refuse)


def front_value(text: str) -> tuple[str, int] | None:
    """The JSON value at the front of a text, as arguments, and where it ends; None if there is none."""
    start = _SPACE.match(text).end()
    try:
        value, end = _JSON.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return _arguments(value, text[start:end]), end


def whole_value(text: str) -> tuple[bool, ToolCall | None]:
    """Whether a text is one JSON value, and the call that it is.

    An object is read member by member, because arguments stay as they were written.
    """
    try:
        usual = _USUAL.match(text)
        if usual is not None:
            start = usual.end()
            value, end = _JSON.raw_decode(text, start)
            if _USUAL_END.match(text, end):
                return True, ToolCall(None, usual[1], _arguments(value, text[start:end]))
        start = _SPACE.match(text).end()
        if text.startswith("{", start):
            members, end = _members(text, start + 1)
        else:
            members, end = {}, _JSON.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return False, None
    if _SPACE.match(text, end).end() < len(text):
        return False, None
    return True, _call(members)


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


def _call(members: Members) -> ToolCall | None:
    name, _ = members.get("name", ("", ""))
    given = members.get("arguments") or members.get("parameters")
    if given is None or not name or not isinstance(name, str):
        return None
    return ToolCall(None, name, _arguments(*given))


def _arguments(value: object, text: str) -> str:
    """A string is the text of JSON itself: models that know the wire format put their arguments into one."""
    return value if isinstance(value, str) else text
