"""`PageSelector`: Quest's bounds, and the pages that they choose."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_integers, assert_matches, check_refusals
from tests.week3.long_context.cases import DTYPES, SEEDS, normal
from tests.week3.long_context.cases_caches import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    clear_pages,
    few,
    reference,
    tokens,
)

PAGE = 4


def told(impl, keys, sizes=None, page_size=PAGE):
    """A selector that was told these keys, so many at a time."""
    selector = impl.PageSelector(page_size, KV_HEADS, HEAD_DIM)
    for part in np.split(keys, np.cumsum(sizes or [])):
        selector.add(part)
    return selector


@requirement("LC-84")
@pytest.mark.parametrize("dtype", DTYPES)
@few
@given(seed=SEEDS, heads=st.sampled_from([HEADS, KV_HEADS]), page_size=st.sampled_from([1, 3, 4]))
@example(seed=1, heads=HEADS, page_size=4)
def test_a_page_is_bounded_channel_by_channel(impl, seed, heads, page_size, dtype):
    queries, keys, _ = tokens(seed, 12, dtype, heads=heads)
    expected = reference.page_bounds(queries[0], keys, page_size)
    assert_matches(told(impl, keys, page_size=page_size).bounds(queries[0]), expected)


@requirement("LC-84")
def test_selectors_share_nothing(impl):
    queries, keys, _ = tokens(1, 8)
    selector, other = (impl.PageSelector(PAGE, KV_HEADS, HEAD_DIM) for _ in range(2))
    selector.add(keys)
    other.add(2 * keys[:5])
    assert_matches(selector.bounds(queries[0]), reference.page_bounds(queries[0], keys, PAGE))


@requirement("LC-84")
def test_queries_and_keys_may_have_several_dtypes(impl):
    queries, keys, _ = tokens(1, 8)
    query, first = queries[0].astype(np.float16), keys[:5].astype(np.float16)
    selector = impl.PageSelector(PAGE, KV_HEADS, HEAD_DIM)
    selector.add(first)
    selector.add(keys[5:])
    expected = reference.page_bounds(query, np.concatenate([first.astype(np.float32), keys[5:]]), PAGE)
    assert_matches(selector.bounds(query), expected)


@requirement("LC-85")
@given(seed=SEEDS, sizes=st.lists(st.integers(0, 6), max_size=5), sign=st.sampled_from([-1, 1]))
@example(seed=1, sizes=[6], sign=1)
@example(seed=1, sizes=[6], sign=-1)
@example(seed=1, sizes=[3, 2, 0, 4], sign=1)
@example(seed=1, sizes=[], sign=1)
def test_only_keys_that_are_there_count(impl, seed, sizes, sign):
    rng = np.random.default_rng(seed)
    keys = sign * (2 + np.abs(normal(rng, (sum(sizes), KV_HEADS, HEAD_DIM))))  # far from an empty slot's 0
    queries = normal(rng, (HEADS, HEAD_DIM))
    expected = reference.page_bounds(queries, keys, PAGE)
    assert_matches(told(impl, keys, sizes).bounds(queries), expected)


@requirement("LC-85")
def test_a_page_is_not_bounded_by_keys_of_an_earlier_call(impl):
    queries, keys, _ = tokens(1, 11)
    selector = impl.PageSelector(PAGE, KV_HEADS, HEAD_DIM)
    n = 0
    for size in (3, 1, 2, 5):
        selector.add(keys[n : n + size])
        n += size
        assert_matches(selector.bounds(queries[0]), reference.page_bounds(queries[0], keys[:n], PAGE))


@requirement("LC-86")
@given(
    seed=SEEDS,
    n=st.sampled_from([1, 4, 22, 24]),
    pages=st.sampled_from([1, 2, 3, 5, 6, 9]),
    heads=st.sampled_from([HEADS, KV_HEADS]),
    dtype=st.sampled_from(list(DTYPES)),
)
@example(seed=5, n=22, pages=3, heads=HEADS, dtype="float32")
@example(seed=3, n=24, pages=3, heads=HEADS, dtype="float32")
@example(seed=1, n=22, pages=6, heads=HEADS, dtype="float32")
@example(seed=1, n=22, pages=9, heads=HEADS, dtype="float32")
@example(seed=1, n=80, pages=5, heads=HEADS, dtype="bfloat16")
def test_chosen_are_the_best_pages_and_the_newest(impl, seed, n, pages, heads, dtype):
    queries, keys = clear_pages(seed, n, PAGE, pages, dtype, heads=heads)
    expected = reference.exact.PageSelector(PAGE, KV_HEADS, HEAD_DIM)
    expected.add(keys)
    assert_integers(told(impl, keys).select(queries, pages), expected.select(queries, pages))


@requirement("LC-86")
@pytest.mark.parametrize("dtype", DTYPES)
def test_of_equal_pages_the_lower_id_is_chosen(impl, dtype):
    # Small whole numbers: their sums are exact in any order.
    rng = np.random.default_rng(1)
    page = rng.integers(-4, 5, (PAGE, KV_HEADS, HEAD_DIM))
    queries = rng.integers(1, 5, (HEADS, HEAD_DIM)).astype(DTYPES[dtype])
    keys = np.concatenate([page - 5, page, page - 5, page, page, page - 5, page]).astype(DTYPES[dtype])
    expected = np.array([[1, 3, 6]] * KV_HEADS)
    assert_integers(told(impl, keys).select(queries, 3), expected)


@requirement("LC-86")
def test_the_newest_page_is_that_of_the_last_call(impl):
    queries, keys, _ = tokens(1, 11)
    selector = impl.PageSelector(PAGE, KV_HEADS, HEAD_DIM)
    for part, newest in zip(np.split(keys, [3, 8]), (0, 1, 2), strict=True):
        selector.add(part)
        assert_integers(selector.select(queries[0], 1), np.array([[newest]] * KV_HEADS))


@requirement("LC-86")
def test_one_kv_head_has_one_row(impl):
    queries, keys, _ = tokens(1, 12, heads=3)
    selector = impl.PageSelector(PAGE, 1, HEAD_DIM)
    selector.add(keys[:, :1])
    assert_integers(selector.select(queries[0], 1), np.array([[2]]))


@requirement("LC-86")
def test_without_keys_there_are_no_pages(impl):
    assert_equal(
        impl.PageSelector(PAGE, KV_HEADS, HEAD_DIM).select(tokens(1, 1).queries[0], 3).shape, (KV_HEADS, 0)
    )


@requirement("LC-87")
def test_pages_that_cannot_be_are_refused(impl):
    valid = {"page_size": PAGE, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
    queries, keys = clear_pages(1, 10, PAGE, 2)
    selector = impl.PageSelector(**valid)
    check_refusals(
        impl.PageSelector,
        valid,
        [
            ("page_size", {"page_size": 0}),
            ("page_size", {"page_size": -4}),
            ("kv_heads", {"kv_heads": 0}),
            ("head_dim", {"head_dim": 0}),
        ],
    )
    selector.add(keys)
    check_refusals(
        selector.add,
        {"keys": keys},
        [
            ("keys", {"keys": keys[:, :1]}),
            ("keys", {"keys": keys[:0, :1]}),
            ("keys", {"keys": keys[..., :4]}),
            ("keys", {"keys": keys[0]}),
        ],
    )
    wrong_queries = [
        ("queries", {"queries": queries[:5]}),
        ("queries", {"queries": queries[:1]}),
        ("queries", {"queries": queries[:, :4]}),
        ("queries", {"queries": queries[0]}),
    ]
    check_refusals(selector.bounds, {"queries": queries}, wrong_queries)
    valid = {"queries": queries, "pages": 2}
    check_refusals(
        selector.select, valid, [*wrong_queries, ("pages", {"pages": 0}), ("pages", {"pages": -1})]
    )
    check_refusals(selector.select, {**valid, "pages": 9}, wrong_queries)
    assert_matches(selector.bounds(queries), reference.page_bounds(queries, keys, PAGE))
