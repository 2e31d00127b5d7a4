"""`VectorIndex`: what is near, and what is there."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.edited import reference
from grading.marks import requirement
from grading.matching import assert_equal, check_refusals, refused
from spec import InvalidArgument, UnknownDocument
from tests.week3.rag.cases import (
    IDS,
    METRICS,
    SEEDS,
    assert_ranking,
    assert_scores,
    f32,
    ids_of,
    rows_of,
    vector_scores,
)

TRUTH = reference("rag")
Q = f32([1, 0])
AXES = {"b": [1, 0], "a": [2, 0], "c": [0, 1]}


def filled(impl, rows, *, metric="cosine", metadata=None):
    """An index with these rows, {id: vector}."""
    index = impl.VectorIndex(len(next(iter(rows.values()))), metric=metric)
    index.add(list(rows), f32(*rows.values()), metadata)
    return index


def check_search(index, metric, rows, queries, *asked, metadata=None):
    """asked: (k, where), of which only rows count whose metadata, {id: metadata}, meet it."""
    expected, allowed = vector_scores(metric, queries, rows)
    for k, where in asked:
        seen = [each for each in rows if where is None or TRUTH.matches(metadata[each], where)]
        found = index.search(queries, k) if where is None else index.search(queries, k, where=where)
        assert_equal(len(found), len(queries), "number of results")
        for hits, scores in zip(found, expected, strict=True):
            assert_ranking(hits, {each: scores[each] for each in seen}, allowed, k)


def check_scores(impl, metric, rows, queries):
    expected, allowed = vector_scores(metric, queries, rows)
    found = filled(impl, rows, metric=metric).search(queries, len(rows))
    for hits, scores in zip(found, expected, strict=True):
        assert_equal(sorted(ids_of(hits)), sorted(rows), "ids")
        assert_scores({hit.id: hit.score for hit in hits}, scores, allowed)


# RAG-16


@requirement("RAG-16")
@pytest.mark.parametrize("metric", METRICS)
@given(seed=SEEDS, dim=st.sampled_from([1, 3, 8]))
@example(seed=1, dim=3)
def test_scores(impl, metric, seed, dim):
    rng = np.random.default_rng(seed)
    queries = (2 * rng.standard_normal((3, dim))).astype(np.float32)
    check_scores(impl, metric, rows_of(rng, 7, dim), queries)


@requirement("RAG-16")
@pytest.mark.parametrize(
    ("metric", "expected"), [("cosine", [0.0, 0.0]), ("ip", [0.0, 0.0]), ("l2", [-1.0, 0.0])]
)
def test_vectors_of_length_0(impl, metric, expected):
    index = filled(impl, {"nothing": [0, 0]}, metric=metric)
    scores = [hit.score for hits in index.search(f32([1, 0], [0, 0]), 1) for hit in hits]
    assert_equal(scores, expected, "scores")
    check_scores(impl, metric, {"x": [3, 4], "nothing": [0, 0], "y": [-3, 4]}, f32([0, 0], [1, 0]))


@requirement("RAG-16")
@pytest.mark.parametrize("length", [1e-18, 1e-9, 1e18])
@pytest.mark.parametrize("metric", METRICS)
def test_vectors_of_any_length(impl, metric, length):
    rows = {"x": f32([3, 4])[0], "y": f32([-1, 2])[0], "z": f32([0.5, 0.25])[0]}
    rows = {each: (np.float64(length) * row).astype(np.float32) / 4 for each, row in rows.items()}
    check_scores(impl, metric, rows, (np.float64(length) * f32([0.5, 0.25], [0.25, -0.5])).astype(np.float32))


@requirement("RAG-16")
def test_the_cosine_is_what_is_measured_by_default(impl):
    index = impl.VectorIndex(2)
    index.add(["x", "y"], f32([30, 40], [2, 0]))
    (hits,) = index.search(Q, 2)
    expected, allowed = vector_scores("cosine", Q, {"x": [30, 40], "y": [2, 0]})
    assert_ranking(hits, expected[0], allowed, 2)


# RAG-17


@requirement("RAG-17")
@pytest.mark.parametrize("metric", METRICS)
@given(seed=SEEDS, n=st.integers(1, 9), m=st.integers(1, 4), k=st.integers(1, 10))
@example(seed=1, n=9, m=4, k=3)
@example(seed=2, n=3, m=2, k=9)
def test_the_k_best_of_each_query(impl, metric, seed, n, m, k):
    rng = np.random.default_rng(seed)
    rows = rows_of(rng, n, 3)
    queries = (rng.standard_normal((m, 3)) * rng.choice([0.1, 10], (m, 1))).astype(np.float32)
    check_search(filled(impl, rows, metric=metric), metric, rows, queries, (k, None))


@requirement("RAG-17")
@pytest.mark.parametrize("k", [1, 2, 6, 20])
@pytest.mark.parametrize("metric", METRICS)
def test_equals_come_in_the_order_of_their_ids(impl, metric, k):
    """By code points, whichever was added first; all scores are whole numbers."""
    rows = {"z": [4, 0], **dict.fromkeys(IDS, [0, 2]), "A": [-4, 0]}
    index = filled(impl, rows, metric=metric)
    equal = ["B", "a", "d", "d10", "d9", "\uffee", "\U0001d11e"]
    assert_equal(ids_of(index.search(f32([4, 0]), k)[0]), ["z", *equal, "A"][:k], "ids")
    found = index.search(f32([0, 1], [4, 0], [0, 1]), k)
    expected = [[*equal, "A", "z"][:k], ["z", *equal, "A"][:k], [*equal, "A", "z"][:k]]
    assert_equal([ids_of(hits) for hits in found], expected, "ids of each query")


@requirement("RAG-17")
def test_equal_directions_are_equal(impl):
    for k in (1, 2, 10):
        (hits,) = filled(impl, AXES).search(Q, k)
        assert_equal(ids_of(hits), ["a", "b", "c"][:k], "ids")


@requirement("RAG-17")
def test_there_may_be_nothing_to_search(impl):
    index = impl.VectorIndex(2)
    assert_equal([ids_of(hits) for hits in index.search(f32([1, 0], [0, 1]), 3)], [[], []], "ids, none there")
    index = filled(impl, AXES)
    assert_equal(list(index.search(np.zeros((0, 2), np.float32), 3)), [], "results of no queries")
    index.remove(["a", "b", "c"])
    assert_equal([ids_of(hits) for hits in index.search(Q, 3)], [[]], "ids, none left")


# RAG-18


@requirement("RAG-18")
@given(seed=SEEDS, k=st.integers(1, 4))
@example(seed=1, k=2)
def test_the_k_best_of_those_that_meet_it(impl, seed, k):
    rng = np.random.default_rng(seed)
    rows = rows_of(rng, 8, 3)
    metadata = {each: {"n": int(rng.integers(0, 4)), "even": bool(rng.integers(2))} for each in rows}
    index = filled(impl, rows, metric="ip", metadata=list(metadata.values()))
    queries = rng.standard_normal((2, 3)).astype(np.float32)
    conditions = [{"even": True}, {"n": {"$lt": 2}}, {"$or": [{"n": 3}, {"even": False}]}, {"n": 9}, {}]
    check_search(index, "ip", rows, queries, *((k, where) for where in conditions), metadata=metadata)


@requirement("RAG-18")
@pytest.mark.parametrize("k", [1, 3])
def test_a_thousand_nearer_ones_take_no_place(impl, k):
    index = impl.VectorIndex(2, metric="ip")
    index.add([f"en{i}" for i in range(1000)], np.full((1000, 2), 3, np.float32), [{"lang": "en"}] * 1000)
    index.add(["de1", "de2"], f32([1, 0], [-1, 0]), [{"lang": "de"}, {"lang": "de"}])
    index.add(["none"], f32([2, 0]))
    (hits,) = index.search(Q, k, where={"lang": "de"})
    assert_equal(ids_of(hits), ["de1", "de2"][:k], "ids")
    (hits,) = index.search(Q, k, where={"$not": {"lang": "en"}})
    assert_equal(ids_of(hits), ["none", "de1", "de2"][:k], "ids")


# RAG-19


@requirement("RAG-19")
@given(seed=SEEDS, metric=st.sampled_from(METRICS))
@example(seed=1, metric="cosine")
@example(seed=2, metric="l2")
def test_adding_and_removing_are_as_building_anew(impl, seed, metric):
    rng = np.random.default_rng(seed)
    index, rows, metadata = impl.VectorIndex(3, metric=metric), {}, {}
    for step in range(5):
        if rows and rng.random() < 0.4:
            gone = rng.permutation(list(rows))[: rng.integers(1, 3)].tolist()
            index.remove(gone)
            rows = {each: row for each, row in rows.items() if each not in gone}
        else:
            more = rows_of(rng, rng.integers(1, 5), 3)
            new = {each: {"step": step, "n": i} if rng.random() < 0.7 else {} for i, each in enumerate(more)}
            index.add(list(more), f32(*more.values()), list(new.values()) if any(new.values()) else None)
            rows, metadata = rows | more, metadata | new
        ids = rng.permutation(list(rows)).tolist()
        assert_equal(index.ids(), sorted(rows), "ids()")
        assert_equal(index.get(ids), [metadata[each] for each in ids], f"metadata of {ids}")
        queries = rng.standard_normal((1, 3)).astype(np.float32)
        check_search(index, metric, rows, queries, (3, None), (2, {"step": step}), metadata=metadata)


@requirement("RAG-19")
def test_what_is_added_again_is_in_its_place(impl):
    index = filled(impl, AXES, metadata=[{"n": 1}, {"n": 2}, {"n": 3}])
    index.add(["a"], f32([0, 1]))
    index.add([], np.zeros((0, 2), np.float32))
    assert_equal((index.ids(), index.get(["a", "b"])), (["a", "b", "c"], [{}, {"n": 1}]), "ids and metadata")
    assert_equal(ids_of(index.search(f32([0, 1]), 5)[0]), ["a", "c", "b"], "ids found")
    assert_equal(
        [ids_of(hits) for hits in index.search(Q, 5, where={"n": 2})], [[]], "ids by metadata of before"
    )


@requirement("RAG-19")
@pytest.mark.parametrize("ids", [["a", "zz"], ["zz", "a"], ["zz"]])
def test_who_is_not_there_cannot_be_removed(impl, ids):
    index = filled(impl, AXES, metadata=[{"n": 1}, {"n": 2}, {"n": 3}])
    with refused(UnknownDocument):
        index.remove(ids)
    with refused(UnknownDocument):
        index.get(ids)
    assert_equal(
        (index.ids(), index.get(["c", "a"])), (["a", "b", "c"], [{"n": 3}, {"n": 2}]), "ids, metadata"
    )
    assert_equal(ids_of(index.search(Q, 3)[0]), ["a", "b", "c"], "ids found")
    index.remove(["a", "a"])
    for call in (index.remove, index.get):
        with refused(UnknownDocument):
            call(["a"])


@requirement("RAG-19")
def test_metadata_are_as_they_were_given(impl):
    metadata = [
        {"a": 1, "b": 1.0, "c": True, "d": None, "e": "1", "f": [1, 1.0, False, None, "é"], "g": []},
        {"": 2**60, "ids": 0, "vector": "x", "id": [], "metadata": -0.5, "text\n": "\U0001d11e"},
    ]
    index = filled(impl, {"x": [1, 0], "y": [0, 1]}, metadata=metadata)
    assert_equal(index.get(["y", "x", "y"]), [metadata[1], metadata[0], metadata[1]], "metadata")
    assert_equal(index.get([]), [], "metadata of nobody")


# RAG-57


@requirement("RAG-57")
def test_a_bad_index_is_refused(impl):
    assert_equal(impl.VectorIndex(dim=3, metric="l2").ids(), [], "ids")
    wrong = [
        ("dim", {"dim": 0}),
        ("dim", {"dim": -1}),
        *(("metric", {"metric": wrong}) for wrong in ("dot", "Cosine", "euclidean", "")),
    ]
    check_refusals(impl.VectorIndex, {"dim": 3, "metric": "l2"}, wrong)


@requirement("RAG-57")
def test_bad_vectors_are_refused(impl):
    index = impl.VectorIndex(2)
    valid = {"ids": ["a", "b"], "vectors": f32([1, 0], [0, 1]), "metadata": [{"n": 1}, {}]}
    index.add(**valid)
    two, new = f32([1, 0], [0, 1]), ["c", "a"]
    wrong = [
        ("vectors", {"vectors": f32([1, 0, 0], [0, 1, 0]), "ids": new}),
        ("vectors", {"vectors": f32([1], [0]), "ids": new}),
        ("vectors", {"vectors": f32(1, 0), "ids": new}),
        ("vectors", {"vectors": two[None], "ids": new}),
        ("vectors/ids", {"vectors": two[:1], "ids": new}),
        ("vectors/ids", {"vectors": f32([1, 0], [0, 1], [1, 1]), "ids": new}),
        ("ids", {"ids": ["c", "c"]}),
        ("metadata", {"ids": new, "metadata": []}),
        ("metadata", {"ids": new, "metadata": [{}]}),
        ("metadata", {"ids": new, "metadata": [{}, {}, {}]}),
        *(("vectors", {"ids": new, "vectors": f32([1, 0], [0, bad])}) for bad in (np.nan, np.inf, -np.inf)),
    ]
    check_refusals(index.add, valid, wrong)
    assert_equal((index.ids(), index.get(["a"])), (["a", "b"], [{"n": 1}]), "ids and metadata afterwards")
    assert_equal(ids_of(index.search(Q, 5)[0]), ["a", "b"], "ids found afterwards")


@requirement("RAG-57")
@pytest.mark.parametrize("rows", [{}, AXES], ids=["empty", "filled"])
def test_bad_searches_are_refused(impl, rows):
    index = impl.VectorIndex(2) if not rows else filled(impl, rows)
    valid = {"queries": Q, "k": 1, "where": {"n": {"$gt": 1}}}
    assert_equal([ids_of(hits) for hits in index.search(**valid)], [[]], "ids")
    wrong = [
        ("k", {"k": 0}),
        ("k", {"k": -1}),
        ("queries", {"queries": f32([1, 0, 0])}),
        ("queries", {"queries": f32([1])}),
        ("queries", {"queries": f32(1, 0)}),
        ("queries", {"queries": f32([[1, 0]])}),
        ("queries", {"queries": np.zeros((0, 3), np.float32)}),
        *(("queries", {"queries": f32([1, 0], [bad, 0])}) for bad in (np.nan, np.inf, -np.inf)),
        ("where", {"where": {"n": {"$gtt": 1}}}),
        ("where", {"where": {"$nor": []}}),
        ("where", {"where": {"$not": [1]}}),
    ]
    check_refusals(index.search, valid, wrong)


@requirement("RAG-57")
def test_an_unknown_id_is_refused(impl):
    index = filled(impl, AXES)
    with refused(UnknownDocument, "ids"):
        index.get(["a", "d"])
    with refused(UnknownDocument, "ids"):
        index.remove(["d"])
    index.remove(["a"])
    assert_equal(index.get(["b"]), [{}], "metadata")
    with pytest.raises(InvalidArgument):
        index.search(Q, 0)
