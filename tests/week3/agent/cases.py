"""What a model writes, and how JSON text is compared whose spelling is free."""

import json

from hypothesis import strategies as st

from grading.edited import reference
from grading.matching import assert_equal
from spec.agent import Parsed, ParseProblem, ToolCall

TRUTH = reference("agent")
ADD = '{"name": "add", "arguments": {"a": 17}}'
TAG = "<|python_tag|>"


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
    ids = [[(each.id, each.name) for each in calls] for calls in (actual, expected)]
    assert_equal(*ids, "ids and names of calls")
    for found, wanted in zip(actual, expected, strict=True):
        assert_equal(type(found.arguments), str, "type of arguments")
        assert says(found.arguments) == says(wanted.arguments), (
            f"arguments of {wanted.name}: expected what {wanted.arguments!r} says, got {found.arguments!r}"
        )


def assert_parsed(actual, content, calls=(), problems=(), format=None):
    """problems: their texts."""
    assert_equal(type(actual), Parsed, "type of the result")
    assert_equal(actual.content, content, "content")
    found, expected = actual.problems, [ParseProblem(text) for text in problems]
    assert_equal(*[[shown(each, format) for each in them] for them in (found, expected)], "problems")
    assert_calls(actual.calls, calls)


def assert_parsed_as(actual, expected, format=None):
    problems = [each.text for each in expected.problems]
    assert_parsed(actual, expected.content, expected.calls, problems, format)


def shown(found, format):
    """What was found, as far as it is compared here: calls are compared apart; of the text of a problem in
    "openai" counts what it says."""
    if isinstance(found, ToolCall):
        return "call", found.name
    if isinstance(found, ParseProblem):
        return "problem", says(found.text) if format == "openai" else found.text
    return found


# Texts ----------------------------------------------------------------------------------------------------

STRANGE = [
    "</tool_call>",
    "<tool_call>",
    "{",
    "}",
    "]",
    '"',
    "\\",
    "'",
    "\n",
    ";",
    TAG,
    "Observation:",
    "\nAction: x\n",
]
CALLS = [  # (an object that is a call of f, its arguments)
    ('{"name": "f", "arguments": {}, "parameters": {"a": 1}}', "{}"),
    ('{"name": "f", "parameters": {"a": 1}, "arguments": null}', "null"),
    ('{"name": "f", "parameters": {"a": 1}, "arguments": ""}', ""),
    ('{"parameters": {"a": 1}, "name": "f"}', '{"a": 1}'),
    ('{"name": "f", "parameters": null}', "null"),
    ('{"id": "7", "type": "function", "arguments": {"name": 3}, "name": "f", "x": [1]}', '{"name": 3}'),
]
NO_CALLS = [
    '{"name": "f"}',
    '{"name": 3, "arguments": {}}',
    '{"name": "", "arguments": {}}',
    '{"name": null, "arguments": {}}',
    '{"name": ["f"], "arguments": {}}',
    '{"arguments": {}}',
    '{"function": "f", "arguments": {}}',
    '{"type": "function", "function": {"name": "f", "arguments": {}}}',
    '{"name": "f", "args": {}}',
    '[{"name": "f", "arguments": {}}]',
    '"f"',
    "null",
    "{}",
]
STRINGS = [  # as arguments
    " hello\n",
    '{"a": 1}',
    ' {"a": 1}\n',
    "",
    '{"b" :1,\n"b":2 }',
    '"{}"',
    "{",
    "ü\\u00fc",
]
VALUES = [  # as arguments, that are no strings
    '{"b": 1.0, "a": "ü", "c": true, "d": null}',
    '{"a": {"z": [1, 2.5, {"b": {"c": {}}}], "y": ""}}',
    '{"n": 9007199254740993, "m": -123456789012345678901234567890}',
    r'{"a": "\"\\\n\u00fc\ud83d\ude00 😀", "ü": "{\"a\": 1}"}',
    "[1, {}]",
    "12",
    "false",
    "null",
]
WILD = {  # on some of these Python's parser raises what it does not promise
    "arrays": "[" * 100_000,
    "objects": '{"name":' * 100_000,
    "digits": "1" * 5_000,
    "half a pair": "\ud800\x00",
    "half an escape": '"\\ud8',
}

