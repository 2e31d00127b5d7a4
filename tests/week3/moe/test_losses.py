"""Losses that keep the experts busy, the measures of balance, and the bias that needs no loss."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_integers, assert_matches, check_refusals
from grading.truth import GroundTruth
from tests.week3.moe.cases import DTYPES, SEEDS, normal

reference = GroundTruth("moe")

GROUPS = st.sampled_from([(1, 1), (1, 6), (2, 4), (3, 5), (2, 7), (2, 0)])  # 7: as many as experts
OPTIONS = {
    "scoring": st.sampled_from(["softmax", "sigmoid"]),
    "pooling": st.sampled_from(["all", "each"]),
    "divide_by_k": st.booleans(),
}
BOTH = pytest.mark.parametrize("loss", ["load_balancing_loss", "load_balancing_loss_grad"])


def assignments(rng, shape, n_experts, k):
    """Some experts are never used, others much."""
    used = rng.permutation(n_experts)[: max(k, n_experts - 1)]
    ids = [rng.permutation(used)[:k] for _ in range(np.prod(shape))]
    return np.array(ids, np.int32).reshape(*shape, k)


def check(impl, loss, seed, groups, n_experts=7, k=3, masked=0.0, dtype="float32", **options):
    rng = np.random.default_rng(seed)
    logits = normal(rng, (*groups, n_experts), dtype, 2.0)
    experts = assignments(rng, groups, n_experts, k)
    if masked:
        mask = options["mask"] = rng.random(groups) >= masked
        logits[~mask] = np.nan
        experts[~mask] = -1
    arguments = logits, experts, n_experts
    assert_matches(
        getattr(impl, loss)(*arguments, **options), getattr(reference, loss)(*arguments, **options)
    )


@requirement("MOE-43")
@given(seed=SEEDS, groups=GROUPS, k=st.integers(1, 4), divide_by_k=st.booleans())
@example(seed=1, groups=(1, 6), k=3, divide_by_k=False)
@example(seed=1, groups=(1, 6), k=3, divide_by_k=True)
@example(seed=1, groups=(2, 0), k=3, divide_by_k=True)
def test_the_balance_loss_counts_slots_and_averages_scores(impl, seed, groups, k, divide_by_k):
    check(impl, "load_balancing_loss", seed, groups, k=k, divide_by_k=divide_by_k)


@requirement("MOE-43")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_balance_loss_is_float32(impl, dtype):
    check(impl, "load_balancing_loss", 1, (2, 5), dtype=dtype)


@requirement("MOE-46")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_gradient_is_float32(impl, seed, dtype):
    check(impl, "load_balancing_loss_grad", seed, (2, 5), dtype=dtype)


@requirement("MOE-43")
@BOTH
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_the_balance_loss_of_large_logits_is_finite(impl, loss, scoring):
    logits = np.array([[[1e4, 1e4 - 1, 0], [-1e4, 3, 2], [-1e4, -1e4, -1e4 + 1]]], np.float32)
    arguments = logits, np.array([[[0], [1], [2]]], np.int32), 3
    actual = getattr(impl, loss)(*arguments, scoring=scoring)
    assert_matches(actual, getattr(reference, loss)(*arguments, scoring=scoring))


@requirement("MOE-43")
def test_the_balance_loss_may_fall_below_one(impl):
    probabilities = np.array([[[0.51, 0.49]] * 9 + [[1e-6, 1 - 1e-6]]])
    logits = np.log(probabilities).astype(np.float32)
    experts = np.array([[[0]] * 9 + [[1]]], np.int32)
    assert_matches(
        impl.load_balancing_loss(logits, experts, 2), reference.load_balancing_loss(logits, experts, 2)
    )


@requirement("MOE-44")
@given(seed=SEEDS, groups=GROUPS)
@example(seed=1, groups=(1, 6))
def test_sigmoid_scores_are_divided_by_their_sum(impl, seed, groups):
    check(impl, "load_balancing_loss", seed, groups, scoring="sigmoid")


@requirement("MOE-44")
def test_sigmoid_scores_that_vanish_make_no_nan(impl):
    arguments = np.full((1, 2, 4), -200, np.float32), np.array([[[0, 1], [2, 3]]], np.int32), 4
    for loss in ("load_balancing_loss", "load_balancing_loss_grad"):
        actual = getattr(impl, loss)(*arguments, scoring="sigmoid")
        assert_matches(actual, getattr(reference, loss)(*arguments, scoring="sigmoid"), loss)


@requirement("MOE-45")
@given(seed=SEEDS, groups=GROUPS, pooling=st.sampled_from(["all", "each"]), masked=st.sampled_from([0, 0.4]))
@example(seed=1, groups=(3, 5), pooling="all", masked=0)
@example(seed=1, groups=(3, 5), pooling="each", masked=0)
@example(seed=1, groups=(3, 5), pooling="each", masked=0.4)  # groups with tokens of different number
def test_pooled_is_not_averaged(impl, seed, groups, pooling, masked):
    check(impl, "load_balancing_loss", seed, groups, pooling=pooling, masked=masked)


@requirement("MOE-46")
@given(seed=SEEDS, groups=GROUPS, **OPTIONS)
@example(seed=1, groups=(3, 5), scoring="softmax", pooling="each", divide_by_k=True)
@example(seed=1, groups=(3, 5), scoring="sigmoid", pooling="all", divide_by_k=False)
def test_the_gradient_goes_through_the_scores_alone(impl, seed, groups, scoring, pooling, divide_by_k):
    options = {"scoring": scoring, "pooling": pooling, "divide_by_k": divide_by_k}
    check(impl, "load_balancing_loss_grad", seed, groups, **options)


@requirement("MOE-47")
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=SEEDS, tokens=st.sampled_from([0, 1, 5, 6]))
@example(seed=1, tokens=0)
def test_the_z_loss_is_the_mean_squared_log_sum_exp(impl, seed, tokens, dtype):
    logits = normal(np.random.default_rng(seed), (tokens, 6), dtype, 2.0)
    assert_matches(impl.router_z_loss(logits), reference.router_z_loss(logits))


@requirement("MOE-47")
@pytest.mark.parametrize("center", [-1e4, 0.0, 1e4])
def test_the_z_loss_of_large_logits_is_finite(impl, center):
    logits = np.array([[0, 0, 0, 0], [1, 2, 3, 4]], np.float32) + np.float32(center)
    assert_matches(impl.router_z_loss(logits), reference.router_z_loss(logits))


def assert_balance(actual, expected):
    assert_integers(actual.load, expected.load, "load")
    assert_matches(actual.violation, expected.violation, "violation")
    assert_matches(actual.entropy, expected.entropy, "entropy")


@requirement("MOE-48")
@given(seed=SEEDS, shape=st.sampled_from([(8, 1), (4, 2), (8, 3), (16, 1)]))
@example(seed=1, shape=(8, 3))
def test_balance_has_load_violation_and_entropy(impl, seed, shape):
    tokens, k = shape
    n_experts = 6 if k == 3 else 8  # a mean load of 1, 2 or 4, so that max / mean − 1 loses nothing
    experts = assignments(np.random.default_rng(seed), (tokens,), n_experts, k)
    assert_balance(impl.balance(experts, n_experts), reference.balance(experts, n_experts))


@requirement("MOE-48")
@pytest.mark.parametrize("experts", [[[0, 1], [2, 3]], [[1], [1]], [], [[2]] * 300])
@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_balance_at_its_ends(impl, experts, dtype):
    experts = np.array(experts, dtype).reshape(len(experts), -1 if experts else 2)
    assert_balance(impl.balance(experts, 4), reference.balance(experts, 4))


@requirement("MOE-49")
@given(seed=SEEDS, rate=st.sampled_from([0.0, 0.001, 0.25]))
@example(seed=1, rate=0.25)
def test_the_bias_follows_the_sign_of_the_load(impl, seed, rate):
    rng = np.random.default_rng(seed)
    bias = normal(rng, (6,))
    load = rng.integers(0, 4, 6).astype(np.int32)
    actual = impl.update_selection_bias(bias, load, rate)
    assert_matches(actual, reference.update_selection_bias(bias, load, rate))


@requirement("MOE-49")
def test_a_load_that_is_the_mean_moves_nothing(impl):
    bias = np.array([0.5, -0.25, 0, 0.125, 1], np.float32)
    for load in ([3, 3, 3, 3, 3], [1, 5, 3, 0, 6], [0, 0, 0, 0, 0]):
        load = np.array(load, np.int32)
        actual = impl.update_selection_bias(bias, load, 0.25)
        assert_matches(actual, reference.update_selection_bias(bias, load, 0.25))


@requirement("MOE-49")
@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_loads_are_compared_without_overflow(impl, dtype):
    unit = 2**28 if dtype != np.uint8 else 30  # a sum of 12 units does not fit
    load = (unit * np.array([1, 5, 3, 0, 3])).astype(dtype)
    bias = np.zeros(5, np.float32)
    actual = impl.update_selection_bias(bias, load, 0.25)
    assert_matches(actual, reference.update_selection_bias(bias, load, 0.25))


@requirement("MOE-49")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bias_is_float32(impl, dtype):
    bias, load = normal(np.random.default_rng(1), (4,), dtype), np.array([3, 1, 4, 0], np.int32)
    actual = impl.update_selection_bias(bias, load, 0.001)
    assert_matches(actual, reference.update_selection_bias(bias, load, 0.001))


@requirement("MOE-61")
@BOTH
@given(seed=SEEDS, **OPTIONS)
@example(seed=1, scoring="softmax", pooling="each", divide_by_k=False)
@example(seed=1, scoring="sigmoid", pooling="all", divide_by_k=False)
def test_padding_does_not_count_in_the_balance_loss(impl, loss, seed, scoring, pooling, divide_by_k):
    options = {"scoring": scoring, "pooling": pooling, "divide_by_k": divide_by_k}
    check(impl, loss, seed, (3, 5), masked=0.4, **options)


@requirement("MOE-61")
@BOTH
@pytest.mark.parametrize("pooling", ["all", "each"])
def test_a_group_of_padding_is_left_out(impl, loss, pooling):
    rng = np.random.default_rng(1)
    logits, experts = normal(rng, (3, 4, 6)), assignments(rng, (3, 4), 6, 2)
    for full in ([0, 2], [1], []):
        mask = np.zeros((3, 4), bool)
        mask[full] = True
        options = {"mask": mask, "pooling": pooling}
        actual = getattr(impl, loss)(logits, experts, 6, **options)
        assert_matches(actual, getattr(reference, loss)(logits, experts, 6, **options))


@requirement("MOE-61")
@given(seed=SEEDS)
@example(seed=1)
def test_padding_does_not_count_in_the_z_loss(impl, seed):
    rng = np.random.default_rng(seed)
    logits = normal(rng, (6, 5))
    for mask in (rng.random(6) < 0.6, np.zeros(6, bool)):
        logits[~mask] = np.nan
        actual = impl.router_z_loss(logits, mask=mask)
        assert_matches(actual, reference.router_z_loss(logits, mask=mask))


@requirement("MOE-62")
@BOTH
def test_bad_arguments_of_the_balance_loss_are_refused(impl, loss):
    rng = np.random.default_rng(1)
    valid = {
        "logits": normal(rng, (2, 4, 6)),
        "experts": assignments(rng, (2, 4), 6, 2),
        "n_experts": 6,
        "mask": np.ones((2, 4), bool),
    }
    assert_matches(getattr(impl, loss)(**valid), getattr(reference, loss)(**valid))
    outside, below = valid["experts"].copy(), valid["experts"].copy()
    outside[1, 2, 0], below[0, 0, 1] = 6, -1
    check_refusals(
        getattr(impl, loss),
        valid,
        [
            ("logits", {"logits": valid["logits"][0]}),
            ("logits/n_experts", {"n_experts": 7}),
            ("experts/logits", {"experts": valid["experts"][:1]}),
            ("experts", {"experts": valid["experts"][:, :, 0]}),
            ("experts/n_experts", {"experts": outside}),
            ("experts", {"experts": below}),
            ("mask/logits/experts", {"mask": valid["mask"][:, :3]}),
            ("scoring", {"scoring": "softmax_of_topk"}),
            ("pooling", {"pooling": "mean"}),
        ],
    )


@requirement("MOE-62")
def test_bad_arguments_of_the_measures_are_refused(impl):
    rng = np.random.default_rng(1)
    logits, experts = normal(rng, (4, 6)), assignments(rng, (4,), 6, 2)
    mask = np.array([True, True, False, True])
    assert_matches(impl.router_z_loss(logits, mask=mask), reference.router_z_loss(logits, mask=mask))
    check_refusals(
        impl.router_z_loss,
        {"logits": logits, "mask": mask},
        [("logits", {"logits": logits[None]}), ("mask/logits", {"mask": mask[:3]})],
    )
    assert_balance(impl.balance(experts, 6), reference.balance(experts, 6))
    check_refusals(
        impl.balance,
        {"experts": experts, "n_experts": 6},
        [
            ("experts", {"experts": experts[0]}),
            ("experts/n_experts", {"experts": experts + 5}),
            ("experts", {"experts": experts - 5}),
        ],
    )
    valid = {"bias": np.zeros(6, np.float32), "load": np.arange(6, dtype=np.int32), "rate": 0.5}
    assert_matches(impl.update_selection_bias(**valid), reference.update_selection_bias(**valid))
    check_refusals(
        impl.update_selection_bias,
        valid,
        [("load/bias", {"load": valid["load"][:5]}), ("rate", {"rate": -0.5})],
    )
