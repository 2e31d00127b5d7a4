"""What a model writes, and how JSON text is compared whose spelling is free."""

import json

from hypothesis import strategies as st

from grading.edited import reference
from grading.matching import assert_equal
from spec.agent import Parsed, ToolCall

TRUTH = reference("agent")
ADD = '{"name": "add", "arguments": {"a": 17}}'


def block(inside=ADD):
    return f"<tool_call>{inside}</tool_call>"


def call(name, arguments):
    """As it comes from a model."""
    return ToolCall(None, name, arguments)


# Comparing ------------------------------------------------------------------------------------------------


def says(text):
    """What JSON text says, keys in their order; the text itself where it is no JSON."""
    try:
        return said(json.loads(text, object_pairs_hook=tuple))
    except (ValueError, RecursionError):
        return text


def said(value):
    """Equal where JSON calls two values equal: 1 is 1.0, and true is neither."""
    if isinstance(value, tuple):
        return "object", [(key, said(each)) for key, each in value]
    if isinstance(value, list):
        return "array", [said(each) for each in value]
    return isinstance(value, bool), value


def assert_calls(actual, expected):
    """The arguments may be spelled in another way."""
    assert_equal([(each.id, each.name) for each in actual], [(None, each.name) for each in expected], "calls")
    for found, wanted in zip(actual, expected, strict=True):
        assert_equal(type(found.arguments), str, "type of arguments")
        assert says(found.arguments) == says(wanted.arguments), (
            f"arguments of {wanted.name}: expected what {wanted.arguments!r} says, got {found.arguments!r}"
        )


def assert_parsed(actual, content, calls=(), problems=()):
    """problems: their texts."""
    assert_equal(type(actual), Parsed, "type of the result")
    assert_equal(actual.content, content, "content")
    assert_equal([each.text for each in actual.problems], [*problems], "texts of problems")
    assert_calls(actual.calls, calls)


def assert_parsed_as(actual, expected):
    assert_parsed(actual, expected.content, expected.calls, [each.text for each in expected.problems])


# Texts ----------------------------------------------------------------------------------------------------

DOUBLE = r'{"name": "f", "arguments": "{\"a\": 1}"}'
COMMA = '{"name": "f", "arguments": {},}'
CODE = """\n{"name": "run", "arguments": {"code": "print('</tool_call>') # {"}}\r\n\t"""
PAIR = r'{"name": "ü\ud83d\ude00", "parameters": {"é": "😀\n\u00e9\\"}}'
BRACES = r'{"a": 1, "b": "\nAction: x } {"}'

TEXTS = {  # by format, each with something that a parser may stumble over
    "hermes": [
        f"Let me see.{block()} One moment.",
        f"\n {block()}\n{block(DOUBLE)}\n\n",
        f"{block(CODE)}<tool",
        f"a{block(COMMA)}b{block()}c",
        f'{block("{}")}<tool_call>{{"name": "f", {block()}x<tool_call>{ADD}\n',
        '<tool_call>{"name": "f", "arguments": {"a": "<tool_call>',
        "1 < 2 <tool_box> </tool_call> <<tool_call",
        f"{block(PAIR)}é😀\ud83d",
        f"<tool_call>{ADD} and more</tool_call> {block(ADD + ADD)} {block('')}",
        '<tool_call>{"a": "</tool_call>"} ',
    ],
    "react": [
        f"Thought: sum.\nAction: add\nAction Input: {BRACES}",
        "Thought: easy.\nFinal Answer: 4\nAction: f\nAction Input: {}",
        "Action: f\nAction Input: {}\nObservation: 42\nFinal Answer: 42",
        'Action: \t get it \r\n\r\nAction Input:\n{\n"a": [\n1, "ü😀"\n]\n}\nThought: and now?\n',
        "Thought: x Action: no\n Action: no\nobservation: no\nFinal answer: no",
        "Thought: so\nAction: f\nAction Input: {oops\nFinal Answer: 4",
        "Action:\nAction Input: {}",
        "Action: f\nFinal Answer: 1",
        "Observation: 42",
    ],
}
PIECES = {
    "hermes": [
        "<tool_call>",
        "</tool_call>",
        ADD,
        '{"name": "f", "arguments": "</tool_call>"}',
        r'{"name": "g", "arguments": ["<tool_call>", {"}": "\"{"}]}',
        '{"name": "f"}',
        "{",
        '"',
        ",",
        "x",
        " \n",
        "<tool_",
    ],
    "react": [
        "Action: add\n",
        "Action:",
        "Action Input: ",
        'Action Input: {"b": "Observation:}", "a": 1}\n',
        r'"{\"a\": 1}"',
        "{}",
        "[1,",
        "\n",
        "Thought: x\n",
        "Final Answer: 4",
        "Observation:",
        " Action: f\r\n",
    ],
}


def texts(format):
    """Pieces in any order: few are calls, and all of them are texts."""
    return st.lists(st.sampled_from(PIECES[format]), max_size=9).map("".join)
