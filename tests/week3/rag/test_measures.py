"""How good a ranking is, and how good all of them are."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, check_refusals, refused
from spec import InvalidArgument
from tests.week3.rag.cases_numbers import TRUTH, assert_number

RANKING, QRELS = ["a", "b", "c", "d"], {"b": 1, "d": 2, "e": 1, "c": 0}
GRADED = {"a": 3, "b": 2, "c": 3, "d": 0, "e": 1, "f": 2}
IDS = list("abcdefg")
KS = st.integers(1, 9)
rankings = st.lists(st.sampled_from(IDS), unique=True, max_size=7)
with_doubles = st.lists(st.sampled_from(IDS), min_size=1, max_size=7)
judgements = st.dictionaries(st.sampled_from(IDS), st.integers(0, 4), max_size=6)
WITH_K = ["recall_at_k", "precision_at_k", "reciprocal_rank", "ndcg_at_k"]


def check(impl, name, *args, **options):
    """The measure of this name is what it should be."""
    __tracebackhide__ = True
    assert_number(getattr(impl, name)(*args, **options), getattr(TRUTH, name)(*args, **options), name)


@requirement("RAG-48")
@given(ranking=rankings, qrels=judgements, k=KS)
@example(ranking=RANKING, qrels=QRELS, k=2)
@example(ranking=RANKING, qrels=QRELS, k=10)
@example(ranking=[], qrels=QRELS, k=3)
@example(ranking=["d", "c"], qrels={**QRELS, "c": -1, "x": -2}, k=2)
def test_recall_and_precision(impl, ranking, qrels, k):
    check(impl, "recall_at_k", ranking, qrels, k)
    check(impl, "precision_at_k", ranking, qrels, k)


@requirement("RAG-49")
@given(ranking=rankings, qrels=judgements, k=KS)
@example(ranking=RANKING, qrels=QRELS, k=1)
@example(ranking=RANKING, qrels=QRELS, k=2)
@example(ranking=["c", "a"], qrels=QRELS, k=5)
def test_the_first_and_all(impl, ranking, qrels, k):
    check(impl, "reciprocal_rank", ranking, qrels)
    check(impl, "reciprocal_rank", ranking, qrels, k)
    check(impl, "average_precision", ranking, qrels)


@requirement("RAG-50")
@pytest.mark.parametrize("gain", ["linear", "exponential"])
@given(
    ranking=rankings,
    qrels=st.dictionaries(st.sampled_from(IDS), st.integers(-2, 4), min_size=2, max_size=6),
    k=KS,
)
@example(ranking=list("abcdef"), qrels=GRADED, k=6)
@example(ranking=list("acb"), qrels=GRADED, k=3)
@example(ranking=list("dab"), qrels=GRADED, k=2)
@example(ranking=list("xab"), qrels={"x": -3, "a": 2, "b": 1}, k=3)
def test_gain_discounted(impl, gain, ranking, qrels, k):
    check(impl, "ndcg_at_k", ranking, qrels, k, gain=gain)


@requirement("RAG-50")
def test_gain_is_linear_where_nothing_is_said(impl):
    check(impl, "ndcg_at_k", list("dabc"), GRADED, 4)


@requirement("RAG-51")
@given(ranking=with_doubles, qrels=judgements, k=KS)
@example(ranking=["b", "b", "d"], qrels={"b": 1, "d": 1}, k=2)
@example(ranking=["a", "a", "c", "b", "b"], qrels={"b": 3, "d": 1}, k=4)
@example(ranking=["b", "b", "b"], qrels={"b": 2}, k=3)
@example(ranking=["b", "a", "b", "d"], qrels={"b": 2, "d": 1}, k=3)
@example(ranking=["a", "b", "b"], qrels={"a": 0, "b": 0}, k=2)
@example(ranking=["a", "b", "b"], qrels={}, k=2)
def test_twice_and_none_at_all(impl, ranking, qrels, k):
    for name in WITH_K:
        check(impl, name, ranking, qrels, k)
    check(impl, "average_precision", ranking, qrels)


@requirement("RAG-51")
@pytest.mark.parametrize("qrels", [{}, {"a": 0}, {"a": 0, "b": -1}])
def test_without_relevant_documents_all_is_0(impl, qrels):
    for name in WITH_K:
        assert_equal(getattr(impl, name)(["a", "b"], qrels, 2), 0.0, name)
    assert_equal(impl.average_precision(["a", "b"], qrels), 0.0, "average_precision")


# Over all queries

METRICS = [
    "ndcg@10",
    "ndcg@1",
    "recall@2",
    "recall@100",
    "precision@5",
    "precision@250",
    "mrr@10",
    "mrr@1",
    "map",
]
QUERIES = ["q1", "q2", "q3", "q4"]


@requirement("RAG-52")
@given(
    run=st.dictionaries(st.sampled_from(QUERIES), with_doubles | st.just([]), max_size=4),
    qrels=st.dictionaries(st.sampled_from(QUERIES), judgements, max_size=4),
    metrics=st.lists(st.sampled_from(METRICS), min_size=1, max_size=4, unique=True),
)
@example(
    run={"q1": ["a"], "q4": ["x"]}, qrels={"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 0}}, metrics=METRICS
)
@example(
    run={"q1": list("dab"), "q2": list("ba")}, qrels={"q1": GRADED, "q2": {"a": 1, "c": 1}}, metrics=METRICS
)
@example(run={"q1": ["a"], "q2": []}, qrels={"q1": {"a": 1}, "q2": {"b": 1}}, metrics=METRICS)
@example(run={"q2": ["a"]}, qrels={"q3": {"c": 0}, "q4": {}}, metrics=METRICS)
@example(run={"q2": ["a"]}, qrels={}, metrics=["map", "ndcg@3"])
def test_over_all_queries(impl, run, qrels, metrics):
    found, expected = impl.evaluate(run, qrels, metrics), TRUTH.evaluate(run, qrels, metrics)
    assert_equal(sorted(found), sorted(metrics), "names of the means")
    for name in metrics:
        assert_number(found[name], expected[name], name)


# Refusals


@requirement("RAG-60")
@pytest.mark.parametrize("name", WITH_K)
def test_measures_refuse(impl, name):
    valid = {"ranked_ids": RANKING, "qrels": QRELS, "k": 1}
    check(impl, name, *valid.values())
    check_refusals(getattr(impl, name), valid, [("k", {"k": 0}), ("k", {"k": -1})])
    with refused(InvalidArgument, "k", got=0):
        getattr(impl, name)([], {}, 0)
    if name == "ndcg_at_k":
        check_refusals(impl.ndcg_at_k, valid, [("gain", {"gain": "log"}), ("gain", {"gain": "Linear"})])


@requirement("RAG-60")
@pytest.mark.parametrize(
    "name",
    [
        "ndcg@0",
        "NDCG@10",
        "mrr",
        "ndcg",
        "recall@",
        "precision@-1",
        "recall@1.5",
        "map@10",
        "hit@3",
        "",
        "mrr@k",
        "mrr@1_0",
        "recall@ 1",
        "ndcg@10\n",
        "map\n",
    ],
)
def test_evaluate_refuses(impl, name):
    run, qrels = {"q1": ["a"]}, {"q1": {"a": 1}}
    assert_equal(impl.evaluate(run, qrels, ["mrr@1", "map"]), {"mrr@1": 1.0, "map": 1.0}, "means")
    for given_qrels in (qrels, {}):
        with refused(InvalidArgument, "metric"):
            impl.evaluate(run, given_qrels, ["map", name])
