"""`Agent.run`: limits, ends, circles, and what is left whole when somebody cancels."""

import threading
from dataclasses import replace

import pytest

from grading.marks import requirement
from grading.matching import assert_equal, refused
from spec import Cancelled, InvalidArgument, ToolFailure
from spec.agent import Limits, Reply, RetryPolicy, StopReason
from tests.week3.agent.cases_loop import USER, Chat, agent, asks, assert_whole, block, outcomes, run
from tests.week3.agent.cases_toolbox import ERROR, INTERRUPTED, OK, SKIPPED, TIMEOUT, UNKNOWN, toolbox

DONE, EMPTY, TRUNCATED, MODEL_ERROR = (
    StopReason.DONE,
    StopReason.EMPTY,
    StopReason.TRUNCATED,
    StopReason.MODEL_ERROR,
)
MODEL_CALLS, TOKENS, SECONDS = StopReason.MODEL_CALLS, StopReason.TOKENS, StopReason.SECONDS
LOOP, CANCELLED = StopReason.LOOP, StopReason.CANCELLED
FINE, NEVER = (OK, 1), (SKIPPED, 0)
UNREADABLE = block("{")


def end(found):
    return found.stop_reason, found.model_calls


def roles(found):
    return [each["role"] for each in found.messages]


# AG-27


@requirement("AG-27")
@pytest.mark.parametrize("most", [0, 1, 2, 4])
def test_the_model_is_called_so_often_and_not_once_more(impl, most):
    chat = Chat(*(asks(n=2 * i) + asks(n=2 * i + 1) for i in range(6)))
    made = agent(impl, chat, events=False, model_calls=most)
    for _ in range(2):
        found = made.run([USER])
        assert_equal(end(found), (MODEL_CALLS, most), "end, calls of the model")
        assert_equal(outcomes(found), [FINE] * 2 * most, "results")
        assert_equal(roles(found), ["user", *["assistant", "tool", "tool"] * most], "roles")


@requirement("AG-27")
@pytest.mark.parametrize(("most", "reason"), [(2, MODEL_CALLS), (3, DONE), (4, DONE)])
def test_an_answer_just_in_time_is_one(impl, most, reason):
    found = run(impl, Chat(asks(n=1), asks(n=2), "done"), model_calls=most)
    assert_equal(end(found), (reason, min(most, 3)), "end, calls of the model")


@requirement("AG-27")
def test_twenty_calls_by_default(impl):
    chat = Chat(asks(n=1), brief=False)
    made = impl.Agent(chat.model, toolbox(impl, chat), new_id=chat.new_id)
    assert_equal(end(made.run([USER])), (MODEL_CALLS, 20), "end, calls of the model")


# AG-28


@requirement("AG-28")
@pytest.mark.parametrize(
    ("tokens", "used", "answers", "expected", "results"),
    [
        (100, [120], False, (TOKENS, 1), [NEVER, NEVER]),
        (100, [120], True, (DONE, 1), []),
        (100, [60, 39], False, (DONE, 3), [FINE] * 4),
        (100, [60, 40], False, (TOKENS, 2), [FINE, FINE, NEVER, NEVER]),
        (100, [60, 40], True, (DONE, 2), [FINE, FINE]),
        (100, [99, 0, 1], False, (TOKENS, 3), [FINE] * 4 + [NEVER] * 2),
        (0, [5], False, (TOKENS, 0), []),
    ],
)
def test_tokens_are_a_limit(impl, tokens, used, answers, expected, results):
    """Replies of so many tokens, with two calls each, but for the last one if it answers; then "done"."""
    replies = [Reply(asks(n=2 * i) + asks(n=2 * i + 1), tokens=each) for i, each in enumerate(used)]
    replies = [*replies[:-1], Reply("done", tokens=used[-1])] if answers else [*replies, "done"]
    chat = Chat(*replies)
    found = run(impl, chat, tokens=tokens)
    assert_equal((end(found), outcomes(found)), (expected, results), "end, results")
    assert_equal(found.tokens, sum(used[: found.model_calls]), "tokens")
    assert_equal(len(chat.tries()), results.count(FINE), "calls of functions")


