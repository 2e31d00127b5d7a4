"""`rope_frequencies`: how fast each pair turns, and what that does to the scores."""

from dataclasses import replace
from math import ceil, floor

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_identical, check_refusals
from spec.long_context import NTK, DynamicNTK, Linear, Llama3, LongRoPE, RopeConfig, YaRN
from tests.week3.long_context.cases_rotation import assert_frequencies, reference

HEADS = st.builds(  # the rotation of a head, before it is scaled
    RopeConfig,
    head_dim=st.sampled_from([12, 20, 64]),
    base=st.sampled_from([500.0, 10000.0, 500000.0]),
    rotary_fraction=st.sampled_from([1.0, 0.5]),
)
HALF_A_HEAD = RopeConfig(20, rotary_fraction=0.5)
LLAMA = RopeConfig(128, 500000.0)
FACTORS = st.sampled_from([1.5, 4.0, 8.0, 13.0])
LENGTHS = st.sampled_from([48, 1000, 4096])
SMALL = RopeConfig(8)


@requirement("LC-08")
@given(config=HEADS)
@example(config=RopeConfig(8))
@example(config=RopeConfig(8, rotary_fraction=0.5))
@example(config=RopeConfig(12, 300.0, rotary_fraction=0.4))  # 4.8 channels are 4
@example(config=RopeConfig(2))
@example(config=RopeConfig(5, rotary_fraction=0.4))
def test_frequencies_fall_geometrically_over_the_rotated_channels(impl, config):
    assert_frequencies(impl, config)


@requirement("LC-08")
@pytest.mark.parametrize("seq_len", [1, 4096, 4097, 100_000])
@pytest.mark.parametrize(
    "scaling", [None, Linear(4.0), NTK(4.0), YaRN(4.0, 4096), Llama3(8.0, 1.0, 4.0, 4096)], ids=repr
)
def test_the_length_changes_nothing(impl, scaling, seq_len):
    assert_frequencies(impl, RopeConfig(64, scaling=scaling), seq_len)


@requirement("LC-09")
@given(config=HEADS, factor=FACTORS)
@example(config=RopeConfig(8), factor=4.0)
def test_linear_scaling_slows_every_pair(impl, config, factor):
    assert_frequencies(impl, replace(config, scaling=Linear(factor)))


@requirement("LC-10")
@given(config=HEADS, factor=FACTORS)
@example(config=RopeConfig(8), factor=4.0)
@example(config=HALF_A_HEAD, factor=4.0)
def test_ntk_scaling_changes_the_base(impl, config, factor):
    assert_frequencies(impl, replace(config, scaling=NTK(factor)))


@requirement("LC-11")
@given(config=HEADS, factor=FACTORS, original=LENGTHS, seq_len=st.integers(1, 20_000))
@example(config=RopeConfig(128), factor=2.0, original=2048, seq_len=4096)
@example(config=RopeConfig(128), factor=2.0, original=2048, seq_len=2049)
@example(config=RopeConfig(128), factor=2.0, original=2048, seq_len=10_000)
@example(config=HALF_A_HEAD, factor=2.0, original=48, seq_len=150)
def test_dynamic_ntk_grows_with_the_length(impl, config, factor, original, seq_len):
    assert_frequencies(impl, replace(config, scaling=DynamicNTK(factor, original)), seq_len)


@requirement("LC-11")
@given(config=HEADS, factor=st.sampled_from([2.0, 8.0]), part=st.sampled_from([None, 0, 0.25, 0.7, 1]))
@example(config=RopeConfig(128), factor=2.0, part=None)
@example(config=RopeConfig(128), factor=2.0, part=0.25)
@example(config=RopeConfig(128), factor=2.0, part=1)
def test_dynamic_ntk_is_plain_up_to_the_original_length(impl, config, factor, part):
    seq_len = None if part is None else max(1, int(part * 2048))
    actual = impl.rope_frequencies(replace(config, scaling=DynamicNTK(factor, 2048)), seq_len)
    assert_frequencies(impl, config)
    assert_identical(actual.inv_freq, impl.rope_frequencies(config).inv_freq, "inv_freq")


@requirement("LC-11")
def test_what_was_asked_before_changes_nothing(impl):
    config = RopeConfig(36, scaling=DynamicNTK(2.0, 1024))  # of this test alone
    for seq_len in (5000, 700, 2048, 5000, None, 1025):
        assert_frequencies(impl, config, seq_len)


