"""`Agent.resume`: a run whose process died goes on, and repeats nothing that may have happened."""

import threading
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, passed_through
from spec.agent import BreakerPolicy, Reply, RetryPolicy, StopReason
from tests.week3.agent.cases_loop import (
    DIED,
    USER,
    Chat,
    agent,
    asks,
    assert_whole,
    block,
    outcomes,
    plain,
    talk,
)
from tests.week3.agent.cases_toolbox import DENIED, ERROR, INTERRUPTED, OK, TIMEOUT

CALL, REPLY, ATTEMPT, RESULT, STOP = "model call", "model reply", "attempt", "result", "stop"
NEVER = BreakerPolicy(failures=10_000)
PAUSE = 5_000.0  # seconds from a death to the next life


class Lives:
    """A run and what becomes of it where its process dies.

    replies: of the model. tools: the options of "act" and "guarded", which needs approval as well. limits: of
    the agent. meets: where the first calls of the first life wait for each other.
    """

    def __init__(self, impl, *replies, tools=None, before=(USER,), meets=None, **limits):
        self.impl, self.replies, self.tools, self.before, self.limits = impl, replies, tools, before, limits
        self.there = sum(each["role"] == "assistant" for each in before)
        self.first = self.life()
        if meets is not None:
            self.first.meanwhile = dict.fromkeys(range(meets.parties), lambda: meets.wait(5.0))
        self.whole = self.agent(self.first).run(list(before))
        assert_whole(self.whole, self.first, list(before))
        self.second = self.life(prefix="new", now=PAUSE)
        self.resumes = self.agent(self.second, events=False)

    def life(self, **options):
        return Chat(*self.replies, there=self.there, **options)

    def agent(self, chat, **options):
        policy = {"timeout": 10.0, **(self.tools or {})}
        tools = [chat.tool(**policy), chat.tool("guarded", needs_approval=True, **policy)]
        return agent(self.impl, chat, *tools, box={"breaker": NEVER}, **options, **self.limits)

    def after(self, number):
        """The run that is resumed from the checkpoint of an event, and what happened in it."""
        checkpoint = self.first.events[number].checkpoint
        assert isinstance(checkpoint, str), f"checkpoint: expected text, got {checkpoint!r}"
        chat = self.second
        prompts, told, ids, log = (len(each) for each in (chat.prompts, chat.told, chat.ids, chat.log))
        found = self.resumes.resume(checkpoint)
        return found, Life(chat.prompts[prompts:], chat.told[told:], chat.ids[ids:], chat.log[log:])

    def number(self, kind, count):
        """Of the event that is the count-th of its kind, from 1 on."""
        return [i for i, each in enumerate(self.first.kinds()) if each == kind][count - 1]


class Life(NamedTuple):
    """What a chat has written down."""

    prompts: list
    told: list
    ids: list
    log: list


def assert_same(found, expected, what):
    """The same run; ids of calls that come after the checkpoint may be others."""
    assert_equal(found.run_id, expected.run_id, f"run_id {what}")
    assert_equal(plain(found.messages), plain(expected.messages), f"messages {what}")
    shown = [[(each.name, each.status, each.attempts) for each in run.results] for run in (found, expected)]
    assert_equal(shown[0], shown[1], f"results {what}")
    ends = [(run.stop_reason, run.model_calls, run.tokens) for run in (found, expected)]
    assert_equal(ends[0], ends[1], f"reason, calls of the model and tokens {what}")


# AG-35

STORIES = {
    "calls": (
        [Reply(f"So. {asks(n=1)}{asks(n=2)}", tokens=7), Reply(asks("error", n=3), tokens=5), "40"],
        {},
    ),
    "retries": ([asks("transient", "ok", n=1) + asks("transient", n=2) + asks("final", n=3), "no"], {}),
    "refusals": ([asks(tool="nobody") + block({"name": "act", "arguments": "x"}), asks(n=2), "40"], {}),
    "problems": ([block("{"), asks(n=1) + block("[]"), "40"], {}),
    "approval": ([asks(n=1, tool="guarded"), asks(n=2, tool="guarded"), "40"], {}),
    "a circle": ([asks(n=1)], {"repeats": 3}),
    "a limit": ([asks(n=1) + asks(n=2), asks(n=3)], {"model_calls": 2}),
    "tokens": ([Reply(asks(n=1), tokens=60), Reply(asks(n=2) + asks(n=3), tokens=60)], {"tokens": 100}),
    "an error": ([asks(n=1), OSError("the model is down")], {}),
    "a cut": ([asks(n=1), Reply(asks(n=2), "length", 3)], {}),
    "nothing": ([asks(n=1), " "], {}),
    "strange text": ([f"é😀\ud800{asks('ok', n=1, more='é')}", '"\\\n\u2028'], {}),
}


