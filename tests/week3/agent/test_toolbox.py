"""`Toolbox.call`: from a call to a result. What is allowed to run, what is said of failures, how much."""

import json
import math
from os.path import commonprefix

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, passed_through, refused
from spec import Cancelled, InvalidArgument, ToolFailure
from spec.agent import BreakerPolicy, RetryPolicy, Tool, ToolCall, ToolResult
from tests.week3.agent.cases_toolbox import (
    BAD,
    DENIED,
    ERROR,
    OK,
    OPEN,
    PARAMETERS,
    TIMEOUT,
    UNKNOWN,
    World,
    act,
    outcome,
    toolbox,
)


def returning(value):
    """A toolbox's only tool, "f", which returns this, and raises it where it is an exception."""

    def function(arguments, context):
        if isinstance(value, Exception):
            raise value
        return value

    return Tool("f", "Does f.", {}, function)


def result_of(impl, value, **options):
    """Of a call of `returning(value)`."""
    made = toolbox(impl, World(), returning(value), **options)
    return made.call(ToolCall("c", "f", "{}"), run_id="r")


# AG-13


@requirement("AG-13")
@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("40", "40"),
        ("", ""),
        ("ü 日本 😀", "ü 日本 😀"),
        ('{"a": "\\u00fc"}\n', '{"a": "\\u00fc"}\n'),
        ("null", "null"),
        (" a\n", " a\n"),
        ("a\ud800b\udfff", "a\ufffdb\ufffd"),
    ],
)
def test_text_stays_as_it_is(impl, text, content):
    assert_equal(result_of(impl, text), ToolResult("c", "f", OK, content, 1), "result")


@requirement("AG-13")
@pytest.mark.parametrize(
    "value", [40, None, True, 0.5, [], {}, {"k": "ü"}, ["日本", {"n": [None, 2**70]}], {"a": "\n\\"}]
)
def test_what_is_no_text_is_written_as_json(impl, value):
    result = result_of(impl, value)
    assert_equal(outcome(result), (OK, 1), "status and attempts")
    assert_equal(json.loads(result.content), value, "what the content says")
    for character in "ü日本":
        assert (character in result.content) == (character in str(value)), (
            f"content: expected {character!r} as itself, got {result.content!r}"
        )


@requirement("AG-13")
def test_a_pair_of_surrogates_is_a_character(impl):
    content = result_of(impl, "a\ud83d\ude00").content
    assert content in ("a😀", "a\ud83d\ude00"), f"content: expected both halves of 😀, got {content!r}"


@requirement("AG-13")
def test_a_surrogate_inside_a_value_is_replaced(impl):
    content = result_of(impl, {"k": ["\ud800x"]}).content
    assert_equal(json.loads(content), {"k": ["\ufffdx"]}, "what the content says")


@requirement("AG-13")
@pytest.mark.parametrize("value", [math.nan, [1, -math.inf], b"x", {"k": [b""]}])
def test_what_json_cannot_say_is_an_error(impl, value):
    assert_equal(outcome(result_of(impl, value)), (ERROR, 1), "status and attempts")


@requirement("AG-13")
@given(now=st.integers(0, 9), timeout=st.integers(1, 9), n=st.integers(-(2**70), 2**70))
@example(now=3, timeout=2, n=2**63 + 1)
def test_what_the_function_is_told(impl, now, timeout, n):
    world = World(now=now)
    made = toolbox(impl, world, world.tool("other"), world.tool(timeout=timeout))
    result = made.call(act(n=n), run_id="r")
    assert_equal(
        [tuple(told) for told in world.told], [("act", n, 1, 1, now, timeout, now + timeout)], "told"
    )
    expected = " ".join(map(str, world.told[0]))
    assert_equal(result, ToolResult("c", "act", OK, expected, 1), "result")
    assert_equal(world.log, [f"try {n}"], "what happened")