@requirement("AG-28")
@pytest.mark.parametrize(
    ("do", "expected", "results", "told"),
    [
        (["ok 12", "ok"], (SECONDS, 1), [(TIMEOUT, 1), NEVER], [(0.0, 10.0)]),
        (["ok 4", "ok 6", "ok"], (SECONDS, 1), [FINE, FINE, NEVER], [(0.0, 10.0), (4.0, 6.0)]),
        (["ok 4", "ok 5.5"], (DONE, 2), [FINE, FINE], [(0.0, 10.0), (4.0, 6.0)]),
        (["ok 4", "ok 5.5", "ok 0.5"], (SECONDS, 1), [FINE] * 3, [(0.0, 10.0), (4.0, 6.0), (9.5, 0.5)]),
        (["ok 9", "transient"], (DONE, 2), [FINE, (ERROR, 1)], [(0.0, 10.0), (9.0, 1.0)]),
    ],
)
@pytest.mark.parametrize("now", [0.0, 512.0])
def test_seconds_are_a_limit_from_the_beginning(impl, do, expected, results, told, now):
    chat = Chat("".join(asks(each, n=i) for i, each in enumerate(do)), "done", now=now, brief=False)
    tool = chat.tool(retry=RetryPolicy(attempts=2, base=4.0))
    found = run(impl, chat, tool, seconds=10.0)
    assert_equal((end(found), outcomes(found)), (expected, results), "end, results")
    assert_equal([(each.at - now, each.timeout) for each in chat.told], told, "when each began, its timeout")


@requirement("AG-28")
@pytest.mark.parametrize(("takes", "in_time"), [(9.5, True), (10.0, False), (12.0, False)])
@pytest.mark.parametrize("answers", [True, False])
def test_the_model_takes_time_as_well(impl, takes, in_time, answers):
    chat = Chat("", "done")

    def reply(messages):
        chat.time += takes
        return "done" if answers else asks(n=1)

    chat.replies = (reply, "done")
    found = run(impl, chat, seconds=10.0)
    if answers:
        assert_equal((end(found), outcomes(found)), ((DONE, 1), []), "end, results")
    else:
        expected = ((DONE, 2), [FINE]) if in_time else ((SECONDS, 1), [NEVER])
        assert_equal((end(found), outcomes(found)), expected, "end, results")


@requirement("AG-28")
def test_time_counts_from_the_beginning_of_a_run(impl):
    chat = Chat(asks("ok 6", n=1), "done")
    made = agent(impl, chat, seconds=10.0)
    for _ in range(3):
        found = made.run([USER])
        assert_equal((end(found), outcomes(found)), ((DONE, 2), [FINE]), "end, results")
    found = run(impl, Chat(asks(n=1), "done"), seconds=0.0)
    assert_equal((end(found), found.messages), ((SECONDS, 0), [USER]), "end, messages of a run of no seconds")


# AG-29


@requirement("AG-29")
@pytest.mark.parametrize(
    "text", [f"So.{asks(n=1)}", asks(n=1), "And so", "", " \n", f"{asks(n=1)}<tool_call>{{"]
)
@pytest.mark.parametrize("before", [0, 1])
def test_of_an_output_that_was_cut_nothing_runs(impl, text, before):
    chat = Chat(*[asks(n=7)] * before, Reply(text, "length", 5), "done")
    found = run(impl, chat)
    assert_equal((end(found), outcomes(found)), ((TRUNCATED, before + 1), [FINE] * before), "end, results")
    assert_equal(
        found.messages[1 + 2 * before :], [{"role": "assistant", "content": text}], "what was appended"
    )
    assert_equal((found.tokens, chat.tries()), (5, ["try 7"] * before), "tokens, what ran")


@requirement("AG-29")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", EMPTY),
        ("  ", EMPTY),
        ("\n\t \r", EMPTY),
        (".", DONE),
        ("\u00a0", DONE),
        (" \u2003\n", DONE),
        ("\x0c", DONE),
        ("\ufeff", DONE),
    ],
    ids=ascii,
)
def test_an_answer_of_nothing_is_no_answer(impl, text, reason):
    found = run(impl, Chat(asks(n=1), Reply(text, tokens=3)))
    assert_equal((end(found), found.tokens), ((reason, 2), 3), "end, calls of the model, tokens")
    assert_equal(found.messages[3:], [{"role": "assistant", "content": text}], "what was appended")


