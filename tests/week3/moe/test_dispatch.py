"""`dispatch` and `expert_capacity`: which slot goes where, and who finds no place."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, check_refusals
from grading.truth import GroundTruth
from spec.moe import RouterConfig
from tests.week3.moe.cases import SEEDS, assert_dispatch

reference = GroundTruth("moe")

TOKENS = st.sampled_from([1, 2, 5, 9])
CAPACITIES = st.sampled_from([0, 1, 2, 3, 9, 2**40])
INTEGERS = st.sampled_from([np.int32, np.int64, np.uint8])


def choices(seed, tokens, n_experts=6, k=3, used=None):
    """(tokens, k) distinct experts below `used`, some of them popular."""
    rng = np.random.default_rng(seed)
    used = n_experts if used is None else used
    likely = rng.dirichlet(np.full(used, 0.7)) + 1e-3
    rows = [rng.choice(used, k, replace=False, p=likely / likely.sum()) for _ in range(tokens)]
    return np.array(rows, np.int32).reshape(tokens, k)


def check(impl, *args, **options):
    assert_dispatch(impl.dispatch(*args, **options), reference.dispatch(*args, **options))


@requirement("MOE-29")
@given(seed=SEEDS, tokens=TOKENS, k=st.sampled_from([1, 3, 6]), dtype=INTEGERS)
@example(seed=1, tokens=5, k=1, dtype=np.int32)
@example(seed=1, tokens=5, k=3, dtype=np.uint8)
def test_slots_are_sorted_by_expert(impl, seed, tokens, k, dtype):
    check(impl, choices(seed, tokens, k=k).astype(dtype), 6)


@requirement("MOE-29")
def test_there_may_be_one_expert(impl):
    check(impl, np.zeros((3, 1), np.int32), 1)


@requirement("MOE-29")
def test_a_batch_may_have_more_slots_than_16_bits_count(impl):
    check(impl, np.tile(np.array([[1, 0], [2, 1], [0, 2]], np.int32), (11_000, 1)), 3)


@requirement("MOE-30")
@given(seed=SEEDS, tokens=TOKENS, used=st.integers(3, 5))
@example(seed=1, tokens=5, used=3)
def test_experts_without_a_slot_have_an_empty_run(impl, seed, tokens, used):
    check(impl, choices(seed, tokens, used=used), 8)


@requirement("MOE-30")
def test_without_tokens_all_runs_are_empty(impl):
    check(impl, np.zeros((0, 3), np.int32), 6)


@requirement("MOE-31")
@given(seed=SEEDS, tokens=TOKENS, capacity=CAPACITIES)
@example(seed=1, tokens=9, capacity=2)
@example(seed=1, tokens=9, capacity=2**40)
def test_a_full_expert_takes_no_more(impl, seed, tokens, capacity):
    check(impl, choices(seed, tokens), 6, capacity)


@requirement("MOE-32")
@given(seed=SEEDS, tokens=TOKENS, capacity=CAPACITIES)
@example(seed=1, tokens=9, capacity=2)
def test_first_choices_come_before_second_choices(impl, seed, tokens, capacity):
    check(impl, choices(seed, tokens), 6, capacity, priority="choice_then_position")


@requirement("MOE-33")
@given(
    tokens=st.integers(0, 70),
    n_experts=st.sampled_from([2, 3, 6, 8]),
    top_k=st.integers(1, 2),
    factor=st.sampled_from([0.5, 1.0, 1.25, 2.0]),
    rounding=st.sampled_from(["floor", "ceil"]),
    least=st.sampled_from([0, 4]),
)
@example(tokens=9, n_experts=8, top_k=1, factor=1.0, rounding="floor", least=0)
@example(tokens=9, n_experts=8, top_k=2, factor=1.25, rounding="ceil", least=0)
@example(tokens=3, n_experts=8, top_k=1, factor=1.0, rounding="floor", least=4)
@example(tokens=10, n_experts=8, top_k=1, factor=1.25, rounding="floor", least=4)
@example(tokens=9, n_experts=1, top_k=1, factor=0.5, rounding="floor", least=0)
@example(tokens=2**31 + 1, n_experts=2, top_k=1, factor=1.0, rounding="ceil", least=0)  # exactly
def test_capacity_is_the_fair_share_times_a_factor(impl, tokens, n_experts, top_k, factor, rounding, least):
    share = Fraction(factor) * tokens * top_k / n_experts
    # A whole number that is reached through thirds may come out a little higher or lower.
    assume(share.denominator > 1 or n_experts in (1, 2, 8))
    expected = max(floor(share) if rounding == "floor" else ceil(share), least)
    config = RouterConfig(top_k, capacity_factor=factor, capacity_rounding=rounding, min_capacity=least)
    assert_equal(impl.expert_capacity(tokens, n_experts, config), expected, "expert_capacity()")


@requirement("MOE-34")
@pytest.mark.parametrize("priority", ["position", "choice_then_position"])
@given(seed=SEEDS, tokens=TOKENS, capacity=st.sampled_from([None, 1, 2, [1, 2]]))
@example(seed=1, tokens=9, capacity=2)
@example(seed=1, tokens=9, capacity=[1, 2])
def test_padding_takes_no_place_and_is_never_followed(impl, far_id, seed, tokens, capacity, priority):
    rng = np.random.default_rng(seed)
    experts, segments = choices(seed, tokens), rng.integers(0, 2, tokens).astype(np.int32)
    mask = rng.random(tokens) < 0.6
    for padding in (0, -1, far_id(6)):
        experts[~mask] = segments[~mask] = padding
        check(impl, experts, 6, capacity, mask=mask, segments=segments, priority=priority)


@requirement("MOE-35")
@pytest.mark.parametrize("priority", ["position", "choice_then_position"])
@given(seed=SEEDS, tokens=TOKENS, capacity=CAPACITIES, each=st.booleans())
@example(seed=1, tokens=9, capacity=1, each=False)
@example(seed=1, tokens=9, capacity=1, each=True)
def test_each_request_has_places_of_its_own(impl, seed, tokens, capacity, each, priority):
    rng = np.random.default_rng(seed)
    segments = rng.integers(0, 3, tokens).astype(np.int32)
    capacities = (capacity, 0, capacity + 1) if each else capacity
    check(impl, choices(seed, tokens), 6, capacities, segments=segments, priority=priority)


@requirement("MOE-35")
def test_without_segments_all_tokens_are_in_segment_0(impl):
    check(impl, choices(1, 9), 6, [2])
    check(impl, choices(1, 9), 6, [2, 5, 0])
    check(impl, choices(1, 0), 6, [])  # no token has a segment
    check(impl, choices(1, 4), 6, [], mask=np.zeros(4, bool))


@requirement("MOE-35")
def test_small_integers_do_not_overflow(impl):
    experts = np.array([[0, 2], [2, 4], [4, 0], [2, 0]], np.uint8)
    segments = np.array([0, 43, 0, 43], np.int8)  # 43 · 6 = 258, which is 2 in eight bits
    check(impl, experts, 6, 1, segments=segments)


@requirement("MOE-36")
def test_bad_arguments_of_dispatch_are_refused(impl):
    segments = np.array([0, 1, 1, 2], np.int32)
    valid = {
        "experts": choices(1, 4),
        "n_experts": 6,
        "capacity": [1, 2, 1],
        "segments": segments,
        "mask": np.array([True, True, False, True]),
    }
    check(impl, **valid)
    outside, below = valid["experts"].copy(), valid["experts"].copy()
    outside[3, 1], below[0, 2] = 6, -1
    check_refusals(
        impl.dispatch,
        valid,
        [
            ("experts", {"experts": valid["experts"][0]}),
            ("experts/n_experts", {"experts": outside}),
            ("experts", {"experts": below}),
            ("n_experts", {"n_experts": 0}),
            ("mask/experts", {"mask": valid["mask"][:3]}),
            ("mask/experts", {"mask": valid["mask"][:, None]}),
            ("segments/experts", {"segments": segments[:3]}),
            ("segments", {"segments": segments - 1}),
            ("capacity/segments", {"capacity": [1, 2]}),
            ("capacity", {"capacity": [1, -1, 2]}),
            ("capacity", {"capacity": -1}),
            ("priority", {"priority": "weight"}),
        ],
    )


@requirement("MOE-36")
def test_a_capacity_that_cannot_be_is_refused(impl):
    config = RouterConfig(2, capacity_factor=1.5)
    valid = {"tokens": 8, "n_experts": 4, "config": config}
    assert_equal(impl.expert_capacity(**valid), 6, "expert_capacity()")
    check_refusals(
        impl.expert_capacity,
        valid,
        [
            ("tokens", {"tokens": -1}),
            ("n_experts", {"n_experts": 0}),
            ("top_k/n_experts", {"n_experts": 1}),
            ("capacity_factor", {"config": RouterConfig(2)}),
            ("capacity_factor", {"config": RouterConfig(2, capacity_factor=-1.0)}),
        ],
    )
