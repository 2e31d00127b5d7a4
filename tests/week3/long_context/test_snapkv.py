"""`select_snapkv`: which tokens of a prompt to keep."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_integers, check_refusals
from tests.week3.long_context.cases import DTYPES, SEEDS
from tests.week3.long_context.cases_caches import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    clear_prompt,
    few,
    reference,
    tokens,
)


def check(impl, queries, keys, budget, **options):
    expected = reference.select_snapkv(queries, keys, budget, **options)
    assert_integers(impl.select_snapkv(queries, keys, budget, **options), expected)


@requirement("LC-80")
@given(
    seed=SEEDS,
    n=st.sampled_from([13, 20]),
    m=st.sampled_from([4, 7, 13]),
    window=st.sampled_from([1, 3, 4]),
    heads=st.sampled_from([HEADS, 4, KV_HEADS]),
)
@example(seed=1, n=20, m=7, window=4, heads=HEADS)
@example(seed=2, n=20, m=7, window=3, heads=HEADS)
@example(seed=3, n=20, m=4, window=4, heads=HEADS)
@example(seed=4, n=13, m=13, window=4, heads=HEADS)
@example(seed=1, n=13, m=13, window=3, heads=HEADS)
def test_the_last_queries_vote_on_what_came_before(impl, seed, n, m, window, heads):
    options = {"window": window, "kernel": 1, "pooling": "avg"}
    check(impl, *clear_prompt(seed, n, m, 10, **options, heads=heads), 10, **options)


@requirement("LC-80")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@few
@given(seed=SEEDS)
@example(seed=1)
def test_votes_are_counted_in_float32(impl, seed, dtype):
    options = {"window": 4, "kernel": 1, "pooling": "avg"}
    check(impl, *clear_prompt(seed, 20, 4, 10, dtype, **options), 10, **options)


@requirement("LC-80")
@pytest.mark.parametrize(("dtype", "size"), [("float32", 16.0), ("float16", 256.0)])
def test_scores_of_votes_may_be_of_any_size(impl, dtype, size):
    queries = np.zeros((4, HEADS, HEAD_DIM), DTYPES[dtype])
    keys = np.zeros((14, KV_HEADS, HEAD_DIM), DTYPES[dtype])
    for row, looked_at in enumerate((5, 2, 7, 1)):
        queries[row, :, row] = keys[looked_at, :, row] = size
    expected = np.array([[1, 2, 5, 7, 10, 11, 12, 13]] * KV_HEADS)
    assert_integers(impl.select_snapkv(queries, keys, 8, window=4, kernel=1), expected)


@requirement("LC-81")
@given(seed=SEEDS)
@example(seed=0)
@example(seed=1)
@example(seed=2)
def test_five_votes_are_averaged_if_nothing_is_said(impl, seed):
    queries, keys = clear_prompt(seed, 20, 3, 9, window=3, kernel=5, pooling="avg")
    check(impl, queries, keys, 9, window=3)


@requirement("LC-81")
@given(seed=SEEDS, kernel=st.sampled_from([3, 5, 19]), pooling=st.sampled_from(["avg", "max"]))
@example(seed=1, kernel=3, pooling="avg")
@example(seed=1, kernel=3, pooling="max")
@example(seed=2, kernel=5, pooling="avg")
@example(seed=1, kernel=19, pooling="avg")
@example(seed=2, kernel=19, pooling="avg")
@example(seed=3, kernel=19, pooling="avg")
@example(seed=1, kernel=19, pooling="max")
def test_votes_are_pooled_over_neighbours(impl, seed, kernel, pooling):
    options = {"window": 3, "kernel": kernel, "pooling": pooling}
    check(impl, *clear_prompt(seed, 20, 3, 9, **options), 9, **options)


@requirement("LC-82")
@given(seed=SEEDS, budget=st.sampled_from([4, 9, 17, 18, 19, 30]), window=st.sampled_from([1, 3]))
@example(seed=1, budget=9, window=3)
@example(seed=1, budget=17, window=1)
@example(seed=1, budget=18, window=1)
def test_the_best_and_the_window_in_order(impl, seed, budget, window):
    options = {"window": window, "kernel": 5, "pooling": "avg"}
    check(impl, *clear_prompt(seed, 18, 4, budget, **options), budget, **options)


@requirement("LC-82")
@given(kernel=st.sampled_from([1, 3]))
@example(kernel=1)
def test_of_equal_votes_the_lower_position_stays(impl, kernel):
    # One query that looks at 16 keys alike gives each exactly 1/16.
    queries, keys = np.zeros((1, HEADS, HEAD_DIM), np.float32), tokens(1, 16).keys
    check(impl, queries, keys, 6, window=1, kernel=kernel)


@requirement("LC-82")
def test_one_kv_head_has_one_row(impl):
    queries, keys, _ = tokens(1, 12, heads=3)
    check(impl, queries[-4:], keys[:, :1], 8, window=3)


@requirement("LC-83")
def test_impossible_selections_are_refused(impl):
    options = {"window": 3, "kernel": 5, "pooling": "avg"}
    queries, keys = clear_prompt(1, 12, 4, 6, **options)
    check(impl, queries, keys, 6, **options)
    wrong_options = [
        ("window", {"window": 0}),
        ("window/queries", {"window": 5}),
        ("budget/window", {"window": 4, "budget": 4}),
        ("kernel", {"kernel": 4}),
        ("kernel", {"kernel": -1}),
        ("pooling", {"pooling": "mean"}),
    ]
    check_refusals(
        impl.select_snapkv,
        {"queries": queries, "keys": keys, "budget": 6, **options},
        [
            ("queries", {"queries": queries[0]}),
            ("queries/keys", {"queries": queries[..., :4]}),
            ("queries/keys", {"queries": queries[:, :5]}),
            ("queries/keys", {"keys": keys[:3], "window": 2}),
            ("keys", {"keys": keys[0]}),
            ("budget/window", {"budget": 3}),
            *wrong_options,
        ],
    )
    all_fit = {"queries": queries, "keys": keys, "budget": 30, **options}
    check_refusals(impl.select_snapkv, all_fit, wrong_options)
