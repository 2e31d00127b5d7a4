"""What is strict JSON, and what a schema says of it: the path and the rule of each problem."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, refused
from spec import InvalidArgument, NotSupported
from spec.agent import MAX_MESSAGE, Problem
from tests.week3.agent.cases import TRUTH
from tests.week3.agent.cases_arguments import (
    ALL,
    COMBINED,
    DEFINITIONS,
    EQUALS,
    KEYWORDS,
    TYPES,
    objects,
    of_a,
    of_all,
    schemas,
)

ANY = {"type": "object"}


def rules(module, schema, arguments):
    """Paths and rules of what is wrong, each once."""
    found = module.validate_arguments(schema, arguments)
    for each in found:
        assert_equal(type(each), Problem, "type of a problem")
        assert_equal(type(each.message), str, "type of a message")
        assert len(each.message) <= MAX_MESSAGE, f"a message of {len(each.message)} characters"
    return sorted({(each.path, each.rule) for each in found})


def check(impl, schema, arguments, *expected):
    assert_equal(rules(impl, schema, arguments), sorted(expected), f"problems of {arguments[:80]!r}")


# JSON

NO_JSON = {
    "cut": ['{"a": 1', '{"a": "', "{", '{"a"', '{"a": tru', '"', "-"],
    "not written rightly": ["hello", "{'a': 1}", "{a: 1}", '{"a": 1,}', '{"a" 1}', '{"a": True}', "nan"],
    "more behind it": ["{} {}", "{}x", "{}</tool_call>", '{"a": 1} // one', "null null", "{},"],
    "a key twice": ['{"a": 1, "a": 2}', '{"a": 1, "b": 0, "\\u0061": 1}', '{"b": [{"a": 1, "a": 1}]}'],
    "no number": ['{"a": NaN}', '{"a": Infinity}', '{"a": [-Infinity]}'],
    "a number too large": ['{"a": 1e400}', '{"a": -1e400}', f'{{"a": {"9" * 400}.5}}'],
    "a whole number too large": [f'{{"a": {"9" * 400}}}', f'{{"a": -{"1" * 5_000}}}'],
    "numbers of other languages": ['{"a": 01}', '{"a": 1.}', '{"a": .5}', '{"a": +1}', '{"a": 0x10}'],
    "half a pair": ['{"a": "\\ud800"}', '{"a": "x\\udc00"}', '{"a": "\\udc00\\ud800"}', '{"\\ud800": 1}'],
    "half a pair, not escaped": ['{"a": "\ud800"}', '{"a": ["\udc00"]}'],
    "control characters": ['{"a": "\n"}', '{"a": "\x00"}', '{"\t": 1}'],
    "escapes that are none": ['{"a": "\\x41"}', '{"a": "\\u12"}', '{"a": "\\u+123"}'],
    "other white space": ['\u00a0{"a": 1}', "\u00a0", "{\u2003}", '\ufeff{"a": 1}', "\x0b"],
    "100,000 brackets": ["[" * 100_000],
    "100,000 braces": ['{"a":' * 100_000],
}


@requirement("AG-09")
@pytest.mark.parametrize("what", [*NO_JSON])
def test_what_is_no_json(impl, what):
    for text in NO_JSON[what]:
        check(impl, of_a({"type": "string"}, required=["b"]), text, ("", "json"))


@requirement("AG-09")
@pytest.mark.parametrize("text", ["", " \t\r\n", "null", "\nnull ", "{}", " { } "])
def test_nothing_is_an_empty_object(impl, text):
    check(impl, ANY, text)
    check(impl, {"type": "object", "required": ["a"]}, text, ("", "required"))


@requirement("AG-09")
@pytest.mark.parametrize("text", ["[1]", '"x"', "12", "true", "[]", "[null]", '"{}"', "0", '""', "false"])
def test_what_is_no_object(impl, text):
    for schema in ({}, ANY, {"type": "array"}, {"type": ["string", "integer"], "minimum": 13}, {"enum": [7]}):
        check(impl, schema, text, ("", "type"))


GOOD_JSON = [
    r'{"a": "\ud83d\ude00😀\u00e9\\\"\/\b\u0000", "\ud83d\ude00": 1}',
    '{"a": {"b": 1}, "b": {"b": 1}, "": "", "A": 1}',
    '{"a": 1e308, "b": -1.7e308, "c": 0.1E-2, "d": -0.0, "e": 123456789012345678901234567890}',
    '\r\n{\t"a" :[ ] , "b":{ }}\n',
    '{"a": ' * 99 + "[]" + "}" * 99,
]


@requirement("AG-09")
@pytest.mark.parametrize("text", GOOD_JSON, ids=range(len(GOOD_JSON)))
def test_what_is_json(impl, text):
    check(impl, ANY, text)


@requirement("AG-09")
def test_integers_are_exact(impl):
    limit = of_a({"type": "integer", "maximum": 9007199254740992})
    check(impl, limit, '{"a": 9007199254740993}', ("/a", "maximum"))
    check(impl, limit, '{"a": 9007199254740992}')
    check(impl, of_a({"const": 2**70 + 1}), json.dumps({"a": 2**70 + 1}))
    check(impl, of_a({"const": 2**70 + 1}), json.dumps({"a": 2**70}), ("/a", "const"))
    check(impl, of_a({"multipleOf": 3}), json.dumps({"a": 3 * 10**30 + 1}), ("/a", "multipleOf"))


@requirement("AG-09")
def test_a_message_has_an_end(impl):
    for schema, text, rule in (
        (of_a({"type": "integer"}), json.dumps({"a": "x" * 50_000}), ("/a", "type")),
        (of_a({"enum": ["y" * 300]}), '{"a": 1}', ("/a", "enum")),
        (ANY, "x" * 50_000, ("", "json")),
        (ANY, json.dumps(["x" * 50_000]), ("", "type")),
        (ANY, f'{{"a": {"9" * 4_000}}}', ("", "json")),
    ):
        check(impl, schema, text, rule)


# Schemas: each is asked about all of the values at once


def check_all(impl, schema, **others):
    whole = of_all(schema, **others)
    check(impl, whole, ALL, *rules(TRUTH, whole, ALL))


def each(schemas):
    return pytest.mark.parametrize("schema", schemas, ids=json.dumps)


@requirement("AG-10")
@each(TYPES)
def test_types(impl, schema):
    check_all(impl, schema)


@requirement("AG-10")
@each(EQUALS)
def test_what_equals_what_the_schema_names(impl, schema):
    check_all(impl, schema)


@requirement("AG-10")
def test_a_truth_is_no_number(impl):
    check(impl, of_a({"type": "integer"}), '{"a": true}', ("/a", "type"))
    check(impl, of_a({"type": "number"}), '{"a": false}', ("/a", "type"))
    check(impl, of_a({"type": "integer"}), '{"a": 2.0}')
    check(impl, of_a({"type": "integer"}), '{"a": 1e300}')
    check(impl, of_a({"const": True}), '{"a": 1}', ("/a", "const"))
    check(impl, of_a({"enum": [0, 2]}), '{"a": false}', ("/a", "enum"))


@requirement("AG-11")
@each(KEYWORDS)
def test_each_keyword_speaks_of_its_type(impl, schema):
    check_all(impl, schema)


BROKEN = [
    (of_a({"minimum": 0}), '{"a": -1}', [("/a", "minimum")]),
    (of_a({"minimum": 0}), '{"a": "x"}', []),
    (of_a({"items": {"type": "integer"}}), '{"a": [1, "x"]}', [("/a/1", "type")]),
    (of_a({"items": False}), '{"a": [1, 2]}', [("/a", "items")]),
    (of_a({"uniqueItems": True}), '{"a": [1, true]}', []),
    (of_a({"uniqueItems": True}), '{"a": [1, 1.0]}', [("/a", "uniqueItems")]),
    (of_a({"maxLength": 1}), '{"a": "\\u00e9"}', []),
    (of_a({}, required=["a"]), "{}", [("", "required")]),
    ({"required": ["a", "b"]}, '{"b": 1}', [("", "required")]),
    ({"additionalProperties": False}, '{"a": 1, "b": 2}', [("", "additionalProperties")]),
    (of_a({"maxProperties": 0}), '{"a": {"b": 1}}', [("/a", "maxProperties")]),
    (of_a({"minimum": 3, "multipleOf": 2}), '{"a": 1}', [("/a", "minimum"), ("/a", "multipleOf")]),
]


@requirement("AG-11")
def test_where_a_rule_is_broken(impl):
    for schema, text, expected in BROKEN:
        check(impl, schema, text, *expected)


KEYS = ["a/b", "~", "~1", "/", "", "ü", "a b", "0", "%2F", '"']


@requirement("AG-11")
@given(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3))
@example(keys=["a/b", "~1", ""])
@example(keys=["~", "0", "ü"])
def test_paths_are_json_pointers(impl, keys):
    schema, value = {"type": "integer"}, "x"
    for key in reversed(keys):
        schema, value = {"properties": {key: {"items": schema}}}, {key: [1, value]}
    path = "".join(f"/{key.replace('~', '~0').replace('/', '~1')}/1" for key in keys)
    check(impl, schema, json.dumps(value), (path, "type"))


# Combined


@requirement("AG-12")
@each(COMBINED)
def test_combined_schemas(impl, schema):
    check_all(impl, schema, **{"$defs": DEFINITIONS})


@requirement("AG-12")
@given(schema=schemas(), arguments=objects())
def test_schemas_of_all_of_these(impl, schema, arguments):
    text = json.dumps(arguments)
    check(impl, schema, text, *rules(TRUTH, schema, text))


@requirement("AG-12")
def test_errors_inside_are_no_errors_of_the_whole(impl):
    either = of_a({"anyOf": [{"type": "string"}, {"type": "null"}]})
    check(impl, either, '{"a": 3}', ("/a", "anyOf"))
    check(impl, either, '{"a": null}')
    check(impl, {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, '{"a": 1, "b": 2}', ("", "oneOf"))
    check(impl, of_a({"not": {"minimum": 0}}), '{"a": 0}', ("/a", "not"))


NODE = {"type": "object", "properties": {"value": {"type": "integer"}, "child": {"$ref": "#/$defs/node"}}}
TREE = {"$defs": {"node": NODE}, "$ref": "#/$defs/node"}
ITSELF = {"properties": {"value": {"type": "integer"}, "child": {"$ref": "#"}}}


@requirement("AG-12")
@pytest.mark.parametrize("schema", [TREE, ITSELF], ids=["a definition", "the whole"])
def test_a_schema_within_itself(impl, schema):
    check(impl, schema, '{"value": 1, "child": {"child": {"value": "x"}}}', ("/child/child/value", "type"))
    deep = '{"child": ' * 40 + '{"value": 1.5}' + "}" * 40
    check(impl, schema, deep, ("/child" * 40 + "/value", "type"))
    check(impl, schema, '{"child": {"child": {"value": 1, "other": [{}]}}, "value": 0}')


NOTES = {
    "title": "t",
    "description": "d",
    "default": "x",
    "examples": [1, "x"],
    "format": "email",
    "$comment": "c",
    "deprecated": True,
    "readOnly": True,
    "writeOnly": True,
}


@requirement("AG-12")
def test_annotations_refuse_nothing_and_fill_in_nothing(impl):
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    check(impl, of_a({"type": "string", **NOTES}, **dialect, **NOTES), '{"a": "no address"}')
    check(impl, of_a({"type": "integer", **NOTES}, **NOTES), '{"a": "x"}', ("/a", "type"))
    check(impl, of_a(NOTES, required=["a"], default={"a": 1}), "{}", ("", "required"))
    check(impl, of_a({"properties": {"b": NOTES}, "required": ["b"]}), '{"a": {}}', ("/a", "required"))
    for name in ("date-time", "uri", "uuid", "ipv4", "regex", "json-pointer", "nobody knows this"):
        check(impl, of_a({"format": name}), '{"a": "("}')


# Refusals


@requirement("AG-41")
@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"type": "strin"}, {"type": "string"}),
        ({"type": []}, {"type": ["string"]}),
        ({"type": 3}, {"type": "string"}),
        ({"minLength": -1}, {"minLength": 1}),
        ({"maxItems": 1.5}, {"maxItems": 1}),
        ({"pattern": "("}, {"pattern": "()"}),
        ({"minimum": "0"}, {"minimum": 0}),
        ({"multipleOf": 0}, {"multipleOf": 1}),
        ({"required": "a"}, {"required": ["a"]}),
        ({"enum": 1}, {"enum": ["x"]}),
        ({"properties": []}, {"properties": {}}),
        ({"items": []}, {"items": {}}),
        ({"anyOf": []}, {"anyOf": [{}]}),
        ({"anyOf": {}}, {"anyOf": [{}]}),
        ({"not": {"type": "strin"}}, {"not": {"type": "integer"}}),
        ({"$defs": {"x": {"type": 3}}}, {"$defs": {"x": {"type": "null"}}}),
    ],
    ids=json.dumps,
)
def test_a_schema_that_is_none_is_refused(impl, wrong, right):
    check(impl, of_a(right), '{"a": "x"}')
    with refused(InvalidArgument):
        impl.validate_arguments(of_a(wrong), '{"a": "x"}')


LONE = {"type": "string"}
UNNAMED = [  # a schema, what it refuses, what it accepts
    ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, {"a": 1, "b": 1}),
    ({"dependentSchemas": {"a": {"required": ["b"]}}}, {"a": 1}, {"a": 1, "b": 1}),
    ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, {"a": 1}, {"b": 1}),
    ({"if": {"required": ["a"]}, "else": {"required": ["b"]}}, {"c": 1}, {"a": 1}),
    ({"patternProperties": {"^x": {"type": "integer"}}}, {"x1": "x"}, {"x1": 1, "y": "x"}),
    ({"propertyNames": {"maxLength": 2}}, {"abc": 1}, {"ab": 1}),
    (of_a({"contains": {"type": "null"}}), {"a": [1]}, {"a": [1, None]}),
    (of_a({"contains": {"const": 1}, "minContains": 2}), {"a": [1]}, {"a": [1, 1]}),
    (of_a({"contains": {"const": 1}, "maxContains": 1}), {"a": [1, 1]}, {"a": [1]}),
    (of_a({"prefixItems": [{}], "unevaluatedItems": LONE}), {"a": [1, 2]}, {"a": [1, "x"]}),
    (of_a({}, unevaluatedProperties=LONE), {"b": 1}, {"a": 1, "b": "x"}),
]


@requirement("AG-41")
@pytest.mark.parametrize(("schema", "wrong", "right"), UNNAMED, ids=[json.dumps(each[0]) for each in UNNAMED])
def test_no_keyword_is_ignored_in_silence(impl, schema, wrong, right):
    """It holds, or the schema is refused."""
    check(impl, ANY, json.dumps(wrong))
    try:
        found = [impl.validate_arguments(schema, json.dumps(arguments)) for arguments in (wrong, right)]
    except NotSupported:
        return
    assert_equal([bool(problems) for problems in found], [True, False], "whether there are problems")