@requirement("AG-35")
@pytest.mark.parametrize("story", STORIES)
def test_from_every_checkpoint_comes_the_same_run(impl, story):
    replies, limits = STORIES[story]
    lives = Lives(impl, *replies, tools={"retry": RetryPolicy(attempts=2)}, **limits)
    kinds = lives.first.kinds()
    for number, kind in enumerate(kinds):
        if kind == ATTEMPT:  # that is AG-36
            continue
        found, chat = lives.after(number)
        what = f"after event {number}, {kind!r}"
        assert_same(found, lives.whole, what)
        rest = kinds[number + (kind != CALL) :]
        assert_equal(len(chat.prompts), rest.count(CALL), f"calls of the model {what}")
        assert_equal(len(chat.told), rest.count(ATTEMPT), f"attempts {what}")


@requirement("AG-35")
def test_the_process_dies_in_a_model_call(impl):
    lives = Lives(impl, asks(n=1), asks(n=2), "done")
    found, chat = lives.after(lives.number(CALL, 2))
    assert_equal([len(each) for each in chat.prompts], [3, 5], "how many messages the model was given")
    assert_equal(
        (found.model_calls, [told.n for told in chat.told]), (3, [2]), "calls of the model, what ran"
    )
    ids = [each.call_id for each in found.results]
    assert_equal(ids[0], lives.whole.results[0].call_id, "id of the call from before")
    assert ids[1] in chat.ids, f"id of the call from after: expected one of {chat.ids}, got {ids[1]}"


@requirement("AG-35")
def test_messages_from_before_the_run_are_kept(impl):
    before = talk("s u ?ab =b =a a u")
    lives = Lives(impl, asks(n=1), "done", before=before)
    for number in (0, 1, 3, 4):
        found, chat = lives.after(number)
        assert_equal(found.messages[: len(before)], before, f"messages from before, after event {number}")
        assert_same(found, lives.whole, f"after event {number}")


@requirement("AG-35")
@pytest.mark.parametrize("every", [2, 3, 5])
def test_it_may_die_again_and_again(impl, every):
    """Each life ends with the second, third or fifth event that it hears."""
    replies = [asks("transient", "ok", n=1) + asks(n=2), block("{"), asks(n=3), "done"]
    lives = Lives(impl, *replies, tools={"retry": RetryPolicy(attempts=9), "idempotent": True})
    chat = lives.life(dies_at=every - 1)
    with passed_through(DIED):
        lives.agent(chat).run([USER])
    for number in range(20):
        checkpoint = chat.events[-1].checkpoint
        chat = lives.life(prefix=f"life{number}-", now=number * PAUSE, dies_at=every - 1)
        try:
            found = lives.agent(chat).resume(checkpoint)
        except OSError as error:
            assert_equal(error.args, DIED.args, "what was raised")
        else:
            break
    ends = (found.stop_reason, found.model_calls, [each.status for each in found.results])
    assert_equal(ends, (StopReason.DONE, 4, [OK] * 3), "end, calls of the model, statuses")
    expected = [each["role"] for each in lives.whole.messages]
    assert_equal([each["role"] for each in found.messages], expected, "roles")


@requirement("AG-35")
@pytest.mark.parametrize("number", [1, 3, 5])
def test_time_that_was_used_counts_and_the_pause_does_not(impl, number):
    """Of 10 seconds three calls want 4 each."""
    lives = Lives(impl, "".join(asks("ok 4", n=n) for n in range(3)), "done", seconds=10.0)
    assert_equal([each.status for each in lives.whole.results], [OK, OK, TIMEOUT], "results of a life")
    found, chat = lives.after(number)
    assert_same(found, lives.whole, f"after event {number}")
    assert_equal(chat.told[-1].timeout, 2.0, "timeout of the last call")
    assert_equal(found.stop_reason, StopReason.SECONDS, "end")