@requirement("AG-29")
@pytest.mark.parametrize("text", [asks(n=1), f"\n{asks(n=1)}\n", UNREADABLE, f" {UNREADABLE}"])
def test_who_calls_need_not_say_anything(impl, text):
    assert_equal(end(run(impl, Chat(text, "done"))), (DONE, 2), "end, calls of the model")


class OfItsOwn(Exception):
    """Nobody else knows it."""


@requirement("AG-29")
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("the model is down"), MODEL_ERROR),
        (TimeoutError("too slow"), MODEL_ERROR),
        (InvalidArgument("messages: expected less"), MODEL_ERROR),
        (OfItsOwn("of its own"), MODEL_ERROR),
        (Cancelled("nobody waits"), CANCELLED),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("before", [0, 1])
def test_a_model_that_raises_ends_it(impl, error, reason, before):
    chat = Chat(*[Reply(asks(n=7), tokens=3)] * before, error)
    found = run(impl, chat)
    assert_equal((end(found), outcomes(found)), ((reason, before + 1), [FINE] * before), "end, results")
    assert_equal(roles(found), ["user", *["assistant", "tool"] * before], "roles")
    assert_equal(found.tokens, 3 * before, "tokens")


# AG-30


def three(*second, **options):
    """A chat whose model asks for three calls, then answers."""
    return Chat(asks(n=1) + asks(*second, n=2) + asks(n=3), "done", **options)


def cancelled(impl, chat, *tools, **options):
    """A run that ends with CANCELLED after one call of the model, and leaves the agent as it was."""
    made = agent(impl, chat, *tools, events=False, **options)
    chat.cancel = made.cancel
    found = made.run([USER])
    assert_whole(found, chat, [USER])
    assert_equal(end(found), (CANCELLED, 1), "end, calls of the model")
    answered = [USER, {"role": "assistant", "content": "40"}, USER]  # what comes then is the second reply
    assert_equal(made.run(answered).stop_reason, DONE, "end of the next run")
    return outcomes(found)


@requirement("AG-30")
@pytest.mark.parametrize(
    ("do", "second"),
    [
        (["ok"], (OK, 1)),
        (["final"], (ERROR, 1)),
        (["hangs"], (TIMEOUT, 1)),
        (["transient", "ok"], (INTERRUPTED, 1)),
        (["transient", "transient", "ok"], (INTERRUPTED, 1)),
    ],
)
def test_cancel_within_a_function(impl, do, second):
    chat = three(*do)
    chat.meanwhile[2] = lambda: chat.cancel()
    results = cancelled(impl, chat, chat.tool(retry=RetryPolicy(attempts=3)))
    assert_equal(results, [FINE, second, NEVER], "results")
    assert_equal(chat.tries(), ["try 1", "try 2"], "what ran")


@requirement("AG-30")
def test_a_function_is_cancelled(impl):
    assert_equal(cancelled(impl, three("cancelled")), [FINE, (INTERRUPTED, 1), NEVER], "results")
    chat = three("transient", "cancelled")
    results = cancelled(impl, chat, chat.tool(retry=RetryPolicy(attempts=3)))
    assert_equal(results, [FINE, (INTERRUPTED, 2), NEVER], "results where it is the second attempt")


@requirement("AG-30")
@pytest.mark.parametrize(("where", "second"), [("ask", NEVER), ("sleep", (INTERRUPTED, 1))])
@pytest.mark.parametrize("raises", [True, False])
def test_cancelled_between_attempts(impl, where, second, raises):
    """Somebody who is asked, or the clock while it waits, raises Cancelled or calls `cancel`."""
    chat = Chat(asks(n=1, tool="free") + asks("transient", "ok", n=2) + asks(n=3), "done")
    tools = [chat.tool("free"), chat.tool(needs_approval=where == "ask", retry=RetryPolicy(attempts=3))]

    def nobody_waits():
        if raises:
            raise Cancelled("nobody waits")
        chat.cancel()

    chat.meanwhile[where] = nobody_waits
    assert_equal(cancelled(impl, chat, *tools), [FINE, second, NEVER], "results")
    assert_equal(chat.tries(), ["try 1", "try 2"][: 1 + second[1]], "what ran")


