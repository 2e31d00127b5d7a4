"""`moe_ffn` with quantised experts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import check_refusals
from grading.truth import GroundTruth
from spec.moe import RouterConfig
from tests.week3.moe.cases import SEEDS, Size, assert_output, layer
from tests.week3.moe.cases_quantized import MATRICES, quantized

reference = GroundTruth("moe")

FORMATS = st.sampled_from([(4, 32), (8, 32), (4, 64), (8, 64)])
PARTS = "codes/scales/biases/bits/group_size"  # what makes a matrix


def check(impl, case, bits, group_size):
    case = replace(case, experts=quantized(case.experts, bits, group_size))
    assert_output(case.run(impl), case.run(reference))


@requirement("MOE-27")
@given(seed=SEEDS, tokens=st.sampled_from([1, 4]), form=FORMATS)
@example(seed=1, tokens=4, form=(4, 32))
@example(seed=1, tokens=4, form=(8, 64))
def test_quantised_experts_are_their_dequantised_matrices(impl, seed, tokens, form):
    check(impl, layer(seed, RouterConfig(2, normalize=True), tokens, Size(3, 128, 64), shared="plain"), *form)


@requirement("MOE-27")
@pytest.mark.parametrize("bits", [4, 8])
def test_groups_of_128(impl, bits):
    check(impl, layer(1, RouterConfig(1), 3, Size(3, 256, 128)), bits, 128)


@requirement("MOE-27")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_quantised_experts_take_half_precision(impl, dtype):
    config = RouterConfig(2, router_dtype="activations")
    case = layer(1, config, 3, Size(4, 64, 32), dtype=dtype)
    single = layer(1, RouterConfig(2), 3, Size(4, 64, 32)).experts
    check(impl, replace(case, experts=single), 4, 32)


@requirement("MOE-27")
@pytest.mark.parametrize(
    "options",
    [
        {"biases": True, "activation": "swigluoai", "limit": 1.0},
        {"biases": True},
        {"gate": False, "activation": "relu"},
    ],
)
def test_quantised_experts_have_biases_and_activations(impl, options):
    check(impl, layer(1, RouterConfig(2), 3, Size(4, 64, 32), **options), 4, 32)


@requirement("MOE-27")
def test_scales_may_be_negative_or_zero(impl):
    case = layer(1, RouterConfig(2), 3, Size(4, 64, 32))
    experts = quantized(case.experts, 4, 32)
    signs = np.random.default_rng(1).integers(-1, 2, experts.up.scales.shape).astype(np.float32)
    up = replace(experts.up, scales=experts.up.scales * signs)
    case = replace(case, experts=replace(experts, up=up))
    assert_output(case.run(impl), case.run(reference))


@requirement("MOE-28")
def test_a_quantised_expert_nobody_chose_is_never_read(impl):
    case = layer(1, RouterConfig(1), 2, Size(4, 64, 32))
    case = replace(case, experts=quantized(case.experts, 4, 32))
    expected = case.run(reference)
    unread = np.setdiff1d(np.arange(4), expected.routing.experts)
    poisoned = {}
    for name in MATRICES:
        matrix = getattr(case.experts, name)
        scales = matrix.scales.copy()
        scales[unread] = np.nan
        poisoned[name] = replace(matrix, scales=scales)
    assert_output(replace(case, experts=replace(case.experts, **poisoned)).run(impl), expected)


@requirement("MOE-42")
def test_bad_quantised_experts_are_refused(impl):
    case = layer(1, RouterConfig(2), 3, Size(4, 64, 32))
    experts = quantized(case.experts, 4, 32)
    case = replace(case, experts=experts)
    assert_output(case.run(impl), case.run(reference))
    up, down = experts.up, experts.down
    valid = {
        "x": case.x,
        "router_weight": case.router_weight,
        "experts": experts,
        "config": case.config,
    }
    check_refusals(
        impl.moe_ffn,
        valid,
        [
            ("bits", {"experts": replace(experts, bits=3)}),
            ("group_size", {"experts": replace(experts, group_size=16)}),
            (
                f"up/{PARTS}",
                {"experts": replace(experts, up=replace(up, codes=up.codes[:, :, :7]))},
            ),
            (
                f"up/{PARTS}",
                {"experts": replace(experts, up=replace(up, biases=up.biases[:, :, :1]))},
            ),
            (
                f"down/{PARTS}",
                {"experts": replace(experts, down=replace(down, codes=down.codes[:, :8]))},
            ),
            (f"gate/up/down/{PARTS}", {"experts": replace(experts, bits=8)}),
        ],
    )
    assert np.isfinite(case.run(impl).y).all()
