"""How good a ranking is: the measures of trec_eval."""

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import fsum, log2

from .checks import expect

METRIC = re.compile("map|(?:ndcg|recall|precision|mrr)@[1-9][0-9]*")


def recall_at_k(ranked_ids: Sequence[str], qrels: Mapping[str, int], k: int) -> float:
    _check_k(k)
    return _divided(sum(_relevant(ranked_ids, qrels)[:k]), _count_relevant(qrels))


def precision_at_k(ranked_ids: Sequence[str], qrels: Mapping[str, int], k: int) -> float:
    _check_k(k)
    return sum(_relevant(ranked_ids, qrels)[:k]) / k


def reciprocal_rank(ranked_ids: Sequence[str], qrels: Mapping[str, int], k: int | None = None) -> float:
    expect(k is None or k >= 1, "k", "at least 1", k)
    places = _relevant(ranked_ids, qrels)[:k]
    return 1 / (places.index(True) + 1) if True in places else 0.0


def average_precision(ranked_ids: Sequence[str], qrels: Mapping[str, int]) -> float:
    places = _relevant(ranked_ids, qrels)
    found = zip(places, accumulate(places), strict=True)
    precisions = [count / rank for rank, (here, count) in enumerate(found, start=1) if here]
    return _divided(fsum(precisions), _count_relevant(qrels))


def ndcg_at_k(ranked_ids: Sequence[str], qrels: Mapping[str, int], k: int, *, gain: str = "linear") -> float:
    _check_k(k)
    expect(gain in ("linear", "exponential"), "gain", "linear or exponential", gain)
    ideal = sorted((max(grade, 0) for grade in qrels.values()), reverse=True)
    return _divided(_discounted(_grades(ranked_ids, qrels)[:k], gain), _discounted(ideal[:k], gain))


def evaluate(
    run: Mapping[str, Sequence[str]], qrels: Mapping[str, Mapping[str, int]], metrics: Sequence[str]
) -> dict[str, float]:
    for name in metrics:
        known = METRIC.fullmatch(name) is not None
        expect(known, "metrics", "ndcg@K, recall@K, precision@K, mrr@K with K from 1 on, or map", name)
    judged = [query for query in qrels if _count_relevant(qrels[query])]
    return {
        name: _divided(fsum(_measured(name, run.get(each, ()), qrels[each]) for each in judged), len(judged))
        for name in metrics
    }


AT_K = {"ndcg": ndcg_at_k, "recall": recall_at_k, "precision": precision_at_k, "mrr": reciprocal_rank}


def _measured(name: str, ranked_ids: Sequence[str], qrels: Mapping[str, int]) -> float:
    if name == "map":
        return average_precision(ranked_ids, qrels)
    measure, k = name.split("@")
    return AT_K[measure](ranked_ids, qrels, int(k))


def _check_k(k: int) -> None:
    expect(k >= 1, "k", "at least 1", k)


def _grades(ranked_ids: Sequence[str], qrels: Mapping[str, int]) -> list[int]:
    """Of each place; 0 where the id was there before."""
    grades = dict(qrels)
    return [max(grades.pop(each, 0), 0) for each in ranked_ids]


def _relevant(ranked_ids: Sequence[str], qrels: Mapping[str, int]) -> list[bool]:
    return [grade >= 1 for grade in _grades(ranked_ids, qrels)]


def _count_relevant(qrels: Mapping[str, int]) -> int:
    return sum(grade >= 1 for grade in qrels.values())


def _discounted(grades: Sequence[int], gain: str) -> float:
    gains = grades if gain == "linear" else [2**grade - 1 for grade in grades]
    return fsum(each / log2(rank + 1) for rank, each in enumerate(gains, start=1))


def _divided(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
