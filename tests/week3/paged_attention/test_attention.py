"""The function `paged_attention` against contiguous attention."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_matches
from grading.truth import GroundTruth
from tests.week3.paged_attention.cases import (
    SEEDS,
    SHAPES,
    Shape,
    batches,
    decode_batches,
    normal,
    ragged_batch,
    ragged_batches,
)

reference = GroundTruth("paged_attention")
NAN = np.nan


@requirement("PA-05")
@given(case=decode_batches())
def test_decode_equals_contiguous_attention(impl, case):
    assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))


@requirement("PA-05")
@given(case=decode_batches(max_sequences=1), seed=SEEDS)
def test_physical_ids_do_not_matter(impl, case, seed):
    order = np.random.default_rng(seed).permutation(len(case.key_blocks))
    moved = np.argsort(order).astype(np.int32)[case.block_tables]
    actual = impl.paged_attention(
        case.queries,
        case.key_blocks[order],
        case.value_blocks[order],
        moved,
        case.context_lens,
        case.query_lens,
    )
    assert_matches(actual, reference.paged_attention(*case))


@requirement("PA-05")
@given(shape=SHAPES, seed=SEEDS, shared=st.integers(1, 3), query_len=st.integers(1, 2))
def test_several_rows_may_read_the_same_blocks(impl, shape, seed, shared, query_len):
    size = shape.block_size
    case = ragged_batch(shape, [3 * size, 3 * size, 2 * size], [query_len] * 3, seed)
    case.block_tables[1, :shared] = case.block_tables[0, :shared]
    assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))


SMALLEST = [Shape(1, 1, 4, 8), Shape(3, 1, 2, 5), Shape(4, 2, 3, 1), Shape(1, 1, 2, 1)]


@requirement("PA-05")
@given(lens=st.lists(st.integers(1, 5), min_size=1, max_size=3), seed=SEEDS)
def test_there_may_be_one_head_or_one_dimension(impl, lens, seed):
    for shape in SMALLEST:
        case = ragged_batch(shape, lens, [1] * len(lens), seed)
        assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))


@requirement("PA-06")
@given(case=ragged_batches())
def test_the_causal_mask_is_aligned_to_the_bottom_right(impl, case):
    assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))


@requirement("PA-06")
@given(seed=SEEDS, before=st.integers(0, 9), count=st.integers(65, 140))
@example(seed=1, before=9, count=140)
def test_a_long_prompt_sees_what_a_short_one_sees(impl, seed, before, count):
    case = ragged_batch(Shape(2, 1, 4, 3), [before + count, 3], [count, 1], seed)
    assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))


@requirement("PA-07")
@given(case=ragged_batches(max_sequences=2))
def test_slots_past_the_length_never_matter(impl, case):
    poisoned = case.with_unwritten_slots(NAN)
    assert_matches(impl.paged_attention(*poisoned), reference.paged_attention(*case))


@requirement("PA-07")
@given(case=decode_batches(max_sequences=2))
def test_infinite_slots_past_the_length_never_matter(impl, case):
    poisoned = case.with_unwritten_slots(np.inf)
    assert_matches(impl.paged_attention(*poisoned), reference.paged_attention(*case))


@requirement("PA-08")
@given(case=batches())
def test_padding_of_a_block_table_is_never_followed(impl, case, far_id):
    for padding in (-1, far_id(len(case.key_blocks))):
        padded = case.with_padding(padding)
        assert_matches(impl.paged_attention(*padded), reference.paged_attention(*case))


@requirement("PA-08")
@given(seed=SEEDS, shape=SHAPES, count=st.integers(1, 4))
def test_entries_behind_the_window_are_never_followed(impl, seed, shape, count, far_id):
    window = shape.block_size
    case = ragged_batch(shape, [4 * shape.block_size, 3], [count, 1], seed)
    expected = reference.paged_attention(*case, window=window)
    first = 4 * shape.block_size - count - window + 1  # the oldest key of the first query
    for gone in (-1, far_id(len(case.key_blocks))):
        behind = case.with_entries([0], 0, first // shape.block_size, gone)
        assert_matches(impl.paged_attention(*behind, window=window), expected)


@requirement("PA-09")
@given(seed=SEEDS, shape=st.sampled_from([Shape(6, 2, 4, 8), Shape(6, 3, 5, 7), Shape(3, 3, 2, 5)]))
def test_query_heads_share_key_heads_in_runs(impl, seed, shape):
    case = ragged_batch(shape, [shape.block_size], [1], seed)
    assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))


@requirement("PA-10")
@given(case=batches(max_sequences=2), scale=st.sampled_from([None, 0.0, 0.125, -1.0, 2.5]))
@example(case=ragged_batch(Shape(6, 2, 4, 8), [9, 3], [2, 1], 1), scale=0.0)
@example(case=ragged_batch(Shape(6, 2, 4, 8), [9, 3], [2, 1], 1), scale=None)
def test_scores_are_scaled(impl, case, scale):
    assert_matches(impl.paged_attention(*case, scale=scale), reference.paged_attention(*case, scale=scale))


@requirement("PA-11")
@given(case=ragged_batches(max_sequences=2), window=st.integers(1, 9))
def test_a_window_includes_the_query_itself(impl, case, window):
    assert_matches(
        impl.paged_attention(*case, window=window), reference.paged_attention(*case, window=window)
    )


@requirement("PA-12")
@given(case=batches(max_sequences=2, magnitude=2.0), softcap=st.sampled_from([0.5, 2.0, 30.0]))
@example(case=ragged_batch(Shape(6, 2, 4, 8), [9, 3], [2, 1], 1), softcap=0.5)
def test_a_soft_cap_bounds_the_scores(impl, case, softcap):
    assert_matches(
        impl.paged_attention(*case, softcap=softcap), reference.paged_attention(*case, softcap=softcap)
    )


@requirement("PA-13")
@given(
    case=batches(max_sequences=2),
    seed=SEEDS,
    options=st.sampled_from([{}, {"softcap": 0.5}, {"scale": 0.3}, {"window": 2}]),
)
@example(case=ragged_batch(Shape(6, 2, 4, 8), [9, 3], [2, 1], 1), seed=1, options={"window": 2})
def test_sink_logits_join_the_denominator_only(impl, case, seed, options):
    sinks = normal(np.random.default_rng(seed), case.queries.shape[1:2], magnitude=3.0)
    assert_matches(
        impl.paged_attention(*case, sink_logits=sinks, **options),
        reference.paged_attention(*case, sink_logits=sinks, **options),
    )


@requirement("PA-13")
@given(case=batches(max_sequences=2), seed=SEEDS)
def test_a_sink_may_be_infinitely_small(impl, case, seed):
    sinks = normal(np.random.default_rng(seed), case.queries.shape[1:2], magnitude=3.0)
    sinks[seed % len(sinks)] = -np.inf
    assert_matches(
        impl.paged_attention(*case, sink_logits=sinks), reference.paged_attention(*case, sink_logits=sinks)
    )


@requirement("PA-14")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@given(shape=SHAPES, seed=SEEDS, count=st.sampled_from([1, 4]), sinks=st.booleans())
@example(shape=Shape(6, 2, 4, 8), seed=1, count=4, sinks=True)
def test_half_precision_outside_float32_inside(impl, shape, seed, dtype, count, sinks):
    case = ragged_batch(shape, [24 * shape.block_size], [count], seed, dtype=dtype)
    case.queries[..., 0] = 12  # all scores grow by the same amount, around 40, which a softmax does not see;
    case.key_blocks[..., 0] = 8  # but bfloat16 would round them to quarters
    options = {}
    if sinks:  # about as much weight as all keys together
        around = 96 / np.sqrt(shape.head_dim) + np.log(24 * shape.block_size)
        noise = normal(np.random.default_rng(seed), (shape.heads,))
        options["sink_logits"] = (around + noise).astype(np.float32)
    assert_matches(impl.paged_attention(*case, **options), reference.paged_attention(*case, **options))


@requirement("PA-14")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_thousands_of_keys_of_half_precision(impl, dtype):
    shape = Shape(2, 1, 16, 3)
    case = ragged_batch(shape, [8200, 5, 4096], [1, 2, 1], seed=1, dtype=dtype)
    assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))


@requirement("PA-15")
@given(case=batches(max_sequences=2, magnitude=60.0))
def test_large_scores_stay_finite(impl, case):
    assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))


@requirement("PA-15")
@given(case=batches(max_sequences=2), seed=SEEDS)
def test_large_sinks_stay_finite(impl, case, seed):
    sinks = normal(np.random.default_rng(seed), case.queries.shape[1:2], magnitude=200.0)
    assert_matches(
        impl.paged_attention(*case, sink_logits=sinks), reference.paged_attention(*case, sink_logits=sinks)
    )


@requirement("PA-16")
@given(shape=SHAPES, seed=SEEDS, order=st.permutations([(0, 0), (5, 0), (4, 2), (7, 1)]))
def test_empty_sequences_take_no_rows(impl, shape, seed, order, far_id):
    case = ragged_batch(shape, [n for n, _ in order], [m for _, m in order], seed)
    expected = reference.paged_attention(*case)
    idle = [row for row, (_, m) in enumerate(order) if m == 0]
    for anything in (-1, far_id(len(case.key_blocks))):
        assert_matches(impl.paged_attention(*case.with_entries(idle, 0, None, anything)), expected)


@requirement("PA-16")
def test_a_batch_without_queries_has_no_rows(impl):
    for context_lens in ([0, 5], []):
        case = ragged_batch(Shape(6, 2, 4, 8), context_lens, [0] * len(context_lens), seed=1)
        assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))
