"""Schemas, and values of which each says something."""

import json

from hypothesis import strategies as st

VALUES = [
    *(None, True, False, 0, 1, -1, 1.0, 2.5, 6, -6.0, 3e2, 2**60),
    *("", "1", "ab", "xab", "é", "e\u0301", "😀", "😀😀"),
    *([], [1], [1, True], [1, 1.0], ["a", "b", "a"], [0, False], [1, "x", None], [[1], [True]]),
    *([{"a": 1}, {"a": 1.0}], [{"a": 1}, {"a": True}]),
    *({}, {"a": 1}, {"a": True}, {"a": "x", "b": 2}, {"b": None, "c": 1, "d": []}, {"x": {"a": 1}}),
]
ALL = json.dumps({f"{i} {json.dumps(value)}": value for i, value in enumerate(VALUES)})


def of_all(schema, **others):
    """Of an object with ALL in it: this schema is asked about each of these values."""
    return {"additionalProperties": schema, **others}


def of_a(schema, **others):
    """Of an object with an a of this schema."""
    return {"type": "object", "properties": {"a": schema}, **others}


TYPE_NAMES = ["null", "boolean", "integer", "number", "string", "array", "object"]
TYPES = [
    *({"type": each} for each in TYPE_NAMES),
    {"type": ["integer", "null"]},
    {"type": ["string", "boolean"]},
]
EQUALS = [
    *({"const": each} for each in (True, 1, 0.0, None, "1", [1.0], {"a": True}, {"b": 2, "a": "x"})),
    *({"enum": each} for each in ([0, "ab", None], [False, [1, True]], [{}, [], ""], [1])),
]
KEYWORDS = [
    {"minLength": 2},
    {"maxLength": 1},
    {"pattern": "a"},
    {"pattern": "^a"},
    {"pattern": "^[^a]*$"},
    {"minimum": 1},
    {"maximum": 1},
    {"minimum": 2.5, "maximum": 6},
    {"exclusiveMinimum": 1},
    {"exclusiveMaximum": 1.0},
    {"multipleOf": 3},
    {"multipleOf": 2},
    {"items": {"type": "integer"}},
    {"items": False},
    {"prefixItems": [{"type": "integer"}, {"type": "string"}]},
    {"prefixItems": [{"type": "integer"}], "items": False},
    {"prefixItems": [{"const": 1}], "items": {"const": "x"}},
    {"minItems": 1},
    {"maxItems": 2},
    {"uniqueItems": True},
    {"uniqueItems": False, "minItems": 2},
    {"properties": {"a": {"type": "integer"}}},
    {"required": ["a"]},
    {"required": ["a", "c"], "properties": {"b": {}}},
    {"additionalProperties": False},
    {"additionalProperties": {"type": "integer"}},
    {"properties": {"a": {"type": "string"}, "b": {}}, "additionalProperties": False},
    {"properties": {"a": {}}, "additionalProperties": {"type": "null"}},
    {"minProperties": 2},
    {"maxProperties": 1},
    {"minProperties": 1, "maxProperties": 2, "required": ["b"]},
    {"properties": {"x": {"properties": {"a": {"minimum": 5}}}}},
]
DEFINITIONS = {
    "whole": {"type": "integer"},
    "list": {"type": ["array", "boolean"], "items": {"$ref": "#/$defs/list"}},
}
COMBINED = [
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {"anyOf": [{"minimum": 3}, {"type": ["integer", "array"]}]},
    {"oneOf": [{"type": "integer"}, {"minimum": 1}]},
    {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"not": {"type": ["integer", "object"]}},
    {"not": {}},
    {"allOf": [{"type": "number"}, {"minimum": 1}, {"multipleOf": 2}]},
    {"allOf": [{"anyOf": [{"type": "number"}, {"minItems": 2}]}], "type": ["array", "integer"]},
    {"anyOf": [{"allOf": [{"minimum": 1}, {"maximum": 3}]}, {"not": {"type": "number"}}], "enum": [1, 2.5]},
    {"items": {"oneOf": [{"type": "string"}, {"const": 1}]}},
    {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "boolean"}]}}},
    {"$ref": "#/$defs/whole"},
    {"$ref": "#/$defs/whole", "maximum": 2},
    {"anyOf": [{"$ref": "#/$defs/whole"}, {"$ref": "#/$defs/list"}]},
    {"$ref": "#/$defs/list"},
]


def schemas():
    """Of the keywords of AG-10 to AG-12, but for references."""
    number, small, name = st.integers(-2, 3), st.integers(0, 2), st.sampled_from("ab")
    names = st.sampled_from(TYPE_NAMES)
    keywords = {
        "type": names | st.lists(names, min_size=1, max_size=3, unique=True),
        "enum": st.lists(st.sampled_from(VALUES[:12]), min_size=1, max_size=3),
        "minimum": number,
        "exclusiveMaximum": number,
        "multipleOf": st.integers(1, 3),
        "minLength": small,
        "maxLength": small,
        "pattern": st.sampled_from(["a", "^b", "b$"]),
        "maxItems": small,
        "uniqueItems": st.booleans(),
        "minProperties": small,
        "required": st.lists(name, max_size=2, unique=True),
    }

    def deeper(inner):
        several = st.lists(inner, min_size=1, max_size=2)
        around = {
            "type": keywords["type"],
            "required": keywords["required"],
            "items": inner | st.just(False),
            "prefixItems": several,
            "anyOf": several,
            "oneOf": several,
            "allOf": several,
            "not": inner,
            "properties": st.dictionaries(name, inner, max_size=2),
            "additionalProperties": inner | st.booleans(),
        }
        return st.fixed_dictionaries({}, optional=around)

    return st.recursive(st.fixed_dictionaries({}, optional=keywords), deeper, max_leaves=4)


def objects():
    """No list in a list: jsonschema 4.26 does not always see that [[1], [true], [1]] has two of a kind."""
    scalars, key = st.sampled_from(VALUES[:20]), st.sampled_from("abc")
    inner = st.dictionaries(key, scalars, max_size=3)
    values = scalars | st.lists(scalars | inner, max_size=3) | inner | st.dictionaries(key, inner, max_size=2)
    return st.dictionaries(key, values, max_size=3)
