"""Schemas that a constraint must take, texts that they accept, and how a text is written token by token.

White space, escapes and exponents are free in places, so no mask is compared with another one. What a mask
lets through is written to an end and judged there.
"""

import json
import re

import numpy as np
from hypothesis import strategies as st

from tests.week3.agent.cases import TRUTH

LONGER = [
    b'{"a":',
    b'"}',
    b"1}",
    b'":',
    b"true",
    b'","',
    b"  ",
    b"nul",
    b"\\u00",
    b"\\n",
    b"\xc3\xa9",
    b"\x98\x80",
    b"12",
]
TOKENS = [
    *LONGER,
    b"",
    *(bytes([i]) for i in reversed(range(256))),
    b"on",
    b"ff",
    b'ff"',
    b'n"',
    b"</s>",
    b"}",
    b"",
    b"0",
]
EOS = [
    TOKENS.index(b"</s>"),
    len(TOKENS) - 3,
    len(TOKENS) - 2,
]  # one is written like a brace, one like nothing
BYTE = {i: TOKENS.index(bytes([i])) for i in range(256)}
FIRST = b'"}],:0123456789abcdefghijklmnopqrstuvwxyz{[-.'  # what ends a text soon
SOON = [*FIRST, *(i for i in range(256) if i not in FIRST)]


def constraint_of(module, schema):
    return module.JsonConstraint(schema, TOKENS, EOS)


def mask_of(constraint, state):
    """(V,) bool"""
    mask = constraint.allowed(state)
    assert isinstance(mask, np.ndarray), f"mask: expected an array, got {mask!r}"
    assert (mask.dtype, mask.shape) == (np.bool_, (len(TOKENS),)), f"mask: got {mask.dtype} {mask.shape}"
    return mask


def written(constraint, text):
    """The state after a text that is allowed, byte by byte."""
    state = constraint.start()
    for byte in text:
        state = constraint.advance(state, BYTE[byte])
    return state


def accepts(constraint, text):
    """Whether this text can be written, byte by byte, and be all."""
    state = constraint.start()
    for byte in text:
        if not mask_of(constraint, state)[BYTE[byte]]:
            return False
        state = constraint.advance(state, BYTE[byte])
    return constraint.is_complete(state)


def to_the_end(constraint, state, text):
    """This text and what may follow, to an end that is near."""
    for _ in range(80):
        mask = mask_of(constraint, state)
        if mask[EOS[0]]:
            return text
        token = next((BYTE[byte] for byte in SOON if mask[BYTE[byte]]), None)
        assert token is not None, f"no byte is allowed after {text!r}"
        state, text = constraint.advance(state, token), text + TOKENS[token]
    raise AssertionError(f"no end is near after {text!r}")


EXPONENT = re.compile(r'"(?:[^"\\]|\\.)*"|([eE][+-]?\d{3,})')


def is_valid(schema, text):
    """Whether bytes are JSON that the schema accepts, whatever the size of numbers."""
    try:
        text = EXPONENT.sub(lambda found: "e99" if found[1] else found[0], text.decode())
        json.loads(text)  # what Python's parser refuses already needs no look at the schema
    except ValueError:
        return False
    whole = {"type": "object", "properties": {"": schema}, "additionalProperties": False}
    return TRUTH.validate_arguments(whole, f'{{"":{text}}}') == []


def compact(value):
    """The canonical form."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


# Schemas --------------------------------------------------------------------------------------------------


def an_object(**properties):
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


INTEGER, STRING, NULL = {"type": "integer"}, {"type": "string"}, {"type": "null"}
PAIRS = {  # name: (schema, a value that it accepts)
    "an integer": (INTEGER, -102),
    "15 digits": (INTEGER, 123456789012345),
    "a number": ({"type": "number"}, 20.75),
    "a whole number": ({"type": "number"}, 20),
    "a truth": ({"type": "boolean"}, False),
    "a string": (STRING, 'ü"\\/\n\b\f\x1f\x7f😀\U0010ffff'),
    "a list": ({"type": "array", "items": INTEGER}, [0, -7]),
    "a list of lists": ({"type": "array", "items": {"type": "array", "items": NULL}}, [[], [None]]),
    "an object": (an_object(a=INTEGER, b=STRING), {"a": 1, "b": "}"}),
    "nothing inside": (an_object(), {}),
    "an object in another": (an_object(x=an_object(a={"type": "boolean"})), {"x": {"a": True}}),
    "strange names": (an_object(**{'"é': NULL, "": INTEGER, "a\\": NULL}), {'"é': None, "": 0, "a\\": None}),
    "names of keywords": (
        an_object(title=NULL, enum=INTEGER, type=NULL),
        {"title": None, "enum": 1, "type": None},
    ),
    "a list of some": ({"type": "array", "items": {"anyOf": [INTEGER, NULL]}}, [None, 3]),
    "one of three": ({"anyOf": [INTEGER, NULL, an_object(a=INTEGER)]}, {"a": 3}),
    "one of some": ({"enum": ["on", "off", 12, None, [1, {"b": "é"}]]}, [1, {"b": "é"}]),
    "notes": ({"title": "t", **an_object(a={**INTEGER, "default": "x", "description": "d"})}, {"a": 5}),
}


def strings():
    return st.text('a"\\/\n\t\b\f\x00\x1f\x7f é\u2028\ud7ff\uffff😀\U00040000\U0010ffff', max_size=3)


def numbers():
    """Of less than 15 digits, without zeros at the end of a fraction."""
    whole = st.integers(-(10**7), 10**7)
    return whole | whole.filter(lambda i: i % 256).map(lambda i: i / 256)


KINDS = ["string", "integer", "number", "boolean", "null", "enum", "array", "object", "anyOf"]


@st.composite
def pairs(draw, depth=2):
    """(schema, value): a schema of AG-38 and a value that it accepts."""
    kind = draw(st.sampled_from(KINDS))
    inner = pairs(depth=depth - 1)
    if depth == 0 or kind == "integer":
        return INTEGER, draw(st.integers(-(10**15) + 1, 10**15 - 1))
    if kind == "enum":
        one = strings() | st.integers(-20, 20) | st.booleans() | st.none()
        several = draw(st.lists(one, min_size=1, max_size=3, unique_by=json.dumps))
        return {"enum": several}, draw(st.sampled_from(several))
    if kind == "array":
        schema, value = draw(inner)
        return {"type": "array", "items": schema}, [value] * draw(st.integers(0, 2))
    if kind == "object":
        named = draw(st.dictionaries(st.sampled_from(["b", "a", '"', "é"]), inner, max_size=2))
        schema = an_object(**{name: inside for name, (inside, _) in named.items()})
        schema["required"].reverse()  # the order of properties counts
        return schema, {name: value for name, (_, value) in named.items()}
    if kind == "anyOf":
        several = draw(st.lists(inner, min_size=1, max_size=3))
        return {"anyOf": [schema for schema, _ in several], "title": "t"}, draw(st.sampled_from(several))[1]
    values = {"string": strings(), "number": numbers(), "boolean": st.booleans(), "null": st.none()}
    return {"type": kind, "description": "d"}, draw(values[kind])
