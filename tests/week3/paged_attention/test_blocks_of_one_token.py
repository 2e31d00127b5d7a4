"""The cache with blocks of one token: the smallest size, where nothing is ever partly filled."""

from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical, assert_matches, refused
from grading.truth import GroundTruth
from spec import CannotTruncate
from tests.week3.paged_attention.cases import HEAD_DIM, KV_HEADS, joined, query_rows, rows, rows_of, run

reference = GroundTruth("paged_attention")


@requirement("PA-62")
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4), window=st.sampled_from([None, 1, 2, 5]))
def test_each_token_takes_a_block(impl, sizes, window):
    cache = impl.PagedKVCache(20, 1, KV_HEADS, HEAD_DIM, window=window)
    cache.add("s")
    told, n = rows(0, 0), 0
    for m in sizes:
        new, queries = rows(m, [n, m]), query_rows(m, n)
        told = joined(told, new)
        cache.reserve(["s"], [m])
        if m:
            cache.write(0, *new)
            expected = reference.attention(queries, *told, window=window)
            assert_matches(cache.attend(["s"], queries, [m]), expected, f"output of {m} after {n} tokens")
        cache.commit(["s"])
        n += m
        held = n if window is None else min(n, window)
        table = cache.block_table("s")
        assert_equal(
            [block is None for block in table], [i < n - held for i in range(n)], "blocks given back"
        )
        assert_equal(len({*table} - {None}), held, "different blocks in the table")
        assert_equal(cache.usage().used, held, "usage().used")
        assert_identical(cache.gather("s")[0], told[0][n - held :], "keys")
        assert_identical(cache.gather("s")[1], told[1][n - held :], "values")


@requirement("PA-62")
@given(n=st.integers(1, 5), cut=st.integers(0, 5))
@example(n=3, cut=3)
def test_no_tail_is_ever_copied(impl, n, cut):
    cut = min(cut, n)
    cache = impl.PagedKVCache(20, 1, KV_HEADS, HEAD_DIM)
    cache.add("parent")
    cache.append("parent", *rows(n, 1))
    cache.fork("parent", "child")
    cache.truncate("child", cut)
    cache.append("child", *rows(1, 2))
    usage = cache.usage()
    assert_equal((usage.used, usage.shared, usage.copies), (n + 1, cut, 0), "blocks used, shared, copied")
    assert_identical(cache.gather("parent")[0], rows(n, 1)[0], "keys of the parent")
    expected = joined(tuple(part[:cut] for part in rows(n, 1)), rows(1, 2))
    assert_identical(cache.gather("child")[0], expected[0], "keys of the child")


@requirement("PA-62")
@given(n=st.integers(1, 6), window=st.integers(1, 4))
@example(n=3, window=2)
def test_a_window_that_gave_a_token_back_cannot_go_back(impl, n, window):
    cache = impl.PagedKVCache(20, 1, KV_HEADS, HEAD_DIM, window=window)
    cache.add("s")
    cache.append("s", *rows(n, 1))
    if n > 1 and n > window:
        with refused(CannotTruncate, "length"):
            cache.truncate("s", n - 1)
    elif n > 1:
        cache.truncate("s", n - 1)
        assert_identical(cache.gather("s")[0], rows(n, 1)[0][: n - 1], "keys")
    cache.truncate("s", 0)
    assert_equal((cache.length("s"), cache.usage().free), (0, 20), "length(), free blocks")


@requirement("PA-62")
@given(tokens=st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_every_token_but_the_last_is_found_again(impl, tokens):
    cache = impl.PagedKVCache(20, 1, KV_HEADS, HEAD_DIM, prefix_caching=True)
    run(cache, "s", tokens)
    cache.free("s")
    assert_equal(cache.usage().cached, len(tokens), "usage().cached")
    assert_equal(run(cache, "again", tokens), len(tokens) - 1, "add()")
    assert_identical(cache.gather("again")[0], rows_of(tokens)[0], "keys")
