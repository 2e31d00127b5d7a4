"""How good a ranking is: the measures of trec_eval."""

import re

import numpy as np

from .basics import WORK, expect

NAME = re.compile(r"map|(ndcg|recall|precision|mrr)@([1-9][0-9]*)")


def recall_at_k(ranked_ids, qrels, k):
    check_k(k)
    return divided(sum(relevant(ranked_ids, qrels)[:k]), count_relevant(qrels))


def precision_at_k(ranked_ids, qrels, k):
    check_k(k)
    return divided(sum(relevant(ranked_ids, qrels)[:k]), k)


def reciprocal_rank(ranked_ids, qrels, k=None):
    if k is not None:
        check_k(k)
    places = relevant(ranked_ids, qrels)[:k]
    return divided(1, places.index(True) + 1) if True in places else 0.0


def average_precision(ranked_ids, qrels):
    places = relevant(ranked_ids, qrels)
    precisions = [WORK(sum(places[:rank])) / rank for rank in range(1, len(places) + 1) if places[rank - 1]]
    return divided(sum(precisions), count_relevant(qrels))


def ndcg_at_k(ranked_ids, qrels, k, *, gain="linear"):
    check_k(k)
    expect(gain in ("linear", "exponential"), "gain", "linear or exponential", gain)
    ideal = sorted((max(0, grade) for grade in qrels.values()), reverse=True)
    return divided(discounted(grades(ranked_ids, qrels)[:k], gain), discounted(ideal[:k], gain))


def discounted(grades, gain):
    gains = grades if gain == "linear" else [2**grade - 1 for grade in grades]
    return sum((WORK(each) / np.log2(WORK(rank + 1)) for rank, each in enumerate(gains, start=1)), WORK(0))


def grades(ranked_ids, qrels):
    """Of each place; 0 where the id was there before."""
    ranked_ids = list(ranked_ids)
    return [0 if each in ranked_ids[:i] else max(0, qrels.get(each, 0)) for i, each in enumerate(ranked_ids)]


def relevant(ranked_ids, qrels):
    return [grade >= 1 for grade in grades(ranked_ids, qrels)]


def count_relevant(qrels):
    return sum(grade >= 1 for grade in qrels.values())


def divided(part, whole):
    """0.0 where there is nothing to divide by."""
    return float(WORK(part) / WORK(whole)) if whole else 0.0


def evaluate(run, qrels, metrics):
    for name in metrics:
        expect(NAME.fullmatch(name), "metrics", "ndcg@K, recall@K, precision@K, mrr@K or map", name)
    judged = [query for query in qrels if count_relevant(qrels[query])]
    return {
        name: divided(
            sum(WORK(measured(name, run.get(query, ()), qrels[query])) for query in judged), len(judged)
        )
        for name in metrics
    }


def measured(name, ranked_ids, qrels):
    if name == "map":
        return average_precision(ranked_ids, qrels)
    measure, k = name.split("@")
    functions = {
        "ndcg": ndcg_at_k,
        "recall": recall_at_k,
        "precision": precision_at_k,
        "mrr": reciprocal_rank,
    }
    return functions[measure](ranked_ids, qrels, int(k))


def check_k(k):
    expect(k >= 1, "k", "at least 1", k)
