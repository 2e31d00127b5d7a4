"""`Toolbox.call`: when a breaker opens, for whom, and when it closes again."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, passed_through
from spec import Cancelled
from spec.agent import BreakerPolicy, RetryPolicy, ToolCall
from tests.week3.agent.cases_toolbox import (
    BAD,
    DENIED,
    ERROR,
    OK,
    OPEN,
    TIMEOUT,
    UNKNOWN,
    World,
    act,
    outcome,
    toolbox,
)

FAILED, OPENED, FINE = (ERROR, 1), (OPEN, 0), (OK, 1)


class Guarded:
    """A toolbox of tools "search" and "fetch", which depend on "web", as "web" does, which names nothing, and
    "add" and "mul", which do not.

    Their timeout is 10 s, their breakers open for 10 s after 2 failures, unless it is said otherwise.
    """

    def __init__(self, impl, world, *, failures=2, attempts=1, **options):
        retry = RetryPolicy(attempts=attempts, base=0.5)
        common = {"timeout": 10.0, "retry": retry, **options}
        tools = [world.tool(name, resource="web", **common) for name in ("search", "fetch")]
        tools += [world.tool(name, **common) for name in ("add", "mul", "web")]
        self.box = toolbox(impl, world, *tools, breaker=BreakerPolicy(failures, 10.0))

    def call(self, tool, *do, n=0):
        """Status and attempts of a call."""
        return outcome(self.box.call(act(*do, tool=tool, n=n), run_id="r"))

    def calls(self, tool, *each):
        return [self.call(tool, do) for do in each]


# AG-18


@requirement("AG-18")
@pytest.mark.parametrize("failures", [1, 2, 3])
@pytest.mark.parametrize(
    ("what", "expected"), [("error", FAILED), ("transient", FAILED), ("nan", FAILED), ("hangs", (TIMEOUT, 1))]
)
def test_so_many_failures_in_a_row_open_it(impl, failures, what, expected):
    world = World()
    made = Guarded(impl, world, failures=failures)
    assert_equal(made.calls("add", *[what] * failures), [expected] * failures, "status and attempts")
    assert_equal(made.calls("add", "ok", "ok"), [OPENED] * 2, "status and attempts when it is open")
    assert_equal(len(world.tries()), failures, "calls of the function")


@requirement("AG-18")
@pytest.mark.parametrize("between", ["ok", "final"])
def test_failures_with_an_answer_between_do_not(impl, between):
    made = Guarded(impl, World())
    middle = (OK if between == "ok" else ERROR, 1)
    found = made.calls("add", "error", between, "error", between, "error", "error", "ok")
    assert_equal(found, [FAILED, middle, FAILED, middle, FAILED, FAILED, OPENED], "status and attempts")


@requirement("AG-18")
def test_who_answers_that_it_cannot_is_there(impl):
    made = Guarded(impl, World())
    assert_equal(made.calls("add", *["final"] * 4, "ok"), [FAILED] * 4 + [FINE], "status and attempts")


@requirement("AG-18")
def test_tools_with_one_resource_share_a_breaker(impl):
    made = Guarded(impl, World())
    assert_equal(made.calls("search", "error"), [FAILED], "search")
    assert_equal(made.calls("add", "error"), [FAILED], "add")
    assert_equal(made.calls("fetch", "error", "ok"), [FAILED, OPENED], "fetch")
    assert_equal(made.calls("search", "ok"), [OPENED], "search afterwards")
    assert_equal(made.calls("mul", "error", "ok"), [FAILED, FINE], "mul")
    assert_equal(made.calls("web", "ok"), [OPENED], "the tool whose name the resource is")
    assert_equal(made.calls("add", "ok", "error", "ok"), [FINE, FAILED, FINE], "add afterwards")


@requirement("AG-18")
@pytest.mark.parametrize(
    ("do", "failures", "expected", "draws"),
    [
        (["transient"], 2, (ERROR, 2), 1),
        (["transient"], 1, (ERROR, 1), 0),
        (["transient", "ok"], 2, (OK, 2), 1),
        (["transient"], 3, (ERROR, 3), 2),
        (["hangs"], 2, (TIMEOUT, 2), 1),
    ],
)
def test_a_call_that_opens_it_ends_with_its_own_result(impl, do, failures, expected, draws):
    world = World()
    made = Guarded(impl, world, failures=failures, attempts=3, idempotent=True)
    result = made.box.call(act(*do, tool="add"), run_id="r")
    assert_equal((*outcome(result), world.log.count("draw")), (*expected, draws), "status, attempts, waits")
    if result.status is ERROR:
        assert "<<busy 0>>" in result.content, f"content of the last attempt: {result.content!r}"
    assert_equal(made.call("add", "ok"), FINE if result.status is OK else OPENED, "the next call")


@requirement("AG-18")
def test_what_another_call_opened_ends_this_one_as_well(impl):
    """A second call fails while the first one, which has failed, waits."""
    world = World()
    made = Guarded(impl, world, attempts=2)
    found = []
    world.meanwhile[7] = lambda: found.extend([made.call("fetch", "error"), made.call("fetch", "error")])
    assert_equal(made.call("search", "transient", "ok", n=7), (ERROR, 1), "status and attempts")
    assert_equal(
        (found, made.call("search", "ok")), ([FAILED, FAILED], OPENED), "the calls meanwhile and after"
    )


@requirement("AG-18")
@pytest.mark.parametrize("refused", ["bad", "denied", "cancelled", "late", "unknown"])
@pytest.mark.parametrize("more", [0, 1])
def test_what_is_not_tried_counts_as_nothing(impl, refused, more):
    """Neither as a failure nor as an answer."""
    world = World(approves=lambda call: "no" not in call.id)
    made = Guarded(impl, world, failures=2, needs_approval=True).box
    call = {
        "bad": ToolCall("c", "add", '{"n": "x"}'),
        "denied": act(tool="add", id="no"),
        "cancelled": act("cancelled", tool="add"),
        "late": act(tool="add"),
        "unknown": ToolCall("c", "nobody", "{}"),
    }[refused]
    assert_equal(outcome(made.call(act("error", tool="add"), run_id="r")), FAILED, "the first failure")
    for _ in range(2):
        if refused == "cancelled":
            with passed_through(Cancelled("<<nobody waits 0>>")):
                made.call(call, run_id="r")
            continue
        options = {"deadline": 0.0} if refused == "late" else {}
        status = {"bad": BAD, "denied": DENIED, "late": TIMEOUT, "unknown": UNKNOWN}[refused]
        assert_equal(outcome(made.call(call, run_id="r", **options)), (status, 0), "status and attempts")
    second = "error" if more else "ok"
    found = [outcome(made.call(act(do, tool="add"), run_id="r")) for do in (second, "ok")]
    assert_equal(found, [FAILED, OPENED] if more else [FINE, FINE], "status and attempts afterwards")


@requirement("AG-18")
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["search", "fetch", "add"]),
            st.sampled_from(["ok", "error", "error 3", "final", "hangs"]),
            st.sampled_from([0.0, 0.0, 5.0, 10.0]),
        ),
        max_size=9,
    ),
    failures=st.integers(1, 3),
)
@example(steps=[("add", "error", 0.0)] * 3 + [("add", "error", 10.0), ("add", "ok", 0.0)] * 2, failures=2)
def test_breakers_in_any_life(impl, steps, failures):
    world = World()
    made = Guarded(impl, world, failures=failures)
    breakers = {"web": Model(failures), "add": Model(failures)}
    time, found, expected = 0.0, [], []
    for tool, do, wait in steps:
        made.call("mul", f"ok {wait}")
        found.append(made.call(tool, do))
        status, time = breakers["add" if tool == "add" else "web"].call(do, time + wait)
        expected.append((status, int(status is not OPEN)))
    assert_equal(found, expected, f"status and attempts of {steps}")
    assert_equal(world.time, time, "time afterwards")


class Model:
    """A breaker of 10 s whose calls come one after another."""

    def __init__(self, failures):
        self.failures, self.failed, self.opened = failures, 0, None

    def call(self, do, time):
        """Its status and the time at its end."""
        if self.opened is not None and time < self.opened + 10:
            return OPEN, time
        end = time + {"error 3": 3.0, "hangs": 10.0}.get(do, 0.0)
        failed = do not in ("ok", "final")
        self.failed = self.failed + 1 if failed else 0
        self.opened = end if self.failed >= self.failures else None
        return {"ok": OK, "hangs": TIMEOUT}.get(do, ERROR), end


# AG-19


def opened(impl, at=100.0, failures=2):
    """A breaker that opened at this time, of a toolbox whose clock stands there."""
    world = World(now=at)
    made = Guarded(impl, world, failures=failures)
    assert_equal(
        made.calls("search", *["error"] * failures), [FAILED] * failures, "the failures that open it"
    )
    return world, made


@requirement("AG-19")
@pytest.mark.parametrize(("after", "expected"), [(0, OPENED), (9.5, OPENED), (10, FINE), (99, FINE)])
def test_after_a_while_one_is_let_through(impl, after, expected):
    world, made = opened(impl)
    made.call("add", f"ok {after}")  # which takes that long
    assert_equal(made.call("fetch", "ok"), expected, "status and attempts")


@requirement("AG-19")
@pytest.mark.parametrize("do", ["ok", "final"])
def test_a_probe_that_does_not_fail_closes_it(impl, do):
    world, made = opened(impl)
    made.call("add", "ok 10")
    status = OK if do == "ok" else ERROR
    found = made.calls("search", do, "error", "ok", "error", "error", "ok")
    expected = [(status, 1), FAILED, FINE, FAILED, FAILED, OPENED]
    assert_equal(found, expected, "status and attempts from the probe on")


@requirement("AG-19")
@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_probe_that_fails_opens_it_anew_from_its_end(impl, failures):
    world, made = opened(impl, 100.0, failures)
    found = made.calls("search", "ok") + made.calls("add", "ok 9") + made.calls("search", "ok")
    assert_equal(found, [OPENED, FINE, OPENED], "status and attempts until 109")
    found = made.calls("add", "ok 1") + made.calls("search", "error 2", "ok")
    assert_equal(found, [FINE, FAILED, OPENED], "status and attempts until 112")
    found = made.calls("add", "ok 9") + made.calls("search", "ok") + made.calls("add", "ok 1")
    assert_equal(found, [FINE, OPENED, FINE], "status and attempts until 122")
    assert_equal(made.calls("search", "ok"), [FINE], "status and attempts at 122")


@requirement("AG-19")
@pytest.mark.parametrize("do", ["ok", "error"])
def test_there_is_one_probe_at_a_time(impl, do):
    world, made = opened(impl)
    made.call("add", "ok 10")
    found = []
    world.meanwhile[7] = lambda: found.extend(made.calls("fetch", "ok", "error"))
    result = made.call("search", do, n=7)
    assert_equal(found, [OPENED, OPENED], "calls while the probe runs")
    assert_equal(result, FINE if do == "ok" else FAILED, "the probe")
    assert_equal(made.call("fetch", "ok"), FINE if do == "ok" else OPENED, "a call afterwards")


@requirement("AG-19")
def test_a_probe_that_hangs_is_followed_by_another(impl):
    """The first one begins at 110: at 119 nobody is let through, at 120 somebody is."""
    world, made = opened(impl)
    made.call("add", "ok 10")
    found = []

    def meanwhile():
        found.extend([made.call("add", "ok 9"), made.call("fetch", "ok"), made.call("add", "ok 1")])
        found.extend([made.call("fetch", "ok"), made.call("fetch", "ok")])

    world.meanwhile[7] = meanwhile
    assert_equal(made.call("search", "ok", n=7), FINE, "the first probe")
    assert_equal(found, [FINE, OPENED, FINE, FINE, FINE], "calls meanwhile")


@requirement("AG-19")
def test_a_probe_that_is_cancelled_is_followed_by_another(impl):
    world, made = opened(impl)
    made.call("add", "ok 10")
    with passed_through(Cancelled("<<nobody waits 0>>")):
        made.call("search", "cancelled")
    found = made.calls("search", "ok") + made.calls("add", "ok 9.5") + made.calls("search", "ok")
    assert_equal(found, [OPENED, FINE, OPENED], "status and attempts until 119.5")
    found = made.calls("add", "ok 0.5") + made.calls("search", "error", "ok")
    assert_equal(found, [FINE, FAILED, OPENED], "the probe at 120 and a call after it")


@requirement("AG-19")
@pytest.mark.parametrize("do", ["ok 7", "final 7", "error 7"])
def test_who_began_before_it_opened_is_heard_as_well(impl, do):
    """It ends at 7, while the breaker is open since 0."""
    world = World()
    made = Guarded(impl, world)
    found = []
    world.meanwhile[7] = lambda: found.extend(made.calls("fetch", "error", "error", "ok"))
    made.call("search", do, n=7)
    assert_equal(found, [FAILED, FAILED, OPENED], "calls meanwhile")
    if do == "error 7":
        found = [*made.calls("add", "ok 9"), *made.calls("fetch", "ok"), *made.calls("add", "ok 1")]
        assert_equal(found, [FINE, OPENED, FINE], "until 17: it is open anew since 7")
    assert_equal(made.calls("fetch", "ok"), [FINE], "afterwards")


@requirement("AG-19")
@pytest.mark.parametrize("refused", ["bad", "denied", "late"])
def test_a_probe_is_for_who_may_run(impl, refused):
    """A call that is refused at 110 takes nobody's place."""
    world = World(now=100.0, approves=lambda call: "no" not in call.id)
    made = Guarded(impl, world, failures=1, needs_approval=True)
    assert_equal(made.calls("search", "error"), [FAILED], "the failure that opens it")
    made.call("add", "ok 10")
    call = {
        "bad": ToolCall("c", "search", '{"n": "x"}'),
        "denied": act(tool="search", id="no"),
        "late": act(tool="search"),
    }[refused]
    result = made.box.call(call, run_id="r", **({"deadline": 110.0} if refused == "late" else {}))
    assert_equal(result.attempts, 0, "attempts of the refused call")
    assert_equal(made.call("search", "ok"), FINE, "the probe")
