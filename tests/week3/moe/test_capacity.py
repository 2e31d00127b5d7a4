"""`moe_ffn` with full experts, padding and several requests."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_matches
from grading.truth import GroundTruth
from spec.moe import RouterConfig
from tests.week3.moe.cases import SEEDS, Size, assert_output, layer, rows_of

reference = GroundTruth("moe")

SIZE = Size(4, 5, 7)
TIGHT = RouterConfig(2, normalize=True, capacity_factor=0.5)
CONFIGS = st.sampled_from(
    [
        TIGHT,
        replace(TIGHT, priority="choice_then_position"),
        replace(TIGHT, capacity_factor=1.0, scoring="sigmoid", scale=2.5),
        RouterConfig(3, capacity_factor=0.75, capacity_rounding="floor"),
        RouterConfig(2, capacity_factor=0.25, capacity_rounding="floor", min_capacity=2),
    ]
)
TOKENS = st.sampled_from([1, 3, 7])


def check(impl, case):
    assert_output(case.run(impl), case.run(reference))


def assert_zero(rows, what):
    assert (rows == 0).all(), f"{what}: expected exactly 0, got {rows}"


@requirement("MOE-37")
@given(seed=SEEDS, tokens=TOKENS, config=CONFIGS)
@example(seed=1, tokens=7, config=TIGHT)
@example(seed=1, tokens=7, config=replace(TIGHT, priority="choice_then_position"))
@example(seed=1, tokens=7, config=RouterConfig(2, capacity_factor=0.25, min_capacity=2))
@example(seed=1, tokens=1, config=RouterConfig(2, capacity_factor=0.25, capacity_rounding="floor"))
def test_a_dropped_slot_contributes_nothing(impl, seed, tokens, config):
    check(impl, layer(seed, config, tokens, SIZE, shared="plain", biases=True))


@requirement("MOE-37")
@given(seed=SEEDS)
@example(seed=1)
def test_a_token_without_any_expert_is_zero(impl, seed):
    config = RouterConfig(1, capacity_factor=0.5)  # one place in each of 4 experts, for 7 tokens
    case = layer(seed, config, 7, SIZE, biases=True)
    expected, actual = case.run(reference), case.run(impl)
    assert_output(actual, expected)
    lost = ~reference.dispatch(expected.routing.experts, 4, 1).kept[:, 0]
    assert_zero(actual.y[lost], "y of tokens that were dropped")


@requirement("MOE-37")
def test_experts_without_a_place_leave_nothing(impl):
    case = layer(1, RouterConfig(2, capacity_factor=0.25, capacity_rounding="floor"), 5, SIZE)
    actual = case.run(impl)
    assert_output(actual, case.run(reference))
    assert_zero(actual.y, "y with a capacity of 0")


@requirement("MOE-38")
@given(
    seed=SEEDS,
    tokens=TOKENS,
    config=st.sampled_from([TIGHT, replace(TIGHT, scale=2.5), RouterConfig(2, "softmax_of_topk")]),
    renormalize=st.booleans(),
)
@example(seed=1, tokens=7, config=TIGHT, renormalize=False)
@example(seed=1, tokens=7, config=replace(TIGHT, scale=2.5), renormalize=True)
def test_weights_are_renormalised_only_on_request(impl, seed, tokens, config, renormalize):
    config = replace(config, capacity_factor=0.5, renormalize_after_drop=renormalize)
    check(impl, layer(seed, config, tokens, SIZE, shared="plain"))


@requirement("MOE-39")
@pytest.mark.parametrize("config", [RouterConfig(2), TIGHT, replace(TIGHT, renormalize_after_drop=True)])
@given(seed=SEEDS)
@example(seed=1)
def test_padding_is_zero_and_changes_nothing(impl, seed, config):
    case = layer(seed, config, 7, SIZE, shared="gated", biases=True)
    mask = np.array([True, False, True, True, False, False, True])
    mask = np.random.default_rng(seed).permutation(mask)
    expected = replace(case, x=case.x[mask]).run(reference)
    x = case.x.copy()
    for padding in (1.0, np.nan):
        x[~mask] = padding
        actual = replace(case, x=x).with_options(mask=mask).run(impl)
        assert_output(rows_of(actual, mask), expected)
        assert_zero(actual.y[~mask], "y of padding")


@requirement("MOE-39")
@pytest.mark.parametrize("config", [RouterConfig(2), TIGHT])
@pytest.mark.parametrize("segments", [None, np.zeros(3, np.int32)])
def test_a_batch_may_be_padding_alone(impl, config, segments):
    case = layer(1, config, 3, SIZE, shared="plain").with_options(mask=np.zeros(3, bool), segments=segments)
    assert_matches(case.run(impl).y, case.run(reference).y, "y")


@requirement("MOE-40")
@pytest.mark.parametrize("config", [TIGHT, replace(TIGHT, priority="choice_then_position")])
@given(seed=SEEDS)
@example(seed=1)
def test_with_segments_no_request_sees_another(impl, seed, config):
    lengths = [1, 6, 0, 3]
    case = layer(seed, config, sum(lengths), SIZE)
    requests = np.array([5, 0, 3, 40], np.int32)  # a number may be larger than there are tokens
    segments = np.random.default_rng(seed).permutation(np.repeat(requests, lengths))
    actual = case.with_options(segments=segments).run(impl)
    for request in np.unique(segments):
        mine = segments == request
        alone = replace(case, x=case.x[mine]).run(reference)
        assert_output(rows_of(actual, mine), alone)


@requirement("MOE-40")
@given(seed=SEEDS, masked=st.booleans())
@example(seed=1, masked=True)
def test_padding_takes_no_place_in_its_segment(impl, far_id, seed, masked):
    case = layer(seed, TIGHT, 8, SIZE)
    rng = np.random.default_rng(seed)
    segments = rng.integers(0, 2, 8).astype(np.int32)
    mask = rng.random(8) < 0.7 if masked else np.ones(8, bool)
    for padding in (segments[~mask], -1, far_id(2)):
        segments[~mask] = padding
        masked_case = case.with_options(segments=segments, mask=mask)
        assert_output(masked_case.run(impl), masked_case.run(reference), mask)


@requirement("MOE-40")
@given(seed=SEEDS)
@example(seed=1)
def test_without_segments_neighbours_take_places(impl, seed):
    case = layer(seed, TIGHT, 1, SIZE)
    check(impl, replace(case, x=np.repeat(case.x, 5, axis=0)))  # all want the same two experts