@requirement("AG-30")
@pytest.mark.parametrize(
    ("text", "finish", "expected", "added"),
    [
        (asks(n=1) + asks(n=2), "stop", CANCELLED, ["assistant", "tool", "tool"]),
        (asks(n=1) + UNREADABLE, "stop", CANCELLED, ["assistant", "tool", "user"]),
        (UNREADABLE, "stop", CANCELLED, ["assistant", "user"]),
        ("done", "stop", DONE, ["assistant"]),
        (" ", "stop", EMPTY, ["assistant"]),
        (asks(n=1), "length", TRUNCATED, ["assistant"]),
    ],
)
def test_a_reply_that_comes_afterwards_is_appended(impl, text, finish, expected, added):
    chat = Chat("")
    made = agent(impl, chat, events=False)

    def reply(messages):
        chat.once(made.cancel)
        return Reply(text, finish)

    chat.replies = (reply, "done")
    found = made.run([USER])
    assert_whole(found, chat, [USER])
    assert_equal((end(found), roles(found)[1:]), ((expected, 1), added), "end, roles of what was appended")
    assert_equal(outcomes(found), [NEVER] * added.count("tool"), "results")


@requirement("AG-30")
def test_cancel_from_another_thread(impl):
    chat = Chat("")
    made = agent(impl, chat, events=False)

    def cancel():
        thread = threading.Thread(target=made.cancel, daemon=True)
        thread.start()
        thread.join(5.0)
        assert not thread.is_alive(), "expected that `cancel` does not wait for the run, but it did"

    def reply(messages):
        chat.once(cancel)
        return asks(n=1)

    chat.replies = (reply, "done")
    found = made.run([USER])
    assert_equal((end(found), outcomes(found)), ((CANCELLED, 1), [NEVER]), "end, results")


@requirement("AG-30")
@pytest.mark.parametrize(
    ("kind", "number", "results"),
    [
        ("model reply", 1, [NEVER] * 3),
        ("result", 1, [FINE, NEVER, NEVER]),
        ("result", 3, [FINE] * 3),
        ("attempt", 2, [FINE, None, NEVER]),
    ],
)
def test_cancel_while_an_event_is_told(impl, kind, number, results):
    """An attempt that was announced has begun: it may come to its end."""
    chat = three("ok")
    made = agent(impl, chat)

    def hears(event):
        if event.kind.value == kind and chat.kinds().count(kind) == number:
            chat.once(made.cancel)

    chat.hears = hears
    found = made.run([USER])
    assert_whole(found, chat, [USER])
    assert_equal(end(found), (CANCELLED, 1), "end, calls of the model")
    for each, expected in zip(outcomes(found), results, strict=True):
        assert each in ([expected] if expected else [FINE, (INTERRUPTED, 1)]), f"results: {outcomes(found)}"


@requirement("AG-30")
def test_with_no_run_under_way_it_changes_nothing(impl):
    chat = Chat(asks(n=1), "done")
    made = agent(impl, chat, events=False)
    for _ in range(2):
        made.cancel()
        found = made.run([USER])
        assert_equal((end(found), outcomes(found)), ((DONE, 2), [FINE]), "end, results")


@requirement("AG-30")
def test_an_attempt_in_another_thread_is_waited_for(impl):
    """The first call, once begun, works on when the second one is cancelled."""
    chat, begun, cancels = (
        Chat(asks(n=1) + asks("cancelled", n=2), "done"),
        threading.Event(),
        threading.Event(),
    )

    def works_on():
        begun.set()
        cancels.wait(5.0)
        threading.Event().wait(0.05)

    def cancel():
        begun.wait(5.0)
        cancels.set()

    chat.meanwhile = {1: works_on, 2: cancel}
    assert_equal(cancelled(impl, chat, parallel=2), [FINE, (INTERRUPTED, 1)], "results")


# AG-33


