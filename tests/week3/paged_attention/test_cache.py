"""`PagedKVCache`: append, attend, reserve, roll back, truncate, free."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical, assert_matches, refused
from grading.truth import GroundTruth
from spec import InvalidArgument, OutOfBlocks, UnknownSequence
from tests.week3.paged_attention.cases import HEAD_DIM, KV_HEADS, SEEDS, joined, query_rows, rows

reference = GroundTruth("paged_attention")
NAN = np.nan


@requirement("PA-22")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@given(block_size=st.sampled_from([3, 4]), sizes=st.lists(st.integers(0, 9), max_size=4), seed=SEEDS)
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
@given(block_size=st.sampled_from([3, 4]), sizes=st.lists(st.integers(0, 9), max_size=4))
@example(block_size=4, sizes=[5, 1, 2])
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
@example(first=5, second=1, forked=True)  # the copy of the tail is one block too many
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
