"""`Agent.run`: what is told while it goes on, and calls that run at the same time."""

import threading
from itertools import count

import pytest

from grading.marks import requirement
from grading.matching import assert_equal, passed_through
from spec import Cancelled
from spec.agent import Reply, RetryPolicy, StopReason
from tests.week3.agent.cases_loop import DIED, USER, Chat, agent, asks, assert_whole, block, outcomes, run
from tests.week3.agent.cases_toolbox import OK

WAIT = 5.0  # seconds for what comes at once, unless it never comes
MOMENT = 0.05  # seconds for what never comes, unless something is wrong
CALL, REPLY, ATTEMPT, RESULT, STOP = "model call", "model reply", "attempt", "result", "stop"


class Together:
    """Counts those that are somewhere at the same time."""

    def __init__(self):
        self.changed, self.inside, self.most, self.in_vain = threading.Condition(), 0, 0, False

    def meet(self, others, seconds):
        """Whether so many have been here at the same time, in time. Once it was in vain, nobody waits."""
        with self.changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.changed.notify_all()
            met = self.changed.wait_for(lambda: self.most >= others or self.in_vain, seconds)
            self.in_vain |= not met
            self.inside -= 1
            return self.most >= others


# AG-26


@requirement("AG-26")
@pytest.mark.parametrize(("parallel", "calls"), [(2, 2), (3, 3), (2, 4)])
def test_so_many_calls_can_run_at_once(impl, parallel, calls):
    chat, place = Chat("".join(asks(n=n) for n in range(calls)), "done"), Together()

    def meet():
        assert place.meet(parallel, WAIT), f"expected that {parallel} run at once, and {place.most} did"

    chat.meanwhile = dict.fromkeys(range(calls), meet)
    found = run(impl, chat, parallel=parallel)
    assert_equal(outcomes(found), [(OK, 1)] * calls, "results")
    assert_equal(
        [each.content for each in found.results], [f"act {n}, attempt 1" for n in range(calls)], "contents"
    )


@requirement("AG-26")
@pytest.mark.parametrize(("parallel", "calls"), [(1, 2), (2, 3)])
def test_no_more_run_at_once(impl, parallel, calls):
    chat, place = Chat("".join(asks(n=n) for n in range(calls)), "done"), Together()
    chat.meanwhile = {0: lambda: place.meet(parallel + 1, MOMENT)}
    chat.meanwhile |= {n: lambda: place.meet(parallel + 1, 0.0) for n in range(1, calls)}
    found = run(impl, chat, parallel=parallel)
    assert_equal(outcomes(found), [(OK, 1)] * calls, "results")
    assert place.most <= parallel, f"expected at most {parallel} at once, got {place.most}"


@requirement("AG-26")
def test_who_has_ended_makes_room(impl):
    """Of three calls two can run at once; the first one waits for the last one."""
    chat, begun = Chat(asks(n=0) + asks(n=1) + asks(n=2), "done"), threading.Event()

    def wait():
        assert begun.wait(WAIT), "expected that call 2 begins beside call 0, when call 1 has ended"

    chat.meanwhile = {0: wait, 2: begun.set}
    assert_equal(outcomes(run(impl, chat, parallel=2)), [(OK, 1)] * 3, "results")


@requirement("AG-26")
def test_one_after_another_in_order(impl):
    chat = Chat("".join(asks("transient", "ok", n=n) for n in range(4)), "done")
    run(impl, chat, chat.tool(retry=RetryPolicy(attempts=2)), parallel=1)
    expected = [line for n in range(4) for line in (f"try {n}", "draw", "sleep 0.25", f"try {n}")]
    assert_equal(chat.log, ["model", *expected, "model"], "what happened")


