"""Blocks behind the window are given back."""

from hypothesis import given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical, assert_matches, refused
from grading.truth import GroundTruth
from spec import CannotTruncate, InvalidArgument
from tests.week3.paged_attention.cases import HEAD_DIM, KV_HEADS, SEEDS, joined, query_rows, rows

reference = GroundTruth("paged_attention")


@requirement("PA-52")
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    window=st.integers(1, 9),
    block_size=st.sampled_from([3, 4]),
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


@requirement("PA-53")
@given(window=st.integers(1, 6), block_size=st.sampled_from([2, 4]), more=st.integers(1, 5), seed=SEEDS)
def test_the_first_key_is_refused_as_soon_as_it_was_given_back(impl, window, block_size, more, seed):
    n = window + more
    keys, values = rows(n, seed)
    queries = query_rows(n, seed)
    gone = more // block_size * block_size  # tokens in blocks given back
    for m in range(1, n):
        cache = impl.PagedKVCache(12, block_size, KV_HEADS, HEAD_DIM, window=window)
        cache.add("s")
        cache.append("s", keys, values)
        if max(0, n - m - window + 1) < gone:
            with refused(InvalidArgument, "query_lens", "window", "seq_id"):
                cache.attend(["s"], queries[:m], [m])
        else:
            expected = reference.attention(queries[:m], keys, values, window=window)
            assert_matches(cache.attend(["s"], queries[:m], [m]), expected, f"output of {m} queries")
        if max(0, m - window) < gone:
            with refused(CannotTruncate, "length"):
                cache.truncate("s", m)
        else:
            cache.truncate("s", m)
            assert_identical(cache.gather("s")[0], keys[max(0, m - window) : m], f"keys of {m} tokens")


@requirement("PA-52")
def test_a_fork_keeps_the_blocks_behind_the_window_of_the_other(impl):
    cache = impl.PagedKVCache(9, 2, KV_HEADS, HEAD_DIM, window=3)
    cache.add("a")
    told = rows(4, 1)
    cache.append("a", *told)
    cache.fork("a", "b")
    cache.append("a", *rows(4, 2))
    assert_equal(cache.block_table("a")[:2], [None, None], "first blocks of the one that went on")
    assert None not in cache.block_table("b"), "blocks of the fork were given back"
    assert_identical(cache.gather("b")[0], told[0][1:], "keys of the fork")
    expected = reference.attention(query_rows(2, 1), *told, window=3)
    assert_matches(cache.attend(["b"], query_rows(2, 1), [2]), expected, "output of the fork")
