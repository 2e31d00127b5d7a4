"""When a call is right: BFCL's rule. Each verdict here is also that of its own `ast_checker`."""

import json

import pytest

from solution.agent.judging import Question, is_right, is_valid, json_schema, narrowed
from spec.agent import Parsed, ParseProblem, ToolCall

FLOATS = {"type": "array", "items": {"type": "float"}}
STRINGS = {"type": "array", "items": {"type": "string"}}
RANGE = {"type": "dict", "properties": {"min": {"type": "float"}, "unit": {"type": "string"}}}


def question(declared, values, required=()):
    function = {
        "name": "f",
        "description": "",
        "parameters": {"type": "dict", "properties": declared, "required": [*required]},
    }
    return Question("q", [], {"f": function, "g": {**function, "name": "g"}}, "f", values)


def call(arguments, name="f"):
    return ToolCall(None, name, arguments if isinstance(arguments, str) else json.dumps(arguments))


@pytest.mark.parametrize(
    ("declared", "values", "right", "wrong"),
    [
        ("integer", [5, 6], [5, 6], [7, 5.0, "5", True, None, [5]]),
        ("integer", [1], [1], [True, 1.0]),
        ("float", [5.0, 2.5], [5, 5.0, 2.5], [2, "2.5", True]),
        ("float", [5], [5, 5.0], [5.5]),
        ("boolean", [True], [True], [False, 1, "true"]),
        ("string", ["New York, NY"], ["new-york NY", "NEW_YORK/ny.", "New York, NY"], ["New York", "", 1]),
        ("string", ["it's"], ['IT"S'], ["its"]),
        ("string", ["km", ""], ["km", ""], ["m"]),
        ("any", ["data", ["data"]], ["DATA"], [["data"]]),
        ("integer", ["n"], ["n"], ["N", 5]),  # a variable stands for a number
        (FLOATS, [[1.0, 2.5]], [[1.0, 2.5]], [[1, 2.5], [2.5, 1.0], [1.0], [], "1.0", 1.0]),
        (FLOATS, [[1, 2]], [[1, 2], [1.0, 2.0]], [[1, "2"], [True, 2]]),
        (STRINGS, [["a b", "c"], ["d"]], [["A-B", "C"], ["d"]], [["c", "a b"], ["a b", "d"], ["a b", 1]]),
        (STRINGS, [["a"], ""], [["a"], []], [[""], ""]),
        ({"type": "tuple", "items": {"type": "integer"}}, [[1, 2]], [[1, 2]], [[2, 1], {"0": 1}]),
        (
            RANGE,
            [{"min": [1, 2], "unit": ["m", ""]}],
            [{"min": 1}, {"unit": "M.", "min": 2.0}],
            [{"unit": "m"}, {"min": 3}, {"min": 1, "max": 2}, {}, "min", [{"min": 1}]],
        ),
        (RANGE, [""], [], [{"min": 1}, {}]),
        (
            {"type": "array", "items": RANGE},
            [[{"min": [1]}, {"min": [2], "unit": ["m"]}]],
            [[{"min": 1}, {"min": 2, "unit": "M"}]],
            [[{"min": 1}], [{"min": 2, "unit": "m"}, {"min": 1}], [], [1, 2]],
        ),
    ],
)
def test_a_value_is_one_of_those_that_are_right(declared, values, right, wrong):
    asked = question({"a": declared if isinstance(declared, dict) else {"type": declared}}, {"a": values})
    assert [value for value in right if not is_right(asked, [call({"a": value})])] == []
    assert [value for value in wrong if is_right(asked, [call({"a": value})])] == []


ADD = question(
    {"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"type": "string"}, "d": {"type": "string"}},
    {"a": [17], "b": [23, 24], "c": ["x", ""]},
    required=["a", "b"],
)


@pytest.mark.parametrize(
    ("calls", "right"),
    [
        ([call({"a": 17, "b": 23})], True),
        ([call({"c": "X", "b": 24, "a": 17})], True),
        ([call({"a": 17})], False),
        ([call({"a": 17, "b": 23, "d": "x"})], False),  # declared, and nobody asked for it
        ([call({"a": 17, "b": 23, "e": 1})], False),
        ([call({"a": 17, "b": 23}, "g")], False),
        ([call({"a": 17, "b": 23}, "F")], False),
        ([call({"a": 17, "b": 23})] * 2, False),
        ([call('{"a": 17, "b": 23')], False),
        ([call("[17, 23]")], False),
        ([call("")], False),
        ([], False),
    ],
)
def test_one_call_of_the_function_with_all_it_needs(calls, right):
    assert is_right(ADD, calls) == right


def test_where_nothing_may_be_left_out_nothing_is():
    assert not is_right(question({"a": {"type": "integer"}}, {"a": [1]}), [call({})])
    assert is_right(question({"a": {"type": "integer"}}, {"a": ["", 1]}), [call({})])


def test_where_no_function_helps_no_call_is_right():
    asked = Question("q", [], {}, None, {})
    assert is_right(asked, []) and not is_right(asked, [call({})])


@pytest.mark.parametrize(
    ("calls", "problems", "valid"),
    [
        ([call({"a": 1, "b": 2})], [], True),
        ([call({"a": 1, "b": 2}, "g"), call({"a": 1, "b": 2, "e": None})], [], True),
        ([call({"a": 1, "b": 2}), call({"a": 1})], [], False),
        ([call({"a": 1, "b": "2"})], [], False),
        ([call({"a": 1, "b": 2}, "h")], [], False),
        ([call({"a": 1, "b": 2})], [ParseProblem("<tool_call>")], False),
        ([], [], False),
    ],
)
def test_a_valid_call_is_one_that_could_be_carried_out(calls, problems, valid):
    assert is_valid(ADD, Parsed("", calls, problems)) == valid


def test_schemas_become_json_schema_and_what_a_constraint_takes():
    declared = {
        "type": "dict",
        "properties": {
            "at": {"type": "tuple", "items": {"type": "float"}, "minItems": 2, "description": "Where."},
            "unit": {"type": "string", "enum": ["m", "km"], "default": "m"},
            "more": {"type": "dict", "description": "Whatever.", "optional": True},
            "data": {"type": "any"},
        },
        "required": ["at", "more"],
    }
    at = {"type": "array", "items": {"type": "number"}, "minItems": 2, "description": "Where."}
    schema = json_schema(declared)
    assert (schema["type"], schema["required"]) == ("object", ["at", "more"])
    assert schema["properties"] == {
        "at": at,
        "unit": {"type": "string", "enum": ["m", "km"], "default": "m"},
        "more": {"type": "object", "description": "Whatever.", "optional": True},
        "data": {"type": "string"},
    }
    nothing = {"properties": {}, "required": [], "additionalProperties": False}
    assert narrowed(schema) == {
        "type": "object",
        "properties": {
            "at": {"type": "array", "items": {"type": "number"}, "description": "Where."},
            "unit": {"enum": ["m", "km"], "default": "m"},
            "more": {"type": "object", "description": "Whatever.", **nothing},
            "data": {"type": "string"},
        },
        "required": ["at", "more"],
        "additionalProperties": False,
    }