@requirement("AG-13")
@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"a": 1.0, "c": [true, null, {"d": "ü"}]}', {"a": 1.0, "c": [True, None, {"d": "ü"}]}),
        ('{"a": 9007199254740993}', {"a": 9007199254740993}),
        (' {"a":\n""} ', {"a": ""}),
        ("", {}),
        (" \n", {}),
        ("null", {}),
    ],
)
def test_the_function_is_given_what_the_arguments_say(impl, text, arguments):
    given = []
    tool = Tool("f", "Does f.", {}, lambda arguments, context: repr(given.append(arguments) or arguments))
    result = toolbox(impl, World(), tool).call(ToolCall("c", "f", text), run_id="r")
    assert_equal(given, [arguments], "arguments")
    assert_equal(result.content, repr(arguments), "content")


# AG-14

INVALID = '{"do": [1, "ok", 2], "n": "x"}'
WORDS = {"properties": {"do": {"items": {"type": "string"}}, "n": {"type": "integer"}}}


@requirement("AG-14")
@pytest.mark.parametrize("approves", [True, False, None])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(
    ("call", "status", "says"),
    [
        (ToolCall("c", "Act", "{}"), UNKNOWN, ["act", "look-up"]),
        (ToolCall("c", "", INVALID), UNKNOWN, ["act", "look-up"]),
        (ToolCall("c", "functions.act", "{}"), UNKNOWN, ["act", "look-up"]),
        (ToolCall("c", "act ", "{}"), UNKNOWN, ["act", "look-up"]),
        (ToolCall("c", "act", INVALID), BAD, ["/do/0", "/do/2", "/n"]),
        (ToolCall("c", "act", '{"n": 1'), BAD, []),
        (ToolCall("c", "act", "[]"), BAD, []),
        (ToolCall("c", "act", '{"n": 1, "n": 1}'), BAD, []),
        (ToolCall("c", "act", '{"n": true}'), BAD, ["/n"]),
    ],
)
def test_who_calls_wrongly_is_told_so_first(impl, call, status, says, approves, down):
    world = World(approves=approves)
    options = {"approve": None} if approves is None else {}
    made = toolbox(
        impl,
        world,
        world.tool("act", WORDS, needs_approval=True, resource="web"),
        world.tool("look-up", resource="web"),
        breaker=BreakerPolicy(failures=1),
        **options,
    )
    if down:
        made.call(act("error", tool="look-up"), run_id="r")
    before = list(world.log)
    result = made.call(call, run_id="r")
    assert_equal((result.call_id, result.name, *outcome(result)), ("c", call.name, status, 0), "result")
    assert_equal(world.log, before, "what happened")
    for each in says:
        assert each in result.content, f"content: expected {each!r} in it, got {result.content!r}"


@requirement("AG-14")
@pytest.mark.parametrize(("approves", "status"), [(True, OPEN), (False, DENIED)])
def test_who_is_not_allowed_is_not_told_that_it_is_down(impl, approves, status):
    world = World(approves=approves)
    made = toolbox(
        impl,
        world,
        world.tool(needs_approval=True, resource="web"),
        world.tool("fetch", resource="web"),
        breaker=BreakerPolicy(failures=1),
    )
    made.call(act("error", tool="fetch", n=1), run_id="r")
    assert_equal(outcome(made.call(act("ok", n=2), run_id="r")), (status, 0), "status and attempts")
    assert_equal(world.log, ["try 1", "ask 2"], "what happened")


# AG-15


class OfItsOwn(Exception):
    """Nobody else knows it."""


