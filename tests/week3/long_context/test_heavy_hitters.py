"""`HeavyHitterCache`: the newest keys and those that got most attention."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_matches, check_refusals
from tests.week3.long_context.cases import DTYPES, SEEDS, normal
from tests.week3.long_context.cases_caches import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    clear_steps,
    few,
    reference,
    tokens,
)

SIZES = st.sampled_from([[1] * 9, [5, 1, 1, 2], [2, 7], [4, 3, 1], [6, 1, 6, 1, 1]])
LIMITS = st.sampled_from([(5, 2), (4, 1), (3, 3), (6, 2), (1, 1)])  # budget, recent


def new_cache(impl, budget, recent, dtype="float32"):
    return impl.HeavyHitterCache(budget, recent, KV_HEADS, HEAD_DIM, dtype=dtype)


@requirement("LC-75")
@few
@given(
    seed=SEEDS,
    sizes=st.sampled_from([[1] * 5, [3, 2], [4, 1], [5]]),
    scale=st.sampled_from([None, 0.7]),
)
@example(seed=1, sizes=[4, 1], scale=0.7)
@example(seed=1, sizes=[5], scale=None)
def test_within_the_budget_it_is_full_attention(impl, seed, sizes, scale):
    told, cache, n = tokens(seed, 5), impl.HeavyHitterCache(5, 2, KV_HEADS, HEAD_DIM), 0
    for piece in told.pieces(sizes):
        actual = cache.step(*piece, scale=scale)
        n += len(piece)
        expected = reference.attend_last(piece.queries, told.keys[:n], told.values[:n], scale)
        assert_matches(actual, expected, f"output up to token {n}")
        assert_equal(cache.positions(), [list(range(n))] * KV_HEADS, "positions()")


@requirement("LC-75")
@few
@given(
    seed=SEEDS,
    sizes=st.sampled_from([[9], [5, 1], [3, 6]]),
    heads=st.sampled_from([HEADS, KV_HEADS]),
    dtype=st.sampled_from(list(DTYPES)),
)
@example(seed=1, sizes=[9], heads=HEADS, dtype="float32")
@example(seed=1, sizes=[5, 1], heads=KV_HEADS, dtype="bfloat16")
def test_a_step_attends_before_it_gives_anything_up(impl, seed, sizes, heads, dtype):
    told, cache = tokens(seed, sum(sizes), dtype, heads=heads), new_cache(impl, 5, 2, dtype)
    *_, actual = (cache.step(*piece) for piece in told.pieces(sizes))
    assert_matches(actual, reference.attend_last(told.last(sizes[-1]).queries, told.keys, told.values))


@requirement("LC-75")
def test_a_head_may_be_one_channel_wide(impl):
    queries, keys, values = (normal(np.random.default_rng(i), (3, 1, 1)) for i in range(3))
    actual = impl.HeavyHitterCache(5, 2, 1, 1).step(queries, keys, values)
    assert_matches(actual, reference.attend_last(queries, keys, values))


@requirement("LC-75")
@pytest.mark.parametrize(
    ("dtype", "magnitude", "scale"), [("float32", 400.0, None), ("float16", 20_000.0, 1e-3)]
)
def test_scores_of_a_step_may_be_of_any_size(impl, dtype, magnitude, scale):
    told = tokens(1, 5, dtype, magnitude=magnitude)
    assert_matches(new_cache(impl, 5, 2, dtype).step(*told, scale=scale), reference.attend_last(*told, scale))


def check(impl, steps, kept, budget, recent, scale=None):
    """The outputs of all steps, and what is kept after each."""
    cache = new_cache(impl, budget, recent, steps[0].keys.dtype.name)
    outputs = reference.heavy_hitter_outputs([tuple(step) for step in steps], budget, recent, KV_HEADS, scale)
    for number, (step, positions, output) in enumerate(zip(steps, kept, outputs, strict=True)):
        assert_matches(cache.step(*step, scale=scale), output, f"output of step {number}")
        assert_equal(cache.positions(), positions, f"positions() after step {number}")


@requirement("LC-76")
@few
@given(seed=SEEDS, sizes=SIZES, limits=LIMITS, scale=st.sampled_from([None, 0.7]))
@example(seed=1, sizes=[1] * 9, limits=(5, 2), scale=None)
@example(seed=1, sizes=[5, 1, 1, 2], limits=(4, 1), scale=0.7)
@example(seed=1, sizes=[2, 7], limits=(5, 2), scale=None)
@example(seed=1, sizes=[4, 3, 1], limits=(1, 1), scale=None)
@example(seed=1, sizes=[4, 3, 1], limits=(3, 3), scale=None)
@example(seed=2, sizes=[6, 1, 6, 1, 1], limits=(5, 2), scale=None)
@example(seed=5, sizes=[6, 1, 6, 1, 1], limits=(5, 2), scale=None)
def test_kept_are_the_newest_and_those_with_most_attention(impl, seed, sizes, limits, scale):
    check(impl, *clear_steps(seed, sizes, *limits, scale=scale), *limits, scale)


@requirement("LC-76")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@few
@given(seed=SEEDS)
@example(seed=35)  # in bfloat16 two scores would change places
def test_attention_is_added_up_in_float32(impl, seed, dtype):
    check(impl, *clear_steps(seed, [6, 1, 1, 1], 5, 2, dtype), 5, 2)


@requirement("LC-76")
@pytest.mark.parametrize("dtype", DTYPES)
def test_of_equal_keys_the_earlier_stays(impl, dtype):
    # Each query looks at one key alone: the first 40 at their own, the last 20 at the odd ones among these.
    own = (120 * np.eye(64)[:60, None]).astype(DTYPES[dtype])  # (60, 1, head_dim)
    queries = np.tile(own[[*range(40), *range(1, 40, 2)]], (1, HEADS, 1))
    keys = np.tile(own, (1, KV_HEADS, 1))
    cache = impl.HeavyHitterCache(32, 2, KV_HEADS, 64, dtype=dtype)
    cache.step(queries, keys, keys)
    assert_equal(cache.positions(), [[*range(20), *range(21, 40, 2), 58, 59]] * KV_HEADS, "positions()")


@requirement("LC-76")
def test_caches_share_nothing(impl):
    both = [(new_cache(impl, 5, 2), *clear_steps(seed, [5, 1, 1, 2], 5, 2)) for seed in (1, 2)]
    for number in range(4):
        for cache, steps, kept in both:
            cache.step(*steps[number])
            assert_equal(cache.positions(), kept[number], f"positions() after step {number}")


@requirement("LC-77")
@few
@given(seed=SEEDS, sizes=SIZES, limits=LIMITS, heads=st.sampled_from([HEADS, 4, KV_HEADS]))
@example(seed=3, sizes=[1] * 9, limits=(4, 1), heads=HEADS)
@example(seed=6, sizes=[5, 1, 1, 2], limits=(5, 2), heads=HEADS)
def test_query_heads_of_one_kv_head_vote_together(impl, seed, sizes, limits, heads):
    steps, kept = clear_steps(seed, sizes, *limits, heads=heads)
    cache = new_cache(impl, *limits)
    for step, positions in zip(steps, kept, strict=True):
        cache.step(*step)
        assert_equal(cache.positions(), positions, "positions()")


@requirement("LC-78")
@given(seed=SEEDS, sizes=SIZES, limits=LIMITS)
@example(seed=1, sizes=[1] * 9, limits=(5, 2))
@example(seed=1, sizes=[5, 1, 1, 2], limits=(4, 1))
@example(seed=1, sizes=[1] * 9, limits=(3, 3))
def test_the_budget_holds_and_what_went_stays_gone(impl, seed, sizes, limits):
    budget, _ = limits
    told, cache, n = tokens(seed, sum(sizes), magnitude=2.0), new_cache(impl, *limits), 0
    before = [[]] * KV_HEADS
    assert_equal(cache.positions(), before, "positions() before the first step")
    for piece in told.pieces(sizes):
        cache.step(*piece)
        new = set(range(n, n + len(piece)))
        n += len(piece)
        assert_equal(cache.length(), n, "length()")
        for kept, earlier in zip(cache.positions(), before, strict=True):
            assert_equal(len(kept), min(n, budget), f"number of positions of {n} tokens")
            assert_equal(kept, sorted(set(kept)), "positions()")
            assert set(kept) <= new.union(earlier), f"positions(): {kept} after {earlier} and {sorted(new)}"
        before = cache.positions()


@requirement("LC-78")
def test_one_kv_head_has_one_list(impl):
    queries, keys, values = tokens(1, 9, heads=3)
    cache = impl.HeavyHitterCache(5, 5, 1, HEAD_DIM)
    cache.step(queries, keys[:, :1], values[:, :1])
    assert_equal(cache.positions(), [[4, 5, 6, 7, 8]], "positions()")


@requirement("LC-78")
def test_what_went_takes_no_memory(impl, memory_growth):
    budget, wide, times = 16, 4096, 32
    step = [normal(np.random.default_rng(1), (budget, KV_HEADS, wide)) for _ in range(3)]
    cache = impl.HeavyHitterCache(budget, 8, KV_HEADS, wide)
    cache.step(*step)  # what the first call sets up is not the cache's
    assert_equal(cache.length(), budget, "length()")
    with memory_growth() as growth:
        for _ in range(times):
            cache.step(*step)
    limit = times * 2 * step[1].nbytes // 4
    assert growth.held < limit, (
        f"expected less than {limit} bytes more after {times * budget} tokens, got {growth.held}"
    )


@requirement("LC-79")
def test_impossible_budgets_are_refused(impl):
    valid = {"budget": 4, "recent": 4, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
    assert_equal(impl.HeavyHitterCache(**valid).length(), 0, "length()")
    check_refusals(
        impl.HeavyHitterCache,
        valid,
        [
            ("recent/budget", {"recent": 5}),
            ("recent", {"recent": 0}),
            ("recent", {"recent": -1}),
            ("recent/budget", {"budget": 0, "recent": 0}),
            ("kv_heads", {"kv_heads": 0}),
            ("head_dim", {"head_dim": 0}),
            ("dtype", {"dtype": "int8"}),
        ],
    )


@requirement("LC-79")
def test_steps_that_do_not_fit_are_refused(impl):
    steps, kept = clear_steps(1, [4, 3, 2], 5, 2)
    cache = new_cache(impl, 5, 2)
    cache.step(*steps[0])
    queries, keys, values = steps[1]
    check_refusals(
        cache.step,
        {"queries": queries, "keys": keys, "values": values},
        [
            ("queries/keys", {"queries": queries[:0], "keys": keys[:0], "values": values[:0]}),
            ("keys/queries", {"queries": queries[:2]}),
            ("keys/queries", {"keys": keys[:2], "values": values[:2]}),
            ("queries", {"queries": queries[..., :4]}),
            ("queries", {"queries": queries[:, :5]}),
            ("queries", {"queries": queries[:, 0]}),
            ("queries/dtype", {"queries": queries.astype(np.float16)}),
            ("keys", {"keys": keys[:, :1], "values": values[:, :1]}),
            ("keys/values", {"values": values[:2]}),
            ("keys/dtype", {"keys": keys.astype(np.float16)}),
            ("values/dtype", {"values": values.astype(np.float16)}),
        ],
    )
    for step, positions in zip(steps[1:], kept[1:], strict=True):
        cache.step(*step)
        assert_equal(cache.positions(), positions, "positions() after the refusals")
    assert_equal(cache.length(), 9, "length()")