@requirement("AG-33")
@pytest.mark.parametrize(
    ("calls", "repeats", "expected", "results"),
    [
        ([[1]], 3, (LOOP, 3), 3),
        ([[1]], 2, (LOOP, 2), 2),
        ([[1]], 0, (MODEL_CALLS, 7), 7),
        ([[1], [2]], 3, (LOOP, 6), 6),
        ([[1, 2]], 3, (LOOP, 3), 6),
        ([[1, 1, 1]], 3, (LOOP, 1), 3),
        ([[2], [1], [1], [1]], 3, (LOOP, 4), 4),
        ([[1], [2], [3], [4], [5]], 3, (MODEL_CALLS, 7), 7),
    ],
)
def test_a_circle_ends_the_run(impl, calls, repeats, expected, results):
    """Each reply has calls with these numbers."""
    chat = Chat(*("".join(asks(n=n) for n in calls[i % len(calls)]) for i in range(8)))
    found = run(impl, chat, model_calls=7, repeats=repeats)
    assert_equal((end(found), outcomes(found)), (expected, [FINE] * results), "end, results")
    assert_equal(roles(found)[-1], "tool", "role of the last message")


@requirement("AG-33")
def test_who_polls_is_in_no_circle(impl):
    found = run(impl, Chat(asks(n=1), brief=False), model_calls=5, repeats=2)
    assert_equal(end(found), (MODEL_CALLS, 5), "end where the results differ")
    found = run(impl, Chat(asks(n=1, tool="nobody")), model_calls=5, repeats=2)
    assert_equal((end(found), outcomes(found)), ((LOOP, 2), [(UNKNOWN, 0)] * 2), "end where nobody answers")


@requirement("AG-33")
def test_the_same_text_with_another_status_is_no_circle(impl):
    """Every other time it is an error that says what the others return."""
    first = Chat(asks("final", n=1))
    said = run(impl, first, model_calls=1).results[0].content
    chat = Chat(asks(n=1))

    def function(arguments, context):
        chat.act("act", arguments, context)
        if len(chat.told) % 2:
            raise ToolFailure("<<no such city 1>>")
        return said

    found = run(impl, chat, replace(chat.tool(), function=function), model_calls=5, repeats=3)
    assert_equal(
        (end(found), [each.content for each in found.results]), ((MODEL_CALLS, 5), [said] * 5), "end"
    )


@requirement("AG-33")
def test_spelling_is_no_way_out_of_a_circle(impl):
    spelled = ['{"n": 1, "do": ["ok"]}', ' {"do":["ok"],\n"n":1}', '{"do": ["\\u006fk"], "n": 1}']
    chat = Chat(*(block({"name": "act", "arguments": each}) for each in spelled))
    assert_equal(end(run(impl, chat)), (LOOP, 3), "end, calls of the model")


# AG-42


@requirement("AG-42")
@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("model_calls", -1),
        ("tokens", -1),
        ("seconds", -0.5),
        ("repeats", 1),
        ("repeats", -1),
        ("parallel", 0),
    ],
)
def test_bad_limits_are_refused(impl, name, bad):
    chat = Chat("done")
    made = toolbox(impl, chat)
    for good in (Limits(0, 0, 0.0, 0, 1), Limits(0, 0.5, 0.5, 2, 2)):
        impl.Agent(chat.model, made, new_id=chat.new_id, limits=good)
    with refused(InvalidArgument, "limits", name):
        impl.Agent(chat.model, made, new_id=chat.new_id, limits=Limits(**{name: bad}))


@requirement("AG-42")
@pytest.mark.parametrize("format", ["xml", "", "Hermes"])
def test_an_unknown_format_is_refused(impl, format):
    chat = Chat("done")
    made = toolbox(impl, chat)
    for good in ("react", "hermes", "llama3", "openai"):
        impl.Agent(chat.model, made, new_id=chat.new_id, format=good)
    with refused(InvalidArgument, "format"):
        impl.Agent(chat.model, made, new_id=chat.new_id, format=format)


@requirement("AG-42")
def test_a_run_needs_messages_that_a_server_would_take(impl):
    chat = Chat("done", there=1)
    made = agent(impl, chat)
    calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in "ab"]
    asked = {"role": "assistant", "content": None, "tool_calls": calls}
    results = [{"role": "tool", "tool_call_id": id, "content": "1"} for id in "ab"]
    for bad in (
        [],
        [USER, asked],
        [USER, asked, results[0]],
        [USER, *results],
        [USER, asked, USER, *results],
    ):
        with refused(InvalidArgument, "messages"):
            made.run(bad)
    assert_equal((chat.log, chat.events), ([], []), "what happened")
    assert_equal(end(made.run([USER, asked, *results])), (DONE, 1), "end of a run that is right")
