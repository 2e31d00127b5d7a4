"""`check_transcript`: what a server would refuse. `detect_loop`: when calls have come to turn in a circle."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, refused
from spec import InvalidArgument
from spec.agent import MAX_MESSAGE, MAX_PERIOD, ToolCall, ToolResult
from tests.week3.agent.cases_loop import TRUTH, talk
from tests.week3.agent.cases_toolbox import ERROR, OK

# AG-24


def found(impl, messages):
    """The (path, rule) of each problem, in order."""
    problems = impl.check_transcript(messages)
    for each in problems:
        assert len(each.message) <= MAX_MESSAGE, (
            f"message: expected at most {MAX_MESSAGE}, got {each.message!r}"
        )
    return sorted((each.path, each.rule) for each in problems)


@requirement("AG-24")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("u", []),
        ("s u a u a", []),
        ("u ?ab =b =a", []),
        ("u ?ab =a =b a u ?c =c ?d =d a", []),
        ("?a =a", []),
        ("u ?ab =a =a", [("/1/tool_calls/1", "unanswered"), ("/3/tool_call_id", "unsolicited")]),
        ("u ?ab =b", [("/1/tool_calls/0", "unanswered")]),
        ("u ?ab", [("/1/tool_calls/0", "unanswered"), ("/1/tool_calls/1", "unanswered")]),
        ("u ?a a", [("/1/tool_calls/0", "unanswered")]),
        ("u ?a ?b =b", [("/1/tool_calls/0", "unanswered")]),
        ("u ?a s =a", [("/1/tool_calls/0", "unanswered"), ("/3/tool_call_id", "unsolicited")]),
        ("u ?ab =a u =b", [("/1/tool_calls/1", "unanswered"), ("/4/tool_call_id", "unsolicited")]),
        ("=a u", [("/0/tool_call_id", "unsolicited")]),
        ("u ?a =b =a", [("/2/tool_call_id", "unsolicited")]),
        ("u ?a =a =a", [("/3/tool_call_id", "unsolicited")]),
        ("u ?a =a u =a", [("/4/tool_call_id", "unsolicited")]),
        ("u ?a =a ?b =a =b", [("/4/tool_call_id", "unsolicited")]),
        ("u ?aa =a", [("/1/tool_calls/1/id", "duplicate")]),
        ("u ?aa =a =a", [("/1/tool_calls/1/id", "duplicate"), ("/3/tool_call_id", "unsolicited")]),
        ("u ?a =a u ?a", [("/4/tool_calls/0/id", "duplicate")]),
        ("u ?a =a u ?a =a", [("/4/tool_calls/0/id", "duplicate"), ("/5/tool_call_id", "unsolicited")]),
        ("u ?a =a ?ba =b a ?a a", [("/3/tool_calls/1/id", "duplicate"), ("/6/tool_calls/0/id", "duplicate")]),
        ("u ?a ?a", [("/1/tool_calls/0", "unanswered"), ("/2/tool_calls/0/id", "duplicate")]),
    ],
)
def test_what_a_server_would_refuse(impl, text, expected):
    assert_equal(found(impl, talk(text)), expected, f"problems of {text!r}")


WORDS = ["u", "a", "s", "?a", "?b", "?ab", "?ba", "?aa", "?c", "=a", "=b", "=c", "=d"]


@requirement("AG-24")
@given(words=st.lists(st.sampled_from(WORDS), max_size=9))
def test_lists_in_any_order(impl, words):
    text = " ".join(words)
    expected = sorted((each.path, each.rule) for each in TRUTH.check_transcript(talk(text)))
    assert_equal(found(impl, talk(text)), expected, f"problems of {text!r}")


@requirement("AG-24")
@pytest.mark.parametrize("id", ["", " ", "é/~0", "x" * 5_000], ids=["empty", "blank", "slashes", "long"])
def test_ids_are_any_text(impl, id):
    called = talk("u ?a")
    called[1]["tool_calls"][0]["id"] = id
    result = {"role": "tool", "tool_call_id": id, "content": ""}
    assert_equal(found(impl, [*called, result]), [], "problems of a call and its result")
    assert_equal(found(impl, called), [("/1/tool_calls/0", "unanswered")], "problems without the result")
    assert_equal(found(impl, [result]), [("/0/tool_call_id", "unsolicited")], "problems without the call")


# AG-33


def step(name="f", arguments="{}", status=OK, content="1", id="c", attempts=1):
    return ToolCall(id, name, arguments), ToolResult(id, name, status, content, attempts)


def circles(impl, text, repeats):
    """Of steps with these names."""
    return impl.detect_loop([step(name) for name in text], repeats=repeats)


@requirement("AG-33")
@pytest.mark.parametrize(
    ("text", "repeats", "expected"),
    [
        ("", 2, False),
        ("f", 2, False),
        ("ff", 2, True),
        ("ff", 3, False),
        ("fff", 3, True),
        ("gff", 3, False),
        ("fffg", 3, False),
        ("gfff", 3, True),
        ("fgfgfg", 3, True),
        ("fgfgf", 3, False),
        ("ffgfgfg", 3, True),
        ("fgfgfgf", 3, True),
        ("fgfg", 3, False),
        ("fghfgh", 2, True),
        ("fghfgf", 2, False),
        ("abcdabcd", 2, True),
        ("abcdeabcde", 2, False),
        ("abcdeabcdee", 2, True),
        ("abcdefghabcdefgh", 2, False),
        ("abababab", 4, True),
        ("abacabac", 2, True),
        ("fgfgfgx", 3, False),
        ("fgfgxfg", 3, False),
    ],
)
def test_where_a_circle_is(impl, text, repeats, expected):
    assert_equal(circles(impl, text, repeats), expected, f"a circle in {text!r}")


@requirement("AG-33")
@given(
    before=st.text("ab", max_size=3),
    part=st.text("abcde", min_size=1, max_size=MAX_PERIOD + 1),
    times=st.integers(1, 4),
    after=st.text("ab", max_size=1),
    repeats=st.integers(2, 4),
)
@example(before="", part="abcde", times=4, after="", repeats=2)
def test_circles_of_any_period(impl, before, part, times, after, repeats):
    text = before + part * times + after
    expected = any(
        len(text) >= repeats * p and text[-repeats * p :] == text[-p:] * repeats
        for p in range(1, MAX_PERIOD + 1)
    )
    assert_equal(circles(impl, text, repeats), expected, f"a circle in {text!r}, repeats {repeats}")


@requirement("AG-33")
@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', True),
        ('{"a": {"c": [1], "d": "x"}}', ' {"a":\n{"d": "x", "c": [1 ]}}', True),
        ('{"a": "ü/"}', '{"\\u0061": "\\u00fc\\/"}', True),
        ("", "{}", True),
        (" \n", "null", True),
        ("[1]", "[ 1 ]", True),
        ('{"a": 1', '{"a": 1', True),
        ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}', True),
        ('{"a": 1}', '{"a": 2}', False),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 0}', '{"a": false}', False),
        ('{"a": [1, {"b": true}]}', '{"a": [1, {"b": 1}]}', False),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": null}', "{}", False),
        ('{"a": null}', '{"a": "null"}', False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": 9007199254740993}', '{"a": 9007199254740992}', False),
        ('{"a": "x"}', '{"a": "X"}', False),
        ('{"a": "x"}', '{"a": "x "}', False),
        ('{"a": 1', '{"a":1', False),
        ('{"a": 1', '{"b": 1', False),
        ('{"a": 1', '{"a": 1}', False),
        ('{"a": NaN}', '{"a":NaN}', False),
        ('{"a": 1, "a": 2}', '{"a":1, "a": 2}', False),
        ('{"a": 1, "a": 2}', '{"a": 2}', False),
    ],
)
def test_when_arguments_are_equal(impl, one, other, equal):
    steps = [step(arguments=each) for each in (one, other)]
    assert_equal(impl.detect_loop(steps, repeats=2), equal, f"whether {one} and {other} are equal")
    assert_equal(impl.detect_loop(steps * 2, repeats=2), True, "whether they make a circle of two")


@requirement("AG-33")
@pytest.mark.parametrize(
    ("differs", "equal"),
    [
        ({"name": "g"}, False),
        ({"status": ERROR}, False),
        ({"content": "2"}, False),
        ({"content": "1 "}, False),
        ({"arguments": '{"a": 1}'}, False),
        ({"id": "d"}, True),
        ({"attempts": 3}, True),
    ],
)
def test_when_steps_are_equal(impl, differs, equal):
    for where in range(3):
        steps = [step(**(differs if i == where else {})) for i in range(3)]
        assert_equal(impl.detect_loop(steps, repeats=3), equal, f"a circle where step {where} has {differs}")


# AG-42


@requirement("AG-42")
@pytest.mark.parametrize("repeats", [1, 0, -1])
def test_a_circle_needs_two_rounds(impl, repeats):
    assert_equal(circles(impl, "ff", 2), True, "a circle")
    for text in ("ff", ""):
        with refused(InvalidArgument, "repeats", got=repeats):
            circles(impl, text, repeats)
