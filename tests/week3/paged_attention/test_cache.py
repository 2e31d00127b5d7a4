"""`PagedKVCache`: append, attend, truncate, free."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical, assert_matches, refused
from grading.truth import GroundTruth
from spec import UnknownSequence
from tests.week3.paged_attention.cases import HEAD_DIM, KV_HEADS, SEEDS, joined, query_rows, rare, rows

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
            keys, values = rows(m, [seed, i, ord(name)], dtype)
            told[name].append((rare(keys, seed), rare(values, seed + 1)))
            cache.append(name, *told[name][-1])
    for name, parts in told.items():
        keys, values = cache.gather(name)
        expected_keys, expected_values = joined(*parts)
        assert_identical(keys, expected_keys, f"keys of {name}")
        assert_identical(values, expected_values, f"values of {name}")


@requirement("PA-22")
def test_a_cache_may_have_one_block_one_head_and_one_dimension(impl):
    cache = impl.PagedKVCache(1, 2, 1, 1)
    cache.add("s")
    one = np.array([[[2.5]]], np.float32)
    cache.append("s", one, -one)
    keys, values = cache.gather("s")
    assert_identical(keys, one, "keys")
    assert_identical(values, -one, "values")
    assert_identical(cache.attend(["s"], one, [1]), -one, "output")
    cache.free("s")
    assert_equal(cache.usage().free, 1, "usage().free")


@requirement("PA-22")
def test_two_caches_know_nothing_of_each_other(impl):
    caches = [impl.PagedKVCache(3, 4, KV_HEADS, HEAD_DIM) for _ in range(2)]
    for i, cache in enumerate(caches):
        cache.add("s")
        cache.append("s", *rows(5 - i, i))
    caches[1].fork("s", "only here")
    for i, cache in enumerate(caches):
        assert_equal((cache.length("s"), cache.usage().used), (5 - i, 2 - i), f"length, used of cache {i}")
        assert_identical(cache.gather("s")[0], rows(5 - i, i)[0], f"keys of cache {i}")
    with refused(UnknownSequence, "seq_id"):
        caches[0].length("only here")


@requirement("PA-22")
def test_an_id_is_known_by_its_value_and_its_type(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    names = [0, "0", 1, "1", "", "seq 1", -1]
    for n, name in enumerate(names):
        cache.add(name)
        cache.append(name, *rows(n % 4, n))
    for n, name in enumerate(names):
        assert_identical(cache.gather(name)[0], rows(n % 4, n)[0], f"keys of {name!r}")


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
    options=st.sampled_from([{}, {"scale": 0.3}, {"scale": 0.0}, {"softcap": 1.5}]),
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
@given(
    lens=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    seed=SEEDS,
    window=st.sampled_from([None, 20]),
)
def test_the_cache_attends_a_ragged_batch_with_sinks(impl, lens, seed, window):
    cache = impl.PagedKVCache(30, 4, KV_HEADS, HEAD_DIM, window=window)
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
@given(lens=st.permutations([0, 3, 6, 9]), seed=SEEDS)
def test_a_sequence_without_queries_takes_no_row(impl, lens, seed):
    cache = impl.PagedKVCache(30, 4, KV_HEADS, HEAD_DIM)
    for name, n in enumerate(lens):
        cache.add(name)
        cache.append(name, *rows(n, [seed, name]))
    query_lens = [n // 3 if n < 9 else 0 for n in lens]
    queries = query_rows(sum(query_lens), seed)
    actual = cache.attend(list(range(4)), queries, query_lens)
    assert_equal(actual.shape, queries.shape, "shape of the result")
    start = 0
    for name, m in enumerate(query_lens):
        part = slice(start, start + m)
        expected = reference.attention(queries[part], *rows(lens[name], [seed, name]))
        assert_matches(actual[part], expected, f"output of {name}")
        start += m
    assert_equal(cache.attend([], query_rows(0, 1), []).shape, (0, *queries.shape[1:]), "shape of no result")


@requirement("PA-24")
@given(n=st.integers(1, 9), more=st.integers(1, 4), seed=SEEDS)
def test_forks_attend_together(impl, n, more, seed):
    cache = impl.PagedKVCache(30, 4, KV_HEADS, HEAD_DIM)
    cache.add("parent")
    cache.append("parent", *rows(n, seed))
    cache.fork("parent", "child")
    cache.append("child", *rows(more, [seed, 1]))
    queries = query_rows(2, seed)
    actual = cache.attend(["child", "parent"], queries, [1, 1])
    child = joined(rows(n, seed), rows(more, [seed, 1]))
    assert_matches(actual[:1], reference.attention(queries[:1], *child), "output of the child")
    assert_matches(actual[1:], reference.attention(queries[1:], *rows(n, seed)), "output of the parent")


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
@given(
    seed=SEEDS, lens=st.lists(st.integers(1, 6), min_size=1, max_size=3), window=st.sampled_from([None, 3])
)
def test_layers_do_not_mix(impl, seed, lens, window):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM, layers=3, window=window)
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
            part = slice(end - (n if window is None else min(n, window)), end)
            got_keys, got_values = cache.gather(name, layer=layer)
            assert_identical(got_keys, keys[part], f"keys of layer {layer}")
            assert_identical(got_values, values[part], f"values of layer {layer}")
            expected = reference.attention(queries[name : name + 1], keys[part], values[part])
            assert_matches(actual[name : name + 1], expected, f"output of layer {layer}")


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


@requirement("PA-29")
def test_a_freed_reservation_gives_its_copied_tail_back(impl):
    cache = impl.PagedKVCache(4, 4, KV_HEADS, HEAD_DIM)
    cache.add("a")
    cache.append("a", *rows(3, 1))
    cache.fork("a", "b")
    cache.reserve(["a"], [6])
    cache.free("a")
    assert_equal((cache.usage().used, cache.usage().shared), (1, 0), "blocks used, shared")
    cache.append("b", *rows(1, 2))
    assert_equal(cache.usage().copies, 1, "usage().copies")
    cache.free("b")
    assert_equal(cache.usage().free, 4, "usage().free")


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
