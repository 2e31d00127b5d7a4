"""A schema of AG-38 as a grammar of llguidance: its dialect of Lark.

Strings, numbers and enums are regular expressions; arrays, objects and alternatives are rules over them, one
for each place of the schema. Where the canonical form has a comma or a colon, one space may follow.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from spec import NotSupported
from spec.agent import Schema

_NOTES = {"title", "description", "default"}
_INTEGER = "-?(0|[1-9][0-9]*)"
_CHARACTER = r'[^"\\\x00-\x1F]|\\["\\bfnrt]|\\u00[01][0-9a-f]'  # what is read as Unicode has no surrogates
_SCALARS = {
    "string": f'"({_CHARACTER})*"',
    "integer": _INTEGER,
    "number": rf"{_INTEGER}(\.[0-9]+)?",
    "boolean": "true|false",
    "null": "null",
}
_OBJECT = {"type", "properties", "required", "additionalProperties"}
_SPACE = " ?"


def grammar(schema: Schema) -> str:
    """Raises NotSupported for any other schema."""
    rules: list[str] = []
    start = _rule(schema, rules)
    lines = (f"r{number}: {rule}" for number, rule in enumerate(rules))
    return "\n".join(['%llguidance {"no_forcing": true}', f"start: {start}", *lines])


def an_object(properties: Mapping[str, Schema]) -> Schema:
    """The schema of one that has all of these, and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def _rule(schema: Schema, rules: list[str]) -> str:
    """The name of the rule of the values that a schema accepts."""
    rules.append(_body(schema, rules))
    return f"r{len(rules) - 1}"


def _body(schema: Schema, rules: list[str]) -> str:
    keys = set(schema) - _NOTES if isinstance(schema, Mapping) else set()
    if keys == {"enum"}:
        return _expression("|".join(map(_literal, schema["enum"])))
    if keys == {"anyOf"}:
        return " | ".join(_rule(each, rules) for each in schema["anyOf"])
    kind = schema["type"] if "type" in keys else None
    if keys == {"type"} and isinstance(kind, str) and kind in _SCALARS:
        return _expression(_SCALARS[kind])
    if keys == {"type", "items"} and kind == "array":
        item = _rule(schema["items"], rules)
        return f'"[" ({item} ({_expression("," + _SPACE)} {item})*)? "]"'
    if keys == _OBJECT and kind == "object" and schema["additionalProperties"] is False:
        return _members(schema["properties"], schema["required"], rules)
    raise NotSupported(f"schema: expected one of those that AG-38 names, got {schema!r}")


def _members(properties: Mapping[str, Schema], required: Sequence[str], rules: list[str]) -> str:
    """In their order. What is not required may be left out, so any up to the first that is required may be
    the first to come, without a comma."""
    if not set(required) <= set(properties):
        raise NotSupported(f"schema: expected that {required} are among {[*properties]}")
    first, later = [], []
    for name, schema in properties.items():
        rule = _rule(schema, rules)
        first.append(f"{_expression(f'{_literal(name)}:{_SPACE}')} {rule}")
        after = f"{_expression(f',{_SPACE}{_literal(name)}:{_SPACE}')} {rule}"
        later.append(after if name in required else f"({after})?")
    last = next((i for i, name in enumerate(properties) if name in required), len(first) - 1)
    forms = [] if required else [""]
    rest = " ".join(later[last + 1 :])
    for i in reversed(range(last + 1)):
        forms.append(f"{first[i]} {rest}")
        if i > 0:
            rules.append(f"{later[i]} {rest}")
            rest = f"r{len(rules) - 1}"
    return " | ".join(f'"{{" {form} "}}"' for form in forms)


def _literal(value: Any) -> str:
    """The expression of a value in its canonical form."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)


def _expression(pattern: str) -> str:
    return f"/{pattern}/"