def has_a_clear_ramp(config):
    """Whether both ends of YaRN's ramp are clearly within a pair, so that rounding is no question."""
    d = int(config.head_dim * config.rotary_fraction)
    betas = config.scaling.beta_fast, config.scaling.beta_slow
    ends = [reference.exact.turning_pair(beta, d, config.base, config.scaling) for beta in betas]
    return all(0.01 < end - floor(end) < 0.99 for end in ends) and max(0, floor(ends[0])) < ceil(ends[1])


YARN = st.builds(
    lambda config, **settings: replace(config, scaling=YaRN(**settings)),
    config=HEADS,
    factor=FACTORS,
    original_length=st.integers(64, 40_000),
    beta_fast=st.sampled_from([32.0, 16.0]),
    beta_slow=st.sampled_from([1.0, 2.0]),
).filter(has_a_clear_ramp)


@requirement("LC-12")
@given(config=YARN)
@example(config=RopeConfig(128, scaling=YaRN(4.0, 4096)))
@example(config=RopeConfig(64, 1000000.0, scaling=YaRN(4.0, 32768)))
@example(config=RopeConfig(128, rotary_fraction=0.5, scaling=YaRN(16.0, 4096, beta_fast=16.0, beta_slow=2.0)))
def test_yarn_keeps_fast_pairs_and_divides_slow_ones(impl, config):
    assert_frequencies(impl, config)


@requirement("LC-13")
@pytest.mark.parametrize(
    ("config", "length"),
    [
        (SMALL, 16),  # from −1.10 to 0.41
        (SMALL, 300),  # from 0.17 to 1.68
        (RopeConfig(8, 300.0), 60),  # from −0.85 to 1.58
        (RopeConfig(8, 20.0), 1500),  # from 2.68 to 7.31, of which 7 is left
        (RopeConfig(16, 3.0), 300),  # from 2.91 to 28.15: 15
        (RopeConfig(64), 20),  # from −8.02 to 4.02
        (RopeConfig(128), 2),  # from −32.03 to −7.95: it ends before it begins
        (RopeConfig(8, 2.0), 4096),  # from 17.39 to 37.39: here as well
    ],
)
def test_the_ramp_ends_within_the_channels(impl, config, length):
    for truncate in (True, False):
        assert_frequencies(impl, replace(config, scaling=YaRN(4.0, length, truncate=truncate)))


@requirement("LC-13")
def test_a_ramp_without_width_is_a_step(impl):
    assert_frequencies(impl, replace(SMALL, scaling=YaRN(4.0, 6)))  # from −1.53 to −0.02, and both ends are 0
    same_betas = YaRN(4.0, 4096, beta_fast=8.0, beta_slow=8.0)
    for truncate in (True, False):
        assert_frequencies(impl, RopeConfig(128, scaling=replace(same_betas, truncate=truncate)))


@requirement("LC-13")
@given(config=YARN)
@example(config=RopeConfig(128, scaling=YaRN(4.0, 4096)))
@example(config=RopeConfig(64, 150000.0, scaling=YaRN(32.0, 4096)))  # gpt-oss
def test_a_ramp_may_begin_and_end_within_a_pair(impl, config):
    assert_frequencies(impl, replace(config, scaling=replace(config.scaling, truncate=False)))


@requirement("LC-14")
@pytest.mark.parametrize("factor", [2.0, 16, 40.0])
def test_yarn_grows_what_turns_by_the_logarithm_of_its_factor(impl, factor):
    assert_frequencies(impl, RopeConfig(64, scaling=YaRN(factor, 4096)))


@requirement("LC-14")
@pytest.mark.parametrize("given_factor", [1.0, 1.5, 0.8])
def test_an_attention_factor_that_is_given_replaces_that_of_yarn(impl, given_factor):
    assert_frequencies(impl, RopeConfig(64, scaling=YaRN(16.0, 4096, attention_factor=given_factor)))


@requirement("LC-15")
@pytest.mark.parametrize("mscales", [(1.0, 1.0), (1.0, 0.5), (0.707, 0.707), (0.6, 1)], ids=str)
@pytest.mark.parametrize("factor", [40.0, 4.0])
def test_deepseeks_factor_goes_to_the_softmax(impl, factor, mscales):
    one, all_dim = mscales
    assert_frequencies(impl, RopeConfig(64, scaling=YaRN(factor, 4096, mscale=one, mscale_all_dim=all_dim)))


@requirement("LC-15")
def test_an_attention_factor_that_is_given_leaves_the_softmax_scale(impl):
    scaling = YaRN(40.0, 4096, attention_factor=1.25, mscale=1.0, mscale_all_dim=0.5)
    assert_frequencies(impl, RopeConfig(64, scaling=scaling))


