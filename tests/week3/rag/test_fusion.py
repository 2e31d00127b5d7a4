"""Several rankings become one, and one that does not repeat itself."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.edited import reference
from grading.marks import requirement
from grading.matching import assert_equal, check_refusals
from spec.rag import Hit
from tests.week3.rag.cases_numbers import TRUTH, assert_hits, clear_hits

IDS = ["a", "b", "c", "d10", "d9"]
KS = st.sampled_from([60, 0, 1, 2.5])
WEIGHTS = st.sampled_from([0.25, 0.5, 1.0, 1.75, 3.0])


def hits(**scores):
    return [Hit(each, float(score)) for each, score in scores.items()]


# Ranks


@requirement("RAG-24")
@given(
    k=KS,
    rankings=st.lists(st.permutations(IDS), min_size=1, max_size=3),
    weights=st.none() | st.lists(WEIGHTS, min_size=3, max_size=3),
)
@example(k=60, rankings=[["a", "b", "c"], ["c", "b", "a"]], weights=[1.0, 0.5, 0.0])
@example(k=60, rankings=[["a", "b", "c"], ["b", "a", "c"]], weights=[0.5, 3.0, 0.0])
@example(k=0, rankings=[["a", "b", "c"], ["a", "c", "b"]], weights=[1.0, 0.5, 0.0])
def test_ranks_are_added_up(impl, k, rankings, weights):
    weights = None if weights is None else weights[: len(rankings)]
    expected = clear_hits("reciprocal_rank_fusion", rankings, k=k, weights=weights)
    assert_hits(impl.reciprocal_rank_fusion(rankings, k=k, weights=weights), expected)


@requirement("RAG-24")
def test_k_is_60_and_weights_are_1_where_nothing_is_said(impl):
    found = impl.reciprocal_rank_fusion([["a", "b", "c"], ["c", "b"]])
    assert_hits(found, TRUTH.reciprocal_rank_fusion([["a", "b", "c"], ["c", "b"]], k=60, weights=[1, 1]))
    assert_equal([each.id for each in found], ["c", "b", "a"], "ids of the text's example")


@requirement("RAG-24")
def test_ranks_far_down_are_told_apart(impl):
    """1 / 259 and 1 / 260 differ by 0.000015, and that is an order."""
    ids = [f"{i:03d}" for i in range(200, 0, -1)]
    assert_hits(impl.reciprocal_rank_fusion([ids]), TRUTH.reciprocal_rank_fusion([ids]))


@requirement("RAG-25")
@given(
    k=KS,
    rankings=st.lists(st.lists(st.sampled_from(IDS), max_size=5), min_size=1, max_size=3),
    weights=st.none() | st.lists(WEIGHTS, min_size=3, max_size=3),
)
@example(k=60, rankings=[["a", "a", "b"]], weights=None)
@example(k=1, rankings=[["b", "a", "c", "a", "a"], ["c"]], weights=None)
@example(k=1, rankings=[["a", "b", "c"], ["d9", "c"], []], weights=None)
def test_an_id_is_missing_or_there_twice(impl, k, rankings, weights):
    weights = None if weights is None else weights[: len(rankings)]
    expected = clear_hits("reciprocal_rank_fusion", rankings, k=k, weights=weights)
    assert_hits(impl.reciprocal_rank_fusion(rankings, k=k, weights=weights), expected)


@requirement("RAG-25")
@pytest.mark.parametrize(
    "rankings", [[["d9", "d10"], ["d10", "d9"]], [["b", "B"], ["B", "b"]], [["b"], ["a"]]]
)
def test_of_equals_the_smaller_id_is_first(impl, rankings):
    assert_hits(impl.reciprocal_rank_fusion(rankings), TRUTH.reciprocal_rank_fusion(rankings))


@requirement("RAG-25")
def test_nothing_to_add_up(impl):
    found = impl.reciprocal_rank_fusion([["a", "c"], ["b", "a"]], weights=[1.0, 0.0])
    assert_hits(found, TRUTH.reciprocal_rank_fusion([["a", "c"], ["b", "a"]], weights=[1.0, 0.0]))
    assert_equal(found[2], Hit("b", 0.0), "what only a weight of 0 speaks for")
    assert_equal(impl.reciprocal_rank_fusion([]), [], "hits of no rankings")
    assert_equal(impl.reciprocal_rank_fusion([[], []]), [], "hits of empty rankings")


# Scores


def ranking_with(ids, scores):
    """Best first; the numbers are exact in float32."""
    found = [Hit(each, score) for each, score in zip(ids, scores, strict=False)]
    return sorted(found, key=lambda hit: (-hit.score, hit.id))


@st.composite
def scored(draw):
    """Rankings in which an id may be missing or stand twice, and all scores may be equal."""
    scores = st.integers(-40, 40).map(lambda number: number / 8)
    ids = st.lists(st.sampled_from(IDS), max_size=5)
    rankings = []
    for _ in range(draw(st.integers(1, 3))):
        some = draw(ids)
        rankings.append(ranking_with(some, draw(st.lists(scores, min_size=len(some), max_size=len(some)))))
    return rankings


@requirement("RAG-26")
@given(rankings=scored(), weights=st.none() | st.lists(WEIGHTS, min_size=3, max_size=3))
@example(rankings=[hits(a=12, b=7, c=4), hits(c=0.5, b=0.25)], weights=[1.0, 0.5])
@example(rankings=[hits(a=-1, b=-2, c=-4), hits(c=900, a=200, d9=100)], weights=None)
@example(rankings=[hits(a=3), hits(b=2, c=1)], weights=[0.5, 1.0])
@example(rankings=[[Hit("a", 4.0), Hit("b", 3.0), Hit("b", 0.0)], hits(c=1)], weights=[0.5, 0.75])
@example(rankings=[hits(a=0, b=-3), hits(b=-2)], weights=[0.5, 1.75])
@example(rankings=[[Hit("a", 4.0), Hit("b", 3.0), Hit("a", 1.0), Hit("c", 0.0)], hits(c=1)], weights=None)
def test_scores_come_to_one_scale(impl, rankings, weights):
    weights = None if weights is None else weights[: len(rankings)]
    expected = clear_hits("score_fusion", rankings, weights=weights)
    assert_hits(impl.score_fusion(rankings, weights=weights), expected)


@requirement("RAG-26")
def test_scores_that_are_level(impl):
    rankings = [hits(a=12, b=8, c=4), hits(c=0.5, b=0.25)]
    assert_equal(impl.score_fusion(rankings), [Hit("a", 1.0), Hit("c", 1.0), Hit("b", 0.5)], "hits")
    assert_equal(
        impl.score_fusion([hits(a=-7, b=-7)]), [Hit("a", 1.0), Hit("b", 1.0)], "hits of equal scores"
    )
    near = impl.score_fusion([[Hit("b", 2.0**-30), Hit("a", 0.0)]])
    assert_equal(near, [Hit("b", 1.0), Hit("a", 0.0)], "hits of scores that differ by little")
    assert_equal(impl.score_fusion([hits(b=0)]), [Hit("b", 1.0)], "a single one")
    assert_equal(impl.score_fusion([hits(b=5)], weights=[0.0]), [Hit("b", 0.0)], "hits of weight 0")
    assert_equal(impl.score_fusion([[], hits(a=1)]), [Hit("a", 1.0)], "hits beside an empty ranking")
    assert_equal(impl.score_fusion([]), [], "hits of no rankings")


# Maximal marginal relevance

MMR = reference("rag").maximal_marginal_relevance
NUDGE = 2.0**-14  # rows and query may move by this part of them, and the picks stay


def f32(*rows):
    return np.array(rows, np.float32)


def clear_rows(seed, n, k, lam):
    """(query, rows) of which the picks do not depend on rounding; some rows are near to others."""
    rng = np.random.default_rng(seed)
    while True:
        query, rows = rng.standard_normal(4), rng.standard_normal((n, 4))
        rows[n // 2 :] = rows[: n - n // 2] + 0.2 * rows[n // 2 :]
        rows *= rng.uniform(0.2, 5, (n, 1))
        moved = [
            MMR(
                query * (1 + NUDGE * rng.choice([-1, 1], 4)),
                rows * (1 + NUDGE * rng.choice([-1, 1], (n, 4))),
                k,
                lam,
            )
            for _ in range(6)
        ]
        if all(picks == moved[0] for picks in moved):
            return query.astype(np.float32), rows.astype(np.float32)


@requirement("RAG-27")
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 7),
    k=st.integers(1, 8),
    lam=st.sampled_from([0.3, 0.5, 0.6, 0.9, 1.0]),
)
@example(seed=1, n=7, k=7, lam=0.5)
@example(seed=2, n=6, k=6, lam=0.3)
@example(seed=3, n=6, k=9, lam=0.6)
@example(seed=4, n=7, k=7, lam=1.0)
@example(seed=5, n=7, k=4, lam=0.0)
def test_near_the_question_and_far_from_each_other(impl, seed, n, k, lam):
    query, rows = clear_rows(seed, n, k, lam)
    assert_equal(impl.maximal_marginal_relevance(query, rows, k, lam), MMR(query, rows, k, lam), "picks")


@requirement("RAG-27")
def test_a_row_is_compared_with_all_that_were_picked(impl):
    query, rows = f32([1, 0, 0])[0], f32([1, 0.2, 0], [1, 0.25, 0], [0.6, -0.1, 0.2], [0.5, -0.3, 0])
    assert_equal(
        impl.maximal_marginal_relevance(query, rows, 3, 0.6), [0, 3, 2], "picks of the text's example"
    )


@requirement("RAG-27")
def test_of_equal_rows_the_lower_index_is_picked(impl):
    """All cosines are 0, 1 or −1, exactly, also that of a row of zeros."""
    query = f32([2, 0, 0])[0]
    rows = f32([0, 4, 0], [4, 0, 0], [1, 0, 0], [0, 0, 2], [0, 0, 0], [0, -1, 0], [4, 0, 0])
    for lam in (0.0, 0.5, 0.75, 1.0):
        found = impl.maximal_marginal_relevance(query, rows, 7, lam)
        assert_equal(found, MMR(query, rows, 7, lam), f"picks with lam = {lam}")
    assert_equal(impl.maximal_marginal_relevance(query, rows[:0], 2, 0.5), [], "picks of no rows")


# Refusals


WRONG_WEIGHTS = [
    ("weights", {"weights": [1.0]}),
    ("weights", {"weights": [1.0, 2.0, 3.0]}),
    ("weights", {"weights": []}),
    ("weights", {"weights": [1.0, -0.5]}),
    ("weights", {"weights": [np.nan, 1.0]}),
    ("weights", {"weights": [np.inf, 1.0]}),
]


@requirement("RAG-58")
def test_fusion_of_ranks_refuses(impl):
    valid = {"rankings": [["a", "b"], ["b"]], "k": 60.0, "weights": [1.0, 2.0]}
    assert_equal([each.id for each in impl.reciprocal_rank_fusion(**valid)], ["b", "a"], "ids")
    check_refusals(impl.reciprocal_rank_fusion, valid, [("k", {"k": -1.0}), *WRONG_WEIGHTS])
    assert_equal(len(impl.reciprocal_rank_fusion([["a"]], k=0)), 1, "hits with k = 0")


@requirement("RAG-58")
def test_fusion_of_scores_refuses(impl):
    valid = {"rankings": [hits(a=2, b=1), hits(b=3)], "weights": [1.0, 2.0]}
    assert_equal([each.id for each in impl.score_fusion(**valid)], ["b", "a"], "ids")
    wrong_scores = [
        ("rankings/score", {"rankings": [hits(a=2, b=1), hits(b=wrong)]})
        for wrong in (np.nan, np.inf, -np.inf)
    ]
    check_refusals(impl.score_fusion, valid, [*WRONG_WEIGHTS, *wrong_scores])


@requirement("RAG-58")
def test_mmr_refuses(impl):
    valid = {"query": f32([1, 0])[0], "candidates": f32([0, 1], [1, 0]), "k": 1, "lam": 0.5}
    assert_equal(impl.maximal_marginal_relevance(**valid), [1], "picks")
    check_refusals(
        impl.maximal_marginal_relevance,
        valid,
        [
            ("query/candidates", {"query": f32([1, 0, 0])[0]}),
            ("query", {"query": f32([1, 0], [0, 1])}),
            ("candidates", {"candidates": f32([1, 0])[0]}),
            ("k", {"k": 0}),
            ("k", {"k": -2}),
            ("lam", {"lam": -0.25}),
            ("lam", {"lam": 1.25}),
        ],
    )