@requirement("AG-26")
def test_results_stand_in_the_order_of_the_calls(impl):
    """The first call waits for the second one, and that for the third."""
    chat, ended = Chat("".join(asks(n=n) for n in range(3)), "done"), [threading.Event() for _ in range(3)]

    def turn(n):
        in_time = n == 2 or ended[n + 1].wait(WAIT)
        for each in ended[: n + 1]:
            each.set()
        assert in_time, f"expected that call {n + 1} runs beside call {n}"

    chat.meanwhile = {n: lambda n=n: turn(n) for n in range(3)}
    found = run(impl, chat, parallel=3)
    assert_equal(
        [each.content for each in found.results], [f"act {n}, attempt 1" for n in range(3)], "contents"
    )
    told = [each["content"] for each in found.messages if each["role"] == "tool"]
    assert_equal(told, [f"act {n}, attempt 1" for n in range(3)], "what the model is told")


# AG-34


@requirement("AG-34")
@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (["done"], [CALL, REPLY, STOP]),
        ([asks(n=1), "done"], [CALL, REPLY, ATTEMPT, RESULT, CALL, REPLY, STOP]),
        ([OSError("the model is down")], [CALL, STOP]),
        ([Cancelled("nobody waits")], [CALL, STOP]),
        ([""], [CALL, REPLY, STOP]),
        ([Reply(asks(n=1), "length")], [CALL, REPLY, STOP]),
        ([block("{"), "done"], [CALL, REPLY, CALL, REPLY, STOP]),
        ([asks("transient", "ok", n=1), "done"], [CALL, REPLY, ATTEMPT, ATTEMPT, RESULT, CALL, REPLY, STOP]),
        ([asks("error", n=1), "done"], [CALL, REPLY, ATTEMPT, RESULT, CALL, REPLY, STOP]),
        ([asks(tool="nobody"), "done"], [CALL, REPLY, RESULT, CALL, REPLY, STOP]),
        ([asks(tool="guarded"), "done"], [CALL, REPLY, RESULT, CALL, REPLY, STOP]),
        ([asks("cancelled", n=1) + asks(n=2)], [CALL, REPLY, ATTEMPT, RESULT, RESULT, STOP]),
        ([Reply(asks(n=1) + asks(n=2), tokens=999)], [CALL, REPLY, RESULT, RESULT, STOP]),
        ([asks(n=1) + asks(n=2)], [*[CALL, REPLY, ATTEMPT, RESULT, ATTEMPT, RESULT] * 2, STOP]),
    ],
)
def test_all_that_happens_is_told(impl, replies, expected):
    chat = Chat(*replies, approves=False, now=3.0)
    tools = [chat.tool(retry=RetryPolicy(attempts=2)), chat.tool("guarded", needs_approval=True)]
    limits = {"tokens": 500, "model_calls": 2}
    found = agent(impl, chat, *tools, **limits).run([USER])
    assert_whole(found, chat, [USER])
    assert_equal(chat.kinds(), expected, "kinds of events")
    counts = {each.call_id: each.attempts for each in found.results}
    heard = {id: [each.kind.value for each in chat.events if each.call_id == id] for id in counts}
    assert_equal(heard, {id: [ATTEMPT] * n + [RESULT] for id, n in counts.items()}, "events of each call")
    others = [each.call_id for each in chat.events if each.kind.value in (CALL, REPLY, STOP)]
    assert_equal(others, [None] * len(others), "call_id of other events")


@requirement("AG-34")
def test_events_say_when(impl):
    chat = Chat(asks("ok 4", n=1) + asks("transient 1", "ok 2", n=2), "done", now=100.0, draws=[0.5])
    agent(impl, chat, chat.tool(retry=RetryPolicy(attempts=2, base=6.0))).run([USER])
    expected = [
        (CALL, 100.0), (REPLY, 100.0), (ATTEMPT, 100.0), (RESULT, 104.0),
        (ATTEMPT, 104.0), (ATTEMPT, 108.0), (RESULT, 110.0), (CALL, 110.0), (REPLY, 110.0), (STOP, 110.0),
    ]  # fmt: skip
    assert_equal([(each.kind.value, each.at) for each in chat.events], expected, "events and when they were")


