"""`QuantizedKVCache`: old tokens in a few bits, the newest as they came."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical, assert_matches, check_refusals
from tests.week3.long_context.cases import DTYPES, SEEDS, normal
from tests.week3.long_context.cases_caches import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    Coded,
    appended,
    clear_rows,
    few,
    reference,
    tokens,
)

CACHES = st.builds(Coded, st.sampled_from([2, 4, 8]), st.sampled_from([4, 8]), st.sampled_from([0, 1, 3, 5]))
HALVES = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


@requirement("LC-70")
@few
@given(seed=SEEDS, cache=CACHES, n=st.sampled_from([0, 1, 3, 4, 5, 7, 8, 9, 13]))
@example(seed=1, cache=Coded(4, 4, 3), n=7)
@example(seed=1, cache=Coded(4, 4, 3), n=6)
@example(seed=1, cache=Coded(2, 4, 5), n=13)
@example(seed=1, cache=Coded(8, 4, 0), n=8)
def test_old_tokens_are_quantised_and_the_newest_are_not(impl, seed, cache, n):
    told = cache.tokens(seed, n)
    cache.check(appended(cache.empty(impl), told, [n]), told)


@requirement("LC-70")
@HALVES
@few
@given(seed=SEEDS, bits=st.sampled_from([2, 4, 8]), n=st.sampled_from([0, 13]))
@example(seed=1, bits=4, n=13)
@example(seed=1, bits=4, n=0)
def test_a_quantised_cache_may_be_of_half_precision(impl, seed, bits, n, dtype):
    cache = Coded(bits, 4, 3, dtype)
    told = cache.tokens(seed, n)
    cache.check(appended(cache.empty(impl), told, [n]), told)


@requirement("LC-70")
@pytest.mark.parametrize(
    ("kv_heads", "head_dim", "group", "bits"), [(1, 8, 4, 2), (1, 3, 3, 4), (3, 5, 5, 2), (2, 6, 3, 2)]
)
def test_a_quantised_cache_may_be_of_any_size(impl, kv_heads, head_dim, group, bits):
    n = 2 * group + 1
    keys, values = (
        clear_rows([1, axis], (n, kv_heads, head_dim), bits=bits, group=group, axis=axis) for axis in (0, 2)
    )
    cache = impl.QuantizedKVCache(bits, group, 0, kv_heads, head_dim)
    cache.append(keys, values)
    expected = reference.quantized_rows(keys, values, bits, group, 0)
    for name, actual, rows in zip(("keys", "values"), cache.gather(), expected, strict=True):
        assert_matches(actual, rows, name)
    queries = normal(np.random.default_rng(1), (1, 2 * kv_heads, head_dim))
    attention = reference.quantized_attention(queries, keys, values, bits, group, 0)
    assert_matches(cache.attend(queries), attention)


@requirement("LC-70")
@pytest.mark.parametrize("group", [1, 4])
def test_constant_groups_of_a_cache_are_exact(impl, group):
    told = tokens(1, 2 * group)
    rows = np.repeat(told.keys[::group], group, axis=0)  # each group of tokens alike
    rows[..., :] = rows[..., :1]  # and of channels
    cache = impl.QuantizedKVCache(4, group, 0, KV_HEADS, HEAD_DIM)
    cache.append(rows, rows)
    for name, actual in zip(("keys", "values"), cache.gather(), strict=True):
        assert_identical(actual, rows, name)


SIZES = st.lists(st.integers(0, 6), min_size=1, max_size=6)


@requirement("LC-71")
def test_quantised_caches_share_nothing(impl):
    cache = Coded(4, 4, 0)
    told = [cache.tokens(seed, 9) for seed in (1, 2)]
    caches = [cache.empty(impl) for _ in told]
    for part in (np.s_[:5], np.s_[5:]):
        for actual, each in zip(caches, told, strict=True):
            actual.append(each.keys[part], each.values[part])
    for actual, each in zip(caches, told, strict=True):
        cache.check(actual, each)


@requirement("LC-71")
@few
@given(seed=SEEDS, cache=CACHES, sizes=SIZES)
@example(seed=1, cache=Coded(4, 4, 3), sizes=[1] * 16)
@example(seed=1, cache=Coded(2, 4, 0), sizes=[6, 1, 1, 3, 2])
@example(seed=1, cache=Coded(8, 4, 1), sizes=[5, 6])
@example(seed=1, cache=Coded(4, 4, 3), sizes=[6])
@example(seed=1, cache=Coded(2, 4, 3), sizes=[13])
def test_however_tokens_arrive_the_codes_are_the_same(impl, seed, cache, sizes):
    told = cache.tokens(seed, sum(sizes))
    cache.check(appended(cache.empty(impl), told, sizes), told)


@requirement("LC-72")
@few
@given(
    seed=SEEDS,
    cache=CACHES,
    sizes=st.sampled_from([[11], [9, 1, 1], [1]]),
    m=st.sampled_from([1, 2, 11]),
    scale=st.sampled_from([None, 0.7, 0.0]),
)
@example(seed=1, cache=Coded(4, 4, 3), sizes=[11], m=11, scale=None)
@example(seed=1, cache=Coded(4, 4, 3), sizes=[11], m=2, scale=0.0)
@example(seed=1, cache=Coded(2, 4, 1), sizes=[9, 1, 1], m=2, scale=0.7)
def test_attention_reads_what_gather_gives(impl, seed, cache, sizes, m, scale):
    told = cache.tokens(seed, sum(sizes))
    m = min(m, len(told))
    actual = appended(cache.empty(impl), told, sizes)
    expected = cache.attention(told, m, scale)
    assert_matches(actual.attend(told.last(m).queries, scale=scale), expected)


@requirement("LC-72")
@HALVES
@few
@given(seed=SEEDS, heads=st.sampled_from([HEADS, KV_HEADS]))
@example(seed=1, heads=KV_HEADS)
def test_a_quantised_cache_is_read_in_half_precision(impl, seed, heads, dtype):
    cache = Coded(4, 4, 3, dtype)
    told = cache.tokens(seed, 11, heads)
    actual = appended(cache.empty(impl), told, [11])
    for m in (0, 2):
        assert_matches(actual.attend(told.last(m).queries), cache.attention(told, m))


@requirement("LC-72")
@HALVES
@few
@given(seed=SEEDS)
@example(seed=1)
def test_scores_may_be_larger_than_half_precision_knows(impl, seed, dtype):
    cache = Coded(4, 4, 3, dtype)
    told = cache.tokens(seed, 11)
    queries = 8000 * told.last(2).queries
    actual = appended(cache.empty(impl), told, [11]).attend(queries, scale=1e-3)
    options = cache.bits, cache.group, cache.residual, 1e-3
    assert_matches(actual, reference.quantized_attention(queries, told.keys, told.values, *options))


class Life:
    """A cache beside a list of all tokens."""

    def __init__(self, impl, cache):
        self.how, self.cache = cache, cache.empty(impl)
        self.given = cache.tokens(1, 60)
        self.told = self.given[:0]

    def step(self, action, size):
        n = len(self.told)
        if action == "append":
            new = self.given[n : n + size]
            self.cache.append(new.keys, new.values)
            self.told = self.told + new
        elif action == "attend":
            m = min(size % 3, n)
            expected = self.how.attention(self.told, m)
            assert_matches(self.cache.attend(self.told.last(m).queries), expected, f"output of {n} tokens")
        else:
            self.how.check(self.cache, self.told)


STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "append", "attend", "gather"]), st.integers(0, 7)),
    min_size=3,
    max_size=8,
)


@requirement("LC-71")
@given(cache=CACHES, steps=STEPS)
@example(
    cache=Coded(4, 4, 3),
    steps=[("append", 7), ("attend", 2), ("gather", 0), ("append", 1), ("append", 3), ("gather", 0)],
)
def test_a_random_life(impl, cache, steps):
    life = Life(impl, cache)
    for step in steps:
        life.step(*step)
        assert_equal(life.cache.length(), len(life.told), "length()")


# Memory and errors


def bytes_of(cache, n, side):
    """What n tokens of so many numbers a side take."""
    old = cache.quantised(n)
    codes = old * side * cache.bits // 8
    scales_and_zeros = 2 * 4 * old * side // cache.group
    newest = (n - old) * side * DTYPES[cache.dtype].itemsize
    return 2 * (codes + scales_and_zeros + newest)


@requirement("LC-73")
@given(
    cache=st.builds(
        Coded,
        st.sampled_from([2, 4, 8]),
        st.sampled_from([2, 4, 8]),
        st.sampled_from([0, 3]),
        st.sampled_from(list(DTYPES)),
    ),
    sizes=SIZES,
)
@example(cache=Coded(4, 4, 3), sizes=[6, 1, 1, 6])
@example(cache=Coded(2, 4, 3, "bfloat16"), sizes=[6, 6])
def test_the_bytes_are_those_of_the_tokens_held(impl, cache, sizes):
    told = tokens(1, sum(sizes), cache.dtype)
    actual = appended(cache.empty(impl), told, sizes)
    assert_equal(actual.nbytes(), bytes_of(cache, len(told), KV_HEADS * HEAD_DIM), "nbytes()")


@requirement("LC-73")
@pytest.mark.parametrize(
    ("bits", "group", "share", "wide", "m", "times"),
    [
        pytest.param(4, 32, 1 / 2, 512, 2048, 1, id="a prompt"),
        pytest.param(4, 32, 1 / 2, 512, 33, 65, id="pieces"),
        pytest.param(4, 32, 1 / 2, 1024, 1, 1200, id="one by one"),
        pytest.param(2, 64, 1 / 4, 512, 4096, 1, id="2 bits"),
    ],
)
def test_what_is_held_is_a_part_of_full_precision(impl, memory_growth, bits, group, share, wide, m, times):
    cache, rng = Coded(bits, group, 33), np.random.default_rng(1)
    keys, values = (normal(rng, (m, KV_HEADS, wide)) for _ in range(2))
    queries = normal(rng, (1, HEADS, wide))

    def filled(appends):
        held = impl.QuantizedKVCache(cache.bits, cache.group, cache.residual, KV_HEADS, wide)
        for _ in range(appends):
            held.append(keys, values)
        held.attend(queries)  # until then a lazy framework may hold what it was told
        return held

    def check(held, appends):
        assert_equal(held.nbytes(), bytes_of(cache, appends * m, KV_HEADS * wide), "nbytes()")

    some = -(-160 // m)
    check(filled(some), some)  # what the first codes set up is not the cache's
    with memory_growth() as growth:
        actual = filled(times)
    limit = times * (keys.nbytes + values.nbytes) * share
    assert growth.held < limit, (
        f"expected less than {limit:.0f} bytes more after {times * m} tokens, got {growth.held}"
    )
    check(actual, times)


@requirement("LC-74")
def test_impossible_quantised_caches_are_refused(impl):
    valid = {"bits": 4, "group": 4, "residual": 3, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
    assert_equal(impl.QuantizedKVCache(**valid).length(), 0, "length()")
    check_refusals(
        impl.QuantizedKVCache,
        valid,
        [
            ("bits", {"bits": 3}),
            ("group", {"group": 0}),
            ("group/head_dim", {"group": 3}),
            ("residual", {"residual": -1}),
            ("kv_heads", {"kv_heads": 0}),
            ("kv_heads", {"kv_heads": -1}),
            ("head_dim", {"head_dim": 0}),
            ("dtype", {"dtype": "int8"}),
        ],
    )


@requirement("LC-74")
def test_what_does_not_fit_a_quantised_cache_is_refused(impl):
    cache = Coded(4, 4, 3)
    told = cache.tokens(1, 9)
    actual = appended(cache.empty(impl), told, [9])
    queries, keys, values = told
    check_refusals(
        actual.append,
        {"keys": keys, "values": values},
        [
            ("keys", {"keys": keys[:, :1], "values": values[:, :1]}),
            ("keys", {"keys": keys[..., :4], "values": values[..., :4]}),
            ("keys", {"keys": keys[:0, :1], "values": values[:0, :1]}),
            ("keys/values", {"values": values[:3]}),
            ("keys/dtype", {"keys": keys.astype(np.float16)}),
            ("values/dtype", {"values": values.astype(np.float16)}),
        ],
    )
    check_refusals(
        actual.attend,
        {"queries": queries},
        [
            ("queries", {"queries": np.concatenate([queries, queries[:1]])}),
            ("queries", {"queries": queries[..., :4]}),
            ("queries", {"queries": queries[:, :5]}),
            ("queries", {"queries": queries[:, 0]}),
            ("queries/dtype", {"queries": queries.astype(np.float16)}),
        ],
    )
    cache.check(actual, told)
    assert_matches(actual.attend(queries), cache.attention(told, 9))