@requirement("AG-35")
def test_time_of_each_life_counts(impl):
    """Of 10 seconds three calls want 4 each; after the first and after the second one the process dies."""
    lives = Lives(impl, "".join(asks("ok 4", n=n) for n in range(3)), "done", seconds=10.0)
    first, second = lives.life(dies_at=3), lives.life(now=PAUSE, dies_at=1)
    with passed_through(DIED):
        lives.agent(first).run([USER])
    with passed_through(DIED):
        lives.agent(second).resume(first.events[-1].checkpoint)
    third = lives.life(now=2 * PAUSE)
    found = lives.agent(third).resume(second.events[-1].checkpoint)
    assert_same(found, lives.whole, "after two deaths")
    assert_equal([told.timeout for told in third.told], [2.0], "timeout of the last call")


@requirement("AG-35")
@pytest.mark.parametrize("story", ["calls", "a circle", "tokens", "an error", "a cut", "nothing"])
def test_what_has_ended_stays_so(impl, story):
    replies, limits = STORIES[story]
    lives = Lives(impl, *replies, **limits)
    found, chat = lives.after(len(lives.first.events) - 1)
    assert_same(found, lives.whole, "after the end")
    assert_equal(found.results, lives.whole.results, "results after the end")
    assert_equal(found.messages, lives.whole.messages, "messages after the end")
    assert_equal(chat.log, [], "what happened")


# AG-36


@requirement("AG-36")
@pytest.mark.parametrize(
    ("do", "attempt", "idempotent", "attempts", "expected", "tries"),
    [
        (["ok"], 1, False, 3, (INTERRUPTED, 1), 0),
        (["ok"], 1, True, 3, (OK, 2), 1),
        (["ok"], 1, True, 1, (INTERRUPTED, 1), 0),
        (["error"], 1, False, 3, (INTERRUPTED, 1), 0),
        (["transient", "ok"], 1, False, 3, (INTERRUPTED, 1), 0),
        (["transient", "ok"], 1, True, 3, (OK, 2), 1),
        (["transient", "ok"], 2, False, 3, (INTERRUPTED, 2), 0),
        (["transient", "ok"], 2, True, 3, (OK, 3), 1),
        (["transient", "ok"], 2, True, 2, (INTERRUPTED, 2), 0),
        (["hangs"], 1, True, 4, (TIMEOUT, 4), 3),
        (["hangs"], 3, True, 4, (TIMEOUT, 4), 1),
        (["transient", "transient", "error"], 2, True, 4, (ERROR, 3), 1),
    ],
)
def test_what_was_under_way_is_not_repeated(impl, do, attempt, idempotent, attempts, expected, tries):
    """The process dies while its attempt runs."""
    policy = {"retry": RetryPolicy(attempts=attempts), "idempotent": idempotent}
    lives = Lives(impl, asks(n=1) + asks(*do, n=2) + asks("ok", n=3), "done", tools=policy)
    found, chat = lives.after(lives.number(ATTEMPT, 1 + attempt))
    assert_whole_after(found, chat)
    assert_equal(outcomes(found), [(OK, 1), expected, (OK, 1)], "results")
    assert_equal([each.n for each in chat.told], [2] * tries + [3], "what ran")
    numbers = [each.attempt for each in chat.told]
    assert_equal(numbers, [attempt + 1 + i for i in range(tries)] + [1], "which attempts")
    assert_equal((found.stop_reason, found.model_calls), (StopReason.DONE, 2), "end, calls of the model")
    before = {each.n: lives.first.keys[each.key - 1] for each in lives.first.told}
    after = [lives.second.keys[each.key - 1] for each in chat.told]
    assert_equal(after, [before[each.n] for each in chat.told], "keys of the calls")


def assert_whole_after(found, chat):
    """As `assert_whole` has it, for a run of which the beginning was in another life."""
    ids = [call["id"] for each in found.messages for call in each.get("tool_calls", [])]
    assert_equal([each.call_id for each in found.results], ids, "ids of the results, those of the calls")
    told = [(each["tool_call_id"], each["content"]) for each in found.messages if each["role"] == "tool"]
    assert_equal(told, [(each.call_id, each.content) for each in found.results], "what the model is told")
    assert_equal(
        found.messages[: len(chat.prompts[-1])], chat.prompts[-1], "what the model was given at last"
    )


