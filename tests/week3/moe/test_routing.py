"""`route`: which experts, and with which weights."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_integers, assert_matches, check_refusals, refused
from grading.truth import GroundTruth
from spec import InvalidArgument, moe
from spec.moe import RouterConfig
from tests.week3.moe.cases import DTYPES, SEEDS, assert_experts, assert_routing, clear_logits

reference = GroundTruth("moe")

TOKENS = st.sampled_from([1, 4, 6])  # 6: as many as there are experts
GROUPS = RouterConfig(3, n_groups=4, top_groups=2)  # of 12 experts: 4 groups of 3
# Two groups; one open group with just the experts that are needed; all groups open.
OPEN = st.sampled_from([(4, 2), (2, 1), (4, 1), (3, 3)])


def check(impl, config, seed, tokens, n_experts=6, **options):
    logits = clear_logits(np.random.default_rng(seed), tokens, n_experts, config, **options)
    assert_routing(impl.route(logits, config), reference.route(logits, config))


def open_groups(groups, **changes):
    return replace(GROUPS, n_groups=groups[0], top_groups=groups[1], **changes)


def check_biased(impl, config, seed, tokens, n_experts, *, center=0.0):
    rng = np.random.default_rng(seed)
    bias = (center + 0.4 * rng.standard_normal(n_experts)).astype(np.float32)
    logits = clear_logits(rng, tokens, n_experts, config, bias=bias.astype(np.float64))
    assert_routing(
        impl.route(logits, config, selection_bias=bias),
        reference.route(logits, config, selection_bias=bias),
    )


@requirement("MOE-01")
@given(seed=SEEDS, tokens=TOKENS, k=st.integers(1, 6))
def test_the_weights_are_probabilities_among_all_experts(impl, seed, tokens, k):
    check(impl, RouterConfig(k), seed, tokens)


@requirement("MOE-02")
@given(
    logits=st.lists(st.lists(st.integers(-2, 2).map(float), min_size=8, max_size=8), min_size=1, max_size=4),
    k=st.integers(1, 8),
)
@example(logits=[[0.0] * 8], k=3)
@example(logits=[[-0.0, 0.0, -1.0, 0.0, -0.0, -1.0, -1.0, -1.0]], k=4)
def test_of_equal_logits_the_lower_id_comes_first(impl, logits, k):
    best_first = [sorted(range(8), key=lambda e, row=row: (-row[e], e))[:k] for row in logits]
    actual = impl.route(np.array(logits, np.float32), RouterConfig(k, "softmax_of_topk"))
    assert_integers(actual.experts, best_first, "experts")


@requirement("MOE-01")
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "softmax_of_topk"])
def test_without_tokens_there_is_no_choice(impl, scoring):
    logits, config = np.zeros((0, 6), np.float32), RouterConfig(2, scoring)
    assert_routing(impl.route(logits, config), reference.route(logits, config))


@requirement("MOE-02")
@pytest.mark.parametrize("scoring", ["sigmoid", "softmax_of_topk"])
def test_ties_are_the_same_in_a_long_batch(impl, scoring):
    rng = np.random.default_rng(1)
    logits = rng.integers(-2, 3, (150, 8)) * rng.choice(np.float32([-1, 1]), (150, 8))  # some zeros are −0
    best_first = [sorted(range(8), key=lambda e, row=row: (-row[e], e))[:5] for row in logits]
    assert_integers(impl.route(logits, RouterConfig(5, scoring)).experts, best_first, "experts")


@requirement("MOE-02")
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_of_equal_scores_the_lower_id_comes_first(impl, scoring):
    logits = np.full((3, 8), -3, np.float32)
    logits[0] = 0
    logits[1, [1, 4, 5, 7]] = 0
    logits[2, [6, 7]] = 0
    logits[2, 0] = -1
    actual = impl.route(logits, RouterConfig(3, scoring))
    assert_integers(actual.experts, [[0, 1, 2], [1, 4, 5], [6, 7, 0]], "experts")


@requirement("MOE-01")
@pytest.mark.parametrize("tokens", [1, 50])
def test_small_scores_are_told_apart(impl, tokens):
    """The probabilities of 16 experts, each 4.5 times that of the next one, end at 10^-10."""
    rng, config = np.random.default_rng(1), RouterConfig(14)
    logits = 1.5 * np.array([rng.permutation(16) for _ in range(tokens)], np.float32)
    assert_routing(impl.route(logits, config), reference.route(logits, config))


ORDERED = {
    "softmax": (RouterConfig(4), False),
    "softmax, biased": (RouterConfig(3), True),
    "softmax of the chosen": (RouterConfig(3, "softmax_of_topk"), False),
    "sigmoid, biased": (RouterConfig(4, "sigmoid", normalize=True), True),
    "groups": (RouterConfig(4, n_groups=3, top_groups=2), False),
}


@requirement("MOE-02")
@pytest.mark.parametrize(("config", "biased"), ORDERED.values(), ids=list(ORDERED))
@given(seed=SEEDS)
def test_the_best_expert_comes_first(impl, seed, config, biased):
    rng = np.random.default_rng(seed)
    bias = (0.4 * rng.standard_normal(6)).astype(np.float32) if biased else None
    logits = clear_logits(rng, 4, 6, config, bias=bias)
    actual = impl.route(logits, config, selection_bias=bias)
    expected = reference.route(logits, config, selection_bias=bias)
    assert_integers(actual.experts, expected.experts, "experts")
    assert_matches(actual.weights, expected.weights, "weights")


@requirement("MOE-03")
@given(seed=SEEDS, tokens=TOKENS, k=st.integers(2, 6))
def test_normalised_weights_sum_to_one(impl, seed, tokens, k):
    check(impl, RouterConfig(k, normalize=True), seed, tokens)


@requirement("MOE-04")
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@given(seed=SEEDS, tokens=TOKENS)
def test_a_single_expert_keeps_its_score(impl, seed, tokens, scoring):
    check(impl, RouterConfig(1, scoring), seed, tokens)


@requirement("MOE-04")
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@given(seed=SEEDS)
def test_a_single_normalised_weight_is_one(impl, seed, scoring):
    check(impl, RouterConfig(1, scoring, normalize=True), seed, 4)


@requirement("MOE-05")
@given(seed=SEEDS, tokens=TOKENS, k=st.integers(1, 6), normalize=st.booleans())
def test_softmax_over_the_chosen_logits(impl, seed, tokens, k, normalize):
    check(impl, RouterConfig(k, "softmax_of_topk", normalize), seed, tokens)


@requirement("MOE-06")
@given(seed=SEEDS, tokens=TOKENS, k=st.integers(2, 6), normalize=st.booleans())
def test_sigmoid_scores_are_independent(impl, seed, tokens, k, normalize):
    check(impl, RouterConfig(k, "sigmoid", normalize), seed, tokens)


@requirement("MOE-06")
def test_scores_that_vanish_give_weights_of_zero(impl):
    logits = np.full((2, 5), -200, np.float32)  # a sigmoid of 1e-87 is 0 in float32
    actual = impl.route(logits, RouterConfig(3, "sigmoid", normalize=True))
    assert actual.weights.shape == (2, 3), f"weights: expected shape (2, 3), got {actual.weights.shape}"
    assert (actual.weights == 0).all(), f"weights: expected 0, got {actual.weights}"


@requirement("MOE-06")
def test_small_scores_are_divided_by_a_small_sum(impl):
    logits = np.array([[-30, -31, -29, -32]], np.float32)  # sigmoids of 1e-13
    config = RouterConfig(2, "sigmoid", normalize=True)
    assert_routing(impl.route(logits, config), reference.route(logits, config))


BIASED = {
    "sigmoid": RouterConfig(3, "sigmoid"),
    "sigmoid, normalised": RouterConfig(2, "sigmoid", True),
    "softmax": RouterConfig(2),
    "groups": GROUPS,
}


@requirement("MOE-07")
@pytest.mark.parametrize("config", BIASED.values(), ids=list(BIASED))
@given(seed=SEEDS, tokens=TOKENS)
@example(seed=0, tokens=4)
def test_a_selection_bias_moves_only_the_choice(impl, seed, tokens, config):
    check_biased(impl, config, seed, tokens, 12)


@requirement("MOE-08")
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@given(seed=SEEDS, tokens=TOKENS, groups=OPEN)
@example(seed=1, tokens=4, groups=(4, 2))
@example(seed=1, tokens=4, groups=(2, 1))
@example(seed=1, tokens=4, groups=(4, 1))
@example(seed=1, tokens=4, groups=(3, 3))
def test_groups_with_the_best_expert(impl, seed, tokens, scoring, groups):
    check(impl, open_groups(groups, scoring=scoring), seed, tokens, 12)


@requirement("MOE-09")
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@given(seed=SEEDS, tokens=TOKENS, groups=OPEN)
@example(seed=1, tokens=4, groups=(4, 2))
@example(seed=1, tokens=4, groups=(2, 1))
def test_groups_with_the_best_two(impl, seed, tokens, scoring, groups):
    check(impl, open_groups(groups, scoring=scoring, group_score="top2_sum"), seed, tokens, 12)


@requirement("MOE-09")
@given(seed=SEEDS, tokens=TOKENS)
def test_a_group_of_one_expert_has_its_score(impl, seed, tokens):
    config = RouterConfig(2, "sigmoid", n_groups=6, top_groups=4, group_score="top2_sum")
    check(impl, config, seed, tokens)


@requirement("MOE-10")
@pytest.mark.parametrize("group_score", ["max", "top2_sum"])
@given(seed=SEEDS, tokens=TOKENS)
def test_closed_groups_stay_closed_when_all_scores_are_negative(impl, seed, tokens, group_score):
    config = replace(GROUPS, scoring="sigmoid", group_score=group_score)
    check_biased(impl, config, seed, tokens, 12, center=-3.0)


@requirement("MOE-10")
def test_a_closed_group_does_not_win_with_zero(impl):
    scores = np.array([[0.9, 0.1, 0.55, 0.5, 0.2, 0.3, 0.8, 0.05]])
    logits = np.log(scores / (1 - scores)).astype(np.float32)
    config = RouterConfig(2, "sigmoid", True, n_groups=4, top_groups=2, group_score="top2_sum")
    actual = impl.route(logits, config, selection_bias=-np.ones(8, np.float32))
    assert_experts(actual.experts, [[0, 2]])  # of groups 0 and 1


@requirement("MOE-10")
def test_no_number_opens_a_closed_group(impl):
    logits = np.zeros((1, 12), np.float32)
    bias = np.float32(-20000 - 8 * np.array([6, 0, 9, 3, 11, 10, 2, 7, 8, 1, 4, 5]))
    config = replace(GROUPS, scoring="sigmoid", top_groups=1)
    actual = impl.route(logits, config, selection_bias=bias)
    assert_experts(actual.experts, [[1, 0, 2]])  # of group 0, where expert 1 is the best of all


@requirement("MOE-11")
@pytest.mark.parametrize("group_score", ["max", "top2_sum"])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_of_equal_groups_the_lower_id(impl, scoring, group_score):
    config = RouterConfig(3, scoring, n_groups=4, top_groups=2, group_score=group_score)
    logits = np.zeros((3, 8), np.float32)
    logits[1, :2] = -2  # groups 1, 2 and 3 are equal
    logits[2, 2:6] = -2  # groups 0 and 3
    actual = impl.route(logits, config)
    assert_experts(actual.experts, [[0, 1, 2], [2, 3, 4], [0, 1, 6]])


SCALED = {
    "softmax": RouterConfig(3, scale=16.0),
    "softmax, normalised": RouterConfig(3, normalize=True, scale=2.5),
    "softmax of the chosen": RouterConfig(2, "softmax_of_topk", scale=2.5),
    "sigmoid, normalised": RouterConfig(2, "sigmoid", normalize=True, scale=0.5),
    "by 0": RouterConfig(3, normalize=True, scale=0.0),
}


@requirement("MOE-12")
@pytest.mark.parametrize("config", SCALED.values(), ids=list(SCALED))
@given(seed=SEEDS, tokens=TOKENS)
@example(seed=1, tokens=1)
def test_the_scale_comes_last(impl, seed, tokens, config):
    check(impl, config, seed, tokens)


@requirement("MOE-13")
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "softmax_of_topk"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@given(seed=SEEDS, normalize=st.booleans())
@example(seed=1, normalize=False)
def test_half_precision_logits_are_scored_in_float32(impl, seed, normalize, scoring, dtype):
    check(impl, RouterConfig(3, scoring, normalize), seed, 4, dtype=dtype)


@requirement("MOE-13")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_bias_on_half_precision_scores_is_not_rounded(impl, dtype):
    logits = np.zeros((1, 8), DTYPES[dtype])
    bias = 8 + 2.0**-9 * np.array(
        [[3, 7, 0, 5, 1, 6, 4, 2]]
    )  # near 8, half precision has steps of 2^-7 or more
    actual = impl.route(logits, RouterConfig(3, "sigmoid"), selection_bias=np.float32(bias[0]))
    assert_experts(actual.experts, [[1, 5, 3]])


@requirement("MOE-13")
@pytest.mark.parametrize("scoring", ["softmax", "softmax_of_topk"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@given(seed=SEEDS)
def test_weights_may_be_rounded_where_the_model_rounds_them(impl, seed, scoring, dtype):
    check(impl, RouterConfig(3, scoring, router_dtype="activations"), seed, 4, dtype=dtype)


@requirement("MOE-13")
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "softmax_of_topk"])
def test_large_logits_stay_finite(impl, scoring):
    logits = np.array([[-1e4, 1e4, -2e4, 5.0], [-3e4, 3.0, -2e4, -4e4], [3e4, -1e4, 1e4, 2e4]], np.float32)
    if scoring == "sigmoid":
        logits = logits[:2]  # in the last row three sigmoids are 1, and only to rounding equal
    config = RouterConfig(1, scoring)
    assert_routing(impl.route(logits, config), reference.route(logits, config))


@requirement("MOE-14")
def test_routers_that_cannot_work_are_refused(impl):
    logits = clear_logits(np.random.default_rng(1), 3, 8, RouterConfig(2))
    bias = np.zeros(8, np.float32)
    config = RouterConfig(2, "sigmoid", True, n_groups=4, top_groups=2)
    valid = {"logits": logits, "config": config, "selection_bias": bias}
    assert_routing(impl.route(**valid), reference.route(**valid))
    broken = logits.copy()
    broken[1, 5] = np.nan
    grouped = replace(config, scoring="softmax_of_topk")
    chosen = replace(grouped, n_groups=1, top_groups=1)
    unscaled = replace(config, normalize=False, renormalize_after_drop=True)
    check_refusals(
        impl.route,
        valid,
        [
            ("logits", {"logits": broken}),
            ("logits", {"logits": logits[0]}),
            ("selection_bias/logits", {"selection_bias": bias[:7]}),
            ("selection_bias/logits", {"selection_bias": bias[None]}),
            ("logits", {"logits": logits[None]}),
            ("selection_bias/scoring", {"config": chosen}),
            ("n_groups/scoring", {"config": grouped, "selection_bias": None}),
            ("top_k", {"config": replace(config, top_k=0)}),
            ("top_k/logits", {"config": replace(config, top_k=9, n_groups=1, top_groups=1)}),
            ("n_groups/logits", {"config": replace(config, n_groups=3)}),
            ("n_groups", {"config": replace(config, n_groups=0)}),
            ("top_groups/n_groups", {"config": replace(config, top_groups=5)}),
            ("top_groups", {"config": replace(config, top_groups=0)}),
            ("top_groups/top_k", {"config": replace(config, top_k=5)}),
            ("scoring", {"config": replace(config, scoring="tanh")}),
            ("group_score", {"config": replace(config, group_score="mean")}),
            ("capacity_factor", {"config": replace(config, capacity_factor=0.0)}),
            ("capacity_rounding", {"config": replace(config, capacity_rounding="round")}),
            ("min_capacity", {"config": replace(config, min_capacity=-1)}),
            ("priority", {"config": replace(config, priority="weight")}),
            ("router_dtype", {"config": replace(config, router_dtype="float8")}),
            ("renormalize_after_drop/normalize", {"config": unscaled}),
        ],
    )


@requirement("MOE-14")
def test_nan_logits_are_refused_in_every_dtype(impl):
    config = RouterConfig(2, router_dtype="activations")  # so that rounded weights are no reason to fail
    logits = clear_logits(np.random.default_rng(1), 2, 4, config, dtype="bfloat16")
    assert_routing(impl.route(logits, config), reference.route(logits, config))
    logits[1, 3] = np.nan
    with refused(InvalidArgument, "logits"):
        impl.route(logits, config)


PRESETS = {
    "SWITCH": 8,
    "MIXTRAL": 8,
    "QWEN2_MOE": 60,
    "QWEN3_MOE": 128,
    "DEEPSEEK_V2": 160,
    "DEEPSEEK_V3": 256,
    "GPT_OSS": 32,
}


@requirement("MOE-15")
@pytest.mark.parametrize("preset", PRESETS)
@given(seed=SEEDS)
@example(seed=1)
def test_a_preset_routes_as_its_model_does(impl, preset, seed):
    config = getattr(moe, preset)
    rng = np.random.default_rng(seed)
    bias = None
    if preset == "DEEPSEEK_V3":
        bias = (0.2 * rng.standard_normal(256)).astype(np.float32)
    logits = clear_logits(rng, 2, PRESETS[preset], config, bias=bias, spread=5.0)
    assert_routing(
        impl.route(logits, config, selection_bias=bias), reference.route(logits, config, selection_bias=bias)
    )
