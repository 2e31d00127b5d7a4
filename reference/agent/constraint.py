"""Which tokens may follow so that a schema accepts what is written.

A schema is a regular expression of bytes. What is written may go on if it matches in part: if it is the
beginning of something that matches.
"""

import json

import numpy as np
import regex

from spec import NotSupported

from .basics import expect

INTEGER = rb"-?(?:0|[1-9][0-9]*)"
CHARACTERS = (
    rb"[^\x00-\x1f\"\\\x80-\xff]",
    rb"\\[\"\\bfnrt]",
    rb"\\u00[01][0-9a-f]",
    rb"[\xc2-\xdf][\x80-\xbf]",  # from here on UTF-8, RFC 3629 §4
    rb"\xe0[\xa0-\xbf][\x80-\xbf]",
    rb"[\xe1-\xec\xee\xef][\x80-\xbf]{2}",
    rb"\xed[\x80-\x9f][\x80-\xbf]",
    rb"\xf0[\x90-\xbf][\x80-\xbf]{2}",
    rb"[\xf1-\xf3][\x80-\xbf]{3}",
    rb"\xf4[\x80-\x8f][\x80-\xbf]{2}",
)
SCALARS = {
    "string": b'"(?:' + b"|".join(CHARACTERS) + b')*"',
    "integer": INTEGER,
    "number": INTEGER + rb"(?:\.[0-9]+)?",
    "boolean": b"(?:true|false)",
    "null": b"null",
}


class JsonConstraint:
    """A state is what was written; None after the end."""

    def __init__(self, schema, vocabulary, eos):
        expect(eos and all(0 <= i < len(vocabulary) for i in eos), "eos", "ids of the vocabulary", eos)
        self.vocabulary, self.eos = list(vocabulary), set(eos)
        self.expression = regex.compile(language(schema))

    def start(self):
        return b""

    def allowed(self, state):
        expect(state is not None, "state", "one that has not ended", state)
        return np.array([self.may_follow(state, token) for token in range(len(self.vocabulary))])

    def may_follow(self, state, token):
        if token in self.eos:
            return self.is_complete(state)
        text = self.vocabulary[token]
        return text != b"" and self.expression.fullmatch(state + text, partial=True) is not None

    def advance(self, state, token):
        there = state is not None and 0 <= token < len(self.vocabulary)
        expect(there and self.may_follow(state, token), "token", "one that is allowed", token)
        return None if token in self.eos else state + self.vocabulary[token]

    def is_complete(self, state):
        return state is None or self.expression.fullmatch(state) is not None


def language(schema):
    """The expression of the values that a schema accepts."""
    keys, kind = set(schema) - {"title", "description", "default"}, str(schema.get("type"))
    if keys == {"enum"}:
        return b"(?:" + b"|".join(literal(each) for each in schema["enum"]) + b")"
    if keys == {"anyOf"}:
        return b"(?:" + b"|".join(language(each) for each in schema["anyOf"]) + b")"
    if keys == {"type"} and kind in SCALARS:
        return SCALARS[kind]
    if keys == {"type", "items"} and kind == "array":
        item = language(schema["items"])
        return rb"\[(?:" + item + b"(?:," + item + rb")*)?\]"
    if keys == {"type", "properties", "required", "additionalProperties"} and kind == "object":
        properties = {literal(name): language(each) for name, each in schema["properties"].items()}
        if set(schema["properties"]) == set(schema["required"]) and schema["additionalProperties"] is False:
            return rb"\{" + b",".join(name + b":" + each for name, each in properties.items()) + rb"\}"
    raise NotSupported(f"schema: expected one of AG-38, got {schema!r}")


def literal(value):
    return regex.escape(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
