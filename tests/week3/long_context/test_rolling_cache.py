"""`RollingKVCache`: sinks and a window, rotated when they are read."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_matches, check_refusals, refused
from spec import CannotTruncate, InvalidArgument
from tests.week3.long_context.cases import SEEDS, normal
from tests.week3.long_context.cases_caches import (
    HEAD_DIM,
    HEADS,
    INV_FREQ,
    KV_HEADS,
    Rolling,
    Tokens,
    appended,
    few,
    reference,
    tokens,
)

WINDOWS = st.sampled_from([(4, 2), (1, 3), (3, 0), (4, 1)])
SIZES = st.sampled_from([[5, 1, 1, 1, 1], [1] * 9, [3, 7, 2], [11, 1]])
POSITIONS = st.sampled_from(["cache", "absolute"])
EITHER = pytest.mark.parametrize("positions", ["cache", "absolute"])  # many have one of them
HALVES = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


@requirement("LC-56")
@few
@given(
    seed=SEEDS,
    sizes=st.sampled_from([[1], [4], [6], [4, 2], [2, 1, 3]]),
    cache=st.builds(
        Rolling,
        window=st.just(4),
        sink_tokens=st.just(2),
        positions=POSITIONS,
        interleaved=st.booleans(),
        attention_factor=st.sampled_from([1.0, 1.25]),
    ),
    scale=st.sampled_from([None, 0.7]),
)
@example(seed=1, sizes=[4, 2], cache=Rolling(4, 2, "absolute", True, 1.25), scale=0.7)
@example(seed=1, sizes=[2, 1, 3], cache=Rolling(4, 2, "cache", False, 1.25), scale=None)
def test_until_the_first_eviction_it_is_full_attention(impl, seed, sizes, cache, scale):
    told = tokens(seed, sum(sizes))
    actual = appended(cache.empty(impl), told, sizes)
    whole = replace(cache, window=len(told), positions="absolute")
    whole.check(actual, told, sizes[-1], scale)


@requirement("LC-56")
@HALVES
@few
@given(seed=SEEDS, heads=st.sampled_from([HEADS, KV_HEADS]), sizes=st.sampled_from([[3, 3], [5, 1, 3]]))
@example(seed=1, heads=KV_HEADS, sizes=[3, 3])
@example(seed=1, heads=HEADS, sizes=[5, 1, 3])
def test_a_rolling_cache_may_be_of_half_precision(impl, seed, heads, sizes, dtype):
    cache, told = Rolling(4, 2, dtype=dtype), tokens(seed, sum(sizes), dtype, heads=heads)
    cache.check(appended(cache.empty(impl), told, sizes), told, 3)


@requirement("LC-56")
@HALVES
def test_scores_of_a_rolling_cache_may_be_larger_than_half_precision_knows(impl, dtype):
    cache, told = Rolling(4, 2, dtype=dtype), tokens(1, 6, dtype, magnitude=12000.0)
    cache.check(appended(cache.empty(impl), told, [3, 3]), told, 3, scale=1e-3)


@requirement("LC-56")
def test_rolling_caches_share_nothing(impl):
    sizes = {"window": 4, "sink_tokens": 2, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
    told = [tokens(seed, 6) for seed in (1, 2)]
    inv_freq = [INV_FREQ, INV_FREQ[::-1].copy()]
    caches = [impl.RollingKVCache(**sizes, inv_freq=each) for each in inv_freq]
    for part in (np.s_[:4], np.s_[4:]):
        for cache, each in zip(caches, told, strict=True):
            cache.append(each.keys[part], each.values[part])
    for cache, each, frequencies in zip(caches, told, inv_freq, strict=True):
        rotation = frequencies, 1.0, False, "cache"
        expected = reference.rolling_attention(each.queries[4:], each.keys, each.values, 4, 2, rotation)
        assert_matches(cache.attend(each.queries[4:]), expected)


@requirement("LC-57")
@EITHER
@few
@given(seed=SEEDS, window=WINDOWS, sizes=SIZES, scale=st.sampled_from([None, 0.7, 0.0]))
@example(seed=1, window=(4, 2), sizes=[1] * 9, scale=0.7)
@example(seed=1, window=(3, 0), sizes=[1] * 9, scale=None)
@example(seed=1, window=(1, 3), sizes=[1] * 9, scale=None)
@example(seed=1, window=(1, 0), sizes=[3, 7, 2], scale=None)
def test_a_query_sees_the_sinks_and_the_window(impl, seed, window, positions, sizes, scale):
    cache, told = Rolling(*window, positions), tokens(seed, sum(sizes))
    cache.check(appended(cache.empty(impl), told, sizes), told, 1, scale)


@requirement("LC-57")
@EITHER
@pytest.mark.parametrize(("window", "sinks"), [(4, 2), (3, 0)])
def test_a_needle_is_found_in_the_window_and_among_the_sinks(impl, window, sinks, positions):
    hay, needle = np.zeros((2, HEAD_DIM), np.float32)
    hay[6], needle[7] = 16, 16  # channels that do not turn: only what is there matters
    found = []
    for place in range(10):
        here = np.arange(10)[:, None, None] == place
        keys = np.tile(np.where(here, needle, hay), (1, KV_HEADS, 1))
        values = np.tile(here, (1, KV_HEADS, HEAD_DIM)).astype(np.float32)
        told = Tokens(np.tile(needle, (10, HEADS, 1)), keys, values)
        cache = appended(Rolling(window, sinks, positions).empty(impl), told, [1] * 10)
        found.append(bool((cache.attend(told.queries[9:]) > 0.5).all()))
    expected = [place < sinks or place > 9 - window for place in range(10)]
    assert_equal(found, expected, "whether a query at 9 finds a needle at 0, 1, …")


@requirement("LC-57")
@EITHER
@few
@given(seed=SEEDS, window=WINDOWS)
@example(seed=1, window=(4, 2))
def test_what_was_evicted_may_be_anything(impl, seed, window, positions):
    cache, told = Rolling(*window, positions), tokens(seed, 11)
    evicted = [p for p in range(11) if p not in cache.seen(10)]
    keys, values = told.keys.copy(), told.values.copy()
    keys[evicted], values[evicted] = np.nan, np.nan
    poisoned = Tokens(told.queries, keys, values)
    cache.check(appended(cache.empty(impl), poisoned, [3, *[1] * 8]), told, 1)


@requirement("LC-58")
@few
@given(
    seed=SEEDS,
    window=WINDOWS,
    positions=POSITIONS,
    before=st.sampled_from([0, 1, 4, 9]),
    m=st.sampled_from([1, 3, 4, 5, 10]),
)
@example(seed=1, window=(3, 0), positions="cache", before=0, m=10)
@example(seed=1, window=(4, 2), positions="cache", before=4, m=5)
@example(seed=1, window=(4, 2), positions="absolute", before=9, m=3)
def test_tokens_at_once_are_tokens_in_turn(impl, seed, window, positions, before, m):
    cache, told = Rolling(*window, positions), tokens(seed, before + m)
    cache.check(appended(cache.empty(impl), told, [before, m]), told, m)


@requirement("LC-58")
@few
@given(seed=SEEDS, m=st.integers(1, 5))
@example(seed=1, m=3)
def test_the_last_of_them_may_ask_alone(impl, seed, m):
    cache, told = Rolling(4, 2), tokens(seed, 9)
    cache.check(appended(cache.empty(impl), told, [4, 5]), told, m)


@requirement("LC-58")
@pytest.mark.parametrize(("n", "dtype"), [(1, "float32"), (7, "bfloat16")])
def test_no_tokens_change_nothing(impl, n, dtype):
    cache, told = Rolling(4, 2, dtype=dtype), tokens(1, n, dtype)
    actual = appended(cache.empty(impl), told, [0, n, 0, 0])
    assert_equal(actual.length(), n, "length()")
    cache.check(actual, told, 0)
    cache.check(actual, told, n)
    actual.truncate(0)  # of n tokens at once none was given up, not by an append of none either
    assert_equal(actual.length(), 0, "length()")


@requirement("LC-59")
@few
@given(seed=SEEDS, window=WINDOWS, sizes=SIZES)
@example(seed=1, window=(4, 2), sizes=[1] * 9)
@example(seed=1, window=(1, 3), sizes=[3, 7, 2])
def test_absolute_positions_are_those_of_the_sequence(impl, seed, window, sizes):
    cache, told = Rolling(*window, "absolute"), tokens(seed, sum(sizes))
    cache.check(appended(cache.empty(impl), told, sizes), told, sizes[-1])


@requirement("LC-59")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_absolute_positions_may_be_far(impl, dtype):
    cache, told = Rolling(4, 2, "absolute", dtype=dtype), tokens(1, 300, dtype)
    cache.check(appended(cache.empty(impl), told, [290, *[1] * 10]), told, 1)


@requirement("LC-60")
@few
@given(
    seed=SEEDS,
    window=WINDOWS,
    sizes=SIZES,
    interleaved=st.booleans(),
    attention_factor=st.sampled_from([1.0, 1.25]),
)
@example(seed=1, window=(4, 2), sizes=[1] * 9, interleaved=True, attention_factor=1.0)
@example(seed=1, window=(4, 1), sizes=[3, 7, 2], interleaved=False, attention_factor=1.25)
def test_cache_positions_count_what_a_query_sees(impl, seed, window, sizes, interleaved, attention_factor):
    cache = Rolling(*window, "cache", interleaved, attention_factor)
    told = tokens(seed, sum(sizes))
    cache.check(appended(cache.empty(impl), told, sizes), told, sizes[-1])


@requirement("LC-60")
@pytest.mark.parametrize(("kv_heads", "head_dim", "pairs"), [(1, 8, 3), (3, 5, 2), (2, 8, 4)])
def test_cache_positions_are_the_default_in_caches_of_any_size(impl, kv_heads, head_dim, pairs):
    rng, inv_freq = np.random.default_rng(1), np.linspace(1, 0.2, pairs, dtype=np.float32)
    queries, keys, values = (normal(rng, (9, h, head_dim)) for h in (2 * kv_heads, kv_heads, kv_heads))
    cache = impl.RollingKVCache(4, 2, kv_heads, head_dim, inv_freq=inv_freq)
    for size in ([5], [1], [3]):
        n = cache.length()
        cache.append(keys[n : n + size[0]], values[n : n + size[0]])
    expected = reference.rolling_attention(queries[6:], keys, values, 4, 2, (inv_freq, 1.0, False, "cache"))
    assert_matches(cache.attend(queries[6:]), expected)


@requirement("LC-60")
def test_a_long_life_does_not_turn_keys_astray(impl):
    cache, told = Rolling(40, 2, dtype="bfloat16"), tokens(1, 150, "bfloat16")
    cache.check(appended(cache.empty(impl), told, [50, *[1] * 100]), told, 1)


@requirement("LC-61")
@given(window=WINDOWS, sizes=SIZES)
@example(window=(4, 2), sizes=[1] * 9)
@example(window=(4, 2), sizes=[3, 7, 2])
def test_length_counts_all_and_positions_what_is_seen(impl, window, sizes):
    cache = Rolling(*window)
    actual = cache.empty(impl)
    assert_equal(actual.positions(), [], "positions() of nothing")
    assert_equal(actual.length(), 0, "length() of nothing")
    n = 0
    for piece in tokens(1, sum(sizes)).pieces(sizes):
        actual.append(piece.keys, piece.values)
        n += len(piece)
        assert_equal(actual.length(), n, "length()")
        assert_equal(actual.positions(), cache.seen(n - 1), f"positions() of {n} tokens")


@requirement("LC-61")
@pytest.mark.parametrize(
    ("sizes", "length", "positions"), [([3, 7], 8, [0, 1, 4, 5, 6, 7]), ([1] * 10, 9, [0, 1, 6, 7, 8])]
)
def test_length_and_positions_follow_a_truncation(impl, sizes, length, positions):
    actual = appended(Rolling(4, 2).empty(impl), tokens(1, 10), sizes)
    actual.truncate(length)
    assert_equal(actual.length(), length, "length()")
    assert_equal(actual.positions(), positions, "positions()")


# Going back


@requirement("LC-62")
@few
@given(
    seed=SEEDS,
    window=st.sampled_from([(4, 2), (3, 0), (4, 1)]),
    positions=POSITIONS,
    sizes=st.sampled_from([[6, 5], [1] * 8 + [4], [11], [4, 7]]),
    back=st.integers(0, 3),
    again=st.integers(1, 6),
)
@example(seed=1, window=(4, 2), positions="cache", sizes=[6, 5], back=2, again=5)
@example(seed=1, window=(3, 0), positions="absolute", sizes=[4, 7], back=3, again=1)
def test_what_was_taken_back_never_was(impl, seed, window, positions, sizes, back, again):
    cache, told, new = Rolling(*window, positions), tokens(seed, sum(sizes)), tokens([seed, 1], again)
    actual = appended(cache.empty(impl), told, sizes)
    actual.truncate(len(told) - back)
    told = told[: len(told) - back] + new
    cache.check(appended(actual, new, [again]), told, again)
    assert_equal(actual.positions(), cache.seen(len(told) - 1), "positions()")


@requirement("LC-62")
def test_single_tokens_go_back_by_one(impl):
    cache, told = Rolling(4, 0), tokens(1, 8)
    actual = appended(cache.empty(impl), told, [1] * 8)
    for length in (2, 5, 4, 6):
        with refused(CannotTruncate):
            actual.truncate(length)
    assert_equal(actual.length(), 8, "length() after the refusal")
    cache.check(actual, told, 1)
    actual.truncate(7)
    with refused(CannotTruncate):
        actual.truncate(6)
    new = tokens(2, 1)
    cache.check(appended(actual, new, [1]), told[:7] + new, 1)


@requirement("LC-62")
@pytest.mark.parametrize("length", [0, 1, 4, 6, 7])
def test_tokens_that_came_at_once_go_back_to_any_length(impl, length):
    cache, told, new = Rolling(4, 0), tokens(1, 8), tokens(2, 2)
    actual = appended(cache.empty(impl), told, [8])
    actual.truncate(length)
    cache.check(appended(actual, new, [2]), told[:length] + new, 2)


@requirement("LC-62")
def test_sinks_are_not_given_up(impl):
    cache, told, new = Rolling(2, 6), tokens(1, 6), tokens(2, 3)
    actual = appended(cache.empty(impl), told, [1] * 6)
    actual.truncate(3)
    cache.check(appended(actual, new, [3]), told[:3] + new, 3)


@requirement("LC-62")
@pytest.mark.parametrize("positions", ["cache", "absolute"])
@pytest.mark.parametrize(
    ("window", "sinks", "length"), [(4, 0, 0), (4, 2, 0), (4, 2, 1), (4, 2, 2), (1, 2, 5)]
)
def test_where_only_sinks_are_seen_every_way_back_is_open(impl, window, sinks, length, positions):
    cache, told, new = Rolling(window, sinks, positions), tokens(1, 9), tokens(2, 7)
    actual = appended(cache.empty(impl), told, [1] * 9)
    actual.truncate(length)
    assert_equal(actual.length(), length, "length()")
    told = told[:length] + new
    cache.check(appended(actual, new, [1, 2, 4]), told, 4)


@requirement("LC-62")
@given(back=st.integers(0, 5))
@example(back=2)
@example(back=5)
def test_as_many_may_ask_as_are_left_of_the_last_append(impl, back):
    cache, told = Rolling(4, 2), tokens(1, 9)
    actual = appended(cache.empty(impl), told, [5, 4])
    actual.truncate(9 - back)
    actual.append(told.keys[:0], told.values[:0])
    actual.truncate(9 - back)
    left = max(0, 4 - back)
    cache.check(actual, told[: 9 - back], left)
    with refused(InvalidArgument, "queries"):
        actual.attend(told.queries[: left + 1])


@requirement("LC-62")
def test_nobody_may_ask_when_all_is_taken_back(impl):
    told = tokens(1, 3)
    actual = appended(Rolling(4, 2).empty(impl), told, [3])
    actual.truncate(0)
    assert_equal(actual.positions(), [], "positions()")
    with refused(InvalidArgument, "queries"):
        actual.attend(told.queries[:1])


ACTIONS = ["append", "append", "append one", "attend", "attend", "truncate"]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7)), min_size=4, max_size=12)


class Life:
    """A cache beside a list of all tokens, of which some were given up."""

    def __init__(self, impl, cache):
        self.how, self.cache = cache, cache.empty(impl)
        self.told = tokens(0, 0)
        self.given_up = set()
        self.askable = 0

    def step(self, number, action, size):
        n = len(self.told)
        if action in ("append", "append one"):
            self.append(tokens(number, size if action == "append" else 1))
        elif action == "attend":
            self.how.check(self.cache, self.told, min(size % 3, self.askable))
            with refused(InvalidArgument, "queries"):
                self.cache.attend(tokens(number, self.askable + 1).queries)
        else:
            self.truncate(max(0, n - size))

    def append(self, new):
        n, sinks = len(self.told), self.how.sink_tokens
        if len(new) > 0:
            self.given_up.update(range(sinks, n - self.how.window + 1))
            self.askable = len(new)
        self.cache.append(new.keys, new.values)
        self.told = self.told + new

    def truncate(self, length):
        *left, _ = self.how.seen(length)  # all but the token there itself
        if self.given_up.intersection(left):
            with refused(CannotTruncate):
                self.cache.truncate(length)
        else:
            self.cache.truncate(length)
            self.askable = max(0, self.askable - (len(self.told) - length))
            self.given_up.difference_update(range(length, len(self.told)))
            self.told = self.told[:length]

    def check(self):
        assert_equal(self.cache.length(), len(self.told), "length()")
        seen = self.how.seen(len(self.told) - 1)  # more than there is now, maybe, after a truncation
        assert_equal(self.cache.positions(), [p for p in seen if p not in self.given_up], "positions()")


@requirement("LC-62")
@given(
    cache=st.builds(Rolling, st.sampled_from([1, 2, 4]), st.sampled_from([0, 1, 3]), POSITIONS), steps=STEPS
)
@example(
    cache=Rolling(4, 1),
    steps=[("append", 7), ("append one", 0), ("append", 0), ("truncate", 1), ("attend", 1), ("truncate", 3)],
)
@example(
    cache=Rolling(2, 3, "absolute"),
    steps=[("append", 5), ("append one", 0), ("truncate", 1), ("append", 3), ("truncate", 7), ("append", 4)],
)
def test_a_random_life(impl, cache, steps):
    life = Life(impl, cache)
    for number, step in enumerate(steps):
        life.step(number, *step)
        life.check()


# Memory and errors


@requirement("LC-63")
@pytest.mark.parametrize(
    ("window", "sinks", "wide", "m", "times"),
    [(256, 0, 256, 256, 32), (32, 3, 2048, 1, 1200)],  # few wide rows, as each append is a call
    ids=["a window at a time", "one by one"],
)
def test_memory_stays_where_it_is(impl, memory_growth, window, sinks, wide, m, times):
    rng = np.random.default_rng(1)
    keys, values = (normal(rng, (m, KV_HEADS, wide)) for _ in range(2))
    queries = normal(rng, (1, HEADS, wide))
    cache = impl.RollingKVCache(window, sinks, KV_HEADS, wide, inv_freq=INV_FREQ)

    def check(appends):
        kept = min(appends, (window + sinks) // m)  # all were alike
        told = [np.tile(rows, (kept, 1, 1)) for rows in (keys, values)]
        rotation = INV_FREQ, 1.0, False, "cache"
        expected = reference.rolling_attention(queries, *told, window, sinks, rotation)
        assert_matches(cache.attend(queries), expected)

    for appends in (1, 2):  # what the first calls set up is not the cache's
        cache.append(keys, values)
        check(appends)
    with memory_growth() as growth:
        for i in range(times):
            cache.append(keys, values)
            if i % 16 == 0:
                cache.attend(queries)
    limit = times * (keys.nbytes + values.nbytes) // 4
    assert growth.held < limit, (
        f"expected less than {limit} bytes more after {times * m} tokens, got {growth.held}"
    )
    check(times)


@requirement("LC-64")
def test_impossible_rolling_caches_are_refused(impl):
    valid = {
        "window": 4,
        "sink_tokens": 2,
        "kv_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "inv_freq": np.ones(HEAD_DIM // 2, np.float32),
    }
    assert_equal(impl.RollingKVCache(**valid).length(), 0, "length()")
    check_refusals(
        impl.RollingKVCache,
        valid,
        [
            ("window", {"window": 0}),
            ("window", {"window": -4}),
            ("sink_tokens", {"sink_tokens": -1}),
            ("kv_heads", {"kv_heads": 0}),
            ("kv_heads", {"kv_heads": -1}),
            ("head_dim", {"head_dim": 0, "inv_freq": INV_FREQ[:0]}),
            ("inv_freq/head_dim", {"inv_freq": np.ones(HEAD_DIM // 2 + 1, np.float32)}),
            ("inv_freq", {"inv_freq": INV_FREQ[None]}),
            ("positions", {"positions": "relative"}),
            ("dtype", {"dtype": "int8"}),
            ("dtype", {"dtype": "float64"}),
        ],
    )


@requirement("LC-64")
def test_what_does_not_fit_a_rolling_cache_is_refused(impl):
    cache, told = Rolling(4, 2), tokens(1, 7)
    actual = appended(cache.empty(impl), told, [5, 2])
    queries, keys, values = told
    check_refusals(
        actual.append,
        {"keys": keys, "values": values},
        [
            ("keys", {"keys": keys[:, :1], "values": values[:, :1]}),
            ("keys", {"keys": keys[..., :4], "values": values[..., :4]}),
            ("keys", {"keys": keys[:0, :1], "values": values[:0, :1]}),
            ("keys", {"keys": keys.swapaxes(1, 2), "values": values.swapaxes(1, 2)}),
            ("keys/values", {"values": values[:3]}),
            ("keys/values", {"values": values[:, :1]}),
            ("keys/dtype", {"keys": keys.astype(np.float16)}),
            ("values/dtype", {"values": values.astype(np.float16)}),
        ],
    )
    check_refusals(
        actual.attend,
        {"queries": queries[5:]},
        [
            ("queries", {"queries": queries[4:]}),
            ("queries", {"queries": queries[5:, :, :4]}),
            ("queries", {"queries": queries[5:, :5]}),
            ("queries", {"queries": queries[5:, :1]}),
            ("queries", {"queries": queries[5:, :0]}),
            ("queries", {"queries": queries[5:, 0]}),
            ("queries/dtype", {"queries": queries[5:].astype(np.float16)}),
        ],
    )
    check_refusals(actual.truncate, {"length": 7}, [("length", {"length": 8}), ("length", {"length": -1})])
    assert_equal(actual.length(), 7, "length() after the refusals")
    cache.check(actual, told, 2)