@requirement("AG-36")
def test_it_dies_while_the_function_runs(impl):
    """In earnest: the function has run when on_event can hear nothing more."""
    lives = Lives(impl, asks(n=1), "done")
    chat = lives.life()
    chat.dies_at = lives.number(RESULT, 1)
    with passed_through(DIED):
        lives.agent(chat).run([USER])
    assert_equal(chat.tries(), ["try 1"], "what ran in the first life")
    for number, results in ((2, [(INTERRUPTED, 1)]), (3, [(OK, 1)])):
        second = lives.life(now=PAUSE)
        found = lives.agent(second).resume(chat.events[number].checkpoint)
        assert_equal(
            (outcomes(found), second.tries()), (results, []), f"results, what ran after event {number}"
        )


@requirement("AG-36")
def test_what_ran_in_another_thread_is_not_repeated_either(impl):
    """Of three calls the first two meet: none has a result before both have begun."""
    meeting = threading.Barrier(2)
    lives = Lives(impl, "".join(asks(n=n) for n in range(3)), "done", parallel=2, meets=meeting)
    ids = [each.call_id for each in lives.whole.results]
    for number, kind in enumerate(lives.first.kinds()[1:], 1):
        heard = [(each.kind.value, each.call_id) for each in lives.first.events[: number + 1]]
        found, chat = lives.after(number)
        for n, id in enumerate(ids):
            began, ended = (ATTEMPT, id) in heard, (RESULT, id) in heard
            what = f"of call {n} after event {number}, {kind!r}"
            may = [OK, INTERRUPTED] if began and not ended else [OK]  # it may have ended already
            assert found.results[n].status in may, f"status {what}: {found.results[n].status}"
            assert_equal([each.n for each in chat.told].count(n), int(not began), f"attempts {what}")


@requirement("AG-36")
@pytest.mark.parametrize("approves", [True, False])
def test_who_resumes_asks_its_own_approve(impl, approves):
    """Calls that were not begun, and one that goes on."""
    policy = {"retry": RetryPolicy(attempts=3), "idempotent": True}
    text = asks("ok", n=1, tool="guarded") + asks("ok", n=2, tool="guarded") + asks("ok", n=3)
    lives = Lives(impl, text, "done", tools=policy)
    lives.second.approves = approves
    found, chat = lives.after(lives.number(REPLY, 1))
    expected = [(OK, 1) if approves else (DENIED, 0)] * 2
    assert_equal(outcomes(found), [*expected, (OK, 1)], "results from the reply on")
    found, chat = lives.after(lives.number(ATTEMPT, 1))
    assert_equal([each for each in chat.log if "ask" in each], ["ask 1", "ask 2"], "what was asked for")
    if approves:
        assert_equal(outcomes(found), [(OK, 2), (OK, 1), (OK, 1)], "results from the attempt on")
    else:
        first, *others = outcomes(found)
        assert first in ((DENIED, 1), (INTERRUPTED, 1)), f"result of what is not allowed any more: {first}"
        assert_equal(others, [(DENIED, 0), (OK, 1)], "results of the others")


@requirement("AG-36")
@given(
    do=st.lists(st.sampled_from(["ok", "transient", "error", "hangs"]), min_size=1, max_size=3),
    attempts=st.integers(1, 3),
    idempotent=st.booleans(),
    at=st.integers(0, 11),
)
@example(do=["transient", "ok"], attempts=3, idempotent=False, at=3)
def test_no_effect_happens_twice(impl, do, attempts, idempotent, at):
    """Wherever the process dies: two lives make no attempt twice, and no more of what is not idempotent."""
    policy = {"retry": RetryPolicy(attempts=attempts), "idempotent": idempotent}
    lives = Lives(impl, asks(*do, n=1) + asks("ok", n=2), "done", tools=policy)
    kinds = lives.first.kinds()
    number = min(at, len(kinds) - 1)
    found, chat = lives.after(number)
    began = lives.first.told[: kinds[: number + 1].count(ATTEMPT)]
    made = [(each.n, each.attempt) for each in [*began, *chat.told]]
    assert_equal(made, sorted(set(made)), f"attempts of both lives, death after event {number}")
    counts = [sum(n == each for each, _ in made) for n in (1, 2)]
    assert_equal([each.attempts for each in found.results], counts, "attempts of the results")
    if not idempotent and kinds[number] == ATTEMPT:
        assert_equal(len([each for each in chat.told if each.n == began[-1].n]), 0, "attempts afterwards")
