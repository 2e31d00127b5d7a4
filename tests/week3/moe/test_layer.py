"""`moe_ffn` without capacity: what a layer computes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_identical, assert_integers, assert_matches, check_refusals
from grading.truth import GroundTruth
from spec.moe import RouterConfig
from tests.week3.moe.cases import (
    CONFIGS,
    DTYPES,
    GROUPED,
    SEEDS,
    SIZES,
    Size,
    assert_output,
    layer,
    layers,
    rows_of,
)

reference = GroundTruth("moe")

SCALED = RouterConfig(2, normalize=True, scale=2.5)
HALVES = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


def check(impl, case):
    assert_output(case.run(impl), case.run(reference))


@requirement("MOE-16")
@given(case=layers())
def test_a_token_gets_the_weighted_sum_of_its_experts(impl, case):
    check(impl, case)


@requirement("MOE-16")
@pytest.mark.parametrize("gate", [False, True])
def test_large_products_stay_finite(impl, gate):
    check(impl, layer(1, RouterConfig(2), 5, Size(6, 5, 7), gate=gate, magnitude=200.0))  # exp 89 overflows


@requirement("MOE-17")
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("activation", ["relu", "silu"])
@given(seed=SEEDS, size=SIZES)
def test_an_expert_may_have_no_gate(impl, seed, size, activation, gate):
    check(impl, layer(seed, RouterConfig(1), 3, size, gate=gate, activation=activation))


@requirement("MOE-18")
@given(
    seed=SEEDS,
    size=SIZES,
    limits=st.sampled_from([{}, {"limit": 1.0}, {"limit": 2.5, "alpha": 0.7}]),
    biases=st.booleans(),
)
@example(seed=1, size=Size(8, 10, 4), limits={}, biases=False)
@example(seed=1, size=Size(8, 10, 4), limits={"limit": 1.0}, biases=False)
@example(seed=1, size=Size(8, 10, 4), limits={"limit": 1.0}, biases=True)
def test_gpt_oss_clamps_its_experts(impl, seed, size, limits, biases):
    config, options = RouterConfig(2, "softmax_of_topk"), {"activation": "swigluoai", "biases": biases}
    check(impl, layer(seed, config, 3, size, magnitude=5.0, **options, **limits))


@requirement("MOE-19")
@given(
    case=layers(config=RouterConfig(2, "softmax_of_topk"), biases=True, activation="swigluoai")
    | layers(config=RouterConfig(2), biases=True)
    | layers(config=RouterConfig(2), biases=True, gate=False, activation="relu")
)
@example(case=layer(1, RouterConfig(2), 3, Size(6, 5, 7), biases=True))
def test_biases_are_weighted_with_their_expert(impl, case):
    check(impl, case)


@requirement("MOE-19")
@pytest.mark.parametrize("only", ["gate_bias", "up_bias", "down_bias"])
def test_each_bias_may_be_the_only_one(impl, only):
    case = layer(1, RouterConfig(2), 3, Size(6, 5, 7), biases=True)
    others = {name: None for name in ("gate_bias", "up_bias", "down_bias") if name != only}
    check(impl, replace(case, experts=replace(case.experts, **others)))


@requirement("MOE-20")
@given(
    case=layers(config=SCALED, shared="plain")
    | layers(config=SCALED, shared="plain", activation="relu")
    | layers(config=SCALED, shared="plain", activation="swigluoai", biases=True)
)
@example(case=layer(1, SCALED, 3, Size(6, 5, 7), shared="plain", activation="relu"))
@example(case=layer(1, SCALED, 3, Size(6, 5, 7), shared="plain", biases=True))
def test_the_shared_expert_is_added_as_it_is(impl, case):
    check(impl, case)


@requirement("MOE-21")
@given(case=layers(config=SCALED, shared="gated"))
def test_a_gated_shared_expert_is_scaled_by_its_gate(impl, case):
    check(impl, case)


@requirement("MOE-22")
@given(
    case=layers(config=RouterConfig(2, "softmax_of_topk"), router_bias=True)
    | layers(config=RouterConfig(2, "sigmoid", True, scale=2.5), selection_bias=True)
    | layers(config=RouterConfig(2), router_bias=True, selection_bias=True)
)
@example(case=layer(1, RouterConfig(2), 3, Size(6, 5, 7), router_bias=True, selection_bias=True))
@example(case=layer(1, RouterConfig(2, "softmax_of_topk"), 3, Size(6, 5, 7), router_bias=True))
def test_the_logits_are_handed_out_raw(impl, case):
    check(impl, case)


@requirement("MOE-22")
@pytest.mark.parametrize("selection_bias", [False, True])
@given(seed=SEEDS)
def test_the_routing_is_that_of_route(impl, seed, selection_bias):
    case = layer(seed, RouterConfig(3, "sigmoid"), 4, Size(8, 10, 4), selection_bias=selection_bias)
    actual = case.run(impl)
    routing = impl.route(actual.logits, case.config, selection_bias=case.options.get("selection_bias"))
    assert_integers(actual.routing.experts, routing.experts, "experts, against those of route")


@requirement("MOE-23")
@HALVES
@given(seed=SEEDS)
def test_logits_are_not_rounded_to_half_precision(impl, seed, dtype):
    rng = np.random.default_rng(seed)
    size = Size(8, 5, 7)
    step = {"float16": 2**-9, "bfloat16": 2**-6}[dtype]  # near 8 the dtype itself has steps 4 times as large
    case = layer(seed, RouterConfig(3, normalize=True), 2, size, dtype=dtype)
    router_weight = np.zeros((size.experts, size.width), DTYPES[dtype])
    router_weight[:, 0] = 8
    router_weight[:, 1] = step * rng.permutation(size.experts)
    x = case.x.copy()
    x[:, :2] = 1
    check(impl, replace(case, x=x, router_weight=router_weight))


@requirement("MOE-23")
@HALVES
@given(seed=SEEDS, scoring=st.sampled_from(["softmax", "softmax_of_topk"]))
def test_logits_may_be_rounded_where_the_model_rounds_them(impl, seed, scoring, dtype):
    config = RouterConfig(2, scoring, router_dtype="activations")
    check(impl, layer(seed, config, 4, Size(6, 5, 7), dtype=dtype, router_bias=True))


@requirement("MOE-24")
@HALVES
@given(data=st.data())
def test_half_precision_outside_float32_inside(impl, data, dtype):
    config = replace(data.draw(CONFIGS), router_dtype="activations")
    check(impl, data.draw(layers(config, dtype=dtype, shared="gated", biases=True)))


@requirement("MOE-24")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", DTYPES)
@given(seed=SEEDS)
def test_weights_may_have_another_dtype_than_the_tokens(impl, seed, dtype, weights):
    options = {"router_bias": True, "shared": "gated", "biases": True}
    check(impl, layer(seed, RouterConfig(2), 3, Size(6, 5, 7), dtype=dtype, weights=weights, **options))


@requirement("MOE-24")
@HALVES
@pytest.mark.parametrize("name", ["gate", "up"])
def test_a_float32_matrix_is_not_rounded_to_the_dtype_of_the_tokens(impl, dtype, name):
    case = layer(1, RouterConfig(2), 3, Size(6, 5, 7), dtype=dtype, weights="float32")
    x, router_weight = case.x.copy(), np.zeros_like(case.router_weight)
    x[:, :2] = 1
    router_weight[:, 0] = np.arange(6)
    matrix = getattr(case.experts, name).copy()
    matrix[:, :, 0] += 4096  # in half precision a multiple of 4 or more
    matrix[:, :, 1] -= 4096
    experts = replace(case.experts, **{name: matrix})
    check(impl, replace(case, x=x, router_weight=router_weight, experts=experts))


@requirement("MOE-24")
@HALVES
@given(seed=SEEDS)
def test_long_sums_keep_their_precision(impl, seed, dtype):
    # All terms positive: a sum kept in half precision would stop growing.
    config = RouterConfig(2, router_dtype="activations")
    check(impl, layer(seed, config, 2, Size(4, 320, 40), dtype=dtype, positive=True))


@requirement("MOE-25")
@given(case=layers(config=RouterConfig(2, normalize=True), min_tokens=2), seed=SEEDS)
@example(case=layer(1, RouterConfig(2, normalize=True), 5, Size(6, 5, 7)), seed=1)
def test_neighbours_do_not_matter(impl, case, seed):
    alone = replace(case, x=case.x[:1]).run(reference)
    neighbours = case.x[np.random.default_rng(seed).integers(len(case.x), size=9)]
    for others in (case.x[1:], neighbours):
        actual = replace(case, x=np.concatenate([others, case.x[:1]])).run(impl)
        assert_output(rows_of(actual, slice(-1, None)), alone)


@requirement("MOE-25")
@pytest.mark.parametrize("n_experts", [4, 12])
def test_a_long_batch_is_computed_like_a_short_one(impl, n_experts):
    check(impl, layer(1, RouterConfig(2, normalize=True), 90, Size(n_experts, 5, 7), shared="plain"))


@requirement("MOE-25")
@given(case=layers(config=RouterConfig(3), min_tokens=2))
@example(case=layer(1, RouterConfig(3), 5, Size(8, 10, 4)))
def test_the_same_call_gives_the_same_bits(impl, case):
    once, again = case.run(impl), case.run(impl)
    assert_matches(once.y, case.run(reference).y, "y")
    assert_identical(again.y, once.y, "y of the same call again")
    assert_identical(again.routing.weights, once.routing.weights, "weights of the same call again")


@requirement("MOE-26")
@given(case=layers(min_tokens=2, shared="plain"), bad=st.sampled_from([0, 1]), whole=st.booleans())
@example(case=layer(1, RouterConfig(2), 5, Size(6, 5, 7)), bad=1, whole=False)
@example(case=layer(1, GROUPED, 5, Size(6, 5, 7)), bad=1, whole=True)
def test_nan_stays_in_its_row(impl, case, bad, whole):
    others = np.arange(len(case.x)) != bad
    x = case.x.copy()
    x[bad, slice(None) if whole else 0] = np.nan
    actual = replace(case, x=x).run(impl)
    expected = case.run(reference)
    assert_output(actual, expected, others)
    assert np.isnan(actual.y[bad]).all(), f"y[{bad}]: expected NaN, got {actual.y[bad]}"
    ids = actual.routing.experts[bad]
    n_experts = len(case.router_weight)
    assert len(set(ids)) == len(ids) and (ids >= 0).all() and (ids < n_experts).all(), (
        f"experts[{bad}]: expected distinct ids below {n_experts}, got {ids}"
    )


@requirement("MOE-28")
@given(case=layers(config=RouterConfig(2), biases=True))
@example(case=layer(1, RouterConfig(2), 1, Size(6, 5, 7), biases=True))
def test_an_expert_nobody_chose_is_never_read(impl, case):
    expected = case.run(reference)
    unread = np.setdiff1d(np.arange(len(case.router_weight)), expected.routing.experts)
    poisoned = {}
    for name in ("gate", "up", "down", "gate_bias", "up_bias", "down_bias"):
        poisoned[name] = getattr(case.experts, name).copy()
        poisoned[name][unread] = np.nan
    assert_output(replace(case, experts=replace(case.experts, **poisoned)).run(impl), expected)


@requirement("MOE-41")
@pytest.mark.parametrize("shared", [None, "gated"])
@pytest.mark.parametrize("config", [RouterConfig(2), RouterConfig(2, capacity_factor=1.0)])
def test_no_tokens_give_no_rows(impl, config, shared):
    case = layer(1, config, 0, Size(6, 5, 7), shared=shared)
    check(impl, case)
    check(impl, case.with_options(mask=np.ones(0, bool), segments=np.zeros(0, np.int32)))


@requirement("MOE-41")
@pytest.mark.parametrize("size", [Size(4, 1, 3), Size(4, 3, 1), Size(1, 1, 1), Size(5, 4, 4)])
@pytest.mark.parametrize("tokens", [1, 4])
def test_widths_may_be_one_or_equal(impl, size, tokens):
    check(impl, layer(1, RouterConfig(1), tokens, size, biases=True))


@requirement("MOE-41")
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@given(seed=SEEDS)
def test_one_expert_is_a_plain_network(impl, seed, scoring):
    check(impl, layer(seed, RouterConfig(1, scoring), 3, Size(1, 5, 7)))


@requirement("MOE-41")
@given(seed=SEEDS, scoring=st.sampled_from(["softmax", "sigmoid", "softmax_of_topk"]))
def test_all_experts_may_be_chosen(impl, seed, scoring):
    check(impl, layer(seed, RouterConfig(4, scoring), 3, Size(4, 5, 7)))


@requirement("MOE-42")
def test_bad_arguments_of_the_layer_are_refused(impl):
    config = RouterConfig(2, "sigmoid", True)
    options = {"biases": True, "shared": "gated", "router_bias": True, "selection_bias": True}
    case = layer(1, config, 4, Size(6, 5, 7), **options)
    case = case.with_options(mask=np.ones(4, bool), segments=np.zeros(4, np.int32))
    check(impl, case)
    experts, shared = case.experts, case.options["shared"]
    valid = {
        "x": case.x,
        "router_weight": case.router_weight,
        "experts": experts,
        "config": config,
        **case.options,
    }

    limited = replace(config, capacity_factor=1.0)
    narrow = {"down": experts.down[:, :4], "down_bias": experts.down_bias[:, :4]}
    fewer_experts = {"router_weight": case.router_weight[:4], "router_bias": None, "selection_bias": None}

    def changed(values, **names):
        return {"experts" if values is experts else "shared": replace(values, **names)}

    check_refusals(
        impl.moe_ffn,
        valid,
        [
            ("x", {"x": case.x[0]}),
            ("router_weight/x", {"router_weight": case.router_weight[:, :4]}),
            ("router_weight", {"router_weight": case.router_weight[0]}),
            ("router_weight/gate/up/down", fewer_experts),
            ("router_bias/router_weight", {"router_bias": case.options["router_bias"][:5]}),
            ("selection_bias/router_weight", {"selection_bias": case.options["selection_bias"][:5]}),
            ("mask/x", {"mask": np.ones(3, bool)}),
            ("mask/x", {"mask": np.ones((4, 1), bool)}),
            ("segments/x", {"segments": np.zeros(3, np.int32)}),
            ("segments", {"segments": np.array([0, 0, -1, 0], np.int32)}),
            ("segments", {"segments": np.array([0, 0, -1, 0], np.int32), "config": limited}),
            ("top_k/router_weight", {"config": replace(config, top_k=7)}),
            ("activation", changed(experts, activation="tanh")),
            ("gate/activation", changed(experts, activation="swigluoai", gate=None, gate_bias=None)),
            ("gate/up/down", changed(experts, gate=experts.gate[:, :6], gate_bias=experts.gate_bias[:, :6])),
            ("up/gate/down", changed(experts, up=experts.up[:, :, :4])),
            ("up/gate/down", changed(experts, up=experts.up[0, 0])),
            ("gate_bias/gate", changed(experts, gate=None)),
            ("down/x/router_weight", changed(experts, **narrow)),
            ("down/up/gate", changed(experts, down=experts.down[:, :, :6])),
            ("gate_bias", changed(experts, gate_bias=experts.gate_bias[:, :6])),
            ("up_bias", changed(experts, up_bias=experts.up_bias[:, :6])),
            ("down_bias", changed(experts, down_bias=experts.down_bias[:, :4])),
            ("shared/gate/up/down", changed(shared, up=shared.up[:, :4])),
            ("shared/gate/up/down", changed(shared, down=shared.down[:4])),
            ("shared/gate_weight", changed(shared, gate_weight=shared.gate_weight[:4])),
        ],
    )
