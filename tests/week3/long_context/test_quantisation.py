"""`quantize_kv` and `dequantize_kv`."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical, assert_matches, check_refusals
from spec.long_context import Quantized
from tests.week3.long_context.cases import SEEDS, normal
from tests.week3.long_context.cases_caches import clear_rows, few, reference

BITS = st.sampled_from([2, 4, 8])
AXES = st.sampled_from([0, 2])
SHAPES = st.sampled_from([(8, 3, 12), (4, 2, 4), (16, 1, 8)])
GROUP = 4


def assert_quantized(actual, expected):
    assert_identical(actual.codes, expected.codes, "codes")
    assert_matches(actual.scale, expected.scale, "scale")
    assert_matches(actual.zero, expected.zero, "zero")
    for name in ("bits", "group", "axis"):
        assert_equal(getattr(actual, name), getattr(expected, name), name)


def check(impl, x, **options):
    assert_quantized(impl.quantize_kv(x, **options), reference.quantize_kv(x, **options))


@requirement("LC-65")
@given(seed=SEEDS, shape=SHAPES, bits=BITS, axis=AXES)
@example(seed=1, shape=(8, 3, 12), bits=2, axis=0)
@example(seed=1, shape=(8, 3, 12), bits=8, axis=2)
def test_codes_divide_the_range_of_a_group_evenly(impl, seed, shape, bits, axis):
    options = {"bits": bits, "group": GROUP, "axis": axis}
    check(impl, clear_rows(seed, shape, **options), **options)


@requirement("LC-65")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@few
@given(seed=SEEDS, bits=BITS, axis=AXES)
@example(seed=1, bits=8, axis=2)
def test_half_precision_is_quantised_in_float32(impl, seed, bits, axis, dtype):
    options = {"bits": bits, "group": GROUP, "axis": axis}
    check(impl, clear_rows(seed, (8, 3, 12), **options, dtype=dtype), **options)


@requirement("LC-65")
@pytest.mark.parametrize("axis", [0, 2])
def test_there_may_be_no_tokens(impl, axis):
    check(impl, np.zeros((0, 2, 8), np.float32), bits=4, group=GROUP, axis=axis)


@requirement("LC-65")
def test_a_small_range_is_divided_like_any_other(impl):
    options = {"bits": 4, "group": GROUP, "axis": 0}
    check(impl, clear_rows(1, (8, 2, 4), **options) * np.float32(1e-9), **options)


@requirement("LC-66")
@pytest.mark.parametrize(
    ("axis", "shape"), [(0, (12, 2, 5)), (2, (7, 2, 12)), (2, (0, 2, 12)), (0, (0, 2, 5))]
)
@few
@given(seed=SEEDS, bits=BITS, group=st.sampled_from([2, 4, 6]))
@example(seed=1, bits=4, group=4)
def test_a_group_is_a_run_of_neighbours_along_one_axis(impl, seed, bits, group, axis, shape):
    options = {"bits": bits, "group": group, "axis": axis}
    check(impl, clear_rows(seed, shape, **options), **options)


@requirement("LC-67")
@pytest.mark.parametrize("axis", [0, 2])
@few
@given(
    seed=SEEDS,
    bits=BITS,
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    group=st.sampled_from([1, GROUP]),
)
@example(seed=1, bits=4, dtype="float32", group=GROUP)
@example(seed=1, bits=4, dtype="float32", group=1)
def test_a_constant_group_is_exact(impl, seed, bits, dtype, group, axis):
    rng = np.random.default_rng(seed)
    groups = normal(rng, (2, 2, 3), dtype, 10.0)
    groups[0, 0, 0] = 0
    x = np.moveaxis(np.repeat(groups, group, axis=2), 2, axis)
    options = {"bits": bits, "group": group, "axis": axis}
    actual = impl.quantize_kv(x, **options)
    assert_identical(actual.codes, np.zeros(x.shape, np.uint8), "codes")
    values = np.moveaxis(groups, 2, axis).astype(np.float32)
    assert_identical(actual.zero, values, "zero")
    assert_identical(np.abs(actual.scale), np.zeros_like(values), "scale")
    assert_identical(impl.dequantize_kv(actual), x.astype(np.float32), "what comes back")


@requirement("LC-68")
@given(seed=SEEDS, bits=BITS, axis=AXES, group=st.sampled_from([1, 2, 4]))
@example(seed=1, bits=8, axis=0, group=4)
@example(seed=1, bits=2, axis=2, group=2)
def test_back_is_code_times_scale_plus_zero(impl, seed, bits, axis, group):
    rng = np.random.default_rng(seed)
    shape = [8, 3, 12]
    codes = rng.integers(0, 2**bits, shape).astype(np.uint8)
    codes[0, 0, 0] = 2**bits - 1
    shape[axis] //= group
    scale, zero = np.abs(normal(rng, shape)), normal(rng, shape, magnitude=3.0)
    quantized = Quantized(codes, scale, zero, bits, group, axis)
    assert_matches(impl.dequantize_kv(quantized), reference.dequantize_kv(quantized))


@requirement("LC-69")
def test_what_cannot_be_quantised_is_refused(impl):
    valid = {"x": clear_rows(1, (8, 2, 12), bits=4, group=4, axis=0), "bits": 4, "group": 4, "axis": 0}
    check(impl, **valid)
    check_refusals(
        impl.quantize_kv,
        valid,
        [
            ("bits", {"bits": 3}),
            ("bits", {"bits": 1}),
            ("bits", {"bits": 6}),
            ("bits", {"bits": 16}),
            ("axis", {"axis": 1}),
            ("axis", {"axis": 3}),
            ("axis", {"axis": -1}),
            ("group", {"group": 0}),
            ("group", {"group": -4}),
            ("group/x", {"group": 3}),
            ("group/x", {"group": 5, "axis": 2}),
            ("x", {"x": valid["x"][0]}),
        ],
    )


@requirement("LC-69")
def test_what_was_not_quantised_so_is_refused(impl):
    x = clear_rows(1, (8, 2, 12), bits=4, group=4, axis=2)
    quantized = reference.exact.quantize_kv(x, bits=4, group=4, axis=2)
    assert_matches(impl.dequantize_kv(quantized), reference.dequantize_kv(quantized))
    codes, scale, zero = quantized.codes, quantized.scale, quantized.zero
    one_too_large = codes.copy()
    one_too_large[5, 1, 7] = 16
    wrong = [
        ("bits", {"bits": 5}),
        ("axis", {"axis": 1}),
        ("group", {"group": 0}),
        ("codes", {"codes": codes[0]}),
        ("codes/bits", {"codes": one_too_large}),
        ("codes/group", {"codes": codes[..., :10], "scale": scale[..., :2], "zero": zero[..., :2]}),
        ("scale/group/codes", {"scale": scale[..., :2]}),
        ("scale/codes", {"scale": scale[..., None]}),
        ("zero/codes", {"zero": zero[..., None]}),
        ("zero/scale/codes", {"zero": zero[:7]}),
        ("scale/zero/codes/axis/group", {"axis": 0}),
    ]
    check_refusals(lambda **changed: impl.dequantize_kv(replace(quantized, **changed)), {}, wrong)
