"""`BM25`: what a document is worth to a query, and which ones are found."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, check_refusals, refused
from spec import UnknownDocument
from spec.rag import Hit
from tests.week3.rag.cases import (
    SEEDS,
    assert_ranking,
    assert_scores,
    corpus,
    ids_of,
    words_scores,
)

DOCUMENTS = {"d0": ("a", "a", "b"), "d1": ("a", "c"), "d2": ("b", "c", "d", "d"), "d3": ("a",)}
RARE = {
    "d0": ("a", "a", "b"),
    "d1": ("b", "c"),
    "d2": ("c", "d", "d", "e"),
    "d3": (),
    "d4": ("d", "f", "f", "f"),
}
K1 = st.sampled_from([0.0, 0.5, 1.5, 4.0])  # numbers that float32 has
B = st.sampled_from([0.0, 0.25, 0.75, 1.0])


def check(impl, documents, *queries, **options):
    """Of these and of queries of one token each."""
    queries = [*queries, *((token,) for token in sorted({*"ab"}.union(*documents.values())))]
    expected, allowed = words_scores(documents, queries, **options)
    index = impl.BM25(documents, **options)
    for query, scores in zip(queries, expected, strict=True):
        assert_scores(index.scores(query), scores, allowed, f"scores of {query}")


def check_search(index, documents, query, k, **options):
    """The k best of those that have a token of the query."""
    (scores, *_), allowed = words_scores(documents, [query, *map(tuple, "abcde")], **options)
    found = {each: scores[each] for each, tokens in documents.items() if {*tokens} & {*query}}
    assert_ranking(index.search(query, k), found, allowed, k, f"hits of {query}")


# RAG-06


@requirement("RAG-06")
@given(seed=SEEDS, k1=K1, b=B)
@example(seed=3, k1=1.5, b=0.75)
@example(seed=4, k1=0.0, b=1.0)
def test_scores_of_lucene(impl, seed, k1, b):
    rng = np.random.default_rng(seed)
    check(impl, corpus(rng), tuple("abcd"), tuple(rng.permutation(list("abcde"))[:3].tolist()), k1=k1, b=b)


@requirement("RAG-06")
@pytest.mark.parametrize(
    "options", [{}, {"b": 0.0}, {"b": 1.0}, {"k1": 0.0}, {"k1": 64.0}, {"variant": "lucene"}]
)
def test_scores_of_the_example(impl, options):
    check(impl, DOCUMENTS, ("a", "d"), **options)
    check(impl, RARE, ("d", "b"), **options)


@requirement("RAG-06")
def test_a_token_is_equal_to_itself_alone(impl):
    tokens = ("a", "A", "é", "e\u0301", "", " ", "a b", "ß", "ss", "1", "1.0", "\U0001d11e")
    documents = {f"d{i}": (each, *tokens[:i]) for i, each in enumerate(tokens)}
    check(impl, documents, tokens)


# RAG-07

VARIANTS = ["robertson", "atire", "bm25l", "bm25+", "okapi"]


@requirement("RAG-07")
@pytest.mark.parametrize("variant", VARIANTS)
@given(seed=SEEDS, k1=K1, b=B)
@example(seed=3, k1=1.5, b=0.75)
def test_scores_of_a_variant(impl, variant, seed, k1, b):
    """Of documents that have no token in common, so that no idf is negative."""
    rng = np.random.default_rng(seed)
    letters = [each.tolist() for each in np.array_split(rng.permutation(list("abcdefgh")), 4)]
    documents = {f"d{i}": tuple(rng.choice(own, i + 1).tolist()) for i, own in enumerate(letters)}
    check(impl, documents, tuple("abcdefgh"), variant=variant, k1=k1, b=b)


@requirement("RAG-07")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", [{}, {"delta": 0.0}, {"delta": 2.5}])
def test_delta(impl, variant, options):
    check(impl, RARE, ("a", "d"), ("c", "f", "b"), variant=variant, **options)


@requirement("RAG-07")
@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_of_a_variant_on_the_example(impl, variant):
    check(impl, DOCUMENTS, ("a", "d"), variant=variant)


# RAG-08


@requirement("RAG-08")
@pytest.mark.parametrize("variant", ["robertson", "okapi"])
@given(seed=SEEDS, epsilon=st.sampled_from([0.0, 0.25, 1.0]))
@example(seed=1, epsilon=0.25)
@example(seed=5, epsilon=1.0)
def test_tokens_that_most_documents_have(impl, variant, seed, epsilon):
    rng = np.random.default_rng(seed)
    check(impl, corpus(rng, tokens="abcd"), tuple("abcd"), variant=variant, epsilon=epsilon)


COMMON = {
    "d0": tuple("aaabcd"),
    "d1": tuple("abc"),
    "d2": tuple("aab"),
    "d3": tuple("aae"),
}  # a negative mean
HALF = {
    "d0": tuple("ab"),
    "d1": tuple("ab"),
    "d2": tuple("cd"),
    "d3": tuple("eab"),
    "d4": ("c",),
    "d5": ("f",),
}


@requirement("RAG-08")
@pytest.mark.parametrize("documents", [COMMON, HALF, {"d0": ("a",)}], ids=["common", "half", "one"])
@pytest.mark.parametrize("options", [{}, {"epsilon": 0.5}])
def test_the_mean_is_over_tokens(impl, documents, options):
    check(impl, documents, tuple("abcd"), variant="okapi", **options)


# RAG-09


@requirement("RAG-09")
@pytest.mark.parametrize(
    "query", [("a", "a", "d"), ("d", "a", "a", "a"), ("z",), ("z", "a", "z"), (), tuple("abcd") * 3]
)
@pytest.mark.parametrize("variant", ["lucene", "bm25l", "bm25+"])
def test_each_occurrence_in_the_query_counts(impl, query, variant):
    check(impl, DOCUMENTS, query, variant=variant)


# RAG-10


@requirement("RAG-10")
@given(seed=SEEDS, k=st.integers(1, 8), variant=st.sampled_from(["lucene", "robertson", "atire", "okapi"]))
@example(seed=1, k=3, variant="robertson")
@example(seed=2, k=2, variant="lucene")
def test_the_k_best_of_what_matches(impl, seed, k, variant):
    rng = np.random.default_rng(seed)
    documents = corpus(rng)
    query = tuple(rng.choice(list("abcdez"), rng.integers(0, 4)).tolist())
    check_search(impl.BM25(documents, variant=variant), documents, query, k, variant=variant)


@requirement("RAG-10")
@pytest.mark.parametrize("k", [1, 3, 4, 9])
def test_equals_come_in_the_order_of_their_ids(impl, k):
    """By code points, whichever was added first, and whatever is better or worse."""
    ids = ["b", "d9", "\U0001d11e", "d10", "\uffee", "B", "a"]
    documents = {"x": ("a", "a", "b"), **dict.fromkeys(ids, ("a", "b")), "A": ("b", "c")}
    hits = impl.BM25(documents, b=0.0).search(("a",), k)
    assert_equal(ids_of(hits), ["x", "B", "a", "b", "d10", "d9", "\uffee", "\U0001d11e"][:k], "ids")


@requirement("RAG-10")
def test_a_score_may_be_nothing_or_less(impl):
    documents = {"b": ("a", "b"), "a": ("a", "c"), "c": ("a", "c", "c")}
    hits = impl.BM25(documents, variant="atire").search(("a", "z"), 5)
    assert_equal(hits, [Hit("a", 0.0), Hit("b", 0.0), Hit("c", 0.0)], "hits of what all documents have")
    hits = impl.BM25(documents, variant="robertson").search(("a",), 2)
    assert_equal(ids_of(hits), ["c", "a"], "ids: the longest has lost least")
    assert_equal(ids_of(impl.BM25(documents).search(("b",), 5)), ["b"], "ids of those that have b")
    for query in ((), ("z",)):
        assert_equal(ids_of(impl.BM25(documents).search(query, 5)), [], f"ids found by {query}")


# RAG-11


@requirement("RAG-11")
@given(seed=SEEDS)
@example(seed=1)
@example(seed=2)
def test_adding_and_removing_are_as_building_anew(impl, seed):
    check_changes(impl, seed)


@requirement("RAG-08")
@given(seed=SEEDS)
@example(seed=1)
def test_the_mean_of_okapi_is_that_of_the_tokens_there_are(impl, seed):
    check_changes(impl, seed, variant="okapi")


def check_changes(impl, seed, **options):
    rng = np.random.default_rng(seed)
    documents = corpus(rng, most=4)
    index = impl.BM25(documents, **options)
    for _ in range(5):
        if documents and rng.random() < 0.4:
            gone = rng.permutation(list(documents))[: rng.integers(1, 3)].tolist()
            index.remove(gone)
            documents = {each: tokens for each, tokens in documents.items() if each not in gone}
        else:
            more = corpus(rng, most=5)
            index.add(more)
            documents = documents | more
        queries = [tuple("abc"), ("d",), ("e",)]
        expected, allowed = words_scores(documents, queries, **options)
        for query, scores in zip(queries, expected, strict=True):
            assert_scores(index.scores(query), scores, allowed, f"scores of {query}")
        check_search(index, documents, tuple("abc"), 3, **options)


@requirement("RAG-11")
def test_documents_come_and_go(impl):
    index = impl.BM25(DOCUMENTS)
    index.remove(["d3"])
    left = {each: tokens for each, tokens in DOCUMENTS.items() if each != "d3"}
    (scores, _), allowed = words_scores(left, [("a", "d"), ("d",)])
    assert_scores(index.scores(("a", "d")), scores, allowed)
    index.add({"d3": ("a",)})
    index.add({"d0": ("d",)})
    index.add({})
    index.remove([])
    index.add({"d4": ("a", "d")})
    index.remove(["d4", "d4"])
    changed = {**DOCUMENTS, "d0": ("d",)}
    (scores, _), allowed = words_scores(changed, [("a", "d"), ("d",)])
    assert_scores(index.scores(("a", "d")), scores, allowed)
    check_search(index, changed, ("b", "d"), 9)


@requirement("RAG-11")
@pytest.mark.parametrize("ids", [["d0", "zz"], ["zz", "d0"], ["zz"]])
def test_who_is_not_there_cannot_be_removed(impl, ids):
    index = impl.BM25(DOCUMENTS)
    before = index.scores(("a", "d"))
    with refused(UnknownDocument):
        index.remove(ids)
    assert_equal(index.scores(("a", "d")), before, "scores after a removal that was refused")
    index.remove(["d0"])
    with refused(UnknownDocument):
        index.remove(["d0"])
    assert_equal(sorted(index.scores(("a",))), ["d1", "d2", "d3"], "documents")


# RAG-12


@requirement("RAG-12")
@pytest.mark.parametrize("variant", ["lucene", *VARIANTS])
@pytest.mark.parametrize("documents", [{}, {"x": ()}, {"x": (), "y": ()}, {"x": (), "y": ("a",)}], ids=len)
def test_nothing_at_all(impl, variant, documents):
    check(impl, documents, ("a", "b"), (), variant=variant)
    check_search(impl.BM25(documents, variant=variant), documents, ("a", "b"), 3, variant=variant)


@requirement("RAG-12")
def test_what_was_emptied_is_empty(impl):
    index = impl.BM25({"x": ("a",)})
    index.remove(["x"])
    assert_equal((index.scores(("a",)), ids_of(index.search(("a",), 1))), ({}, []), "scores and ids")
    index.add({"y": ()})
    assert_equal((index.scores(("a",)), ids_of(index.search(("a",), 1))), ({"y": 0.0}, []), "scores and ids")


# RAG-56


@requirement("RAG-56")
def test_bad_parameters_are_refused(impl):
    valid = {"documents": DOCUMENTS, "variant": "okapi", "k1": 0, "b": 1, "delta": 0, "epsilon": 0}
    assert_equal(sorted(impl.BM25(**valid).scores(("a",))), sorted(DOCUMENTS), "documents")
    wrong = [
        *(("variant", {"variant": wrong}) for wrong in ("bm25", "Lucene", "")),
        *((name, {name: -0.5}) for name in ("k1", "b", "delta", "epsilon")),
        ("b", {"b": 1.5}),
        ("delta", {"variant": "lucene", "delta": -1}),
        ("epsilon", {"variant": "lucene", "epsilon": -1}),
        ("k1", {"documents": {}, "k1": -1}),
    ]
    check_refusals(impl.BM25, valid, wrong)


@requirement("RAG-56")
def test_no_hits_wanted_is_refused(impl):
    index = impl.BM25(DOCUMENTS)
    assert_equal(ids_of(index.search(query=("d",), k=1)), ["d2"], "ids")
    wrong = [("k", {"k": 0}), ("k", {"k": -1}), ("k", {"query": (), "k": 0})]
    check_refusals(index.search, {"query": ("d",), "k": 1}, wrong)


@requirement("RAG-56")
def test_an_unknown_document_is_refused(impl):
    index = impl.BM25(DOCUMENTS)
    index.remove(["d1"])
    with refused(UnknownDocument, "ids"):
        index.remove(["d1"])
    assert_equal(sorted(index.scores(())), ["d0", "d2", "d3"], "documents")
