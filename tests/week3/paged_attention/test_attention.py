"""The function `paged_attention` against contiguous attention."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_matches
from grading.truth import GroundTruth
from tests.week3.paged_attention.cases import (
    SEEDS,
    SHAPES,
    Shape,
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


@requirement("PA-06")
@given(case=ragged_batches())
def test_the_causal_mask_is_aligned_to_the_bottom_right(impl, case):
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
@given(case=decode_batches(max_sequences=3))
def test_padding_of_a_block_table_is_never_followed(impl, case, far_id):
    for padding in (-1, far_id(len(case.key_blocks))):
        padded = case.with_padding(padding)
        assert_matches(impl.paged_attention(*padded), reference.paged_attention(*case))


@requirement("PA-08")
@given(seed=SEEDS, shape=SHAPES)
def test_entries_behind_the_window_are_never_followed(impl, seed, shape, far_id):
    window = shape.block_size
    case = ragged_batch(shape, [4 * shape.block_size, 3], [1, 1], seed)
    expected = reference.paged_attention(*case, window=window)
    for gone in (-1, far_id(len(case.key_blocks))):
        tables = case.block_tables.copy()
        tables[0, :3] = gone  # of four blocks, only the last is within the window
        actual = impl.paged_attention(
            case.queries,
            case.key_blocks,
            case.value_blocks,
            tables,
            case.context_lens,
            case.query_lens,
            window=window,
        )
        assert_matches(actual, expected)


@requirement("PA-09")
@given(seed=SEEDS, shape=st.sampled_from([Shape(6, 2, 4, 8), Shape(6, 3, 5, 7), Shape(3, 3, 2, 5)]))
def test_query_heads_share_key_heads_in_runs(impl, seed, shape):
    case = ragged_batch(shape, [shape.block_size], [1], seed)
    assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))


@requirement("PA-10")
@given(case=decode_batches(max_sequences=2), scale=st.sampled_from([None, 0.125, 1.0, 2.5]))
def test_scores_are_scaled(impl, case, scale):
    assert_matches(impl.paged_attention(*case, scale=scale), reference.paged_attention(*case, scale=scale))


@requirement("PA-11")
@given(case=ragged_batches(max_sequences=2), window=st.integers(1, 9))
def test_a_window_includes_the_query_itself(impl, case, window):
    assert_matches(
        impl.paged_attention(*case, window=window), reference.paged_attention(*case, window=window)
    )


@requirement("PA-12")
@given(case=decode_batches(max_sequences=2, magnitude=2.0), softcap=st.sampled_from([0.5, 2.0, 30.0]))
def test_a_soft_cap_bounds_the_scores(impl, case, softcap):
    assert_matches(
        impl.paged_attention(*case, softcap=softcap), reference.paged_attention(*case, softcap=softcap)
    )


@requirement("PA-13")
@given(
    case=decode_batches(max_sequences=2),
    seed=SEEDS,
    options=st.sampled_from([{}, {"softcap": 0.5}, {"scale": 0.3}]),
)
def test_sink_logits_join_the_denominator_only(impl, case, seed, options):
    sinks = normal(np.random.default_rng(seed), case.queries.shape[1:2], magnitude=3.0)
    assert_matches(
        impl.paged_attention(*case, sink_logits=sinks, **options),
        reference.paged_attention(*case, sink_logits=sinks, **options),
    )


@requirement("PA-14")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@given(shape=SHAPES, seed=SEEDS)
def test_half_precision_outside_float32_inside(impl, shape, seed, dtype):
    case = ragged_batch(shape, [24 * shape.block_size], [1], seed, dtype=dtype)
    case.queries[..., 0] = 12  # all scores grow by the same amount, around 40, which a softmax does not see;
    case.key_blocks[..., 0] = 8  # but bfloat16 would round them to quarters
    assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))


@requirement("PA-15")
@given(case=decode_batches(max_sequences=2, magnitude=60.0))
def test_large_scores_stay_finite(impl, case):
    assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))


@requirement("PA-16")
@given(shape=SHAPES, seed=SEEDS, order=st.permutations([(0, 0), (5, 0), (4, 2), (7, 1)]))
def test_empty_sequences_take_no_rows(impl, shape, seed, order):
    case = ragged_batch(shape, [n for n, _ in order], [m for _, m in order], seed)
    assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))


@requirement("PA-16")
def test_a_batch_without_queries_has_no_rows(impl):
    case = ragged_batch(Shape(6, 2, 4, 8), [0, 5], [0, 0], seed=1)
    assert_matches(impl.paged_attention(*case), reference.paged_attention(*case))
