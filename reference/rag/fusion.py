"""One ranking of several, and one that does not repeat itself."""

import numpy as np

from spec.rag import Hit

from .basics import WORK, best_first, expect
from .vectors import cosine


def reciprocal_rank_fusion(rankings, *, k=60, weights=None):
    """Cormack et al. 2009."""
    weights = checked_weights(weights, rankings)
    expect(k >= 0, "k", "at least 0", k)
    scores = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        seen = set()
        for rank, each in enumerate(ranking, start=1):
            if each not in seen:
                scores[each] = scores.get(each, 0) + WORK(weight) / (k + rank)
            seen.add(each)
    return ranked(scores)


def score_fusion(rankings, *, weights=None):
    weights = checked_weights(weights, rankings)
    for ranking in rankings:
        expect(all(np.isfinite(hit.score) for hit in ranking), "rankings", "finite scores", ranking)
    scores = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        best = {}
        for hit in ranking:
            best[hit.id] = max(WORK(hit.score), best.get(hit.id, hit.score))
        low, high = min((hit.score for hit in ranking), default=0), max(best.values(), default=0)
        for each, score in best.items():
            share = (score - low) / (high - low) if high > low else 1
            scores[each] = scores.get(each, 0) + weight * share
    return ranked(scores)


def ranked(scores):
    return best_first(Hit(each, float(score)) for each, score in scores.items())


def checked_weights(weights, rankings):
    weights = [1.0] * len(rankings) if weights is None else weights
    expect(len(weights) == len(rankings), "weights", f"{len(rankings)} of them", len(weights))
    right = all(np.isfinite(weight) and weight >= 0 for weight in weights)
    expect(right, "weights", "finite numbers from 0 on", weights)
    return weights


def maximal_marginal_relevance(query, candidates, k, lam):
    """Carbonell and Goldstein 1998."""
    expect(query.ndim == 1, "query", "1 axis", query.shape)
    fits = candidates.ndim == 2 and candidates.shape[1] == len(query)
    expect(fits, "candidates", f"shape (n, {len(query)})", candidates.shape)
    expect(k >= 1, "k", "at least 1", k)
    expect(0 <= lam <= 1, "lam", "0 to 1", lam)
    query, rows, picked = query.astype(WORK), candidates.astype(WORK), []

    def worth(i):
        relevance = cosine(query, rows[i])
        if not picked:
            return relevance
        return lam * relevance - (1 - lam) * max(cosine(rows[i], rows[j]) for j in picked)

    while len(picked) < min(k, len(rows)):
        rest = [i for i in range(len(rows)) if i not in picked]
        picked.append(max(rest, key=worth))  # of equals the first
    return picked