@requirement("LC-16")
@given(
    config=HEADS,
    factor=FACTORS,
    ends=st.sampled_from([(1.0, 4.0), (2.0, 3.0), (1, 32.0)]),
    original=st.sampled_from([300, 8192]),
)
@example(config=LLAMA, factor=8.0, ends=(1.0, 4.0), original=8192)
@example(config=LLAMA, factor=4.0, ends=(2.0, 16.0), original=300)
def test_llama_3_scales_by_wavelength(impl, config, factor, ends, original):
    assert_frequencies(impl, replace(config, scaling=Llama3(factor, *ends, original)))


SHORT = (1.0, 1.1, 1.25, 1.0, 2.5)
LONG = (2.0, 8.0, 1.5, 30.0, 64.0)
SEARCHED = LongRoPE(SHORT, LONG, 4096, 32.0)


@requirement("LC-17")
@pytest.mark.parametrize("seq_len", [None, 1, 4095, 4096, 4097, 131_072])
@pytest.mark.parametrize("config", [RopeConfig(10), HALF_A_HEAD], ids=["head", "half a head"])
def test_longrope_has_one_list_up_to_the_original_length_and_one_beyond(impl, config, seq_len):
    assert_frequencies(impl, replace(config, scaling=SEARCHED), seq_len)


@requirement("LC-17")
def test_the_list_goes_by_this_length_alone(impl):
    for seq_len in (5000, 10, None, 4097, 4096):
        assert_frequencies(impl, RopeConfig(10, 20000.0, scaling=SEARCHED), seq_len)


@requirement("LC-18")
@pytest.mark.parametrize("seq_len", [None, 10, 4096, 4097, 131_072])
@pytest.mark.parametrize("attention_factor", [None, 1.0, 1.5, 0.8])
def test_longropes_attention_factor_holds_for_both_lists(impl, attention_factor, seq_len):
    scaling = replace(SEARCHED, attention_factor=attention_factor)
    assert_frequencies(impl, RopeConfig(10, scaling=scaling), seq_len)


@requirement("LC-19")
@pytest.mark.parametrize(
    "scaling",
    [Linear(1.0), NTK(1.0), DynamicNTK(1.0, 1000), YaRN(1, 64), Llama3(1.0, 1.0, 4.0, 64)],
    ids=repr,
)
def test_a_factor_of_1_changes_nothing(impl, scaling):
    for seq_len in (None, 64, 1000):
        assert_frequencies(impl, replace(SMALL, scaling=scaling), seq_len)


@requirement("LC-19")
def test_a_longrope_of_factor_1_has_an_attention_factor_of_1(impl):
    for seq_len in (None, 5000):
        assert_frequencies(impl, RopeConfig(10, scaling=replace(SEARCHED, factor=1.0)), seq_len)


# Refusals

CHANNELS = "head_dim/rotary_fraction/config"  # any of them may be what is wrong


def check_scaling(impl, scaling, refusals):
    """The scaling is right, and each of these is not: (argument, changes of its fields)."""
    config = RopeConfig(10, scaling=scaling)
    assert_frequencies(impl, config)
    check_refusals(
        impl.rope_frequencies,
        {"config": config},
        [
            (argument, {"config": replace(config, scaling=replace(scaling, **changes))})
            for argument, changes in refusals
        ],
    )


@requirement("LC-20")
def test_impossible_rotations_are_refused(impl):
    assert_frequencies(impl, SMALL, 1)
    configs = [
        (CHANNELS, RopeConfig(7)),
        (CHANNELS, RopeConfig(10, rotary_fraction=0.5)),
        (CHANNELS, RopeConfig(8, rotary_fraction=0.2)),
        (CHANNELS, RopeConfig(0)),
        (CHANNELS, RopeConfig(8, rotary_fraction=0.0)),
        (CHANNELS, RopeConfig(8, rotary_fraction=-0.5)),
        (CHANNELS, RopeConfig(8, rotary_fraction=1.5)),
        ("base", RopeConfig(8, 1.0)),
        ("base", RopeConfig(8, 0.5)),
        ("base", RopeConfig(8, 0.0)),
        ("base", RopeConfig(8, -10000.0)),
    ]
    check_refusals(
        impl.rope_frequencies,
        {"config": SMALL},
        [
            *((argument, {"config": config}) for argument, config in configs),
            ("seq_len", {"seq_len": 0}),
            ("seq_len", {"seq_len": -1}),
        ],
    )


@requirement("LC-20")
@pytest.mark.parametrize("scaling", [Linear(4.0), DynamicNTK(4.0, 64), YaRN(4.0, 64)], ids=repr)
def test_a_length_below_1_is_refused_whatever_the_scaling(impl, scaling):
    config = replace(SMALL, scaling=scaling)
    assert_frequencies(impl, config, 1)
    check_refusals(impl.rope_frequencies, {"config": config}, [("seq_len", {"seq_len": 0})])


