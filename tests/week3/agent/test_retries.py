"""`Toolbox.call`: what is tried again, when, until when, and as what."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal
from spec.agent import BreakerPolicy, RetryPolicy
from tests.week3.agent.cases_toolbox import ERROR, OK, TIMEOUT, Told, World, act, outcome, toolbox

NEVER = BreakerPolicy(failures=10_000)


def tried(impl, world, *do, deadline=None, timeout=30.0, idempotent=False, **policy):
    """The result of a call of a tool with this retry policy, of 3 attempts unless it says otherwise."""
    retry = RetryPolicy(**{"attempts": 3, **policy})
    made = toolbox(
        impl, world, world.tool(timeout=timeout, idempotent=idempotent, retry=retry), breaker=NEVER
    )
    options = {} if deadline is None else {"deadline": deadline}
    return made.call(act(*do), run_id="r", **options)


# AG-16


@requirement("AG-16")
@pytest.mark.parametrize("idempotent", [False, True], ids=["once", "idempotent"])
@pytest.mark.parametrize(
    ("do", "expected", "if_idempotent"),
    [
        (["ok"], (OK, 1), (OK, 1)),
        (["transient", "transient", "ok"], (OK, 3), (OK, 3)),
        (["transient"], (ERROR, 3), (ERROR, 3)),
        (["error", "ok"], (ERROR, 1), (ERROR, 1)),
        (["final", "ok"], (ERROR, 1), (ERROR, 1)),
        (["lost", "ok"], (ERROR, 1), (ERROR, 1)),
        (["nan", "ok"], (ERROR, 1), (ERROR, 1)),
        (["hangs", "ok"], (TIMEOUT, 1), (OK, 2)),
        (["hangs"], (TIMEOUT, 1), (TIMEOUT, 3)),
        (["transient", "error", "ok"], (ERROR, 2), (ERROR, 2)),
        (["transient", "hangs", "ok"], (TIMEOUT, 2), (OK, 3)),
        (["transient", "transient", "hangs"], (TIMEOUT, 3), (TIMEOUT, 3)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_tried_again(impl, do, expected, if_idempotent, idempotent):
    world = World()
    result = tried(impl, world, *do, idempotent=idempotent)
    assert_equal(outcome(result), if_idempotent if idempotent else expected, "status and attempts")
    assert_equal(
        [told.attempt for told in world.told],
        list(range(1, result.attempts + 1)),
        "attempts that were told",
    )
    if result.status is OK:
        assert_equal(result.content, " ".join(map(str, world.told[-1])), "content")
    if do[-1] == "transient":
        assert "<<busy 0>>" in result.content, f"content of the last attempt: {result.content!r}"


@requirement("AG-16")
@pytest.mark.parametrize("attempts", [1, 2, 5])
@pytest.mark.parametrize("what", ["transient", "hangs"])
def test_how_often_it_is_tried(impl, attempts, what):
    world = World()
    result = tried(impl, world, what, attempts=attempts, idempotent=what == "hangs")
    assert_equal((result.attempts, len(world.told)), (attempts, attempts), "attempts, calls of the function")


@requirement("AG-16")
def test_the_first_attempt_is_the_only_one_by_default(impl):
    world = World()
    result = toolbox(impl, world, world.tool(idempotent=True)).call(act("transient"), run_id="r")
    assert_equal((*outcome(result), world.log), (ERROR, 1, ["try 0"]), "status, attempts, what happened")


# AG-17

QUARTERS = st.sampled_from([0.25, 0.5, 0.75])


@requirement("AG-17")
@given(
    draws=st.lists(QUARTERS, min_size=4, max_size=4),
    base=st.sampled_from([0.25, 0.5, 3.0]),
    cap=st.sampled_from([0.5, 3.0, 30.0]),
    asked=st.lists(st.sampled_from([0.0, 0.25, 2.0, 40.0]), min_size=4, max_size=4),
)
@example(draws=[0.25, 0.75], base=0.5, cap=3.0, asked=[40.0, 0.25, 0.0, 40.0])
@example(draws=[0.5], base=0.5, cap=3.0, asked=[2.0, 0.0, 0.0, 0.0])
@example(draws=[0.5], base=0.5, cap=3.0, asked=[0.0] * 4)
@example(draws=[0.5], base=4.0, cap=1.0, asked=[0.0] * 4)
def test_waits_grow_with_jitter_up_to_a_cap(impl, draws, base, cap, asked):
    world = World(draws=draws)
    do = [f"transient 1 {seconds:g}" for seconds in asked]
    result = tried(impl, world, *do, "ok", attempts=5, base=base, cap=cap)
    waits = [max(draws[i % len(draws)] * min(cap, base * 2**i), asked[i]) for i in range(4)]
    assert_equal(outcome(result), (OK, 5), "status and attempts")
    expected = [line for wait in waits for line in ("try 0", "draw", f"sleep {wait:g}")]
    assert_equal(world.log, [*expected, "try 0"], "what happened")
    began = [sum(waits[:i], 0.0) + i for i in range(5)]
    assert_equal([told.at for told in world.told], began, "when attempts began")


@requirement("AG-17")
@pytest.mark.parametrize(
    ("do", "attempts", "sleeps"),
    [
        (["ok"], 3, []),
        (["error"], 3, []),
        (["final"], 3, []),
        (["hangs"], 3, []),
        (["transient"], 1, []),
        (["transient"], 3, [0.25, 0.5]),
    ],
)
def test_nobody_waits_for_nothing(impl, do, attempts, sleeps):
    world = World()
    tried(impl, world, *do, attempts=attempts)
    expected = [line for wait in sleeps for line in ("try 0", "draw", f"sleep {wait:g}")]
    assert_equal(world.log, [*expected, "try 0"], "what happened")


@requirement("AG-17")
def test_three_attempts_within_a_deadline(impl):
    """Waits of a second, attempts of ten: the third has three left."""
    world = World()
    limits = {"base": 2.0, "cap": 2.0, "attempts": 9, "timeout": 10.0, "deadline": 25.0}
    result = tried(impl, world, "hangs", idempotent=True, **limits)
    assert_equal(outcome(result), (TIMEOUT, 3), "status and attempts")
    told = [(each.at, each.timeout, each.deadline) for each in world.told]
    assert_equal(told, [(0.0, 10.0, 10.0), (11.0, 10.0, 21.0), (22.0, 3.0, 25.0)], "at, timeout, deadline")
    assert_equal(world.sleeps(), [1.0, 1.0], "waits")
    world = World()
    result = tried(impl, world, "hangs", "hangs", "ok 3", idempotent=True, **limits)
    assert_equal(outcome(result), (OK, 3), "status and attempts where the third just ends in time")


@requirement("AG-17")
@pytest.mark.parametrize(
    ("deadline", "attempts"), [(6.0, 1), (7.0, 1), (7.5, 2), (9.5, 2), (10.0, 2), (10.5, 3), (99.0, 3)]
)
def test_a_wait_that_would_be_too_long_is_not_begun(impl, deadline, attempts):
    """Attempts from 5 to 6, from 7 to 8, and from 10 on."""
    world = World(now=5.0)
    result = tried(impl, world, "transient 1", "transient 1", "ok", base=2.0, deadline=deadline)
    assert_equal(outcome(result), (OK if attempts == 3 else ERROR, attempts), "status and attempts")
    assert_equal(world.sleeps(), [1.0, 2.0][: attempts - 1], "waits")
    if attempts == 3:
        expected = Told("act", 0, 3, 1, 10.0, min(30.0, deadline - 10.0), min(40.0, deadline))
        assert_equal(result.content, " ".join(map(str, expected)), "content, what the attempt was told")
    else:
        assert "<<busy 0>>" in result.content, f"content of the last attempt: {result.content!r}"


@requirement("AG-17")
def test_a_wait_that_is_asked_for_may_be_too_long_as_well(impl):
    world = World()
    result = tried(impl, world, "transient 0 8", "ok", deadline=8.0)
    assert_equal((*outcome(result), world.sleeps()), (ERROR, 1, []), "status, attempts, waits")
    world = World()
    result = tried(impl, world, "transient 0 8", "ok", deadline=8.5)
    assert_equal((*outcome(result), world.sleeps()), (OK, 2, [8.0]), "status, attempts, waits")


@requirement("AG-17")
@pytest.mark.parametrize(("now", "expected"), [(4.5, (OK, 1)), (5.0, (TIMEOUT, 0)), (6.0, (TIMEOUT, 0))])
def test_at_the_deadline_nothing_begins(impl, now, expected):
    world = World(now=now)
    assert_equal(outcome(tried(impl, world, "ok", deadline=5.0)), expected, "status and attempts")
    told = [(now, 0.5, 5.0)] if expected[1] else []
    assert_equal([(each.at, each.timeout, each.deadline) for each in world.told], told, "what was told")
    assert_equal(world.log, ["try 0"] * expected[1], "what happened")


# AG-20

PAIRS = [
    ("a", "b:c"),
    ("a:b", "c"),
    ("a", "b"),
    ("b", "a"),
    ("ab", ""),
    ("", "ab"),
    ('a", "b', "c"),
    ("a", 'b", "c'),
    *[pair for mark in "/|-_. ,\n\0" for pair in ((f"a{mark}b", "c"), ("a", f"b{mark}c"))],
    *[(run_id, id) for run_id in ("é", "è") for id in ("c", "\U0001f600")],
    *[("r" * 300, f"{'c' * 300}{i}") for i in range(2)],
    ("r" * 301, "c" * 300 + "0"),
]


@requirement("AG-20")
@pytest.mark.parametrize("idempotent", [False, True])
def test_a_call_has_one_key_and_each_other_call_another(impl, idempotent):
    world = World()
    policy = {"retry": RetryPolicy(attempts=3), "idempotent": idempotent, "timeout": 1.0}
    for first in (1, 1, 4):  # two toolboxes know the same keys; another call has another number
        made = toolbox(impl, world, world.tool(**policy), breaker=NEVER)
        for run_id, id in PAIRS:
            made.call(act("transient", "hangs", "ok", n=first, id=id), run_id=run_id)
    keys = {(told.key, world.keys[told.key - 1]) for told in world.told}
    assert all(isinstance(key, str) for _, key in keys), f"keys: expected text, got {world.keys}"
    per_call = 3 if idempotent else 2
    expected = [1 + i for i in range(len(PAIRS)) for _ in range(per_call)] * 3
    assert_equal([told.key for told in world.told], expected, "which key each attempt was told")


@requirement("AG-20")
def test_two_equal_calls_are_two(impl):
    world = World()
    made = toolbox(impl, world)
    results = [made.call(act(id=id), run_id="r") for id in ("c1", "c2")]
    assert_equal([told.key for told in world.told], [1, 2], "which key each call was told")
    assert_equal(
        [each.content for each in results], [" ".join(map(str, each)) for each in world.told], "contents"
    )
