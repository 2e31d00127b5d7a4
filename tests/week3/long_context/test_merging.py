"""States over parts of the keys become the state over all of them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_matches, check_refusals
from spec.long_context import AttentionState
from tests.week3.long_context.cases import SEEDS, assert_nothing, assert_seen, normal, reference

SHAPE = 2, 3, 4, 5  # batch, heads, queries, head_dim


def states(seed, count, shape=SHAPE, spread=2.0):
    """So many states whose lse are `spread` apart or so."""
    rng = np.random.default_rng(seed)
    return [
        AttentionState(normal(rng, shape), normal(rng, shape[:3], magnitude=spread)) for _ in range(count)
    ]


def with_lse(state, lse):
    return replace(state, lse=np.full_like(state.lse, lse))


def check(actual, expected):
    __tracebackhide__ = True
    assert_matches(actual.lse, expected.lse, "lse")
    assert_matches(actual.out, expected.out, "out")


@requirement("LC-46")
@given(seed=SEEDS, count=st.sampled_from([1, 2, 3, 5]))
@example(seed=1, count=1)
@example(seed=1, count=2)
@example(seed=1, count=3)
def test_parts_merge_by_their_lse(impl, seed, count):
    parts = states(seed, count)
    check(impl.merge_states(parts), reference.merge_states(parts))


@requirement("LC-46")
@pytest.mark.parametrize("queries", [0, 3])
def test_parts_may_come_in_a_tuple(impl, queries):
    parts = tuple(states(1, 3, (2, 3, queries, 5)))
    check(impl.merge_states(parts), reference.merge_states(parts))


@requirement("LC-46")
def test_the_parts_of_the_example(impl):
    outs, lses = np.array([(0.731059, 0.268941), (4, 4)], np.float32), np.array([1.313262, 2], np.float32)
    parts = [
        AttentionState(out[None, None, None], lse[None, None, None])
        for out, lse in zip(outs, lses, strict=True)
    ]
    check(impl.merge_states(parts), reference.merge_states(parts))


@requirement("LC-47")
@given(seed=SEEDS, count=st.sampled_from([1, 2, 3, 4]), poison=st.sampled_from([0.0, np.nan, np.inf, 1e30]))
@example(seed=1, count=1, poison=np.nan)
@example(seed=1, count=2, poison=np.nan)
@example(seed=2, count=3, poison=0.0)
def test_a_part_that_saw_nothing_changes_nothing(impl, seed, count, poison):
    rng = np.random.default_rng([seed, 1])
    parts, sees = [], np.ones(SHAPE[2], bool)
    sees[rng.integers(SHAPE[2])] = False  # this query saw nothing anywhere
    saw = rng.random((count, *SHAPE[:3])) < 0.6
    saw[rng.integers(count, size=SHAPE[:3]), *np.indices(SHAPE[:3])] = True  # the others something
    saw &= sees
    for state, seen in zip(states(seed, count), saw, strict=True):
        out = np.where(seen[..., None], state.out, np.float32(poison))
        parts.append(AttentionState(out, np.where(seen, state.lse, np.float32(-np.inf))))
    actual = impl.merge_states(parts)
    expected = reference.merge_states([AttentionState(p.out[:, :, sees], p.lse[:, :, sees]) for p in parts])
    assert_seen(actual, expected.out, sees, "out")
    assert_seen(actual, expected.lse, sees, "lse")
    assert_nothing(actual, ~sees)


@requirement("LC-48")
@given(seed=SEEDS, count=st.sampled_from([1, 2, 4, 7]))
@example(seed=1, count=1)
@example(seed=1, count=4)
def test_order_does_not_matter(impl, seed, count):
    parts = states(seed, count)
    shuffled = [parts[i] for i in np.random.default_rng([seed, 1]).permutation(count)]
    check(impl.merge_states(shuffled), reference.merge_states(parts))


@requirement("LC-48")
@given(seed=SEEDS, cut=st.integers(1, 4))
@example(seed=1, cut=2)
def test_grouping_does_not_matter(impl, seed, cut):
    parts = states(seed, 5)
    groups = [impl.merge_states(parts[:cut]), impl.merge_states(parts[cut:])]
    check(impl.merge_states(groups), reference.merge_states(parts))


@requirement("LC-48")
@pytest.mark.parametrize(
    "lses", [(-80, 0, 80), (80, 0, -80), (0, 2000, -2000), (-3000, -3001), (5000, 4999, 0)]
)
def test_lse_may_be_far_apart(impl, lses):
    parts = [with_lse(*each) for each in zip(states(1, len(lses)), lses, strict=True)]
    check(impl.merge_states(parts), reference.merge_states(parts))


@requirement("LC-49")
@given(seed=SEEDS, count=st.sampled_from([1, 2, 4]))
@example(seed=1, count=1)
@example(seed=1, count=4)
def test_sinks_join_once(impl, seed, count):
    parts, sinks = states(seed, count), normal(np.random.default_rng([seed, 1]), (SHAPE[1],), magnitude=2.0)
    check(impl.merge_states(parts, sink_logits=sinks), reference.merge_states(parts, sink_logits=sinks))


@requirement("LC-49")
def test_sinks_may_be_far_above_lse(impl):
    parts, sinks = states(1, 2), np.full(SHAPE[1], 10_000, np.float32)
    check(impl.merge_states(parts, sink_logits=sinks), reference.merge_states(parts, sink_logits=sinks))


@requirement("LC-49")
@given(seed=SEEDS)
@example(seed=1)
def test_sinks_join_where_nothing_was_seen(impl, seed):
    parts, sinks = states(seed, 3), normal(np.random.default_rng([seed, 1]), (SHAPE[1],))
    parts = [with_lse(parts[0], -np.inf), with_lse(parts[1], -np.inf)]
    check(impl.merge_states(parts, sink_logits=sinks), reference.merge_states(parts, sink_logits=sinks))


@requirement("LC-50")
def test_states_that_do_not_fit_are_refused(impl):
    first, second = states(1, 2)
    sinks = np.ones(SHAPE[1], np.float32)
    turned = AttentionState(second.out.swapaxes(1, 2), second.lse.swapaxes(1, 2))
    valid = {"states": [first, second], "sink_logits": sinks}
    check(impl.merge_states(**valid), reference.merge_states(**valid))
    check_refusals(
        impl.merge_states,
        valid,
        [
            ("states", {"states": []}),
            ("states/out", {"states": [AttentionState(first.out[..., 0], first.lse)]}),
            ("states/out", {"states": [first, AttentionState(second.out[:1], second.lse[:1])]}),
            ("states/out", {"states": [first, second, AttentionState(second.out[:1], second.lse[:1])]}),
            ("states/out", {"states": [first, turned]}),
            ("states/out", {"states": [first, AttentionState(second.out[..., :1], second.lse)]}),
            ("states/lse/out", {"states": [first, AttentionState(second.out, second.lse[..., :1])]}),
            ("states/lse/out", {"states": [AttentionState(first.out, first.lse[..., None])]}),
            ("sink_logits/states", {"sink_logits": sinks[:1]}),
            ("sink_logits", {"sink_logits": sinks[:, None]}),
        ],
    )
