"""`apply_rope`: which channels turn, by which angle, in which precision."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_identical, assert_matches, check_refusals
from tests.week3.long_context.cases import DTYPES, SEEDS
from tests.week3.long_context.cases_rotation import reference, rotation

TOKENS = st.sampled_from([1, 4, 7])
INTEGERS = st.sampled_from(["int32", "int64"])
OPTIONS = st.sampled_from([{}, {"interleaved": True}, {"attention_factor": 1.277259}])
LAYOUTS = pytest.mark.parametrize("interleaved", [False, True])


@requirement("LC-01")
@given(seed=SEEDS, tokens=TOKENS)
@example(seed=1, tokens=4)
@example(seed=1, tokens=0)
def test_a_pair_turns_by_its_position_times_its_frequency(impl, seed, tokens):
    rotation(seed, tokens).check(impl)


@requirement("LC-01")
@LAYOUTS
def test_one_head_and_one_pair_turn_like_many(impl, interleaved):
    case = rotation(1, interleaved=interleaved)
    replace(case, x=case.x[:, :1]).check(impl)
    replace(case, x=case.x[..., :2], inv_freq=case.inv_freq[:1]).check(impl)


@requirement("LC-02")
@given(seed=SEEDS, tokens=TOKENS)
@example(seed=1, tokens=4)
def test_interleaved_pairs_are_neighbours(impl, seed, tokens):
    rotation(seed, tokens, interleaved=True).check(impl)


@requirement("LC-03")
@LAYOUTS
@given(seed=SEEDS, stay=st.sampled_from([1, 2, 6, 10]))
@example(seed=1, stay=6)
def test_only_the_first_d_channels_turn(impl, seed, stay, interleaved):
    case = rotation(seed, stay=stay, interleaved=interleaved)
    actual = case.run(impl)
    assert actual.shape == case.x.shape, f"expected shape {case.x.shape}, got {actual.shape}"
    assert_matches(actual[..., : case.d], case.turning_alone().run(reference), "the channels that turn")


@requirement("LC-03")
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_channels_beyond_come_back_bit_for_bit(impl, dtype, interleaved):
    case = rotation(1, stay=6, dtype=dtype, interleaved=interleaved)
    case.x[..., case.d :: 2] = [-0.0, np.inf, 0.3]  # 0 · inf would be NaN
    assert_identical(case.run(impl)[..., case.d :], case.x[..., case.d :], "the channels that stay")


@requirement("LC-04")
@given(seed=SEEDS, tokens=TOKENS, start=st.sampled_from([0, 1, 60]), dtype=INTEGERS)
@example(seed=1, tokens=4, start=0, dtype="int32")
@example(seed=1, tokens=4, start=0, dtype="int64")
def test_positions_start_anywhere_repeat_and_come_in_any_order(impl, seed, tokens, start, dtype):
    case = rotation(seed, tokens)
    positions = start + np.random.default_rng(seed).integers(0, 5, tokens)
    replace(case, positions=positions.astype(dtype)).check(impl)


@requirement("LC-04")
@LAYOUTS
@given(seed=SEEDS, members=st.sampled_from([1, 2]), tokens=st.sampled_from([1, 2, 4]))
@example(seed=1, members=2, tokens=4)
@example(seed=1, members=2, tokens=2)  # as many rows as columns
@example(seed=1, members=2, tokens=1)
@example(seed=1, members=1, tokens=4)
def test_each_member_of_the_batch_has_positions_of_its_own(impl, seed, members, tokens, interleaved):
    case = rotation(seed, tokens, interleaved=interleaved)
    positions = np.random.default_rng(seed).integers(0, 20, (members, tokens)).astype(np.int32)
    replace(case, x=case.x[:members], positions=positions).check(impl)


@requirement("LC-05")
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=SEEDS, start=st.sampled_from([250, 2_045, 30_000, 65_530, 1_048_570]), options=OPTIONS)
@example(seed=1, start=250, options={})
@example(seed=1, start=2_045, options={"interleaved": True})
@example(seed=1, start=65_530, options={"attention_factor": 1.277259})
@example(seed=1, start=1_048_570, options={})
def test_far_positions_turn_by_their_own_angle(impl, seed, start, options, dtype):
    positions = start + np.arange(7, dtype=np.int32)
    case = rotation(seed, 7, dtype=dtype, **options)
    replace(case, positions=positions).check(impl)
    replace(case, positions=np.stack([positions, positions[::-1]])).check(impl)


@requirement("LC-05")
@given(seed=SEEDS, start=st.sampled_from([0, 900, 20_000]))
@example(seed=1, start=900)
def test_slow_pairs_turn_by_the_frequencies_that_are_passed(impl, seed, start):
    rng = np.random.default_rng(seed)
    inv_freq = (rng.uniform(1, 2, 5) * [1, 0.1, 0.01, 0.001, 0.0001]).astype(np.float32)
    case = replace(rotation(seed, dtype="bfloat16"), inv_freq=inv_freq)
    replace(case, positions=start + np.arange(4, dtype=np.int32)).check(impl)


@requirement("LC-06")
@LAYOUTS
@given(seed=SEEDS, factor=st.sampled_from([1.277259, 2.0, 0.75]))
@example(seed=1, factor=1.277259)
def test_the_attention_factor_stretches_the_channels_that_turn(impl, seed, factor, interleaved):
    rotation(seed, stay=3, attention_factor=factor, interleaved=interleaved).check(impl)


@requirement("LC-06")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_attention_factor_leaves_the_other_channels(impl, dtype):
    case = rotation(1, stay=3, attention_factor=1.277259, dtype=dtype)
    assert_identical(case.run(impl)[..., case.d :], case.x[..., case.d :], "the channels that stay")


@requirement("LC-07")
def test_rotations_that_do_not_fit_are_refused(impl):
    case = rotation(1, tokens=4, stay=1)
    case.check(impl)
    x, at, inv_freq = case.x, case.positions, case.inv_freq
    check_refusals(
        impl.apply_rope,
        {"x": x, "positions": at, "inv_freq": inv_freq},
        [
            ("x", {"x": x[0]}),
            ("x", {"x": x[None]}),
            ("positions/x", {"positions": at[:3]}),
            ("positions/x", {"positions": at[:1]}),
            ("positions", {"positions": np.array(3, np.int32)}),
            ("positions/x", {"positions": np.stack([at] * 3)}),
            ("positions/x", {"positions": at[None]}),
            ("positions/x", {"positions": at[:, None]}),
            ("positions", {"positions": np.stack([at] * 2)[None]}),
            ("inv_freq", {"inv_freq": inv_freq[None]}),
            ("inv_freq", {"inv_freq": np.array(0.5, np.float32)}),
            ("inv_freq/x", {"inv_freq": np.ones(6, np.float32)}),
        ],
    )


@requirement("LC-07")
def test_without_tokens_shapes_have_to_fit_as_well(impl):
    case = rotation(1, tokens=0)
    case.check(impl)
    check_refusals(
        impl.apply_rope,
        {"x": case.x, "positions": case.positions, "inv_freq": case.inv_freq},
        [
            ("positions/x", {"positions": np.arange(3, dtype=np.int32)}),
            ("inv_freq/x", {"inv_freq": np.ones(6, np.float32)}),
        ],
    )
