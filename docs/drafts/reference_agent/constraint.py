"""Which tokens may follow so that a schema accepts what is written."""

import json

import numpy as np

from spec import InvalidArgument, NotSupported

from .basics import expect
from .grammar import Bytes, Choice, Repeat, Sequence, after, literal, stacks
from .schemas import ANNOTATIONS, validator

# JSON's tokens, without white space between them ------------------------------------------------------------

_DIGIT, _NEXT = Bytes(b"0123456789"), Bytes(range(0x80, 0xC0))
_INTEGER = Sequence(
    Repeat(literal("-"), 0, 1), Choice(literal("0"), Sequence(Bytes(b"123456789"), Repeat(_DIGIT)))
)
_NUMBER = Sequence(_INTEGER, Repeat(Sequence(literal("."), _DIGIT, Repeat(_DIGIT)), 0, 1))
_HEX = Bytes(b"0123456789abcdefABCDEF")
_CHARACTER = Choice(
    Bytes(set(range(0x20, 0x80)) - set(b'"\\')),
    Sequence(literal("\\"), Bytes(b'"\\/bfnrt')),
    # Not D800 to DFFF, which are halves of characters.
    Sequence(literal("\\u"), Bytes(b"0123456789abcefABCEF"), _HEX, _HEX, _HEX),
    Sequence(literal("\\u"), Bytes(b"dD"), Bytes(b"01234567"), _HEX, _HEX),
    # UTF-8, RFC 3629 §4.
    Sequence(Bytes(range(0xC2, 0xE0)), _NEXT),
    Sequence(Bytes([0xE0]), Bytes(range(0xA0, 0xC0)), _NEXT),
    Sequence(Bytes([*range(0xE1, 0xED), 0xEE, 0xEF]), _NEXT, _NEXT),
    Sequence(Bytes([0xED]), Bytes(range(0x80, 0xA0)), _NEXT),
    Sequence(Bytes([0xF0]), Bytes(range(0x90, 0xC0)), _NEXT, _NEXT),
    Sequence(Bytes(range(0xF1, 0xF4)), _NEXT, _NEXT, _NEXT),
    Sequence(Bytes([0xF4]), Bytes(range(0x80, 0x90)), _NEXT, _NEXT),
)
_STRING = Sequence(literal('"'), Repeat(_CHARACTER), literal('"'))
_PLAIN = {
    "string": _STRING,
    "integer": _INTEGER,
    "number": _NUMBER,
    "boolean": Choice(literal("true"), literal("false")),
    "null": literal("null"),
}
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
}


def dumped(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def language(schema, checker):
    keys = set(schema) - ANNOTATIONS
    if keys & {"enum", "const"}:
        listed = schema["enum"] if "enum" in schema else [schema["const"]]
        fitting = [value for value in listed if checker.evolve(schema=schema).is_valid(value)]
        expect(fitting, "schema", "one that accepts something", schema)
        return Choice(*(literal(dumped(value)) for value in fitting))
    if keys == {"anyOf"}:
        return Choice(*(language(each, checker) for each in schema["anyOf"]))
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if not types or not keys <= {"type"}.union(*(_OF_TYPE.get(each, set()) for each in types)):
        raise NotSupported(f"schema: expected one of AG-41, got {dict(schema)!r}")
    return Choice(*(of_type(each, schema, checker) for each in types))


def of_type(kind, schema, checker):
    if kind == "object":
        return Sequence(literal("{"), members(schema, list(schema.get("properties", {})), True, checker))
    if kind == "array":
        if "items" not in schema or schema["items"] is False:
            raise NotSupported("schema: expected items of a schema")
        return array(language(schema["items"], checker), schema.get("minItems", 0), schema.get("maxItems"))
    return _PLAIN[kind]


def members(schema, names, first, checker):
    """What follows when these properties are left to be written."""
    if set(schema.get("required", [])) - set(schema.get("properties", {})):
        raise NotSupported("schema: expected required properties among the properties")
    following = {first: literal("}"), False: literal("}")}  # by whether nothing is written yet
    for name in reversed(names):
        value = language(schema["properties"][name], checker)
        choices = {}
        for fresh in following:
            start = literal(("" if fresh else ",") + dumped(name) + ":")
            choices[fresh] = [Sequence(start, value, following[False])]
            if name not in schema.get("required", []):
                choices[fresh].append(following[fresh])
        following = {fresh: Choice(*parts) for fresh, parts in choices.items()}
    return following[first]


def array(item, low, high):
    more = Sequence(literal(","), item)
    filled = (
        []
        if high == 0
        else [Sequence(item, Repeat(more, max(low - 1, 0), None if high is None else high - 1))]
    )
    choices = [*([literal("")] if low == 0 else []), *filled]
    expect(choices, "schema", "one that accepts something", f"{low} to {high} items")
    return Sequence(literal("["), Choice(*choices), literal("]"))


class JsonConstraint:
    """A state is what was written, and whether it has ended."""

    def __init__(self, schema, vocabulary, eos):
        expect(eos and all(0 <= i < len(vocabulary) for i in eos), "eos", "ids of the vocabulary", eos)
        self.vocabulary, self.eos = list(vocabulary), set(eos)
        self.known = {b"": set(stacks((language(schema, validator(schema)), ())))}

    def start(self):
        return (b"", False)

    def allowed(self, state):
        written, ended = state
        expect(not ended, "state", "one that has not ended", state)
        mask = np.zeros(len(self.vocabulary), bool)
        for token, text in enumerate(self.vocabulary):
            mask[token] = self.may_follow(written, token, text)
        return mask

    def may_follow(self, written, token, text):
        if token in self.eos:
            return () in self.stacks_after(written)
        states = self.stacks_after(written)
        for byte in text:
            states = after(states, byte)
        return bool(text and states)

    def advance(self, state, token):
        written, ended = state
        fits = not ended and 0 <= token < len(self.vocabulary)
        if not fits or not self.may_follow(written, token, self.vocabulary[token]):
            raise InvalidArgument(f"token: expected one that is allowed, got {token}")
        return (written, True) if token in self.eos else (written + self.vocabulary[token], False)

    def is_complete(self, state):
        written, ended = state
        return ended or () in self.stacks_after(written)

    def stacks_after(self, written):
        if written not in self.known:
            self.known[written] = after(self.stacks_after(written[:-1]), written[-1])
        return self.known[written]