@requirement("AG-15")
@pytest.mark.parametrize(
    "error",
    [
        ValueError("<<no such city:\nAtlantis>>"),
        KeyError("<<no such key>>"),
        ToolFailure("<<it is full>>"),
        ToolFailure("<<too many>>", True, 3.0),
        InvalidArgument("<<wrong>>"),
        MemoryError("<<too large>>"),
        OfItsOwn("<<of its own>>"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_raised_is_a_result(impl, error):
    result = result_of(impl, error)
    assert_equal((result.call_id, result.name, *outcome(result)), ("c", "f", ERROR, 1), "result")
    said = str(error.args[0])
    assert said in result.content, f"content: expected {said!r} in it, got {result.content!r}"


@requirement("AG-15")
def test_an_error_may_say_nothing_or_what_cannot_be_sent(impl):
    assert_equal(outcome(result_of(impl, ValueError())), (ERROR, 1), "status and attempts")
    content = result_of(impl, ValueError("<<a\ud800>>")).content
    assert "<<a\ufffd>>" in content, f"content: expected U+FFFD for a lone surrogate, got {content!r}"


@requirement("AG-15")
@pytest.mark.parametrize(
    ("do", "expected"),
    [("ok 3", (TIMEOUT, 1)), ("hangs", (TIMEOUT, 1)), ("ok 2", (OK, 1)), ("error 1", (ERROR, 1))],
)
def test_what_takes_too_long_is_a_result(impl, do, expected):
    world = World()
    result = toolbox(impl, world, world.tool(timeout=2.0)).call(act(do), run_id="r")
    assert_equal(outcome(result), expected, "status and attempts")
    late = " ".join(map(str, world.told[0]))
    assert (late in result.content) == (result.status is OK), (
        f"content: expected nothing that came too late, got {result.content!r}"
    )


@requirement("AG-15")
def test_a_function_may_run_out_of_time_by_itself(impl):
    assert_equal(outcome(result_of(impl, TimeoutError("<<slow>>"))), (TIMEOUT, 1), "status and attempts")


@requirement("AG-15")
def test_cancelled_reaches_the_caller(impl):
    world = World()
    made = toolbox(impl, world)
    with passed_through(Cancelled("<<nobody waits 0>>")):
        made.call(act("cancelled"), run_id="r")
    assert_equal(outcome(made.call(act("ok", n=1), run_id="r")), (OK, 1), "status and attempts afterwards")


# AG-21


@requirement("AG-21")
@pytest.mark.parametrize("do", [["ok"], ["transient", "transient", "ok"], ["transient"], ["final"]])
def test_who_may_run_is_asked_for_once(impl, do):
    world, asked = World(), []
    world.approves = lambda call: asked.append(call) or call.id == "yes"
    made = toolbox(
        impl,
        world,
        world.tool(needs_approval=True, retry=RetryPolicy(attempts=3)),
        world.tool("free", retry=RetryPolicy(attempts=3)),
    )
    yes, no, free = act(*do, id="yes", n=1), act(*do, id="no", n=2), act(*do, tool="free", n=3)
    for call in (no, yes, no, yes, free):
        result = made.call(call, run_id="r")
        expected = (DENIED, 0) if call is no else (OK if do[-1] == "ok" else ERROR, len(world.tries()))
        assert_equal(outcome(result), expected, f"status and attempts of {call.id}")
        assert call is no or result.attempts > 0, "expected that the function runs"
        assert_equal(asked, [] if call is free else [call], "calls that approve was asked for")
        asked.clear()
        world.log.clear()


@requirement("AG-21")
def test_it_is_asked_for_before_it_runs(impl):
    world = World()
    made = toolbox(impl, world, world.tool(needs_approval=True, retry=RetryPolicy(attempts=2)))
    made.call(act("transient", "ok", n=1), run_id="r")
    assert_equal(world.log, ["ask 1", "try 1", "draw", "sleep 0.25", "try 1"], "what happened")


@requirement("AG-21")
def test_where_nobody_can_be_asked_nothing_is_allowed(impl):
    world = World()
    made = toolbox(impl, world, world.tool(needs_approval=True), world.tool("free"), approve=None)
    assert_equal(outcome(made.call(act(n=1), run_id="r")), (DENIED, 0), "status and attempts")
    assert_equal(
        outcome(made.call(act(n=2, tool="free"), run_id="r")), (OK, 1), "status and attempts of free"
    )
    assert_equal(world.tries(), ["try 2"], "what ran")


@requirement("AG-21")
@pytest.mark.parametrize("error", [OSError("nobody is there"), Cancelled("nobody waits")])
def test_who_is_asked_may_raise(impl, error):
    def approve(call):
        raise type(error)(*error.args)

    world = World()
    made = toolbox(impl, world, world.tool(needs_approval=True), approve=approve)
    with passed_through(error):
        made.call(act(n=1), run_id="r")
    assert_equal(world.log, [], "what happened")


# AG-22


@requirement("AG-22")
@given(max_result=st.integers(100, 300), length=st.integers(0, 700), failed=st.booleans(), wide=st.booleans())
@example(max_result=100, length=5000, failed=False, wide=False)
@example(max_result=100, length=5000, failed=True, wide=False)
@example(max_result=123, length=123, failed=False, wide=True)
@example(max_result=100, length=101, failed=False, wide=True)
def test_a_result_has_at_most_so_many_characters(impl, max_result, length, failed, wide):
    unit = "日é😀x" if wide else "0 abc"
    text = (unit * length)[:length]
    result = result_of(impl, ToolFailure(text) if failed else text, max_result=max_result)
    assert_equal(result.status, ERROR if failed else OK, "status")
    content = result.content
    assert len(content) <= max_result, f"expected at most {max_result} characters, got {len(content)}"
    if failed:
        return
    if length <= max_result:
        assert_equal(content, text, "content that is short enough")
        return
    kept = len(commonprefix([content, text]))
    assert kept >= max_result - 80, (
        f"expected the first {max_result - 80} characters or more, got {content!r}"
    )
    assert str(length) in content, f"expected {length}, the full length, in {content!r}"


@requirement("AG-22")
def test_nothing_else_is_longer_either(impl):
    world = World(approves=False)
    names = [f"{'tool' * 15}{i}" for i in range(3)]
    made = toolbox(
        impl,
        world,
        *[world.tool(name, WORDS, needs_approval=True) for name in names],
        max_result=100,
    )
    wrong = json.dumps({"do": [1] * 40})
    for call in (ToolCall("c", "x", "{}"), ToolCall("c", names[0], wrong), act(tool=names[0])):
        content = made.call(call, run_id="r").content
        assert len(content) <= 100, f"expected at most 100 characters, got {len(content)}: {content!r}"


@requirement("AG-22")
def test_a_value_is_cut_where_its_json_is_too_long(impl):
    content = result_of(impl, ["x"] * 300, max_result=200).content
    assert content.startswith('["x"') and len(content) <= 200, f"content: {content!r}"
    assert_equal(result_of(impl, "x" * 10_000).content, "x" * 10_000, "content of 10,000 characters")
    assert len(result_of(impl, "x" * 10_001).content) <= 10_000, "expected that 10,001 are cut"


# AG-41 and AG-42

NAMES = ["", "a b", "é", "a" * 65, "a.b", "a\n", "../a"]


@requirement("AG-41")
@pytest.mark.parametrize(
    "options",
    [
        *({"name": name} for name in NAMES),
        {"timeout": 0.0},
        {"timeout": -1.0},
        {"retry": RetryPolicy(attempts=0)},
        {"parameters": {"type": "strin"}},
        {"parameters": {"properties": {"a": {"minLength": -1}}}},
    ],
    ids=str,
)
def test_a_bad_tool_is_refused(impl, options):
    world = World()
    good = {
        "name": "act",
        "description": "Acts.",
        "parameters": PARAMETERS,
        "function": print,
        "timeout": 1.0,
    }
    toolbox(impl, world, Tool(**good))
    (name,) = options
    with refused(InvalidArgument, "tools?", name, "attempts", "schema", "properties", "minLength"):
        toolbox(impl, world, Tool(**{**good, **options}))
    with refused(InvalidArgument, "tools?", name, "attempts", "schema", "properties", "minLength"):
        toolbox(impl, world, world.tool("other"), Tool(**{**good, **options}))


@requirement("AG-41")
def test_names_of_tools_differ(impl):
    world = World()
    names = ["a", "A", "a-", "a_", "-", "_", "0", "a" * 64, "a" * 63]
    toolbox(impl, world, *map(world.tool, names))
    with refused(InvalidArgument, "tools?", "names?"):
        toolbox(impl, world, *map(world.tool, [*names, "A"]))


@requirement("AG-41")
def test_bad_policies_are_refused(impl):
    world = World()
    toolbox(impl, world, breaker=BreakerPolicy(failures=1), max_result=100)
    with refused(InvalidArgument, "breaker", "failures"):
        toolbox(impl, world, breaker=BreakerPolicy(failures=0))
    with refused(InvalidArgument, "max_result", got=99):
        toolbox(impl, world, max_result=99)


@requirement("AG-42")
def test_a_call_without_an_id_is_refused(impl):
    world = World()
    made = toolbox(impl, world, world.tool(needs_approval=True))
    with refused(InvalidArgument):
        made.call(act(id=None), run_id="r")
    assert_equal(world.log, [], "what happened")
    assert_equal(outcome(made.call(act(id=""), run_id="r")), (OK, 1), "status and attempts")