@requirement("AG-34")
def test_an_event_comes_before_what_it_announces(impl):
    chat = Chat(asks("transient", "ok", n=1), "done")
    chat.hears = lambda event: chat.log.append(event.kind.value)
    agent(impl, chat, chat.tool(retry=RetryPolicy(attempts=2))).run([USER])
    tries = [ATTEMPT, "try 1", "draw", "sleep 0.25", ATTEMPT, "try 1", RESULT]
    assert_equal(chat.log, [CALL, "model", REPLY, *tries, CALL, "model", REPLY, STOP], "what happened")


@requirement("AG-34")
def test_events_are_told_one_at_a_time(impl):
    """Two calls meet, and so end at the same time."""
    chat, place, ears = Chat(asks(n=0) + asks(n=1), "done"), Together(), Together()
    chat.meanwhile = {n: lambda: place.meet(2, WAIT) for n in range(2)}
    chat.hears = lambda event: ears.meet(2, MOMENT if event.kind.value == RESULT else 0.0)
    found = agent(impl, chat, parallel=2).run([USER])
    assert_equal(outcomes(found), [(OK, 1)] * 2, "results")
    assert_equal(ears.most, 1, "events that were told at the same time")
    assert_equal(sorted(chat.kinds()), sorted([CALL, REPLY, ATTEMPT, RESULT] * 2 + [STOP]), "kinds of events")
    times = [each.at for each in chat.events]
    assert_equal(times, sorted(times), "when events were")


class Slow(Chat):
    """Its clock goes on each time that it is read, and may take a while to say so."""

    def begin(self):
        super().begin()
        self.ticks = count()

    def now(self):
        self.awake()
        tick = next(self.ticks)
        threading.Event().wait(tick % 3 * MOMENT / 10)
        return float(tick)


@requirement("AG-34")
def test_events_that_wait_for_each_other_say_when_they_are_told(impl):
    chat = Slow("".join(asks(n=n) for n in range(9)), "done")
    agent(impl, chat, parallel=3).run([USER])
    times = [each.at for each in chat.events]
    assert_equal(times, sorted(times), "when events were")


WHOLE = [CALL, REPLY, ATTEMPT, ATTEMPT, RESULT, ATTEMPT, RESULT, CALL, REPLY, STOP]


@requirement("AG-34")
@pytest.mark.parametrize("at", range(len(WHOLE)), ids=lambda at: f"{at} {WHOLE[at]}")
def test_what_hears_and_raises_is_heard(impl, at):
    """Nothing begins after the event at which it raises."""
    chat = Chat(asks("transient", "ok", n=1) + asks(n=2), "done", dies_at=at)
    made = agent(impl, chat, chat.tool(retry=RetryPolicy(attempts=2)))
    with passed_through(DIED):
        made.run([USER])
    assert_equal(chat.kinds(), WHOLE[: at + 1], "kinds of events")
    began = (len(chat.prompts), len(chat.told))
    assert_equal(began, (WHOLE[:at].count(CALL), WHOLE[:at].count(ATTEMPT)), "what began")
    found = made.run([USER])
    ends = (found.stop_reason, outcomes(found))
    assert_equal(ends, (StopReason.DONE, [(OK, 2), (OK, 1)]), "end and results of the next run")


@requirement("AG-34")
def test_no_other_thread_begins_after_it(impl):
    """The second call wants to begin while the first one's event is told, which raises."""
    chat = Chat("".join(asks(n=n) for n in range(4)), "done")

    def hears(event):
        if chat.kinds().count(ATTEMPT) == 1:
            threading.Event().wait(MOMENT)
            raise OSError(*DIED.args)

    chat.hears = hears
    with passed_through(DIED):
        agent(impl, chat, parallel=2).run([USER])
    assert_equal(chat.told, [], "attempts that were made")
