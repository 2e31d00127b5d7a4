"""Calls in what a model wrote, in blocks and in lines, and what becomes of all that is none."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, check_refusals
from tests.week3.agent.cases import (
    ADD,
    CALLS,
    COMMA,
    NO_CALLS,
    STRANGE,
    STRINGS,
    TEXTS,
    TRUTH,
    VALUES,
    WILD,
    assert_parsed,
    assert_parsed_as,
    block,
    call,
    texts,
)

ADDED = call("add", '{"a": 17}')
BOTH = "hermes", "react"


def in_both(inside):
    """The texts of a model that writes this JSON as arguments of f, by format."""
    return {
        "hermes": block(f'{{"name": "f", "arguments": {inside}}}'),
        "react": f"Action: f\nAction Input: {inside}",
    }


# Blocks


@requirement("AG-01")
def test_a_block_is_a_call_and_all_else_is_content(impl):
    text = 'Let me see.<tool_call>{"name": "add", "arguments": {"a": 17}}</tool_call> One moment.'
    found = impl.parse_tool_calls(text, "hermes")
    assert_parsed(found, "Let me see. One moment.", [call("add", '{"a": 17}')])


@requirement("AG-01")
@given(
    parts=st.lists(
        st.tuples(st.text("a \n<>/_😀", max_size=4), st.sampled_from(["add", "f", "g h"]), st.integers(0, 9)),
        max_size=4,
    ),
    space=st.sampled_from(["", "\n", " \t\r\n "]),
    last=st.sampled_from(["", "x", "\n\n", " </tool_call> y", "<tool_call"]),
)
@example(parts=[("", "f", 1)], space=" \t\r\n ", last="")
@example(parts=[("a ", "f", 1), ("", "f", 1), (" b\n", "g h", 2)], space="\n", last="\n\n")
def test_calls_and_content_in_the_order_of_the_text(impl, parts, space, last):
    texts = [
        before + block(f'{space}{{"name": "{name}", "arguments": {{"i": {i}}}}}{space}')
        for before, name, i in parts
    ]
    found = impl.parse_tool_calls("".join([*texts, last]), "hermes")
    content = "".join(before for before, _, _ in parts) + last
    assert_parsed(found, content, [call(name, f'{{"i": {i}}}') for _, name, i in parts])


@requirement("AG-02")
@given(value=st.lists(st.sampled_from(STRANGE), max_size=6).map("".join), format=st.sampled_from(BOTH))
@example(value="print('</tool_call>') # {", format="hermes")
@example(value='"}}</tool_call>', format="hermes")
@example(value="<tool_call>{", format="hermes")
@example(value='}\\"{', format="react")
@example(value="}", format="react")
def test_json_decides_where_a_value_ends(impl, value, format):
    for each in ({"code": value}, {value: [value, {"b": value}]}):
        inside = json.dumps(each)
        text = in_both(inside)[format]
        assert_parsed(impl.parse_tool_calls(text, format), "", [call("f", inside)])


@requirement("AG-02")
@pytest.mark.parametrize("format", BOTH)
def test_values_may_be_nested_100_deep(impl, format):
    inside = '{"a": [' * 49 + '"]}"' + "]}" * 49  # 98 in the object of the call
    text = in_both(inside)[format]
    assert_parsed(impl.parse_tool_calls(text, format), "", [call("f", inside)])


# What a call is


@requirement("AG-03")
@pytest.mark.parametrize(("inside", "arguments"), CALLS)
def test_what_a_call_is(impl, inside, arguments):
    assert_parsed(impl.parse_tool_calls(block(inside), "hermes"), "", [call("f", arguments)])


@requirement("AG-03")
@pytest.mark.parametrize("name", [" ", "\u00a0\n", "get it", "ü/1", "null"], ids=ascii)
def test_any_text_is_a_name(impl, name):
    inside = json.dumps({"name": name, "arguments": {}})
    assert_parsed(impl.parse_tool_calls(block(inside), "hermes"), "", [call(name, "{}")])


@requirement("AG-03")
def test_what_no_call_is(impl):
    blocks = [block(inside) for inside in NO_CALLS]
    assert_parsed(impl.parse_tool_calls("".join(blocks), "hermes"), "", [], blocks)


@requirement("AG-04")
@pytest.mark.parametrize("text", STRINGS)
def test_a_string_is_the_text_of_the_arguments(impl, text):
    for format, written in in_both(json.dumps(text)).items():
        found = impl.parse_tool_calls(written, format)
        assert_equal([each.arguments for each in found.calls], [text], f"arguments in {format}")


@requirement("AG-04")
@pytest.mark.parametrize("inside", VALUES)
def test_any_other_value_is_written_as_json(impl, inside):
    for format, written in in_both(inside).items():
        assert_parsed(impl.parse_tool_calls(written, format), "", [call("f", inside)])


# Bad blocks

IN_STRING = '<tool_call>{"name": "f", "arguments": {"a": "'
BAD = {  # what it is: (text, content, calls, texts of problems)
    "a comma too many": (f"{block(COMMA)}x<tool_call>{ADD}", "x", [ADDED], [block(COMMA)]),
    "in the middle": (f"a{block()}b{block('{')}c{block()}d", "abcd", [ADDED, ADDED], [block("{")]),
    "nothing inside": (f"{block('')} {block(' ')}", " ", [], [block(""), block(" ")]),
    "text before": (block(f"So: {ADD}"), "", [], [block(f"So: {ADD}")]),
    "text behind": (block(f"{ADD} so"), "", [], [block(f"{ADD} so")]),
    "two values": (f"{block(ADD + ADD)}{block()}", "", [ADDED], [block(ADD + ADD)]),
    "no end tag": (f"<tool_call>{ADD}", "", [ADDED], []),
    "no end tag, then space": (f"a\n<tool_call>\n{ADD} \n", "a\n", [ADDED], []),
    "no end tag, then text": (f"<tool_call>{ADD} so", "", [], [f"<tool_call>{ADD} so"]),
    "half an end tag": (f"<tool_call>{ADD}</tool_", "", [], [f"<tool_call>{ADD}</tool_"]),
    "cut": (f"{block()}<tool_call>{ADD[:-1]}", "", [ADDED], [f"<tool_call>{ADD[:-1]}"]),
    "only a start": ("x <tool_call>", "x ", [], ["<tool_call>"]),
    "a start before its end": (f"<tool_call>{ADD}\n{block()}y", "y", [ADDED], [f"<tool_call>{ADD}\n"]),
    "three starts": (f"<tool_call><tool_call>{block()}", "", [ADDED], ["<tool_call>", "<tool_call>"]),
    "a start in a string": (f"{IN_STRING}{block()}", "", [ADDED], [IN_STRING]),
    "an end in a string": (f'{IN_STRING}</tool_call>",}} z', '",} z', [], [f"{IN_STRING}</tool_call>"]),
    "an end in no call": (block('["</tool_call>"]') + "x", "x", [], [block('["</tool_call>"]')]),
    "no call, no end tag": ('<tool_call>["</tool_call>"] ', '"] ', [], ['<tool_call>["</tool_call>']),
}


@requirement("AG-05")
@pytest.mark.parametrize("what", [*BAD])
def test_a_bad_block_is_told_and_costs_nothing_else(impl, what):
    text, content, calls, problems = BAD[what]
    assert_parsed(impl.parse_tool_calls(text, "hermes"), content, calls, problems)


@requirement("AG-05")
@given(text=texts("hermes"))
def test_blocks_in_any_text(impl, text):
    assert_parsed_as(impl.parse_tool_calls(text, "hermes"), TRUTH.parse_tool_calls(text, "hermes"))


@requirement("AG-05")
@pytest.mark.parametrize("what", [*WILD])
def test_no_block_raises(impl, what):
    found = impl.parse_tool_calls(f"a{block(WILD[what])}b{block()}", "hermes")
    assert_parsed(found, "ab", [ADDED], [block(WILD[what])])


# ReAct

ACTION = 'Action: add\nAction Input: {"a": 1}'
ONE = call("add", '{"a": 1}')
LINES = {  # what it is: (text, content, calls, texts of problems)
    "an action": (f"Thought: sum.\n{ACTION}", "Thought: sum.\n", [ONE], []),
    "an answer": ("Thought: easy.\nFinal Answer: 4", "Thought: easy.\n 4", [], []),
    "an answer of lines": ("Final Answer: 4\n\nor 5 \n", " 4\n\nor 5 \n", [], []),
    "nothing of both": (" Thought: hm\n\n", " Thought: hm\n\n", [], []),
    "an invented result": (f"{ACTION}\nObservation: 42\nFinal Answer: 42", "", [ONE], []),
    "an invented result, called again": (f"{ACTION}\nObservation: 42\n{ACTION}", "", [ONE], []),
    "a result first": (f"x\nObservation: 42\n{ACTION}", "x\n", [], []),
    "nothing but a result": ("Observation: 42", "", [], []),
    "a result before the input": ("Action: f\nObservation: 42\nAction Input: {}", "", [], ["Action: f\n"]),
    "a result in an answer": ("Final Answer: 4\nObservation: 5", " 4\n", [], []),
    "a result in a line": (f"no Observation: 4\n{ACTION}", "no Observation: 4\n", [ONE], []),
    "an answer behind an action": (f"{ACTION}\nFinal Answer: 1 ", "", [ONE], ["Final Answer: 1"]),
    "an action behind an answer": (f"Final Answer: 1\n{ACTION}", f" 1\n{ACTION}", [], []),
    "two answers": ("Final Answer: 1\nFinal Answer: 2", " 1\nFinal Answer: 2", [], []),
    "two actions": (f"{ACTION}\n\nAction: f\nAction Input: {{}}", "", [ONE], ["Action: f\nAction Input: {}"]),
    "a thought behind": (f"{ACTION} \n\tThought: then\n", "", [ONE], ["Thought: then"]),
    "marks inside lines": ("an Action: f\n Action: g\n\tFinal Answer: 3",) * 2 + ([], []),
    "space around": (f"x\n{ACTION}\n \r\n\t", "x\n", [ONE], []),
    "space inside": ('Action:\tadd \r\n\n\nAction Input:\n\n{"a":\n1}', "", [ONE], []),
    "no space": ('Action:add\nAction Input:{"a":1}', "", [ONE], []),
    "other blanks": (
        "Action:\u00a0f\u2003\nAction Input: {}\n\x0b",
        "",
        [call("\u00a0f\u2003", "{}")],
        ["\x0b"],
    ),
    "other ends of lines": ("x\rAction: f\u2028Final Answer: 1\x0bObservation: 2",) * 2 + ([], []),
    "another value": ("Action: f\nAction Input: [1]", "", [call("f", "[1]")], []),
    "a name of words": ("Action:  get it: now\nAction Input: {}", "", [call("get it: now", "{}")], []),
    "no name": ("x\nAction: \nAction Input: {}\ny", "x\n", [], ["Action: \nAction Input: {}\ny"]),
    "no input": ("Action: f\n\n", "", [], ["Action: f\n\n"]),
    "no line feed": ("Action: f Action Input: {}", "", [], ["Action: f Action Input: {}"]),
    "text between": ("Action: f\nso\nAction Input: {}", "", [], ["Action: f\nso\nAction Input: {}"]),
    "an empty input": ("Action: f\nAction Input: \n", "", [], ["Action: f\nAction Input: \n"]),
    "no JSON": ("Action: f\nAction Input: a = 1", "", [], ["Action: f\nAction Input: a = 1"]),
    "half JSON": ('x\nAction: f\nAction Input: {"a": ', "x\n", [], ['Action: f\nAction Input: {"a": ']),
    "an answer instead": ("Action: f\nFinal Answer: 1", "", [], ["Action: f\nFinal Answer: 1"]),
    "tags": (block(), block(), [], []),
}


@requirement("AG-06")
@pytest.mark.parametrize("what", [*LINES])
def test_an_action_and_its_input_and_nothing_invented(impl, what):
    text, content, calls, problems = LINES[what]
    assert_parsed(impl.parse_tool_calls(text, "react"), content, calls, problems)


@requirement("AG-06")
@given(text=texts("react"))
def test_lines_of_any_text(impl, text):
    assert_parsed_as(impl.parse_tool_calls(text, "react"), TRUTH.parse_tool_calls(text, "react"))


@requirement("AG-06")
@pytest.mark.parametrize("what", [each for each in WILD if each != "digits"])
def test_no_action_raises(impl, what):
    text = f"Action: f\nAction Input: {WILD[what]}"
    assert_parsed(impl.parse_tool_calls(text, "react"), "", [], [text])


# Refusals


@requirement("AG-42")
def test_parsing_refuses(impl):
    for format in TEXTS:
        assert_parsed(impl.parse_tool_calls("x", format), "x")
    wrong = [("format", {"format": each}) for each in ("xml", "", "Hermes", "react ", "llama")]
    check_refusals(impl.parse_tool_calls, {"text": "x", "format": "hermes"}, wrong)
    check_refusals(impl.StreamingToolParser, {"format": "react"}, wrong)
