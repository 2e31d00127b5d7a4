"""Gangs leave the pool and come back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical, assert_matches, refused
from grading.truth import GroundTruth
from spec import InvalidArgument, OutOfBlocks, UnknownSequence
from tests.week3.paged_attention.cases import (
    HEAD_DIM,
    KV_HEADS,
    SEEDS,
    assert_content,
    caching,
    joined,
    query_rows,
    rare,
    rows,
    rows_of,
    run,
)

reference = GroundTruth("paged_attention")
NAN = np.nan


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
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@given(n=st.integers(1, 9), seed=SEEDS)
def test_every_layer_comes_back_bit_for_bit(impl, n, seed, dtype):
    cache = impl.PagedKVCache(6, 4, KV_HEADS, HEAD_DIM, layers=3, dtype=dtype)
    told = [[rare(part, seed) for part in rows(n, [seed, layer], dtype)] for layer in range(3)]
    cache.add("s")
    cache.reserve(["s"], [n])
    for layer in range(3):
        cache.write(layer, *told[layer])
    cache.commit(["s"])
    cache.swap_out(["s"])
    cache.add("other")
    cache.reserve(["other"], [24])  # the whole pool
    for layer in range(3):
        cache.write(layer, *rows(24, 5, dtype))
    cache.free("other")
    cache.swap_in(["s"])
    for layer, (keys, values) in enumerate(told):
        got_keys, got_values = cache.gather("s", layer=layer)
        assert_identical(got_keys, keys, f"keys of layer {layer}")
        assert_identical(got_values, values, f"values of layer {layer}")


@requirement("PA-49")
def test_two_gangs_may_have_left_the_same_blocks(impl):
    cache = impl.PagedKVCache(4, 4, KV_HEADS, HEAD_DIM)
    for name in "ab":  # each fills the pool
        cache.add(name)
        cache.append(name, *rows(16, ord(name)))
        cache.swap_out([name])
    for name in "ab":
        cache.swap_in([name])
        assert_identical(cache.gather(name)[0], rows(16, ord(name))[0], f"keys of {name}")
        cache.free(name)


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
def test_a_gang_may_take_cached_blocks(impl):
    cache = caching(impl, num_blocks=2)
    run(cache, "s", list(range(8)))
    cache.swap_out(["s"])
    assert_equal((cache.usage().free, cache.usage().cached), (0, 2), "blocks free, cached")
    cache.swap_in(["s"])
    assert_equal((cache.usage().used, cache.usage().evictions), (2, 2), "blocks used, evicted")
    assert_content(cache, "s", list(range(8)))


@requirement("PA-51")
def test_a_gang_needs_no_block_for_what_was_given_back(impl):
    cache = impl.PagedKVCache(3, 4, KV_HEADS, HEAD_DIM, window=4)
    cache.add("s")
    cache.append("s", *rows(12, 1))  # two of three blocks are behind the window
    cache.swap_out(["s"])
    cache.add("other")
    cache.append("other", *rows(4, 2))
    cache.append("other", *rows(4, 3))
    cache.reserve(["other"], [1])
    assert_equal(cache.usage().free, 1, "usage().free")
    cache.swap_in(["s"])
    assert_equal(cache.block_table("s")[:2], [None, None], "blocks given back")
    assert_identical(cache.gather("s")[0], rows(12, 1)[0][8:], "keys")


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