@requirement("LC-20")
@pytest.mark.parametrize(
    "scaling",
    [Linear(4.0), YaRN(4.0, 64), Llama3(4.0, 1.0, 4.0, 64), LongRoPE((1.5,), (2.0,), 64, 4.0)],
    ids=lambda scaling: type(scaling).__name__,
)
def test_a_single_pair_has_every_other_scaling(impl, scaling):
    assert_frequencies(impl, RopeConfig(2, scaling=scaling))


@requirement("LC-20")
@pytest.mark.parametrize("scaling", [NTK(4.0), DynamicNTK(4.0, 64)], ids=repr)
def test_a_single_pair_has_no_ntk(impl, scaling):
    config = RopeConfig(8, rotary_fraction=0.5, scaling=scaling)
    assert_frequencies(impl, config)
    check_refusals(
        impl.rope_frequencies,
        {"config": config},
        [
            (f"{CHANNELS}/scaling", {"config": replace(config, head_dim=4)}),
            (f"{CHANNELS}/scaling", {"config": replace(config, rotary_fraction=0.25)}),
        ],
    )


@requirement("LC-20")
@pytest.mark.parametrize(
    "scaling",
    [Linear(4.0), NTK(4.0), DynamicNTK(4.0, 64), YaRN(4.0, 64), Llama3(4.0, 1.0, 4.0, 64), SEARCHED],
    ids=lambda scaling: type(scaling).__name__,
)
def test_a_factor_below_1_is_refused(impl, scaling):
    check_scaling(impl, scaling, [("factor", {"factor": factor}) for factor in (0.5, 0.0, -4.0)])


@requirement("LC-20")
@pytest.mark.parametrize(
    "scaling", [DynamicNTK(4.0, 1), YaRN(4.0, 1), Llama3(4.0, 1.0, 4.0, 1)], ids=lambda s: type(s).__name__
)
def test_an_original_length_below_1_is_refused(impl, scaling):
    lengths = [("original_length", {"original_length": length}) for length in (0, -64)]
    check_scaling(impl, scaling, lengths)


@requirement("LC-20")
def test_yarns_that_cannot_be_are_refused(impl):
    check_scaling(
        impl,
        YaRN(4.0, 4096, attention_factor=1.5, mscale=1.0, mscale_all_dim=0.5),
        [
            ("beta_slow", {"beta_slow": 0.0}),
            ("beta_slow", {"beta_slow": -1.0}),
            ("beta_fast/beta_slow", {"beta_fast": 0.5}),
            ("mscale", {"mscale": None}),
            ("mscale", {"mscale_all_dim": None}),
            ("mscale", {"mscale": 0.0}),
            ("mscale", {"mscale": -1.0}),
            ("mscale", {"mscale_all_dim": 0.0}),
            ("mscale", {"mscale_all_dim": -1.0}),
            ("attention_factor", {"attention_factor": 0.0}),
            ("attention_factor", {"attention_factor": -1.5}),
        ],
    )


@requirement("LC-20")
def test_llama_3_needs_its_ends_in_order(impl):
    check_scaling(
        impl,
        Llama3(4.0, 1.0, 4.0, 8192),
        [
            ("low_freq_factor", {"low_freq_factor": 0.0}),
            ("low_freq_factor", {"low_freq_factor": -1.0}),
            ("high_freq_factor/low_freq_factor", {"high_freq_factor": 1.0}),
            ("high_freq_factor/low_freq_factor", {"low_freq_factor": 5.0}),
        ],
    )


@requirement("LC-20")
def test_longropes_that_cannot_be_are_refused(impl):
    check_scaling(
        impl,
        replace(SEARCHED, original_length=2),
        [
            ("original_length", {"original_length": 1}),
            ("original_length", {"original_length": -4096}),
            (f"short_factor/{CHANNELS}", {"short_factor": SHORT[:4]}),
            (f"short_factor/{CHANNELS}", {"short_factor": (*SHORT, 1.0)}),
            (f"long_factor/{CHANNELS}", {"long_factor": LONG * 2}),
            (f"long_factor/{CHANNELS}", {"long_factor": ()}),
            ("short_factor", {"short_factor": (0.0, *SHORT[1:])}),
            ("long_factor", {"long_factor": (*LONG[:4], -2.0)}),
            ("attention_factor", {"attention_factor": 0.0}),
            ("attention_factor", {"attention_factor": -1.0}),
        ],
    )