DOUBLE = r'{"name": "f", "arguments": "{\"a\": 1}"}'
COMMA = '{"name": "f", "arguments": {},}'
CODE = """\n{"name": "run", "arguments": {"code": "print('</tool_call>') # {"}}\r\n\t"""
PAIR = r'{"name": "ü\ud83d\ude00", "parameters": {"é": "😀\n\u00e9\\"}}'
BRACES = r'{"a": 1, "b": "\nAction: x } {"}'

CUT = '{"name": "f", "parameters": {"a": "x; y'
SEMICOLON = r'{"name": "run", "parameters": {"code": "a = {1}; b <|python_tag|> {\"c\"};"}}'
ENTRY = r'{"id": "call_0", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 17}"}}'


def message(*entries, content='"content": null', other='"role": "assistant"', calls='"tool_calls": [{}]'):
    """As a chat server sends it."""
    parts = other, content, calls.format(", ".join(entries))
    return "{" + ", ".join(filter(None, parts)) + "}"


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
    "llama3": [
        f"Let me see.{TAG}{PAIR}; {ADD}",
        f" \n{SEMICOLON}\n\n{DOUBLE};;{TAG} \t{CODE}",
        f"{TAG}{SEMICOLON}; {COMMA}; {ADD} so\n{TAG}{ADD}",
        f"a <|python {TAG[:-1]} {{{ADD}",
        f"\t{CUT}{TAG}{ADD}; {CUT}",
        f'x{TAG}print("a;b"); [{ADD}];{{"a": 1}}<|python',
        "x <",
        TAG,
    ],
    "openai": [
        message(ENTRY, "[3, null]", ENTRY),
        message(content=r'"content": "Let me see: {\n"', calls=""),
        f" \n{message(ENTRY)}\r\n",
        f'{{"tool_calls": [{ENTRY}], "content": "a"}}',
        message(ENTRY)[:-1],
        f"{message()} and more",
        f"\n{ADD}",
        "Hello",
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
    "llama3": [
        TAG,
        ADD,
        SEMICOLON,
        '{"name": "f"}',
        "{}",
        "{",
        '"',
        "}",
        ";",
        "x",
        " \n",
        "<|python_",
    ],
}
ENTRIES = [
    ENTRY,
    '{"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{"}}',
    '{"function": {"parameters": {"é": [1.0, {"}": "]"}]}, "name": "ü"}, "id": 3}',
    '{"id": "x", "type": "custom", "custom": {"name": "f", "input": "x"}}',
    '{"id": "x", "type": "function", "function": {"name": "f"}}',
    ADD,
    '"f"',
    "[]",
    "null",
]
CONTENTS = ["", "null", '""', r'"Let me see: {\"a\"; 😀\n"', "4", '["x"]']
LISTS = ["", "null", "{{}}", '"f"', "[{}]", "[{}]", "[{}]"]


def texts(format):
    """Pieces in any order: few are calls, and all of them are texts. In "openai" messages, and nearly so."""
    if format == "openai":
        return messages()
    return st.lists(st.sampled_from(PIECES[format]), max_size=9).map("".join)


@st.composite
def messages(draw):
    content, calls = draw(st.sampled_from(CONTENTS)), draw(st.sampled_from(LISTS))
    entries = draw(st.lists(st.sampled_from(ENTRIES), max_size=3))
    parts = {
        "content": content and f'"content": {content}',
        "calls": calls and f'"tool_calls": {calls}',
        "other": draw(st.sampled_from(["", '"refusal": null, "x": {"content": "no"}'])),
    }
    return message(*entries, **parts) + draw(st.sampled_from(["", "", "", "\n", "}", " x"]))
