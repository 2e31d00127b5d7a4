"""Calls as Llama 3 writes them, and as a chat server sends them."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal
from spec.agent import Status, ToolCall
from tests.week3.agent.cases import (
    ADD,
    CALLS,
    COMMA,
    ENTRY,
    NO_CALLS,
    SEMICOLON,
    STRANGE,
    STRINGS,
    TAG,
    TRUTH,
    VALUES,
    WILD,
    assert_parsed,
    assert_parsed_as,
    block,
    call,
    message,
    texts,
)
from tests.week3.agent.cases_loop import Chat, run

ADDED = call("add", '{"a": 17}')
SENT = ToolCall("call_0", "add", '{"a": 17}')
PROGRAM = call("run", json.dumps(json.loads(SEMICOLON)["parameters"]))


# Llama 3

HALF = '{"name": "f", "parameters": {"a": "x'
OBJECTS = {  # what it is: (text, content, calls, texts of problems)
    "behind a tag": (f"Let me see.{TAG}{ADD}; {SEMICOLON}", "Let me see.", [ADDED, PROGRAM], []),
    "alone": (ADD, "", [ADDED], []),
    "alone, behind white space": (f" \n\t{ADD}\r\n", " \n\t", [ADDED], []),
    "white space before a tag": (f"\n {TAG}\n{ADD}", "\n ", [ADDED], []),
    "white space at the end of content": (f"a \n{TAG}{ADD}", "a \n", [ADDED], []),
    "behind text, without a tag": (f"So: {ADD}", f"So: {ADD}", [], []),
    "half a tag": (f"a <|python_tag {ADD}", f"a <|python_tag {ADD}", [], []),
    "nothing behind a tag": (f"x {TAG} ;\n", "x ", [], []),
    "no semicolons": (f"{ADD}{ADD}\n{SEMICOLON}", "", [ADDED, ADDED, PROGRAM], []),
    "many semicolons": (f"{TAG};{ADD} ;; \n{SEMICOLON};", "", [ADDED, PROGRAM], []),
    "many tags": (f"{TAG}{ADD}{TAG}{ADD};{TAG}\n{TAG}{SEMICOLON}", "", [ADDED, ADDED, PROGRAM], []),
    "a tag behind a brace": (f"{ADD}{TAG}{ADD}", "", [ADDED, ADDED], []),
    "a comma too many": (f"{COMMA}; {ADD}", "", [ADDED], [COMMA]),
    "in the middle": (f"{ADD}; {{; {SEMICOLON}", "", [ADDED, PROGRAM], ["{"]),
    "no call": (f'{{"a": 1}}{ADD}', "", [ADDED], ['{"a": 1}']),
    "text behind": (f"{ADD}\n\nDone: 1. \n", "", [ADDED], ["Done: 1."]),
    "text between": (f"{ADD} so {ADD}; {ADD}", "", [ADDED, ADDED], [f"so {ADD}"]),
    "text, then a tag": (f"{TAG}so \n{TAG}{ADD}", "", [ADDED], ["so"]),
    "a program": (f'{TAG}x = "a; b"; print(x)', "", [], ['x = "a', 'b"', "print(x)"]),
    "a list": (f"{TAG}[{ADD}]; {ADD}", "", [ADDED], [f"[{ADD}]"]),
    "values, then text": (f'{TAG}[1] so; "a;b"', "", [], ["[1] so", '"a', 'b"']),
    "a list first": (f"[{ADD}]", f"[{ADD}]", [], []),
    "a comma between": (f"{ADD}, {ADD}; {ADD}", "", [ADDED, ADDED], [f", {ADD}"]),
    "cut": (f"{ADD}; {ADD[:-1]}", "", [ADDED], [ADD[:-1]]),
    "cut in a string": (f"{TAG}{HALF}; {ADD}", "", [ADDED], [HALF]),
    "cut in a string, then a tag": (f"{TAG}{HALF}{TAG}{ADD}", "", [ADDED], [HALF]),
    "white space of others": (f"\xa0{ADD}", f"\xa0{ADD}", [], []),
    "white space of others behind": (f"{ADD}so\xa0\f; {ADD}", "", [ADDED, ADDED], ["so\xa0\f"]),
    "a block": (block(), block(), [], []),
    "nothing": ("", "", [], []),
}


@requirement("AG-43")
@pytest.mark.parametrize("what", [*OBJECTS])
def test_objects_behind_a_tag_or_alone(impl, what):
    text, content, calls, problems = OBJECTS[what]
    assert_parsed(impl.parse_tool_calls(text, "llama3"), content, calls, problems)


@requirement("AG-43")
@given(text=texts("llama3"))
def test_objects_in_any_text(impl, text):
    assert_parsed_as(impl.parse_tool_calls(text, "llama3"), TRUTH.parse_tool_calls(text, "llama3"))


@requirement("AG-43")
def test_objects_are_calls_as_in_blocks(impl):
    inside, arguments = zip(*CALLS, strict=True)
    found = impl.parse_tool_calls(TAG + "; ".join([*inside, *NO_CALLS]), "llama3")
    assert_parsed(found, "", [call("f", each) for each in arguments], NO_CALLS)


@requirement("AG-43")
def test_arguments_of_objects_are_those_of_blocks(impl):
    objects = [f'{{"name": "f", "parameters": {each}}}' for each in (*map(json.dumps, STRINGS), *VALUES)]
    assert_arguments(impl.parse_tool_calls(";".join(objects), "llama3"))


def assert_arguments(found):
    """Those of the lists."""
    strings = [each.arguments for each in found.calls[: len(STRINGS)]]
    assert_equal(strings, STRINGS, "arguments that are strings")
    assert_parsed(found, "", [call("f", each) for each in (*STRINGS, *VALUES)])


@requirement("AG-43")
@given(value=st.lists(st.sampled_from(STRANGE), max_size=6).map("".join))
@example(value="a = 1; b")
@example(value=f"{TAG}{{")
@example(value='}}\\"; {')
def test_json_decides_where_an_object_ends(impl, value):
    inside = json.dumps({"code": value, value: [value]})
    text = f'{{"name": "f", "parameters": {inside}}}'
    found = impl.parse_tool_calls(f"{text}; {text}", "llama3")
    assert_parsed(found, "", [call("f", inside)] * 2)


@requirement("AG-43")
@pytest.mark.parametrize("what", [*WILD])
def test_no_object_raises(impl, what):
    found = impl.parse_tool_calls(f"a{TAG}{WILD[what]}; {ADD}", "llama3")
    assert_parsed(found, "a", [ADDED], [WILD[what]])


@requirement("AG-43")
def test_a_run_in_llama3(impl):
    object = '{"name": "act", "parameters": {"do": [], "n": 4}}'
    chat = Chat(f"So.{TAG}{object}; {{<<oops>>", "done")
    found = run(impl, chat, format="llama3")
    assert_equal([each.status for each in found.results], [Status.OK], "statuses")
    roles = [each["role"] for each in found.messages]
    assert_equal(roles, ["user", "assistant", "tool", "user", "assistant"], "roles")
    assert_equal(found.messages[1]["content"], "So.", "content")
    assert "{<<oops>>" in found.messages[3]["content"]


# OpenAI

FUNCTION = '"function": {"name": "f", "arguments": ""}'
CUSTOM = '{"id": "x", "type": "custom", "custom": {"name": "f", "input": "x"}}'
HIDDEN = '"content": "{\\"content\\": \\"x\\"} <tool_call>"'
MESSAGES = {  # what it is: (text, content, calls, texts of problems)
    "a call": (message(ENTRY), "", [SENT], []),
    "content": (message(content='"content": "Hi {x}\\n"', calls=""), "Hi {x}\n", [], []),
    "both": (message(ENTRY, content='"content": "a"'), "a", [SENT], []),
    "calls alone": (message(ENTRY, content="", other=""), "", [SENT], []),
    "one id twice": (message(ENTRY, ENTRY), "", [SENT] * 2, []),
    "white space around": (f"\n {message(ENTRY)}\r\n\t", "", [SENT], []),
    "null": ('{"content": null}', "", [], []),
    "empty": ('{"content": "", "tool_calls": []}', "", [], []),
    "nothing but null": ('{"tool_calls": null}', "", [], []),
    "nothing but no calls": ('{"tool_calls": []}', "", [], []),
    "null for calls": ('{"content": "a", "tool_calls": null}', "a", [], []),
    "a message in a message": (message(content=HIDDEN, calls=""), '{"content": "x"} <tool_call>', [], []),
    "no id": (message(f"{{{FUNCTION}}}"), "", [ToolCall(None, "f", "")], []),
    "an empty id": (message(f'{{"id": "", {FUNCTION}}}'), "", [ToolCall("", "f", "")], []),
    "an id that is no text": (
        message('{"id": 7, "function": {"name": "f", "parameters": {"a": [1.0]}}}'),
        "",
        [ToolCall(None, "f", '{"a": [1.0]}')],
        [],
    ),
    "bad entries": (message("3", ENTRY, "[]", ADD), "", [SENT], ["3", "[]", ADD]),
    "another type": (message(CUSTOM), "", [], [CUSTOM]),
    "a function of another type": (
        message(f'{{"type": "custom", {FUNCTION}}}'),
        "",
        [ToolCall(None, "f", "")],
        [],
    ),
    "as it was of old": (message(other='"function_call": {"name": "f", "arguments": ""}'), "", [], []),
}
TEXT = [  # what is no message
    "",
    " \n",
    "Hello",
    "17",
    "null",
    "{}",
    '"x"',
    '\n {"answer": 4}\t',
    '{"content": 4}',
    '{"content": ["x"], "tool_calls": []}',
    '{"content": [{"type": "text", "text": "x"}]}',
    '{"choices": [{"message": {"content": "x"}}]}',
    '\u00a0{"content": "x"}\u2003',
    '{"content": "x", "tool_calls": {}}',
    '{"content": "x", "tool_calls": "f"}',
    '[{"content": "x"}]',
    '{"content": "x"',
    '{"content": "x"} so',
    '{"content": "x"}{"content": "x"}',
    'So: {"content": "x"}',
    ADD,
    block(),
]


def entries(functions):
    return [f'{{"function": {each}}}' for each in functions]


@requirement("AG-44")
@pytest.mark.parametrize("what", [*MESSAGES])
def test_a_message_is_its_content_and_its_calls(impl, what):
    text, content, calls, problems = MESSAGES[what]
    assert_parsed(impl.parse_tool_calls(text, "openai"), content, calls, problems, "openai")


@requirement("AG-44")
@given(text=texts("openai"))
def test_any_message(impl, text):
    assert_parsed_as(impl.parse_tool_calls(text, "openai"), TRUTH.parse_tool_calls(text, "openai"), "openai")


@requirement("AG-44")
def test_entries_are_calls_as_in_blocks(impl):
    inside, arguments = zip(*CALLS, strict=True)
    found = impl.parse_tool_calls(message(*entries([*inside, *NO_CALLS])), "openai")
    assert_parsed(found, "", [call("f", each) for each in arguments], entries(NO_CALLS), "openai")


@requirement("AG-44")
def test_arguments_of_a_message_stay_text(impl):
    functions = [f'{{"name": "f", "arguments": {each}}}' for each in (*map(json.dumps, STRINGS), *VALUES)]
    assert_arguments(impl.parse_tool_calls(message(*entries(functions)), "openai"))


@requirement("AG-44")
@pytest.mark.parametrize("text", TEXT)
def test_what_is_no_message_is_content(impl, text):
    assert_parsed(impl.parse_tool_calls(text, "openai"), text)


@requirement("AG-44")
@pytest.mark.parametrize("what", [*WILD])
def test_no_message_raises(impl, what):
    for text in (WILD[what], f'{{"content": {WILD[what]}, "tool_calls": []}}'):
        assert_parsed(impl.parse_tool_calls(text, "openai"), text)


@requirement("AG-44")
def test_a_run_gives_ids_of_its_own(impl):
    functions = [{"name": "act", "arguments": json.dumps({"do": [], "n": n})} for n in range(3)]
    sent = [json.dumps({"id": "call_0", "type": "function", "function": each}) for each in functions]
    chat = Chat(message(*sent[:2]), message(sent[2]), message(content='"content": "done"', calls=""))
    found = run(impl, chat, format="openai")
    assert_equal([each.status for each in found.results], [Status.OK] * 3, "statuses")
    assert_equal(len({each.call_id for each in found.results}), 3, "ids of three calls")
    assert_equal(found.messages[-1], {"role": "assistant", "content": "done"}, "the last message")
