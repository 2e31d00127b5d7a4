"""Attention over blocks of keys."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_matches, check_refusals
from tests.week3.long_context.cases import (
    GROUPED,
    SEEDS,
    SIZES,
    Dense,
    Size,
    assert_seen,
    check_out,
    check_state,
    dense,
    normal,
)

QUERIES, KEYS = 4, 9
BLOCKS = st.sampled_from([1, 2, 3, KEYS - 1, KEYS, KEYS + 1, 50])


def single(query, keys, values, **options):
    """One query of one head over these keys: the examples of the requirements."""
    q, k, v = (np.array(rows, np.float32)[None, None] for rows in ([query], keys, values))
    return Dense(q, k, v, {"scale": 1.0, **options})


def example_of_34(query=(1, 0), block=2, **options):
    return single(query, [(1, 0), (0, 1), (2, 0)], [(1, 0), (0, 1), (4, 4)], block=block, **options)


def per_head(seed, size=GROUPED):
    """(heads,) float32, a different one for each head."""
    return normal(np.random.default_rng([seed, 1]), (size.heads,))


# Any block


@requirement("LC-34")
@given(seed=SEEDS, size=SIZES, block=BLOCKS)
@example(seed=1, size=GROUPED, block=1)
@example(seed=2, size=GROUPED, block=2)
@example(seed=3, size=Size(2, 4, 1, 7), block=50)
@example(seed=1, size=Size(1, 1, 1, 1), block=2)
def test_every_block_gives_what_one_softmax_gives(impl, seed, size, block):
    check_out(impl, dense(seed, size, QUERIES, KEYS, block=block, magnitude=1.5))


@requirement("LC-34")
@given(seed=SEEDS, block=BLOCKS, causal=st.booleans(), scale=st.sampled_from([0.0, 0.3, 1.0]))
@example(seed=1, block=3, causal=False, scale=0.3)
@example(seed=1, block=2, causal=True, scale=0.0)
@example(seed=1, block=2, causal=True, scale=1.0)
def test_a_scale_replaces_the_default(impl, seed, block, causal, scale):
    check_out(impl, dense(seed, GROUPED, QUERIES, KEYS, block=block, causal=causal, scale=scale))


@requirement("LC-34")
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 8), (7, 7), (0, 4)])
def test_the_last_query_is_the_last_key(impl, queries, keys):
    check_out(impl, dense(1, GROUPED, queries, keys, block=3))


@requirement("LC-34")
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("block", [1, 2, 5])
def test_the_maximum_may_grow_in_any_block(impl, descending, block):
    keys = np.arange(7, dtype=np.float32) * 0.7
    keys = keys[::-1] if descending else keys
    values = normal(np.random.default_rng(1), (7, 2))
    check_out(impl, single((1, 0), np.stack([keys, 0 * keys], axis=1), values, block=block))


# The logarithm of the sum


@requirement("LC-35")
@given(seed=SEEDS, size=SIZES, block=BLOCKS, causal=st.booleans())
@example(seed=1, size=GROUPED, block=1, causal=True)
@example(seed=2, size=GROUPED, block=3, causal=False)
def test_lse_is_the_natural_logarithm_of_the_sum(impl, seed, size, block, causal):
    check_state(impl, dense(seed, size, QUERIES, KEYS, block=block, causal=causal))


@requirement("LC-35")
@given(seed=SEEDS, block=BLOCKS)
@example(seed=1, block=2)
def test_lse_counts_what_the_mask_shows(impl, seed, block):
    check_state(impl, dense(seed, GROUPED, QUERIES, KEYS, block=block, window=3, sink_tokens=1, scale=0.7))


# Masks


MASKS = [
    {"window": 1},
    {"window": 3},
    {"window": 4, "sink_tokens": 2},
    {"window": 6, "sink_tokens": 3},
    {"chunk": 4},
    {"chunk": 3, "sink_tokens": 1},
    {"chunk": 5, "causal": False},
    {"prefix": 7},
    {"prefix": 7, "window": 3},
    {"prefix": 3, "chunk": 4, "sink_tokens": 1},
]


@requirement("LC-36")
@given(seed=SEEDS, options=st.sampled_from(MASKS), block=BLOCKS)
@example(seed=1, options=MASKS[1], block=2)
@example(seed=1, options=MASKS[2], block=3)
@example(seed=1, options=MASKS[3], block=2)
@example(seed=1, options=MASKS[4], block=3)
@example(seed=1, options=MASKS[7], block=2)
def test_all_masks_hold_in_blocks(impl, seed, options, block):
    check_out(impl, dense(seed, GROUPED, QUERIES, KEYS, block=block, **options))


@requirement("LC-36")
@given(seed=SEEDS, options=st.sampled_from([{}, *MASKS]), block=BLOCKS, keys_alone=st.booleans())
@example(seed=1, options={}, block=2, keys_alone=False)
@example(seed=1, options={}, block=2, keys_alone=True)
@example(seed=1, options=MASKS[1], block=2, keys_alone=False)
@example(seed=1, options=MASKS[2], block=3, keys_alone=False)
@example(seed=1, options=MASKS[4], block=2, keys_alone=False)
def test_masks_go_by_positions_in_any_order(impl, seed, options, block, keys_alone):
    at = np.random.default_rng([seed, 2]).permutation(KEYS + 3).astype(np.int32)
    case = dense(seed, GROUPED, QUERIES, KEYS, block=block, kv_positions=at[:KEYS], **options)
    check_out(impl, case if keys_alone else case.with_options(q_positions=at[-QUERIES:]))


@requirement("LC-36")
@pytest.mark.parametrize("options", [{}, MASKS[1], MASKS[7]])
def test_queries_may_be_before_most_keys(impl, options):
    q_positions = np.arange(QUERIES, dtype=np.int32)
    check_out(impl, dense(1, GROUPED, QUERIES, KEYS, block=2, q_positions=q_positions, **options))


@requirement("LC-36")
@given(seed=SEEDS, block=BLOCKS, options=st.sampled_from([{}, {"causal": False}, *MASKS]))
@example(seed=1, block=2, options={})
@example(seed=1, block=4, options={"causal": False})
@example(seed=1, block=2, options=MASKS[3])
@example(seed=1, block=2, options=MASKS[6])
@example(seed=1, block=2, options=MASKS[7])
def test_documents_hold_in_blocks(impl, seed, block, options):
    document = np.random.default_rng([seed, 2]).integers(0, 3, KEYS).astype(np.int32)
    segments = document[-QUERIES:], document
    check_out(impl, dense(seed, GROUPED, QUERIES, KEYS, block=block, segments=segments, **options))


# Nothing to see


@requirement("LC-37")
@given(seed=SEEDS, block=BLOCKS)
@example(seed=1, block=1)
@example(seed=1, block=3)
@example(seed=1, block=50)
def test_a_query_that_sees_nothing_gives_nothing(impl, seed, block):
    q_positions, kv_positions = np.array([0, 8, -1, 2], np.int32), np.arange(3, 3 + KEYS, dtype=np.int32)
    case = dense(seed, GROUPED, QUERIES, KEYS, block=block)
    check_state(impl, case.with_options(q_positions=q_positions, kv_positions=kv_positions))


@requirement("LC-37")
@given(seed=SEEDS, block=BLOCKS, window=st.integers(1, 4))
@example(seed=1, block=1, window=2)
def test_a_block_without_a_key_to_see_changes_nothing(impl, seed, block, window):
    check_state(impl, dense(seed, GROUPED, QUERIES, KEYS, block=block, window=window))


@requirement("LC-37")
@pytest.mark.parametrize(("queries", "keys"), [(5, 3), (2, 0), (1, 0)])
def test_queries_before_the_first_key_see_nothing(impl, queries, keys):
    check_state(impl, dense(1, GROUPED, queries, keys, block=2))


@requirement("LC-37")
def test_documents_without_a_key_give_nothing(impl):
    segments = np.array([2, 0, 5, 1], np.int32), np.array([0, 1, 0, 1, 0, 1, 0, 1, 0], np.int32)
    check_state(impl, dense(1, GROUPED, QUERIES, KEYS, block=2, causal=False, segments=segments))


# Caps, slopes and sinks


@requirement("LC-38")
@given(seed=SEEDS, block=BLOCKS, softcap=st.sampled_from([0.5, 2.0, 30.0]), causal=st.booleans())
@example(seed=1, block=2, softcap=0.5, causal=True)
@example(seed=1, block=3, softcap=2.0, causal=False)
def test_the_cap_bends_scaled_scores(impl, seed, block, softcap, causal):
    case = dense(seed, GROUPED, QUERIES, KEYS, block=block, magnitude=2.0, softcap=softcap, causal=causal)
    check_state(impl, case)


@requirement("LC-38")
@pytest.mark.parametrize("options", [{}, MASKS[2]])
def test_the_cap_bends_scores_far_above_it(impl, options):
    check_state(impl, dense(1, GROUPED, QUERIES, KEYS, block=2, magnitude=20.0, softcap=2.0, **options))


@requirement("LC-38")
def test_the_cap_of_the_example(impl):
    check_state(impl, example_of_34(query=(10, 0), softcap=2.0))


@requirement("LC-38")
@given(seed=SEEDS, block=BLOCKS)
@example(seed=1, block=2)
def test_the_cap_comes_before_the_bias(impl, seed, block):
    case = dense(seed, GROUPED, QUERIES, KEYS, block=block, magnitude=2.0, softcap=1.0)
    check_state(impl, case.with_options(alibi_slopes=np.abs(per_head(seed))))


@requirement("LC-39")
@given(seed=SEEDS, size=SIZES, block=BLOCKS, options=st.sampled_from([{}, {"scale": 0.2}, *MASKS]))
@example(seed=1, size=GROUPED, block=2, options={"scale": 0.2})
@example(seed=1, size=GROUPED, block=50, options={})
@example(seed=1, size=GROUPED, block=2, options=MASKS[2])
@example(seed=1, size=Size(2, 4, 1, 7), block=2, options={})
def test_a_distance_costs_its_slope(impl, seed, size, block, options):
    slopes = np.abs(per_head(seed, size))
    check_state(impl, dense(seed, size, QUERIES, KEYS, block=block, alibi_slopes=slopes, **options))


@requirement("LC-39")
@given(seed=SEEDS, block=BLOCKS, causal=st.booleans())
@example(seed=1, block=2, causal=True)
@example(seed=1, block=3, causal=False)
def test_distances_are_between_positions(impl, seed, block, causal):
    at = np.random.default_rng([seed, 2]).permutation(KEYS + 3).astype(np.int32)
    case = dense(seed, GROUPED, QUERIES, KEYS, block=block, causal=causal)
    case = case.with_options(q_positions=np.sort(at)[-QUERIES:], kv_positions=at[:KEYS])
    check_state(impl, case.with_options(alibi_slopes=np.abs(per_head(seed))))


@requirement("LC-40")
@given(seed=SEEDS, size=SIZES, block=BLOCKS)
@example(seed=1, size=GROUPED, block=1)
@example(seed=1, size=GROUPED, block=50)
def test_sinks_join_the_softmax_once(impl, seed, size, block):
    check_state(impl, dense(seed, size, QUERIES, KEYS, block=block, sink_logits=2 * per_head(seed, size)))


@requirement("LC-40")
def test_sinks_may_be_far_above_scores(impl):
    sinks = np.full(GROUPED.heads, 10_000, np.float32)
    check_state(impl, dense(1, GROUPED, QUERIES, KEYS, block=2, sink_logits=sinks))


@requirement("LC-40")
@given(seed=SEEDS, block=BLOCKS)
@example(seed=1, block=2)
def test_sinks_are_neither_capped_nor_biased_nor_masked(impl, seed, block):
    case = dense(seed, GROUPED, QUERIES, KEYS, block=block, scale=0.4, softcap=1.0, window=2)
    check_state(impl, case.with_options(alibi_slopes=np.abs(per_head(seed)), sink_logits=3 * per_head(seed)))


@requirement("LC-40")
@given(seed=SEEDS, block=BLOCKS)
@example(seed=1, block=1)
@example(seed=1, block=50)
def test_a_query_that_sees_nothing_has_the_sink(impl, seed, block):
    case = dense(seed, GROUPED, QUERIES, KEYS, block=block, q_positions=np.array([9, -1, 0, 5], np.int32))
    kv_positions = np.arange(4, 4 + KEYS, dtype=np.int32)
    check_state(impl, case.with_options(kv_positions=kv_positions, sink_logits=per_head(seed)))


@requirement("LC-40")
def test_without_keys_there_is_the_sink(impl):
    check_state(impl, dense(1, GROUPED, QUERIES, 0, block=2, sink_logits=per_head(1)))


# Numbers


@requirement("LC-41")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@given(seed=SEEDS, block=BLOCKS)
@example(seed=1, block=2)
@example(seed=1, block=50)
def test_half_precision_comes_in_and_float32_goes_out(impl, dtype, seed, block):
    check_state(impl, dense(seed, GROUPED, QUERIES, KEYS, dtype=dtype, block=block, magnitude=2.0))


@requirement("LC-41")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("option", ["softcap", "alibi_slopes", "sink_logits"])
def test_caps_slopes_and_sinks_stay_in_full_precision(impl, dtype, option):
    value = {"softcap": 3.0, "alibi_slopes": np.abs(per_head(1)), "sink_logits": 3 * per_head(1)}[option]
    check_state(impl, dense(1, GROUPED, QUERIES, KEYS, dtype=dtype, block=2, **{option: value}))


@requirement("LC-41")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nothing_is_float32_as_well(impl, dtype):
    check_state(impl, dense(1, GROUPED, QUERIES, 0, dtype=dtype, block=2))


@requirement("LC-42")
@pytest.mark.parametrize("size", [1e4, 1e12, 1e30])
@pytest.mark.parametrize("keys", [(1, 0.5, 0.25), (0.25, 0.5, 1), (-1, -2, -0.5), (1, -1, 0)])
@pytest.mark.parametrize("block", [1, 5])
def test_large_scores_stay_finite(impl, size, keys, block):
    rows = [(key * size, 0) for key in keys]
    check_state(impl, single((1, 0), rows, [(1, 0), (0, 1), (4, 4)], block=block))


@requirement("LC-42")
@pytest.mark.parametrize("block", [1, 2, 5])
def test_near_ones_among_large_scores_are_told_apart(impl, block):
    check_state(impl, single((1, 0), [(10_000, 0), (9_990, 0), (9_999, 0)], np.eye(3, 2), block=block))


@requirement("LC-42")
@pytest.mark.parametrize("block", [1, 2, 5])
def test_no_score_is_below_that_of_a_masked_key(impl, block):
    keys = [(0, 0), (-1e12, 0), (-2e12, 0), (5e12, 0)]
    positions = {"q_positions": np.array([2], np.int32), "kv_positions": np.array([-1, 0, 1, 3], np.int32)}
    check_state(impl, single((1, 0), keys, [(9, 9), (1, 2), (3, 4), (9, 9)], block=block, **positions))


@requirement("LC-43")
@given(seed=SEEDS, block=BLOCKS, poison=st.sampled_from([np.nan, np.inf, -np.inf]))
@example(seed=1, block=2, poison=np.nan)
@example(seed=1, block=50, poison=np.nan)
@example(seed=1, block=50, poison=np.inf)
def test_what_no_query_sees_never_matters(impl, seed, block, poison):
    kv_positions = np.array([3, -1, 0, 1, -1, 2, 4, -1, 20], np.int32)
    options = {"q_positions": np.array([3, 4, 2, 3], np.int32), "kv_positions": kv_positions, "window": 3}
    check_poisoned(impl, dense(seed, GROUPED, QUERIES, KEYS, block=block, **options), poison)


@requirement("LC-43")
@given(seed=SEEDS, block=BLOCKS, causal=st.booleans())
@example(seed=1, block=4, causal=False)
def test_documents_of_others_never_matter(impl, seed, block, causal):
    segments = np.array([1, 2, 2, 2], np.int32), np.array([2, 1, 2, 0, 1, 0, 2, 0, 0], np.int32)
    case = dense(seed, GROUPED, QUERIES, KEYS, block=block, causal=causal, segments=segments)
    check_poisoned(impl, case, np.nan)


def check_poisoned(impl, case, poison):
    """The same with `poison` in the keys and values that no query sees."""
    expected, sees = case.truth()
    unseen = ~case.visible().any(axis=0)
    k, v = case.k.copy(), case.v.copy()
    k[:, :, unseen] = v[:, :, unseen] = poison
    actual = replace(case, k=k, v=v).run(impl)
    assert_seen(actual, expected.out, sees, "out")
    assert not np.isnan(actual.lse).any(), f"lse: expected no NaN, got {actual.lse}"


@requirement("LC-44")
@pytest.mark.parametrize(
    "options",
    [{}, {"causal": False, "alibi_slopes": np.full(2, 0.1, np.float32)}],
    ids=["causal", "slopes, not causal"],
)
def test_memory_grows_with_the_block(impl, memory_growth, options):
    case = dense(1, Size(1, 2, 1, 8), 2560, 2560, block=32).with_options(**options)
    rows = [0, 1, 31, 32, 33, 2000, 2559]
    small = replace(case, q=case.q[:, :, :5], k=case.k[:, :, :5], v=case.v[:, :, :5])
    check_out(impl, small)  # what the first call sets up is no matter of size
    with memory_growth() as growth:
        actual = case.run(impl)
    expected, _ = replace(case, q=case.q[:, :, rows]).with_options(q_positions=np.array(rows)).truth()
    assert_matches(actual.out[:, :, rows], expected.out, f"out of the queries {rows}")
    limit = 2 * 2560**2 * 4 // 4
    assert growth.highest < limit, f"memory grew by {growth.highest} bytes, expected less than {limit}"


@requirement("LC-45")
def test_attention_that_does_not_fit_is_refused(impl):
    case = dense(1, GROUPED, QUERIES, KEYS, block=2)
    heads, positions = np.ones(6, np.float32), np.arange(KEYS, dtype=np.int32)
    segments = np.zeros(QUERIES, np.int32), np.zeros(KEYS, np.int32)
    options = {
        "block": 2,
        "softcap": 3.0,
        "sink_logits": heads,
        "alibi_slopes": heads,
        "q_positions": positions[:QUERIES] + 5,
        "kv_positions": positions,
        "segments": segments,
    }
    check_out(impl, replace(case, options=options))
    q, k, v = case.q, case.k, case.v
    valid = {"q": q, "k": k, "v": v, **options}
    check_refusals(
        impl.blockwise_attention,
        valid,
        [
            ("q", {"q": q[0]}),
            ("k", {"k": k[0]}),
            ("q/k/v", {"k": np.repeat(k, 2, axis=0), "v": np.repeat(v, 2, axis=0)}),
            ("q/k/v", {"k": k[..., 1:], "v": v[..., 1:]}),
            ("k/heads/q", {"q": q[:, :5], "sink_logits": heads[:5], "alibi_slopes": heads[:5]}),
            ("k/kv_heads", {"k": k[:, :0], "v": v[:, :0]}),
            ("k/v", {"v": v[:, :, 1:]}),
            ("q/k/v", {"v": v[..., 1:]}),
            ("q/k/v/dtype", {"q": q.astype(np.float16)}),
            ("q/k/v/dtype", {"k": k.astype(np.float16)}),
            ("q/k/v/dtype", {"v": v.astype(np.float16)}),
            ("block", {"block": 0}),
            ("block", {"block": -1}),
            ("softcap", {"softcap": 0.0}),
            ("softcap", {"softcap": -1.0}),
            ("sink_logits/q", {"sink_logits": heads[:1]}),
            ("sink_logits/q", {"sink_logits": heads[:3]}),
            ("sink_logits", {"sink_logits": np.ones((6, 1), np.float32)}),
            ("alibi_slopes/q", {"alibi_slopes": heads[:1]}),
            ("alibi_slopes", {"alibi_slopes": np.ones((6, 1), np.float32)}),
            ("q_positions/q", {"q_positions": positions}),
            ("kv_positions/k", {"kv_positions": positions[1:]}),
            ("segments/q/k", {"segments": segments[::-1]}),
            ("window", {"window": 0}),
            ("window/causal", {"window": 2, "causal": False}),
            ("sink_tokens", {"sink_tokens": -1}),
            ("chunk", {"chunk": 0}),
            ("prefix", {"prefix": -1}),
        ],
    )


@requirement("LC-45")
def test_attention_without_keys_is_refused_as_well(impl):
    case, heads = dense(1, GROUPED, QUERIES, 0, block=2), np.ones(6, np.float32)
    check_out(impl, case)
    check_refusals(
        impl.blockwise_attention,
        {"q": case.q, "k": case.k, "v": case.v, "block": 2},
        [
            ("q/k/v/dtype", {"q": case.q.astype(np.float16)}),
            ("block", {"block": 0}),
            ("softcap", {"softcap": 0.0}),
            ("sink_logits/q", {"sink_logits": heads[1:]}),
            ("alibi_slopes/q", {"alibi_slopes": heads[1:]}),
            ("chunk", {"chunk": 0}),
        ],
    )
