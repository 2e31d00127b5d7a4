"""JSON by hand: coroutines on a tape that may still grow, and when two values are the same."""

import re
from collections.abc import Mapping
from math import inf

from .basics import BLANK

DEEPEST = 128  # levels of a value that the scanner still follows


class Bad(Exception):
    """Here is no JSON."""


class Tape:
    """Text that may still grow. Coroutines that read it yield when at its end, unless it is closed."""

    def __init__(self, text="", closed=True):
        self.text, self.closed, self.at, self.found = text, closed, 0, []

    def cut(self, end):
        """Takes the text before `end` off."""
        taken, self.text, self.at = self.text[:end], self.text[end:], 0
        return taken


NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
SURROGATES = re.compile("([\ud800-\udbff])([\udc00-\udfff])|[\ud800-\udfff]")
ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
WORDS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}


def join_surrogates(text):
    """Halves that stand together become the character that they are, others U+FFFD."""

    def whole(match):
        high, low = match.groups()
        return chr(0x10000 + (ord(high) - 0xD800 << 10) + ord(low) - 0xDC00) if high else "\ufffd"

    return SURROGATES.sub(whole, text)


def peek(tape):
    while tape.at == len(tape.text) and not tape.closed:
        yield
    return tape.text[tape.at : tape.at + 1]


def take(tape, expected):
    for character in expected:
        if (yield from peek(tape)) != character:
            raise Bad
        tape.at += 1


def blank(tape):
    while (character := (yield from peek(tape))) and character in BLANK:
        tape.at += 1
    return character


def scan(tape, depth=0):
    """A value, with white space before it."""
    if depth > DEEPEST:
        raise Bad
    first = yield from blank(tape)
    if first == "{":
        return {key: value for key, value, _ in (yield from scan_members(tape, depth))}
    if first == "[":
        return (yield from scan_items(tape, depth))
    if first == '"':
        return (yield from scan_string(tape))
    if first in WORDS:
        word, value = WORDS[first]
        yield from take(tape, word)
        return value
    return (yield from scan_number(tape))


def scan_members(tape, depth):
    """Key, value and text of the value, of each member of an object."""
    members, keys = [], set()
    yield from take(tape, "{")
    if (yield from blank(tape)) == "}":
        tape.at += 1
        return members
    while True:
        yield from blank(tape)
        key = yield from scan_string(tape)
        if key in keys:
            raise Bad
        keys.add(key)
        yield from blank(tape)
        yield from take(tape, ":")
        yield from blank(tape)
        start = tape.at
        value = yield from scan(tape, depth + 1)
        members.append((key, value, tape.text[start : tape.at]))
        if (yield from blank(tape)) == "}":
            tape.at += 1
            return members
        yield from take(tape, ",")


def scan_items(tape, depth):
    items = []
    yield from take(tape, "[")
    if (yield from blank(tape)) == "]":
        tape.at += 1
        return items
    while True:
        items.append((yield from scan(tape, depth + 1)))
        if (yield from blank(tape)) == "]":
            tape.at += 1
            return items
        yield from take(tape, ",")


def scan_string(tape):
    parts = []
    yield from take(tape, '"')
    while (character := (yield from peek(tape))) != '"':
        plain = PLAIN.match(tape.text, tape.at).group()
        parts.append(plain)
        tape.at += len(plain)
        if plain:
            continue
        yield from take(tape, "\\")
        character = yield from peek(tape)
        tape.at += 1
        if character == "u":
            digits = ""
            for _ in range(4):
                digits += yield from peek(tape)
                tape.at += 1
            if not re.fullmatch("[0-9a-fA-F]{4}", digits):
                raise Bad
            parts.append(chr(int(digits, 16)))
        elif character in ESCAPES:
            parts.append(ESCAPES[character])
        else:
            raise Bad
    tape.at += 1
    text = "".join(parts)
    if any(match[1] is None for match in SURROGATES.finditer(text)):
        raise Bad
    return join_surrogates(text)


def scan_number(tape):
    start = tape.at
    while (character := (yield from peek(tape))) and character in "+-.0123456789eE":
        tape.at += 1
    match = NUMBER.match(tape.text, start)
    if not match or abs(float(match.group())) == inf:
        raise Bad
    tape.at = match.end()
    return float(match.group()) if match[1] or match[2] else int(match.group())


def drain(coroutine):
    """What a coroutine on a closed tape returns."""
    try:
        next(coroutine)
    except StopIteration as end:
        return end.value


def decode(text):
    """The value that a text is. Raises Bad."""
    tape = Tape(text)
    value = drain(scan(tape))
    if drain(blank(tape)):
        raise Bad
    return value


def identity(value):
    """Something that is equal for equal values of JSON, and can be hashed."""
    if isinstance(value, bool) or value is None:
        return ("word", str(value))
    if isinstance(value, str):
        return ("text", value)
    if isinstance(value, int | float):
        return ("number", value)
    if isinstance(value, Mapping):
        return ("object", frozenset((key, identity(member)) for key, member in value.items()))
    return ("array", tuple(map(identity, value)))
