"""How good a ranking is: the measures of trec_eval."""

import re

import numpy as np

from .basics import WORK, expect


def recall_at_k(ranked_ids, qrels, k):
    expect(k >= 1, "k", "at least 1", k)
    return divided(sum(relevant(ranked_ids, qrels)[:k]), count_relevant(qrels))


def precision_at_k(ranked_ids, qrels, k):
    expect(k >= 1, "k", "at least 1", k)
    return divided(sum(relevant(ranked_ids, qrels)[:k]), k)


def reciprocal_rank(ranked_ids, qrels, k=None):
    expect(k is None or k >= 1, "k", "at least 1", k)
    places = relevant(ranked_ids, qrels)[:k]
    return divided(1, places.index(True) + 1) if True in places else 0.0


def average_precision(ranked_ids, qrels):
    places, total = relevant(ranked_ids, qrels), WORK(0)
    for i, is_relevant in enumerate(places):
        if is_relevant:
            total += divided(sum(places[: i + 1]), i + 1)
    return divided(total, count_relevant(qrels))


def ndcg_at_k(ranked_ids, qrels, k, *, gain="linear"):
    expect(k >= 1, "k", "at least 1", k)
    expect(gain in ("linear", "exponential"), "gain", "linear or exponential", gain)
    ideal = sorted((max(0, grade) for grade in qrels.values()), reverse=True)
    return divided(discounted(grades(ranked_ids, qrels)[:k], gain), discounted(ideal[:k], gain))


def discounted(grades, gain):
    total = WORK(0)
    for rank, grade in enumerate(grades, start=1):
        total += (grade if gain == "linear" else 2**grade - 1) / np.log2(WORK(rank + 1))
    return total


def grades(ranked_ids, qrels):
    """Of each place; 0 where the id was there before."""
    ids = list(ranked_ids)
    return [0 if each in ids[:i] else max(0, qrels.get(each, 0)) for i, each in enumerate(ids)]


def relevant(ranked_ids, qrels):
    return [grade >= 1 for grade in grades(ranked_ids, qrels)]


def count_relevant(qrels):
    return sum(grade >= 1 for grade in qrels.values())


def divided(part, whole):
    return float(WORK(part) / WORK(whole)) if whole else 0.0


def evaluate(run, qrels, metrics):
    for name in metrics:
        known = re.fullmatch("map|(ndcg|recall|precision|mrr)@[1-9][0-9]*", name)
        expect(known, "metrics", "ndcg@K, recall@K, precision@K, mrr@K or map", name)
    judged = [query for query in qrels if count_relevant(qrels[query])]
    means = {}
    for name in metrics:
        values = [measured(name, run.get(query, ()), qrels[query]) for query in judged]
        means[name] = divided(sum(values, WORK(0)), len(judged))
    return means


def measured(name, ranked_ids, qrels):
    if name == "map":
        return average_precision(ranked_ids, qrels)
    measure, k = name.split("@")
    at_k = {"ndcg": ndcg_at_k, "recall": recall_at_k, "precision": precision_at_k, "mrr": reciprocal_rank}
    return at_k[measure](ranked_ids, qrels, int(k))
