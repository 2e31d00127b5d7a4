"""Judges any implementation of spec/paged_attention.md. `impl` is the topic's module behind the boundary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import (
    assert_equal,
    assert_identical,
    assert_integers,
    assert_matches,
    passed_through,
    refused,
)
from grading.truth import GroundTruth
from spec import CannotTruncate, InvalidArgument, NotSupported, OutOfBlocks, UnknownSequence
from spec.paged_attention import Fragmentation, MemoryUse
from tests.week3.paged_attention_cases import (
    HEAD_DIM,
    KV_HEADS,
    SEEDS,
    SHAPES,
    Shape,
    decode_batches,
    joined,
    normal,
    query_rows,
    ragged_batch,
    ragged_batches,
    rows,
)

reference = GroundTruth("paged_attention")
NAN = np.nan


# Addresses ------------------------------------------------------------------------------------------------


@st.composite
def tables_and_ranges(draw):
    block_size = draw(st.integers(1, 5))
    table = draw(st.permutations(range(draw(st.integers(1, 6)))))
    start = draw(st.integers(0, len(table) * block_size))
    return list(table), start, draw(st.integers(0, len(table) * block_size - start)), block_size


@requirement("PA-01")
@given(case=tables_and_ranges())
def test_every_position_has_one_slot(impl, case):
    table, start, count, block_size = case
    expected = [table[p // block_size] * block_size + p % block_size for p in range(start, start + count)]
    assert_integers(impl.slot_mapping(table, start, count, block_size), np.array(expected, np.int64))


@requirement("PA-01")
def test_slots_ignore_blocks_given_back_outside_the_range(impl):
    assert_integers(impl.slot_mapping([None, 7, 2], 3, 4, 3), np.array([21, 22, 23, 6]))


@st.composite
def writes(draw, negative=False):
    """New rows, their slots, and a pool to write them into."""
    shape, seed = draw(SHAPES), draw(SEEDS)
    rng = np.random.default_rng(seed)
    capacity = 4 * shape.block_size
    slots = rng.permutation(capacity)[: draw(st.integers(0, capacity))]
    if negative:
        slots = np.where(rng.random(len(slots)) < 0.5, -1, slots)
    keys, values = (normal(rng, (len(slots), shape.kv_heads, shape.head_dim)) for _ in range(2))
    pools = [normal(rng, (4, shape.kv_heads, shape.block_size, shape.head_dim)) for _ in range(2)]
    return keys, values, slots.astype(np.int64), *pools


def written_by_hand(rows, slots, blocks):
    blocks = blocks.copy()
    for row, slot in zip(rows, slots, strict=True):
        if slot >= 0:
            blocks[slot // blocks.shape[2], :, slot % blocks.shape[2]] = row
    return blocks


@requirement("PA-02")
@given(case=writes())
def test_a_write_fills_exactly_the_slots_it_names(impl, case):
    keys, values, slots, key_blocks, value_blocks = case
    written_keys, written_values = impl.write_slots(*case)
    assert_identical(written_keys, written_by_hand(keys, slots, key_blocks), "key_blocks")
    assert_identical(written_values, written_by_hand(values, slots, value_blocks), "value_blocks")


@requirement("PA-03")
@given(case=writes(negative=True))
def test_negative_slots_are_padding(impl, case):
    keys, values, slots, key_blocks, value_blocks = case
    written_keys, written_values = impl.write_slots(*case)
    assert_identical(written_keys, written_by_hand(keys, slots, key_blocks), "key_blocks")
    assert_identical(written_values, written_by_hand(values, slots, value_blocks), "value_blocks")


@requirement("PA-04")
@given(
    block_size=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 16), min_size=0, max_size=4),
    extra=st.integers(0, 2),
)
def test_a_page_table_in_compressed_rows(impl, block_size, lengths, extra):
    tables, expected_indices, ends = [], [], [0]
    for row, n in enumerate(lengths):
        pages = -(-n // block_size)
        tables.append([100 * row + 3 * page for page in range(pages + extra)])
        expected_indices += tables[-1][:pages]
        ends.append(len(expected_indices))
    table = impl.to_csr(tables, lengths, block_size)
    assert_identical(table.indptr, np.array(ends, np.int32), "indptr")
    assert_identical(table.indices, np.array(expected_indices, np.int32), "indices")
    last = np.array([(n - 1) % block_size + 1 for n in lengths], np.int32)
    assert_identical(table.last_page_len, last, "last_page_len")


# Attention over blocks ------------------------------------------------------------------------------------


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


# The pool -------------------------------------------------------------------------------------------------


@requirement("PA-17")
@given(num_blocks=st.integers(1, 9), sizes=st.lists(st.integers(0, 4), max_size=4))
def test_a_block_is_handed_out_once(impl, num_blocks, sizes):
    pool = impl.BlockAllocator(num_blocks, 4)
    taken = []
    for n in sizes:
        if len(taken) + n <= num_blocks:
            blocks = pool.allocate(n)
            assert_equal(len(blocks), n, "blocks handed out")
            taken += blocks
    assert len(set(taken)) == len(taken), f"handed out twice: {sorted(taken)}"
    assert set(taken) <= set(range(num_blocks)), f"expected ids below {num_blocks}, got {sorted(taken)}"
    assert_equal(pool.num_free(), num_blocks - len(taken), "num_free()")


@requirement("PA-17")
def test_the_whole_pool_can_be_handed_out(impl):
    pool = impl.BlockAllocator(5, 4)
    assert_equal(sorted(pool.allocate(5)), [0, 1, 2, 3, 4], "all blocks")
    assert_equal(pool.num_free(), 0, "num_free()")


@requirement("PA-18")
@given(extra=st.integers(0, 4))
def test_a_block_is_free_when_its_last_reader_lets_go(impl, extra):
    pool = impl.BlockAllocator(4, 2)
    first, second = pool.allocate(2)
    pool.share([first] * extra)
    assert_equal(pool.ref_count(first), 1 + extra, "ref_count(first)")
    assert_equal(pool.ref_count(second), 1, "ref_count(second)")
    for left in range(extra, 0, -1):
        pool.release([first])
        assert_equal(pool.ref_count(first), left, "ref_count(first)")
        assert_equal(pool.num_free(), 2, "num_free() while the block has readers")
    pool.release([first])
    assert_equal(pool.ref_count(first), 0, "ref_count(first)")
    assert_equal(pool.num_free(), 3, "num_free()")
    assert second not in pool.allocate(3), "a block still in use was handed out"


@requirement("PA-19")
@given(taken=st.integers(0, 4), wanted=st.integers(1, 6))
def test_allocation_is_all_or_nothing(impl, taken, wanted):
    pool = impl.BlockAllocator(4, 2)
    pool.allocate(taken)
    left = 4 - taken
    with refused(OutOfBlocks):
        pool.allocate(left + wanted)
    assert_equal(pool.num_free(), left, "num_free() after the refusal")
    assert_equal(len(pool.allocate(left)), left, "blocks handed out after the refusal")


@requirement("PA-20")
def test_nothing_is_released_twice(impl):
    pool = impl.BlockAllocator(3, 2)
    first, second = pool.allocate(2)
    pool.release([first])
    with refused(InvalidArgument, "block"):
        pool.release([second, first])
    assert_equal(pool.ref_count(second), 1, "ref_count(second) after the refusal")
    assert_equal(pool.num_free(), 2, "num_free() after the refusal")
    pool.release([second])
    assert_equal(sorted(pool.allocate(3)), [0, 1, 2], "all blocks")


@requirement("PA-20")
def test_one_call_cannot_release_a_block_more_often_than_it_is_held(impl):
    pool = impl.BlockAllocator(3, 2)
    (block,) = pool.allocate()
    pool.share([block])
    with refused(InvalidArgument, "block"):
        pool.release([block, block, block])
    assert_equal(pool.ref_count(block), 2, "ref_count after the refusal")
    pool.release([block, block])
    assert_equal(pool.num_free(), 3, "num_free()")


@requirement("PA-20")
def test_a_free_block_cannot_be_shared(impl):
    pool = impl.BlockAllocator(3, 2)
    first, second = pool.allocate(2)
    pool.release([first])
    with refused(InvalidArgument, "block"):
        pool.share([second, first])
    assert_equal(pool.ref_count(second), 1, "ref_count(second) after the refusal")
    pool.share([second])
    assert_equal(pool.ref_count(second), 2, "ref_count(second)")


@requirement("PA-21")
@given(keep=st.sets(st.integers(0, 7)))
def test_any_free_blocks_will_do(impl, keep):
    pool = impl.BlockAllocator(8, 2)
    blocks = pool.allocate(8)
    released = [block for i, block in enumerate(blocks) if i not in keep]
    pool.release(released)
    assert_equal(sorted(pool.allocate(len(released))), sorted(released), "the free blocks")


# The cache ------------------------------------------------------------------------------------------------


@requirement("PA-22")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@given(block_size=st.sampled_from([1, 3, 4]), sizes=st.lists(st.integers(0, 9), max_size=4), seed=SEEDS)
def test_what_was_appended_comes_back_bit_for_bit(impl, block_size, sizes, seed, dtype):
    cache = impl.PagedKVCache(80, block_size, KV_HEADS, HEAD_DIM, dtype=dtype)
    told = {name: [rows(0, 0, dtype)] for name in ("a", "b")}
    for name in told:
        assert_equal(cache.add(name), 0, "add()")
    for i, m in enumerate(sizes):  # interleaved, so that blocks of the two alternate
        for name in told:
            told[name].append(rows(m, [seed, i, ord(name)], dtype))
            cache.append(name, *told[name][-1])
    for name, parts in told.items():
        keys, values = cache.gather(name)
        expected_keys, expected_values = joined(*parts)
        assert_identical(keys, expected_keys, f"keys of {name}")
        assert_identical(values, expected_values, f"values of {name}")


@requirement("PA-23")
@given(block_size=st.sampled_from([1, 3, 4]), sizes=st.lists(st.integers(0, 9), max_size=4))
def test_n_tokens_take_just_enough_blocks(impl, block_size, sizes):
    cache = impl.PagedKVCache(40, block_size, KV_HEADS, HEAD_DIM)
    cache.add(7)
    n = 0
    for m in sizes:
        cache.append(7, *rows(m, n))
        n += m
        table = cache.block_table(7)
        assert_equal(cache.length(7), n, "length()")
        assert_equal(len(table), -(-n // block_size), f"blocks for {n} tokens")
        assert len(set(table)) == len(table), f"a block appears twice: {table}"
        assert set(table) <= set(range(40)), f"expected ids below 40, got {table}"
        assert_equal(cache.usage().used, -(-n // block_size), "usage().used")


@requirement("PA-24")
@given(
    prompt=st.lists(st.integers(0, 9), min_size=2, max_size=3),
    seed=SEEDS,
    options=st.sampled_from([{}, {"scale": 0.3}, {"softcap": 1.5}]),
    window=st.sampled_from([None, 1, 4, 6]),
)
def test_the_cache_attends_as_contiguous_memory_would(impl, prompt, seed, options, window):
    cache = impl.PagedKVCache(30, 4, KV_HEADS, HEAD_DIM, window=window)
    told = []
    for name, n in enumerate(prompt):
        cache.add(name)
        cache.append(name, *rows(n, [seed, name]))
        cache.append(name, *rows(1, [seed, name, 1]))
        told.append(joined(rows(n, [seed, name]), rows(1, [seed, name, 1])))
    names = list(range(len(prompt)))[::-1]
    queries = query_rows(len(names), seed)
    actual = cache.attend(names, queries, [1] * len(names), **options)
    for row, name in enumerate(names):
        expected = reference.attention(queries[row : row + 1], *told[name], window=window, **options)
        assert_matches(actual[row : row + 1], expected, f"output of sequence {name}")


@requirement("PA-24")
@given(lens=st.lists(st.integers(1, 9), min_size=1, max_size=3), seed=SEEDS)
def test_the_cache_attends_a_ragged_batch_with_sinks(impl, lens, seed):
    cache = impl.PagedKVCache(30, 4, KV_HEADS, HEAD_DIM)
    for name, n in enumerate(lens):
        cache.add(name)
        cache.append(name, *rows(n, [seed, name]))
    query_lens = [1 + seed % n for n in lens]
    queries, sinks = query_rows(sum(query_lens), seed), query_rows(1, seed)[0, :, 0]
    actual = cache.attend(list(range(len(lens))), queries, query_lens, sink_logits=sinks)
    start = 0
    for name, m in enumerate(query_lens):
        part = slice(start, start + m)
        expected = reference.attention(queries[part], *rows(lens[name], [seed, name]), sink_logits=sinks)
        assert_matches(actual[part], expected, f"output of sequence {name}")
        start += m


@requirement("PA-24")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@given(seed=SEEDS)
def test_the_cache_attends_in_half_precision(impl, seed, dtype):
    cache = impl.PagedKVCache(30, 4, KV_HEADS, HEAD_DIM, dtype=dtype)
    cache.add(0)
    told = rows(11, seed, dtype)
    cache.append(0, *told)
    queries = query_rows(3, seed, dtype)
    assert_matches(cache.attend([0], queries, [3]), reference.attention(queries, *told))


@requirement("PA-25")
@given(seed=SEEDS, lens=st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_layers_do_not_mix(impl, seed, lens):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM, layers=3)
    names = list(range(len(lens)))
    for name in names:
        cache.add(name)
    cache.reserve(names, lens)
    for layer in (2, 0, 1):
        cache.write(layer, *rows(sum(lens), [seed, layer]))
    cache.commit(names)
    queries = query_rows(len(names), seed)
    for layer in range(3):
        keys, values = rows(sum(lens), [seed, layer])
        ends = np.cumsum(lens)
        actual = cache.attend(names, queries, [1] * len(names), layer=layer)
        for name, n, end in zip(names, lens, ends, strict=True):
            part = slice(end - n, end)
            got_keys, got_values = cache.gather(name, layer=layer)
            assert_identical(got_keys, keys[part], f"keys of layer {layer}")
            assert_identical(got_values, values[part], f"values of layer {layer}")
            expected = reference.attention(queries[name : name + 1], keys[part], values[part])
            assert_matches(actual[name : name + 1], expected, f"output of layer {layer}")


@requirement("PA-26")
@given(seed=SEEDS, old=st.integers(0, 6), new=st.integers(1, 6))
def test_reserved_tokens_are_attended_once_written_and_count_once_committed(impl, seed, old, new):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM, layers=2)
    told = [joined(rows(old, [seed, layer]), rows(new, [seed, layer, 1])) for layer in range(2)]
    cache.add("s")
    cache.reserve(["s"], [old])
    for layer in range(2):
        cache.write(layer, *rows(old, [seed, layer]))
    cache.commit(["s"])

    cache.reserve(["s"], [new])
    assert_equal(cache.length("s"), old, "length() before commit")
    queries = query_rows(new, seed)
    for layer in range(2):
        cache.write(layer, *rows(new, [seed, layer, 1]))
        actual = cache.attend(["s"], queries, [new], layer=layer)
        assert_matches(actual, reference.attention(queries, *told[layer]), f"output of layer {layer}")
        keys, _ = cache.gather("s", layer=layer)
        assert_identical(keys, told[layer][0][:old], "keys before commit")
    cache.commit(["s"])
    assert_equal(cache.length("s"), old + new, "length() after commit")
    assert_identical(cache.gather("s", layer=1)[1], told[1][1], "values after commit")


@requirement("PA-26")
def test_writing_a_layer_again_replaces_it(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add("s")
    cache.reserve(["s"], [5])
    cache.write(0, *rows(5, 1))
    cache.write(0, *rows(5, 2))
    cache.commit(["s"])
    assert_identical(cache.gather("s")[0], rows(5, 2)[0], "keys")


@requirement("PA-26")
def test_a_reservation_may_end_sequence_by_sequence(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    for name in "abc":
        cache.add(name)
    cache.reserve(["b", "a", "c"], [3, 5, 2])
    first = rows(10, 1)
    cache.write(0, *first)
    cache.commit(["a"])
    cache.rollback(["c"])
    last = rows(3, 2)
    cache.write(0, *last)  # only b is left
    cache.commit(["b"])
    assert_identical(cache.gather("a")[0], first[0][3:8], "keys of a")
    assert_identical(cache.gather("b")[0], last[0], "keys of b")
    assert_equal(cache.length("c"), 0, "length() of c")


@requirement("PA-26")
def test_what_was_not_written_is_neither_attended_nor_committed(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM, layers=2)
    cache.add("s")
    cache.reserve(["s"], [2])
    cache.write(0, *rows(2, 1))
    with refused(InvalidArgument, "layer", "seq_ids"):
        cache.attend(["s"], query_rows(2, 1), [2], layer=1)
    with refused(InvalidArgument, "layer", "seq_ids"):
        cache.commit(["s"])
    cache.write(1, *rows(2, 2))
    cache.commit(["s"])
    assert_equal(cache.length("s"), 2, "length()")


@requirement("PA-27")
@given(old=st.lists(st.integers(0, 6), min_size=2, max_size=3), new=st.integers(0, 9), written=st.booleans())
def test_a_rollback_gives_everything_back(impl, old, new, written):
    cache = impl.PagedKVCache(40, 4, KV_HEADS, HEAD_DIM)
    names = list(range(len(old)))
    for name, n in enumerate(old):
        cache.add(name)
        cache.append(name, *rows(n, name))
    cache.fork(0, "fork")
    names, lens = [*names, "fork"], [*old, old[0]]
    before, tables = cache.usage(), [cache.block_table(name) for name in names]
    cache.reserve(names, [new] * len(names))
    if written and new:
        cache.write(0, *rows(new * len(names), 99))
    cache.rollback(names)
    after = cache.usage()
    for count in ("free", "used", "cached", "shared", "slots_used", "slots_wasted"):
        assert_equal(getattr(after, count), getattr(before, count), f"usage().{count}")
    for name, n, table in zip(names, lens, tables, strict=True):
        assert_equal(cache.length(name), n, f"length() of {name}")
        assert_equal(cache.block_table(name), table, f"block_table() of {name}")
        assert_identical(cache.gather(name)[0], rows(n, 0 if name == "fork" else name)[0], f"keys of {name}")


@requirement("PA-27")
def test_a_sequence_rolled_back_beside_one_committed_keeps_its_content(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("a")
    cache.append("a", *rows(2, 1))
    cache.fork("a", "b")
    cache.reserve(["a", "b"], [1, 1])
    new = rows(2, 2)
    cache.write(0, *new)
    cache.rollback(["a"])
    cache.commit(["b"])
    assert_identical(cache.gather("a")[0], rows(2, 1)[0], "keys of a")
    assert_identical(cache.gather("b")[0], np.concatenate([rows(2, 1)[0], new[0][1:]]), "keys of b")


@requirement("PA-27")
@given(shorter_first=st.booleans())
def test_a_rollback_keeps_tokens_that_only_the_longer_reader_of_a_tail_has(impl, shorter_first):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("long")
    cache.append("long", *rows(3, 1))
    cache.fork("long", "short")
    cache.truncate("short", 2)
    names = ["short", "long"] if shorter_first else ["long", "short"]
    cache.reserve(names, [1, 1])
    cache.write(0, *rows(2, 2))
    cache.rollback(names)
    assert_identical(cache.gather("long")[0], rows(3, 1)[0], "keys of the longer")
    assert_identical(cache.gather("short")[0], rows(3, 1)[0][:2], "keys of the shorter")


@requirement("PA-28")
@given(first=st.integers(0, 8), second=st.integers(1, 8), forked=st.booleans())
def test_running_out_changes_nothing(impl, first, second, forked):
    cache = impl.PagedKVCache(4, 2, KV_HEADS, HEAD_DIM)
    cache.add("a")
    cache.add("b")
    cache.append("a", *rows(first, 1))
    if forked:
        cache.fork("a", "c")
    before, table = cache.usage(), cache.block_table("a")
    copies = int(forked and first % 2 == 1)  # the odd tail is shared
    needed = -(-(first + second) // 2) - len(table) + copies + 1
    if needed <= before.free:
        cache.reserve(["a", "b"], [second, 1])
        return
    with refused(OutOfBlocks):
        cache.reserve(["a", "b"], [second, 1])
    assert_equal(cache.usage(), before, "usage() after the refusal")
    assert_equal(cache.block_table("a"), table, "block_table() after the refusal")
    assert_equal(cache.length("b"), 0, "length() of b")
    assert_identical(cache.gather("a")[0], rows(first, 1)[0], "keys after the refusal")
    with refused(OutOfBlocks):
        cache.append("b", *rows(9, 2))
    assert_equal(cache.usage(), before, "usage() after the second refusal")


@requirement("PA-28")
def test_the_last_block_can_be_used(impl):
    cache = impl.PagedKVCache(2, 3, KV_HEADS, HEAD_DIM)
    cache.add("a")
    cache.append("a", *rows(6, 1))
    assert_equal(cache.usage().free, 0, "usage().free")
    assert_identical(cache.gather("a")[1], rows(6, 1)[1], "values")


@requirement("PA-29")
@given(first=st.integers(1, 12), second=st.integers(1, 12), seed=SEEDS)
def test_freed_memory_is_reused_and_leaves_no_trace(impl, first, second, seed):
    cache = impl.PagedKVCache(3, 4, KV_HEADS, HEAD_DIM)
    cache.add("old")
    keys, values = rows(first, seed)
    cache.append("old", keys * NAN, values * NAN)
    cache.free("old")
    assert_equal(cache.usage().free, 3, "usage().free")
    with refused(UnknownSequence, "seq_id"):
        cache.length("old")

    cache.add("old")
    assert_equal(cache.length("old"), 0, "length() of the new sequence")
    told = rows(second, seed)
    cache.append("old", *told)
    queries = query_rows(1, seed)
    assert_matches(cache.attend(["old"], queries, [1]), reference.attention(queries, *told))
    assert_identical(cache.gather("old")[0], told[0], "keys")


@requirement("PA-29")
def test_a_freed_reservation_gives_its_blocks_back(impl):
    cache = impl.PagedKVCache(4, 2, KV_HEADS, HEAD_DIM)
    cache.add("a")
    cache.add("b")
    cache.append("a", *rows(3, 1))
    cache.reserve(["a", "b"], [2, 2])
    cache.free("a")
    assert_equal(cache.usage().free, 3, "usage().free")
    cache.write(0, *rows(2, 2))
    cache.commit(["b"])
    assert_identical(cache.gather("b")[0], rows(2, 2)[0], "keys of b")


@requirement("PA-30")
@given(n=st.integers(0, 11), cut=st.integers(0, 11), more=st.integers(0, 5))
def test_truncation_gives_back_whole_blocks(impl, n, cut, more):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cut = min(cut, n)
    cache.add("s")
    cache.append("s", *rows(n, 1))
    cache.truncate("s", cut)
    assert_equal(cache.length("s"), cut, "length()")
    assert_equal(len(cache.block_table("s")), -(-cut // 4), f"blocks for {cut} tokens")
    assert_equal(cache.usage().free, 9 - -(-cut // 4), "usage().free")
    cache.append("s", *rows(more, 2))
    kept, new = rows(n, 1), rows(more, 2)
    assert_identical(cache.gather("s")[0], np.concatenate([kept[0][:cut], new[0]]), "keys")
    assert_identical(cache.gather("s")[1], np.concatenate([kept[1][:cut], new[1]]), "values")


# Sharing --------------------------------------------------------------------------------------------------


@requirement("PA-31")
@given(n=st.integers(0, 9))
def test_a_fork_copies_nothing(impl, n):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("parent")
    cache.append("parent", *rows(n, 1))
    used = cache.usage().used
    cache.fork("parent", "child")
    assert_equal(cache.block_table("child"), cache.block_table("parent"), "block_table() of the child")
    assert_equal(cache.length("child"), n, "length() of the child")
    usage = cache.usage()
    assert_equal((usage.used, usage.shared, usage.copies), (used, used, 0), "blocks used, shared, copied")
    assert_identical(cache.gather("child")[1], rows(n, 1)[1], "values of the child")


@requirement("PA-32")
@given(n=st.integers(0, 9), first=st.integers(1, 5), second=st.integers(1, 5), child_first=st.booleans())
def test_writing_into_a_shared_block_copies_it_first(impl, n, first, second, child_first):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add("parent")
    cache.append("parent", *rows(n, 1))
    cache.fork("parent", "child")
    writers = ["child", "parent"] if child_first else ["parent", "child"]
    cache.append(writers[0], *rows(first, 2))
    assert_equal(cache.length(writers[1]), n, "length() of the other")
    assert_identical(cache.gather(writers[1])[0], rows(n, 1)[0], "keys of the other")
    cache.append(writers[1], *rows(second, 3))
    for name, m, seed in ((writers[0], first, 2), (writers[1], second, 3)):
        keys, values = joined(rows(n, 1), rows(m, seed))
        assert_identical(cache.gather(name)[0], keys, f"keys of {name}")
        assert_identical(cache.gather(name)[1], values, f"values of {name}")


@requirement("PA-32")
def test_a_copy_takes_every_layer_along(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM, layers=2)
    cache.add("parent")
    for name, m in (("parent", 2), ("child", 1)):
        if name == "child":
            cache.fork("parent", "child")
        cache.reserve([name], [m])
        for layer in range(2):
            cache.write(layer, *rows(m, [m, layer]))
        cache.commit([name])
    for layer in range(2):
        expected = joined(rows(2, [2, layer]), rows(1, [1, layer]))
        assert_identical(cache.gather("child", layer=layer)[0], expected[0], f"keys of layer {layer}")
        assert_identical(cache.gather("child", layer=layer)[1], expected[1], f"values of layer {layer}")


@requirement("PA-33")
@given(k=st.integers(2, 5), together=st.booleans())
def test_k_sequences_that_share_a_tail_make_one_copy_less(impl, k, together):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add(0)
    cache.append(0, *rows(6, 0))
    for child in range(1, k):
        cache.fork(0, child)
    new = rows(k, 1)
    if together:
        cache.reserve(list(range(k)), [1] * k)
        cache.write(0, *new)
        cache.commit(list(range(k)))
    else:
        for name in range(k):
            cache.append(name, new[0][name : name + 1], new[1][name : name + 1])
    assert_equal(cache.usage().copies, k - 1, "usage().copies")
    assert_equal(cache.usage().used, 1 + k, "usage().used")
    for name in range(k):
        expected = np.concatenate([rows(6, 0)[0], new[0][name : name + 1]])
        assert_identical(cache.gather(name)[0], expected, f"keys of {name}")


@requirement("PA-34")
@given(blocks=st.integers(1, 3), m=st.integers(0, 5))
def test_full_shared_blocks_are_never_copied(impl, blocks, m):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add("parent")
    cache.append("parent", *rows(4 * blocks, 1))
    cache.fork("parent", "child")
    cache.append("child", *rows(m, 2))
    cache.append("parent", *rows(m, 3))
    usage = cache.usage()
    assert_equal((usage.copies, usage.shared), (0, blocks), "blocks copied, shared")
    assert_equal(cache.block_table("child")[:blocks], cache.block_table("parent")[:blocks], "shared part")


@requirement("PA-34")
def test_appending_nothing_copies_nothing(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add("parent")
    cache.append("parent", *rows(2, 1))
    cache.fork("parent", "child")
    cache.append("child", *rows(0, 2))
    assert_equal((cache.usage().copies, cache.usage().used), (0, 1), "blocks copied, used")


@requirement("PA-35")
@given(order=st.permutations(["parent", "child", "grandchild"]), n=st.integers(1, 9))
def test_relatives_may_leave_in_any_order(impl, order, n):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add("parent")
    cache.append("parent", *rows(n, 1))
    cache.fork("parent", "child")
    cache.append("child", *rows(2, 2))
    cache.fork("child", "grandchild")
    told = {"parent": rows(n, 1), "child": joined(rows(n, 1), rows(2, 2))}
    told["grandchild"] = told["child"]
    for leaver in order:
        cache.free(leaver)
        del told[leaver]
        cache.add("other")
        cache.append("other", *rows(4, 5))  # would overwrite a block given back too early
        for name, (keys, _) in told.items():
            assert_identical(cache.gather(name)[0], keys, f"keys of {name}")
        cache.free("other")
    assert_equal(cache.usage().free, 20, "usage().free")


# Prefix caching -------------------------------------------------------------------------------------------

B = 4


def caching(impl, num_blocks=20, **options):
    return impl.PagedKVCache(num_blocks, B, KV_HEADS, HEAD_DIM, prefix_caching=True, **options)


def rows_of(tokens, history=()):
    """Keys and values that depend on each token and on all before it, as in a real model."""
    parts = [rows(0, 0)]
    for end in range(len(history) + 1, len(history) + len(tokens) + 1):
        parts.append(rows(1, [token + 1 for token in (*history, *tokens)[:end]]))
    return joined(*parts)


def run(cache, seq_id, tokens, **extras):
    """Adds a sequence, computes what is not cached, and returns how much was."""
    hit = cache.add(seq_id, tokens, **extras)
    cache.append(seq_id, *rows_of(tokens[hit:], tokens[:hit]), tokens=tokens[hit:])
    return hit


def assert_content(cache, seq_id, tokens):
    keys, values = rows_of(tokens)
    assert_identical(cache.gather(seq_id)[0], keys, f"keys of {seq_id}")
    assert_identical(cache.gather(seq_id)[1], values, f"values of {seq_id}")


@requirement("PA-36")
@given(n=st.integers(0, 14), m=st.integers(0, 14), shared=st.integers(0, 14), alive=st.booleans())
def test_a_known_prefix_is_not_computed_again(impl, n, m, shared, alive):
    first = [10 + i for i in range(n)]
    second = first[:shared] + [50 + i for i in range(m)]
    cache = caching(impl)
    assert_equal(run(cache, "first", first), 0, "add() of the first")
    if not alive:
        cache.free("first")
    common = min(shared, n)
    expected = max(0, min(common, len(second) - 1)) // B * B
    assert_equal(cache.cached_prefix(second), expected, "cached_prefix()")
    assert_equal(cache.add("second", second), expected, "add()")
    assert_equal(cache.length("second"), expected, "length() after add")
    cache.append("second", *rows_of(second[expected:], second[:expected]), tokens=second[expected:])
    assert_content(cache, "second", second)
    usage = cache.usage()
    assert_equal(
        (usage.prefix_tokens_queried, usage.prefix_tokens_hit),
        (n + len(second), expected),
        "tokens queried, hit",
    )


@requirement("PA-36")
def test_generated_tokens_are_found_too(impl):
    cache = caching(impl)
    run(cache, "turn 1", [1, 2, 3, 4, 5, 6])
    for token, history in ((7, [1, 2, 3, 4, 5, 6]), (8, [1, 2, 3, 4, 5, 6, 7])):
        cache.append("turn 1", *rows_of([token], history), tokens=[token])
    cache.fork("turn 1", "fork")
    cache.free("turn 1")
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert_equal(run(cache, "turn 2", tokens), 8, "add()")
    assert_content(cache, "turn 2", tokens)


@requirement("PA-36")
def test_without_prefix_caching_nothing_is_found(impl):
    cache = impl.PagedKVCache(20, B, KV_HEADS, HEAD_DIM)
    assert_equal(run(cache, "first", [1, 2, 3, 4, 5]), 0, "add() of the first")
    assert_equal(run(cache, "second", [1, 2, 3, 4, 5]), 0, "add() of the second")
    cache.free("first")
    assert_equal(cache.usage().cached, 0, "usage().cached")


@requirement("PA-37")
@given(n=st.integers(1, 17))
def test_one_token_is_always_left_to_compute(impl, n):
    tokens = list(range(n))
    cache = caching(impl)
    run(cache, "first", tokens)
    assert_equal(cache.add("again", tokens), (n - 1) // B * B, f"add() of the same {n} tokens")


@requirement("PA-38")
def test_a_block_is_known_by_everything_before_it(impl):
    cache = caching(impl)
    run(cache, "first", [1, 1, 1, 1, 2, 2, 2, 2, 3])
    assert_equal(run(cache, "other start", [9, 9, 9, 9, 2, 2, 2, 2, 3]), 0, "add() behind another start")
    assert_equal(run(cache, "other place", [2, 2, 2, 2, 3, 3, 3, 3, 3]), 0, "add() at another place")
    assert_equal(run(cache, "gap", [1, 1, 1, 1, 7, 7, 7, 7, 2, 2, 2, 2, 3]), 4, "add() with a gap")
    assert_content(cache, "other start", [9, 9, 9, 9, 2, 2, 2, 2, 3])
    assert_content(cache, "gap", [1, 1, 1, 1, 7, 7, 7, 7, 2, 2, 2, 2, 3])


@requirement("PA-38")
def test_the_lookup_stops_at_the_first_miss(impl):
    cache = caching(impl, num_blocks=6)
    tokens = [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4]
    run(cache, "first", tokens)
    run(cache, "other", [5, 5, 5, 5])
    cache.truncate("first", 4)  # releases the second and third block; the deeper is evicted first
    cache.free("first")
    cache.free("other")
    cache.add("filler")
    cache.append("filler", *rows(3 * B, 1))  # two plain blocks and one eviction
    assert_equal(cache.cached_prefix(tokens), 8, "cached_prefix() after the third block went")
    cache.append("filler", *rows(B, 2))
    assert_equal(cache.cached_prefix(tokens), 4, "cached_prefix() after the second block went")


@requirement("PA-39")
@given(
    first=st.tuples(st.sampled_from([None, "", "x"]), st.sampled_from([None, "", "x"])),
    second=st.tuples(st.sampled_from([None, "", "x", "y"]), st.sampled_from([None, "", "x", "y"])),
)
def test_salt_and_adapter_keep_prefixes_apart(impl, first, second):
    tokens = list(range(9))
    cache = caching(impl)
    run(cache, "first", tokens, salt=first[0], adapter=first[1])
    expected = 8 if first == second else 0
    assert_equal(cache.cached_prefix(tokens, salt=second[0], adapter=second[1]), expected, "cached_prefix()")
    assert_equal(cache.add("second", tokens, salt=second[0], adapter=second[1]), expected, "add()")


@requirement("PA-39")
def test_the_hash_is_told_salt_and_adapter_with_their_kind(impl):
    seen = []

    def block_hash(parent, tokens, extras):
        seen.append((parent, tuple(tokens), tuple(tuple(pair) for pair in extras)))
        return b"%d" % len(seen)

    cache = caching(impl, block_hash=block_hash)
    cache.add("s", salt="x", adapter="y")
    cache.append("s", *rows_of(range(8)), tokens=list(range(8)))
    expected = [
        (None, (0, 1, 2, 3), (("adapter", "y"), ("salt", "x"))),
        (b"1", (4, 5, 6, 7), (("adapter", "y"),)),
    ]
    assert_equal(seen, expected, "calls of block_hash")


@requirement("PA-40")
def test_nothing_is_found_before_it_is_committed(impl):
    cache = caching(impl)
    tokens = list(range(9))
    cache.add("s", tokens)
    cache.reserve(["s"], [9], [tokens])
    assert_equal(cache.cached_prefix(tokens), 0, "cached_prefix() after reserve")
    cache.write(0, *rows_of(tokens))
    assert_equal(cache.cached_prefix(tokens), 0, "cached_prefix() after write")
    cache.rollback(["s"])
    assert_equal(cache.cached_prefix(tokens), 0, "cached_prefix() after rollback")
    cache.free("s")
    assert_equal(cache.usage().cached, 0, "usage().cached after an abort")
    run(cache, "s", tokens)
    assert_equal(cache.cached_prefix(tokens), 8, "cached_prefix() after commit")


@requirement("PA-40")
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_only_full_blocks_are_published(impl, sizes):
    cache = caching(impl)
    tokens = list(range(sum(sizes)))
    cache.add("s", tokens)
    done = 0
    for m in sizes:
        cache.append("s", *rows_of(tokens[done : done + m], tokens[:done]), tokens=tokens[done : done + m])
        done += m
        assert_equal(
            cache.cached_prefix([*tokens, 99]), done // B * B, f"cached_prefix() after {done} tokens"
        )


@requirement("PA-40")
def test_blocks_with_unknown_tokens_are_not_published(impl):
    cache = caching(impl)
    cache.add("s")
    cache.append("s", *rows_of([0, 1, 2, 3]), tokens=[0, 1, 2, 3])
    cache.append("s", *rows_of([4], [0, 1, 2, 3]))
    cache.append("s", *rows_of(range(5, 12), range(5)), tokens=list(range(5, 12)))
    assert_equal(cache.cached_prefix(list(range(13))), 4, "cached_prefix()")
    cache.free("s")
    assert_equal(cache.usage().cached, 1, "usage().cached")


@requirement("PA-41")
@given(cut=st.integers(1, 7), alive=st.booleans())
def test_a_published_block_never_changes(impl, cut, alive):
    cache = caching(impl)
    tokens, other = [1, 2, 3, 4, 5, 6, 7, 8, 9], [70, 71, 72, 73, 74, 75, 76, 77]
    run(cache, "s", tokens)
    if alive:
        run(cache, "reader", tokens)
    cache.truncate("s", cut)
    cache.append("s", *rows_of(other, tokens[:cut]), tokens=other)
    assert_content(cache, "s", tokens[:cut] + other)
    if alive:
        assert_content(cache, "reader", tokens)
    assert_equal(run(cache, "again", tokens), 8, "add() of the old tokens")
    assert_content(cache, "again", tokens)
    assert_equal(run(cache, "new", [*tokens[:cut], *other]), (cut + 7) // B * B, "add() of the new tokens")
    assert_content(cache, "new", tokens[:cut] + other)


@requirement("PA-42")
@given(
    prompts=st.lists(st.lists(st.integers(0, 1), min_size=9, max_size=13), min_size=2, max_size=4),
    weak=st.sampled_from(["constant", "without parent", "first token"]),
)
def test_a_colliding_hash_is_harmless(impl, prompts, weak):
    def block_hash(parent, tokens, extras):
        if weak == "constant":
            return b"same"
        return bytes(tokens) if weak == "without parent" else bytes(tokens[:1])

    cache = caching(impl, num_blocks=40, block_hash=block_hash)
    for name, tokens in enumerate(prompts):
        known = list(prompts[:name])
        common = max((common_prefix(tokens, p) for p in known), default=0)
        assert_equal(run(cache, name, tokens), min(common, len(tokens) - 1) // B * B, f"add() of {name}")
    for name, tokens in enumerate(prompts):
        assert_content(cache, name, tokens)


def common_prefix(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@requirement("PA-43")
@given(order=st.permutations([0, 1, 2]), evictions=st.integers(0, 6))
def test_the_least_recently_released_goes_first_the_deeper_before_its_parent(impl, order, evictions):
    cache = caching(impl, num_blocks=6)
    prompts = [[name] * 4 + [name + 10] * 4 for name in range(3)]
    for name, tokens in enumerate(prompts):
        run(cache, name, tokens)
    for name in order:
        cache.free(name)
    assert_equal(cache.usage().cached, 6, "usage().cached")
    cache.add("filler")
    cache.append("filler", *rows(B * evictions, 1))
    assert_equal(cache.usage().evictions, evictions, "usage().evictions")
    left = dict.fromkeys(order, 2)
    for i in range(evictions):
        left[order[i // 2]] -= 1
    for name, tokens in enumerate(prompts):
        assert_equal(cache.cached_prefix([*tokens, 99]), left[name] * B, f"cached_prefix() of prompt {name}")


@requirement("PA-43")
def test_blocks_without_content_are_taken_before_cached_ones(impl):
    cache = caching(impl, num_blocks=4)
    run(cache, "s", list(range(10)))
    cache.free("s")
    cache.add("filler")
    cache.append("filler", *rows(2 * B, 1))
    assert_equal(cache.cached_prefix(list(range(10))), 8, "cached_prefix()")
    assert_equal(cache.usage().evictions, 0, "usage().evictions")
    cache.append("filler", *rows(2 * B, 2))
    assert_equal(cache.cached_prefix(list(range(10))), 0, "cached_prefix() when both were needed")
    assert_equal(cache.usage().evictions, 2, "usage().evictions")


@requirement("PA-43")
def test_a_hit_makes_a_block_recent_again(impl):
    cache = caching(impl, num_blocks=2)
    for name in (0, 1):
        run(cache, name, [name] * B)
    for name in (0, 1):
        cache.free(name)
    assert_equal(cache.add("hit", [0] * B + [9]), B, "add()")
    cache.free("hit")
    cache.add("filler")
    cache.append("filler", *rows(B, 1))
    assert_equal(cache.cached_prefix([0] * B + [9]), B, "cached_prefix() of the one hit")
    assert_equal(cache.cached_prefix([1] * B + [9]), 0, "cached_prefix() of the other")


@requirement("PA-44")
def test_a_hit_is_held_at_once(impl):
    cache = caching(impl, num_blocks=3)
    tokens = list(range(8))
    run(cache, "s", tokens)
    cache.free("s")
    assert_equal(cache.add("hit", [*tokens, 99]), 8, "add()")
    cache.append("hit", *rows_of([99], tokens), tokens=[99])
    assert_content(cache, "hit", [*tokens, 99])
    cache.add("other")
    with refused(OutOfBlocks):
        cache.append("other", *rows(1, 1))
    assert_content(cache, "hit", [*tokens, 99])


@requirement("PA-45")
@given(first_out=st.booleans())
def test_the_same_content_may_be_published_twice(impl, first_out):
    cache = caching(impl, num_blocks=4)
    tokens = [5] * B
    for name in ("a", "b"):
        cache.add(name, tokens)
    for name in ("a", "b"):  # both added before either was computed
        cache.append(name, *rows_of(tokens), tokens=tokens)
    for name in ("a", "b") if first_out else ("b", "a"):
        cache.free(name)
    assert_equal(cache.usage().cached, 2, "usage().cached")
    cache.add("filler")
    cache.append("filler", *rows(3 * B, 1))  # evicts one of the two
    assert_equal(cache.usage().evictions, 1, "usage().evictions")
    assert_equal(cache.add("again", [*tokens, 6]), B, "add()")
    assert_content(cache, "again", tokens)


@requirement("PA-46")
def test_asking_is_free_of_effects(impl):
    cache = caching(impl, num_blocks=2)
    for name in (0, 1):
        run(cache, name, [name] * B)
    for name in (0, 1):
        cache.free(name)
    before = cache.usage()
    assert_equal(cache.cached_prefix([0] * B + [9]), B, "cached_prefix()")
    assert_equal(cache.usage(), before, "usage()")
    cache.add("filler")
    cache.append("filler", *rows(B, 1))
    assert_equal(cache.cached_prefix([0] * B + [9]), 0, "cached_prefix() of the oldest")
    assert_equal(cache.cached_prefix([1] * B + [9]), B, "cached_prefix() of the newest")


@requirement("PA-47")
def test_no_reset_while_in_use(impl):
    cache = caching(impl)
    tokens = list(range(9))
    run(cache, "s", tokens)
    assert_equal(cache.reset_prefix_cache(), False, "reset_prefix_cache() in use")
    assert_equal(cache.cached_prefix(tokens), 8, "cached_prefix() after the refusal")
    cache.swap_out(["s"])
    assert_equal(cache.reset_prefix_cache(), False, "reset_prefix_cache() with a sequence swapped out")
    cache.swap_in(["s"])
    cache.free("s")
    cache.add("empty")
    cache.reserve(["empty"], [1])
    assert_equal(cache.reset_prefix_cache(), False, "reset_prefix_cache() with a reservation")
    cache.rollback(["empty"])
    assert_equal(cache.cached_prefix(tokens), 8, "cached_prefix() before the reset")
    assert_equal(cache.reset_prefix_cache(), True, "reset_prefix_cache()")
    assert_equal(cache.cached_prefix(tokens), 0, "cached_prefix() after the reset")
    assert_equal((cache.usage().cached, cache.usage().free), (0, 20), "blocks cached, free")


@requirement("PA-48")
@given(step=st.integers(1, 9), blocks=st.integers(1, 6))
def test_a_block_is_hashed_once(impl, step, blocks):
    calls = []

    def block_hash(parent, tokens, extras):
        calls.append(tokens)
        return repr((parent, tokens)).encode()

    tokens = list(range(blocks * B))
    cache = caching(impl, num_blocks=40, block_hash=block_hash)
    cache.add("s")
    for start in range(0, len(tokens), step):
        part = tokens[start : start + step]
        cache.append("s", *rows_of(part, tokens[:start]), tokens=part)
    assert_equal(len(calls), blocks, f"calls of block_hash to publish {blocks} blocks")
    cache.fork("s", "fork")
    cache.append("fork", *rows_of([7], tokens), tokens=[7])
    assert_equal(len(calls), blocks, "calls of block_hash after a fork and one more token")
    assert_equal(cache.add("again", tokens), (blocks - 1) * B, "add()")
    lookups = len(calls) - blocks
    assert lookups <= blocks, f"expected at most {blocks} calls of block_hash to find them, got {lookups}"


FORBIDDEN = 666


def hash_with_a_flaw(parent, tokens, extras):
    if FORBIDDEN in tokens:
        raise ValueError("cannot hash this")
    return repr((parent, tokens)).encode()


@requirement("PA-61")
def test_a_hash_that_raises_changes_nothing(impl):
    cache = caching(impl, num_blocks=6, block_hash=hash_with_a_flaw)
    tokens, bad = list(range(9)), [3, FORBIDDEN, 5, 6, 7, 8]
    for name in ("s", "t"):
        run(cache, name, tokens[:3])
    before = cache.usage()
    with passed_through(ValueError("cannot hash this")):
        cache.append("s", *rows_of(bad, tokens[:3]), tokens=bad)
    assert_equal((cache.usage(), cache.length("s")), (before, 3), "usage(), length() after append")
    cache.append("s", *rows_of(tokens[3:], tokens[:3]), tokens=tokens[3:])
    assert_content(cache, "s", tokens)
    assert_equal(cache.cached_prefix(tokens), 8, "cached_prefix()")


@requirement("PA-61")
def test_an_append_whose_hash_raises_evicts_and_copies_nothing(impl):
    cache = caching(impl, num_blocks=3, block_hash=hash_with_a_flaw)
    run(cache, "cached", [5, 6, 7, 8])
    cache.free("cached")
    run(cache, "s", [0, 1, 2])
    cache.fork("s", "fork")
    before = cache.usage()
    bad = [FORBIDDEN, 3]
    with passed_through(ValueError("cannot hash this")):
        cache.append("s", *rows_of(bad, [0, 1, 2]), tokens=bad)
    assert_equal(cache.usage(), before, "usage()")
    assert_equal(cache.cached_prefix([5, 6, 7, 8, 9]), 4, "cached_prefix()")
    cache.append("s", *rows_of([3, 4], [0, 1, 2]), tokens=[3, 4])
    assert_content(cache, "s", [0, 1, 2, 3, 4])
    assert_content(cache, "fork", [0, 1, 2])


@requirement("PA-61")
def test_a_commit_whose_hash_raises_leaves_the_reservation_open(impl):
    cache = caching(impl, num_blocks=6, block_hash=hash_with_a_flaw)
    for name in ("s", "t"):
        run(cache, name, [0, 1, 2])
    cache.reserve(["t", "s"], [1, 1], [[3], [FORBIDDEN]])
    cache.write(0, *joined(rows_of([3], [0, 1, 2]), rows_of([FORBIDDEN], [0, 1, 2])))
    reserved = cache.usage()
    with passed_through(ValueError("cannot hash this")):
        cache.commit(["t", "s"])
    assert_equal((cache.usage(), cache.length("t")), (reserved, 3), "usage(), length() after commit")
    cache.rollback(["s"])
    cache.commit(["t"])
    assert_content(cache, "s", [0, 1, 2])
    assert_content(cache, "t", [0, 1, 2, 3])


# Swapping -------------------------------------------------------------------------------------------------


@requirement("PA-49")
@given(
    lens=st.lists(st.integers(0, 9), min_size=1, max_size=3), seed=SEEDS, window=st.sampled_from([None, 3])
)
def test_a_gang_comes_back_as_it_left(impl, lens, seed, window):
    cache = impl.PagedKVCache(12, 4, KV_HEADS, HEAD_DIM, window=window)
    names = list(range(len(lens)))
    for name, n in enumerate(lens):
        cache.add(name)
        cache.append(name, *rows(n, [seed, name]))
    before = cache.usage()
    cache.swap_out(names)
    assert_equal(cache.usage().free, 12, "usage().free while swapped out")
    for name, n in enumerate(lens):
        assert_equal(cache.length(name), n, "length() while swapped out")
        assert_equal(cache.block_table(name), [], "block_table() while swapped out")
    cache.add("other")
    cache.append("other", *(part * NAN for part in rows(12 * 4, 5)))  # overwrites the whole pool
    cache.free("other")
    cache.add("shift")
    cache.append("shift", *rows(1, 6))  # so that the ids change
    cache.swap_in(names[::-1])
    cache.free("shift")
    assert_equal(cache.usage().used, before.used, "usage().used")
    for name, n in enumerate(lens):
        held = n if window is None else min(n, window)
        keys, values = rows(n, [seed, name])
        assert_identical(cache.gather(name)[0], keys[n - held :], f"keys of {name}")
        assert_identical(cache.gather(name)[1], values[n - held :], f"values of {name}")
        cache.append(name, *rows(1, 7))
        queries = query_rows(1, seed)
        told = joined((keys, values), rows(1, 7))
        expected = reference.attention(queries, *told, window=window)
        assert_matches(cache.attend([name], queries, [1]), expected, f"output of {name}")


@requirement("PA-49")
def test_a_swapped_sequence_is_out_of_reach_until_it_is_back(impl):
    cache = impl.PagedKVCache(12, 4, KV_HEADS, HEAD_DIM)
    cache.add("s")
    cache.append("s", *rows(3, 1))
    cache.swap_out(["s"])
    for use in (
        lambda: cache.attend(["s"], query_rows(1, 1), [1]),
        lambda: cache.gather("s"),
        lambda: cache.append("s", *rows(1, 1)),
        lambda: cache.fork("s", "t"),
        lambda: cache.truncate("s", 1),
        lambda: cache.swap_out(["s"]),
    ):
        with refused(InvalidArgument, "seq_id", "parent"):
            use()
    cache.swap_in(["s"])
    with refused(InvalidArgument, "seq_id"):
        cache.swap_in(["s"])
    cache.append("s", *rows(1, 2))
    assert_identical(cache.gather("s")[0], joined(rows(3, 1), rows(1, 2))[0], "keys")


@requirement("PA-49")
def test_a_swapped_sequence_can_be_freed(impl):
    cache = impl.PagedKVCache(4, 4, KV_HEADS, HEAD_DIM)
    for name in "ab":
        cache.add(name)
        cache.append(name, *rows(5, ord(name)))
    cache.swap_out(["a", "b"])
    cache.free("a")
    cache.swap_in(["b"])
    assert_identical(cache.gather("b")[0], rows(5, ord("b"))[0], "keys of b")
    assert_equal(cache.usage().free, 2, "usage().free")
    with refused(UnknownSequence, "seq_id"):
        cache.length("a")


@requirement("PA-50")
@given(n=st.integers(1, 9))
def test_sharing_survives_the_swap(impl, n):
    cache = impl.PagedKVCache(12, 4, KV_HEADS, HEAD_DIM)
    cache.add("a")
    cache.append("a", *rows(n, 1))
    cache.fork("a", "b")
    before = cache.usage()
    cache.swap_out(["a", "b"])
    cache.swap_in(["b", "a"])
    after = cache.usage()
    assert_equal((after.used, after.shared), (before.used, before.shared), "blocks used, shared")
    assert_equal(cache.block_table("a"), cache.block_table("b"), "block_table()")
    cache.append("a", *rows(1, 2))
    assert_identical(cache.gather("b")[0], rows(n, 1)[0], "keys of b")


@requirement("PA-50")
def test_a_gang_leaves_shared_blocks_to_those_who_stay(impl):
    cache = impl.PagedKVCache(12, 4, KV_HEADS, HEAD_DIM)
    cache.add("stays")
    cache.append("stays", *rows(6, 1))
    cache.fork("stays", "goes")
    cache.swap_out(["goes"])
    assert_equal((cache.usage().used, cache.usage().shared), (2, 0), "blocks used, shared")
    cache.append("stays", *rows(1, 2))
    cache.swap_in(["goes"])
    assert_identical(cache.gather("goes")[0], rows(6, 1)[0], "keys of the one that left")
    assert_identical(
        cache.gather("stays")[0], joined(rows(6, 1), rows(1, 2))[0], "keys of the one that stayed"
    )
    assert_equal((cache.usage().used, cache.usage().shared), (4, 0), "blocks used, shared")


@requirement("PA-50")
def test_a_swapped_block_stays_in_the_prefix_cache_and_its_return_is_private(impl):
    cache = caching(impl, num_blocks=6)
    tokens = list(range(6))
    run(cache, "s", tokens)
    cache.swap_out(["s"])
    assert_equal((cache.usage().used, cache.usage().cached), (0, 1), "blocks used, cached")
    assert_equal(cache.cached_prefix(tokens), 4, "cached_prefix() while swapped out")
    cache.swap_in(["s"])
    assert_equal((cache.usage().used, cache.usage().cached), (2, 1), "blocks used, cached after the return")
    cache.truncate("s", 2)
    cache.append("s", *rows_of([70], tokens[:2]), tokens=[70])
    assert_equal(cache.usage().copies, 0, "usage().copies")
    assert_equal(run(cache, "again", tokens), 4, "add()")
    assert_content(cache, "again", tokens)
    assert_content(cache, "s", [0, 1, 70])


@requirement("PA-51")
def test_a_gang_that_does_not_fit_stays_out(impl):
    cache = impl.PagedKVCache(4, 4, KV_HEADS, HEAD_DIM)
    for name in "ab":
        cache.add(name)
        cache.append(name, *rows(6, ord(name)))
    cache.swap_out(["a", "b"])
    cache.add("other")
    cache.append("other", *rows(1, 1))
    before = cache.usage()
    with refused(OutOfBlocks):
        cache.swap_in(["a", "b"])
    assert_equal(cache.usage(), before, "usage() after the refusal")
    cache.free("other")
    cache.swap_in(["a", "b"])
    for name in "ab":
        assert_identical(cache.gather(name)[0], rows(6, ord(name))[0], f"keys of {name}")


@requirement("PA-51")
def test_a_gang_moves_whole_or_not_at_all(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    for name in "abcd":
        cache.add(name)
        cache.append(name, *rows(5, ord(name)))
    with refused(UnknownSequence, "seq_id"):
        cache.swap_out(["a", "unknown"])
    with refused(InvalidArgument, "seq_id"):
        cache.swap_out(["a", "a"])
    assert_equal(cache.usage().used, 8, "usage().used after the refusals")
    cache.swap_out(["a", "b"])
    cache.swap_out(["c"])
    for wrong in (["a"], ["a", "b", "c"], ["a", "c"], ["a", "b", "d"], ["a", "b", "b"]):
        with refused(InvalidArgument, "seq_id"):
            cache.swap_in(wrong)
    assert_equal(cache.usage().used, 2, "usage().used after the refusals")
    cache.swap_in(["b", "a"])
    cache.swap_in(["c"])
    for name in "abcd":
        assert_identical(cache.gather(name)[0], rows(5, ord(name))[0], f"keys of {name}")


# Window ---------------------------------------------------------------------------------------------------


@requirement("PA-52")
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    window=st.integers(1, 9),
    block_size=st.sampled_from([1, 3, 4]),
)
def test_blocks_behind_the_window_are_given_back(impl, sizes, window, block_size):
    cache = impl.PagedKVCache(40, block_size, KV_HEADS, HEAD_DIM, window=window)
    cache.add("s")
    told, n = [rows(0, 0)], 0
    for m in sizes:
        told.append(rows(m, [n, m]))
        cache.append("s", *told[-1])
        n += m
        gone = max(0, n - window) // block_size
        total = -(-n // block_size)
        table = cache.block_table("s")
        expected = [i < gone for i in range(total)]
        assert_equal([block is None for block in table], expected, f"blocks given back after {n} tokens")
        assert_equal(cache.usage().used, total - gone, "usage().used")
        keys, values = joined(*told)
        assert_identical(cache.gather("s")[0], keys[-window:], "keys in the window")
        assert_identical(cache.gather("s")[1], values[-window:], "values in the window")


@requirement("PA-52")
@given(prompt=st.integers(1, 12), window=st.integers(1, 6), seed=SEEDS)
def test_a_prompt_longer_than_the_window_is_attended_before_it_is_committed(impl, prompt, window, seed):
    cache = impl.PagedKVCache(9, 3, KV_HEADS, HEAD_DIM, window=window)
    cache.add("s")
    told = rows(0, seed)
    for m in (prompt, 3):
        new, queries = rows(m, [seed, m]), query_rows(m, seed)
        told = joined(told, new)
        cache.reserve(["s"], [m])
        cache.write(0, *new)
        expected = reference.attention(queries, *told, window=window)
        assert_matches(cache.attend(["s"], queries, [m]), expected)
        cache.commit(["s"])


@requirement("PA-53")
def test_keys_given_back_are_refused_never_guessed(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM, window=5)
    cache.add("s")
    cache.append("s", *rows(14, 1))  # positions 0 to 7 are given back, 8 to 13 are held
    queries = query_rows(3, 1)
    with refused(InvalidArgument, "query_lens", "window", "seq_id"):
        cache.attend(["s"], queries, [3])  # the first of them sees position 7
    expected = reference.attention(queries[:2], *rows(14, 1), window=5)
    assert_matches(cache.attend(["s"], queries[:2], [2]), expected)


@requirement("PA-53")
def test_truncation_into_blocks_given_back_is_refused(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM, window=5)
    cache.add("s")
    cache.append("s", *rows(14, 1))
    before, table = cache.usage(), cache.block_table("s")
    with refused(CannotTruncate, "length"):
        cache.truncate("s", 12)  # its window would start at position 7
    assert_equal(cache.usage(), before, "usage() after the refusal")
    assert_equal(cache.block_table("s"), table, "block_table() after the refusal")
    cache.truncate("s", 13)
    assert_identical(cache.gather("s")[0], rows(14, 1)[0][8:13], "keys in the window")
    cache.truncate("s", 0)
    assert_equal((cache.length("s"), cache.usage().free), (0, 9), "length(), free blocks")


# Measures -------------------------------------------------------------------------------------------------


@requirement("PA-54")
@given(
    lens=st.lists(st.integers(0, 9), min_size=1, max_size=3), forks=st.integers(0, 2), cut=st.integers(0, 9)
)
def test_every_block_is_accounted_for(impl, lens, forks, cut):
    cache = impl.PagedKVCache(30, 4, KV_HEADS, HEAD_DIM)
    for name, n in enumerate(lens):
        cache.add(name)
        cache.append(name, *rows(n, name))
    for child in range(forks):
        cache.fork(0, f"fork {child}")
    if forks:
        cache.truncate("fork 0", min(cut, lens[0]))
    kept = min(cut, lens[0]) if forks == 1 else lens[0]
    used = sum(-(-n // 4) for n in lens)
    usage = cache.usage()
    assert_equal((usage.num_blocks, usage.free, usage.used, usage.cached), (30, 30 - used, used, 0), "blocks")
    assert_equal(usage.shared, -(-kept // 4) if forks else 0, "usage().shared")
    assert_equal((usage.slots_used, usage.slots_wasted), (sum(lens), used * 4 - sum(lens)), "slots")
    assert_equal(
        (usage.copies, usage.evictions, usage.prefix_tokens_queried, usage.prefix_tokens_hit),
        (0, 0, 0, 0),
        "events",
    )


@requirement("PA-54")
@given(n=st.integers(0, 11), alive=st.booleans())
def test_cached_blocks_are_counted_apart(impl, n, alive):
    cache = caching(impl)
    run(cache, "s", list(range(n)))
    if not alive:
        cache.free("s")
    usage = cache.usage()
    used = -(-n // B) if alive else 0
    cached = 0 if alive else n // B
    assert_equal((usage.free, usage.used, usage.cached), (20 - used - cached, used, cached), "blocks")
    slots = n if alive else 0
    assert_equal((usage.slots_used, usage.slots_wasted), (slots, used * B - slots), "slots")


@requirement("PA-55")
@given(lens=st.lists(st.integers(0, 40), max_size=5), block_size=st.integers(1, 9), spare=st.integers(0, 9))
def test_fragmentation_paged_and_contiguous(impl, lens, block_size, spare):
    max_length = max([1, *lens]) + spare
    paged = sum(-(-n // block_size) * block_size for n in lens)
    expected = Fragmentation(
        paged=MemoryUse(sum(lens), paged, paged - sum(lens)),
        contiguous=MemoryUse(sum(lens), len(lens) * max_length, len(lens) * max_length - sum(lens)),
    )
    assert_equal(impl.fragmentation(lens, block_size, max_length), expected, "fragmentation()")


@requirement("PA-56")
def test_paging_wastes_under_four_percent(impl):
    # Lengths as the vLLM paper reports them for ShareGPT (Fig. 11: prompts of 161 and answers of 338 tokens
    # on average), each request caught at a random moment of its life.
    rng = np.random.default_rng(2023)
    lengths = (1 + rng.exponential(160, 48) + rng.random(48) * rng.exponential(338, 48)).astype(int)
    cache = impl.PagedKVCache(2000, 16, 1, 1)
    blocks_before = 0
    for name, n in enumerate(lengths.tolist()):
        cache.add(name)
        cache.append(name, np.zeros((n, 1, 1), np.float32), np.zeros((n, 1, 1), np.float32))
        blocks = cache.usage().used - blocks_before
        assert blocks * 16 - n < 16, (
            f"expected less than one block of waste for {n} tokens, got {blocks} blocks"
        )
        blocks_before += blocks
    usage = cache.usage()
    assert_equal(usage.slots_used, int(lengths.sum()), "usage().slots_used")
    waste = usage.slots_wasted / (usage.slots_used + usage.slots_wasted)
    assert waste < 0.04, f"expected under 4 % of the slots wasted, got {waste:.1%}"


# Everything together --------------------------------------------------------------------------------------

ACTIONS = ["add", "append", "append", "group", "fork", "truncate", "free", "swap", "swap", "reset", "attend"]
STEPS = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 3), st.integers(0, 3), st.integers(0, 7))


class Life:
    """Runs the same steps on a cache, on the reference, and on plain lists of tokens.

    Keys and values follow from the tokens, so that content found in the prefix cache can be told, too.
    """

    def __init__(self, impl, **options):
        self.cache = impl.PagedKVCache(8, 3, KV_HEADS, HEAD_DIM, **options)
        self.model = reference.exact.PagedKVCache(8, 3, KV_HEADS, HEAD_DIM, **options)
        self.window = options.get("window")
        self.told = {}  # name -> tokens
        self.gangs = []

    def both(self, method, *args, **options):
        """Calls both; True if both succeeded, False if both refused for the same reason."""
        outcomes = []
        for cache in (self.model, self.cache):
            try:
                outcomes.append(getattr(cache, method)(*args, **options))
            except (OutOfBlocks, CannotTruncate, InvalidArgument) as refusal:
                outcomes.append(type(refusal))
        expected, actual = outcomes
        assert_equal(actual, expected, f"{method}()")
        return not isinstance(expected, type)

    def step(self, action, a, b, c):
        here = [name for name in self.told if not any(name in gang for gang in self.gangs)]
        new = next((name for name in range(4) if name not in self.told), None)
        if action == "add" and new is not None:
            self.add(new, b, c)
        elif action == "swap" and self.gangs and (a > 0 or not here):
            if self.both("swap_in", self.gangs[0]):
                self.gangs.pop(0)
        elif action == "reset":
            self.both("reset_prefix_cache")
        elif action == "free" and self.told:
            self.free(list(self.told)[a % len(self.told)])
        elif here:
            name = here[a % len(here)]
            tokens = self.told[name]
            if action == "swap":
                self.gangs.append(here[: 1 + b % len(here)])
                self.both("swap_out", self.gangs[-1])
            elif action == "fork" and new is not None:
                self.both("fork", name, new)
                self.told[new] = list(tokens)
            elif action == "truncate":
                if self.both("truncate", name, min(c, len(tokens))):
                    self.told[name] = tokens[:c]
            elif action == "group":
                self.group(here, b, c % 4)
            elif action == "attend" and tokens:
                self.attend(name, 1 + c % len(tokens))
            elif action == "append":
                self.append(name, [1 + b % 2] * c)

    def add(self, name, b, c):
        tokens = [1, 1, 1, 2, 2, 2, 3, 3][: c + 1] + [b] * (b % 3)
        self.both("add", name, tokens, salt=None if b < 3 else "x")
        self.told[name] = tokens[: self.model.length(name)]
        self.append(name, tokens[len(self.told[name]) :])

    def append(self, name, new):
        tokens = self.told[name]
        if self.both("append", name, *rows_of(new, tokens), tokens=new):
            self.told[name] = tokens + new

    def free(self, name):
        self.both("free", name)
        del self.told[name]
        self.gangs = [left for gang in self.gangs if (left := [other for other in gang if other != name])]

    def group(self, names, b, m):
        """Reserves and writes for all; commits some and rolls the others back."""
        new = [1 + b % 2] * m
        if not self.both("reserve", names, [m] * len(names), [new] * len(names)):
            return
        self.both("write", 0, *joined(rows(0, 0), *(rows_of(new, self.told[name]) for name in names)))
        committed = [name for i, name in enumerate(names) if (i + b) % 3 != 0]
        self.both("rollback", [name for name in names if name not in committed])
        self.both("commit", committed)
        for name in committed:
            self.told[name] = self.told[name] + new

    def attend(self, name, m):
        queries = query_rows(m, m)
        first = max(0, len(self.told[name]) - m - self.window + 1) if self.window else 0
        if self.model.block_table(name)[first // 3] is not None:
            expected = reference.attention(queries, *rows_of(self.told[name]), window=self.window)
            assert_matches(self.cache.attend([name], queries, [m]), expected, f"output of {name}")

    def check(self):
        expected, actual = self.model.usage(), self.cache.usage()
        assert_equal(actual, expected, "usage()")
        for name, tokens in self.told.items():
            assert_equal(self.cache.length(name), len(tokens), f"length() of {name}")
            if not any(name in gang for gang in self.gangs):
                held = len(tokens) if self.window is None else min(len(tokens), self.window)
                keys, values = rows_of(tokens)
                got_keys, got_values = self.cache.gather(name)
                assert_identical(got_keys, keys[len(tokens) - held :], f"keys of {name}")
                assert_identical(got_values, values[len(tokens) - held :], f"values of {name}")


@requirement("PA-57")
@pytest.mark.parametrize(
    "options", [{"prefix_caching": True}, {"window": 3}, {}], ids=["prefix caching", "window", "plain"]
)
@given(steps=st.integers(1, 30).flatmap(lambda n: st.lists(STEPS, min_size=n, max_size=n)))
def test_a_random_life(impl, steps, options):
    life = Life(impl, **options)
    for step in steps:
        life.step(*step)
        life.check()


# Errors ---------------------------------------------------------------------------------------------------


@requirement("PA-58")
def test_unknown_sequences_are_refused(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("known")
    cache.append("known", *rows(5, 1))
    before = cache.usage()
    for use in (
        lambda name: cache.length(name),
        lambda name: cache.block_table(name),
        lambda name: cache.gather(name),
        lambda name: cache.truncate(name, 5),
        lambda name: cache.attend(["known", name], query_rows(2, 1), [1, 1]),
        lambda name: cache.append(name, *rows(1, 1)),
        lambda name: cache.reserve(["known", name], [1, 1]),
        lambda name: cache.fork(name, "child"),
        lambda name: cache.swap_out(["known", name]),
        lambda name: cache.swap_in([name]),
        lambda name: cache.free(name),
    ):
        with refused(UnknownSequence, "seq_id", "parent"):
            use("unknown")
        assert_equal(cache.usage(), before, "usage() after the refusal")
    cache.reserve(["known"], [1])
    cache.write(0, *rows(1, 2))
    for end in (cache.commit, cache.rollback):
        with refused(UnknownSequence, "seq_id"):
            end(["known", "unknown"])
    cache.commit(["known"])
    assert_identical(cache.gather("known")[0], joined(rows(5, 1), rows(1, 2))[0], "keys")
    cache.free("known")
    assert_equal(cache.usage().free, 9, "usage().free")


@requirement("PA-58")
def test_existing_sequences_are_refused(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    for name in ("a", "b"):
        cache.add(name)
        cache.append(name, *rows(3, ord(name)))
    with refused(InvalidArgument, "seq_id"):
        cache.add("a")
    with refused(InvalidArgument, "child"):
        cache.fork("a", "b")
    for name in ("a", "b"):
        assert_identical(cache.gather(name)[0], rows(3, ord(name))[0], f"keys of {name}")
    cache.free("b")
    cache.fork("a", "b")
    assert_identical(cache.gather("b")[0], rows(3, ord("a"))[0], "keys of the fork")


def check_refusals(function, valid, refusals):
    """Each refusal replaces arguments of a call that is otherwise valid."""
    for argument, replaced in refusals:
        with refused(InvalidArgument, *argument.split("/")):
            function(**{**valid, **replaced})


@requirement("PA-59")
def test_bad_arguments_of_slot_mapping_are_refused(impl):
    valid = {"block_table": [4, None, 2], "start": 6, "count": 3, "block_size": 3}
    assert_integers(impl.slot_mapping(**valid), np.array([6, 7, 8]))
    check_refusals(
        impl.slot_mapping,
        valid,
        [
            ("block_size", {"block_size": 0}),
            ("start", {"start": -1, "count": 1}),
            ("count", {"count": -1}),
            ("count/start/block_table", {"count": 4}),
            ("block_table/start", {"start": 5}),
        ],
    )


@requirement("PA-59")
def test_bad_arguments_of_write_slots_are_refused(impl):
    pool = np.zeros((3, KV_HEADS, 4, HEAD_DIM), np.float32)
    keys, values = rows(2, 1)
    valid = {
        "keys": keys,
        "values": values,
        "slots": np.array([11, 0]),
        "key_blocks": pool,
        "value_blocks": pool,
    }
    assert_identical(impl.write_slots(**valid)[0], written_by_hand(keys, [11, 0], pool), "key_blocks")
    check_refusals(
        impl.write_slots,
        valid,
        [
            ("slots", {"slots": np.array([12, 0])}),
            ("slots/keys", {"slots": np.array([1])}),
            ("key_blocks", {"key_blocks": pool[0], "value_blocks": pool[0]}),
            ("keys/key_blocks", {"keys": keys.astype(np.float16)}),
            ("values/value_blocks", {"values": values.astype(np.float16)}),
            ("keys", {"keys": keys[:, :1]}),
            ("values", {"values": values[:1]}),
            ("value_blocks", {"value_blocks": pool[:2]}),
        ],
    )


@requirement("PA-59")
def test_bad_arguments_of_to_csr_are_refused(impl):
    valid = {"block_tables": [[5, 1], [2]], "lengths": [4, 2], "block_size": 3}
    assert_identical(impl.to_csr(**valid).indices, np.array([5, 1, 2], np.int32), "indices")
    check_refusals(
        impl.to_csr,
        valid,
        [
            ("block_size", {"block_size": 0}),
            ("lengths/block_tables", {"lengths": [4]}),
            ("lengths", {"lengths": [4, 0]}),
            ("lengths/block_tables", {"lengths": [7, 2]}),
        ],
    )


@requirement("PA-59")
def test_bad_arguments_of_fragmentation_are_refused(impl):
    valid = {"lengths": [3, 5], "block_size": 4, "max_length": 5}
    expected = Fragmentation(MemoryUse(8, 12, 4), MemoryUse(8, 10, 2))
    assert_equal(impl.fragmentation(**valid), expected, "fragmentation()")
    check_refusals(
        impl.fragmentation,
        valid,
        [
            ("block_size", {"block_size": 0}),
            ("max_length", {"max_length": 0, "lengths": []}),
            ("lengths", {"lengths": [3, -1]}),
            ("lengths/max_length", {"lengths": [3, 6]}),
        ],
    )


@requirement("PA-59")
def test_bad_arguments_of_paged_attention_are_refused(impl):
    case = ragged_batch(Shape(6, 2, 4, 8), [9, 3], [2, 1], seed=5)
    names = ("queries", "key_blocks", "value_blocks", "block_tables", "context_lens", "query_lens")
    valid = dict(zip(names, case, strict=True))
    assert_matches(impl.paged_attention(**valid), reference.paged_attention(*case))
    queries, keys, values, tables, context, query = case
    outside, negative = tables.copy(), tables.copy()
    outside[0, 1], negative[1, 0] = len(keys), -1
    lens = lambda *n: np.array(n, np.int32)  # noqa: E731
    check_refusals(
        impl.paged_attention,
        valid,
        [
            ("queries", {"queries": queries[0]}),
            ("queries/query_lens", {"queries": queries[:2]}),
            ("queries/key_blocks/heads", {"queries": queries[:, :5]}),
            ("queries/key_blocks/head_dim", {"queries": queries[:, :, :7]}),
            ("key_blocks", {"key_blocks": keys[0], "value_blocks": values[0]}),
            ("key_blocks/queries", {"key_blocks": keys.astype(np.float16)}),
            ("value_blocks/queries", {"value_blocks": values.astype(np.float16)}),
            ("value_blocks", {"value_blocks": values[:-1]}),
            ("block_tables", {"block_tables": tables[0]}),
            ("block_tables", {"block_tables": outside}),
            ("block_tables", {"block_tables": negative}),
            ("block_tables/context_lens", {"block_tables": tables[:, :2]}),
            ("context_lens", {"context_lens": lens(9)}),
            ("query_lens", {"query_lens": lens(3)}),
            ("query_lens", {"query_lens": lens(4, -1)}),
            ("query_lens/context_lens", {"context_lens": lens(1, 3)}),
            ("window", {"window": 0}),
            ("softcap", {"softcap": 0.0}),
            ("softcap", {"softcap": -1.0}),
            ("sink_logits", {"sink_logits": np.zeros(2, np.float32)}),
        ],
    )


@requirement("PA-59")
def test_bad_arguments_of_the_pool_are_refused(impl):
    for argument, sizes in (("num_blocks", (0, 4)), ("block_size", (4, 0))):
        with refused(InvalidArgument, argument):
            impl.BlockAllocator(*sizes)
    pool = impl.BlockAllocator(3, 4)
    blocks = pool.allocate(2)
    with refused(InvalidArgument, "n:", "n ", "`n`", "'n'"):
        pool.allocate(-1)
    for outside in (-1, 3):
        for use in (
            lambda block: pool.ref_count(block),
            lambda block: pool.share([blocks[0], block]),
            lambda block: pool.release([blocks[0], block]),
        ):
            with refused(InvalidArgument, "block"):
                use(outside)
    assert_equal([pool.ref_count(block) for block in blocks], [1, 1], "reference counts after the refusals")
    assert_equal(len(pool.allocate(1)), 1, "blocks handed out")


@requirement("PA-60")
def test_bad_sizes_of_a_cache_are_refused(impl):
    valid = {
        "num_blocks": 3,
        "block_size": 4,
        "kv_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "layers": 1,
        "window": 1,
    }
    cache = impl.PagedKVCache(**valid)
    cache.add("s")
    cache.append("s", *rows(2, 1))
    assert_identical(cache.gather("s")[0], rows(2, 1)[0][1:], "keys in the window")
    check_refusals(
        impl.PagedKVCache, valid, [(name, {name: 0}) for name in valid] + [("dtype", {"dtype": "float31"})]
    )
    with refused(NotSupported, "prefix_caching", "window"):
        impl.PagedKVCache(**{**valid, "prefix_caching": True})


@requirement("PA-60")
def test_bad_reservations_are_refused(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM, prefix_caching=True)
    for name in ("a", "b"):
        cache.add(name)
    before = cache.usage()
    check_refusals(
        cache.reserve,
        {"seq_ids": ["a", "b"], "lens": [1, 2], "tokens": [[5], [6, 7]]},
        [
            ("seq_ids", {"seq_ids": ["a", "a"]}),
            ("lens/seq_ids", {"lens": [1]}),
            ("lens", {"lens": [1, -1]}),
            ("tokens/seq_ids", {"tokens": [[5]]}),
            ("tokens/lens", {"tokens": [[5], [6]]}),
        ],
    )
    assert_equal(cache.usage(), before, "usage() after the refusals")
    cache.reserve(["a"], [1], [[5]])
    for use in (
        lambda: cache.reserve(["b"], [1]),
        lambda: cache.append("b", *rows(1, 1)),
        lambda: cache.fork("a", "c"),
        lambda: cache.truncate("a", 0),
        lambda: cache.swap_out(["a"]),
        lambda: cache.commit(["b"]),
        lambda: cache.rollback(["b"]),
        lambda: cache.rollback(["a", "a"]),
    ):
        with refused(InvalidArgument, "seq_id", "parent"):
            use()
    cache.write(0, *rows(1, 1))
    with refused(InvalidArgument, "seq_id"):
        cache.commit(["a", "a"])
    cache.commit(["a"])
    assert_identical(cache.gather("a")[0], rows(1, 1)[0], "keys")
    with refused(InvalidArgument, "layer", "seq_ids", "reserv"):
        cache.write(0, *rows(0, 1))


@requirement("PA-60")
def test_bad_writes_are_refused(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("s")
    cache.reserve(["s"], [3])
    keys, values = rows(3, 1)
    refusals = [
        ("layer", {"layer": 1}),
        ("layer", {"layer": -1}),
        ("keys", {"keys": keys[:2]}),
        ("keys", {"keys": keys[:, :1]}),
        ("keys", {"keys": keys.astype(np.float16)}),
        ("values", {"values": values[:2]}),
        ("values", {"values": values.astype(np.float16)}),
    ]
    check_refusals(cache.write, {"layer": 0, "keys": keys, "values": values}, refusals)
    cache.write(0, keys, values)
    cache.commit(["s"])
    before = cache.usage()
    appends = [(argument, replaced) for argument, replaced in refusals if "layer" not in replaced]
    appends = [
        ("keys/values", {"keys": keys[:2]}),
        *((argument, bad) for argument, bad in appends if len(next(iter(bad.values()))) == 3),
    ]
    check_refusals(cache.append, {"seq_id": "s", "keys": keys, "values": values}, appends)
    assert_equal(cache.usage(), before, "usage() after the refusals")
    cache.append("s", keys, values)
    assert_identical(cache.gather("s")[1], np.concatenate([values, values]), "values")
    deep = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM, layers=2)
    deep.add("s")
    with refused(NotSupported, "layer"):
        deep.append("s", keys, values)
    assert_equal(deep.length("s"), 0, "length()")


@requirement("PA-60")
def test_bad_reads_are_refused(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("s")
    cache.append("s", *rows(3, 1))
    queries = query_rows(2, 1)
    valid = {"seq_ids": ["s"], "queries": queries, "query_lens": [2]}
    assert_matches(cache.attend(**valid), reference.attention(queries, *rows(3, 1)))
    check_refusals(
        cache.attend,
        valid,
        [
            ("layer", {"layer": 1}),
            ("layer", {"layer": -1}),
            ("query_lens/seq_ids", {"query_lens": [1, 1]}),
            ("query_lens", {"seq_ids": ["s", "s"], "query_lens": [3, -1]}),
            ("query_lens", {"query_lens": [4], "queries": query_rows(4, 1)}),
            ("queries/query_lens", {"query_lens": [1]}),
            ("queries/heads", {"queries": queries[:, :5]}),
            ("queries", {"queries": queries[:, :, :4]}),
            ("queries", {"queries": queries[:, 0, 0]}),
            ("queries", {"queries": queries.astype(np.float16)}),
            ("softcap", {"softcap": 0.0}),
            ("sink_logits", {"sink_logits": np.zeros(2, np.float32)}),
        ],
    )
    for layer in (1, -1):
        with refused(InvalidArgument, "layer"):
            cache.gather("s", layer=layer)
    for length in (4, -1):
        with refused(InvalidArgument, "length"):
            cache.truncate("s", length)
    cache.truncate("s", 3)
    assert_identical(cache.gather("s", layer=0)[0], rows(3, 1)[0], "keys")
