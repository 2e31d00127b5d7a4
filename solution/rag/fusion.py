"""One ranking of several, and one that does not repeat itself."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import fsum, isfinite

import mlx.core as mx
import numpy as np

from spec.rag import Hit

from .checks import expect, on_host
from .ranking import hits

HYBRID = 10  # k where words and vectors are fused: what both have among their first 11 beats one's first


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[str]], *, k: float = 60, weights: Sequence[float] | None = None
) -> list[Hit]:
    """Cormack et al. 2009."""
    weights = _checked(weights, len(rankings))
    expect(k >= 0, "k", "at least 0", k)
    return _summed(
        (each, weight / (k + rank))
        for ranking, weight in zip(rankings, weights, strict=True)
        for each, rank in _first_ranks(ranking).items()
    )


def score_fusion(rankings: Sequence[Sequence[Hit]], *, weights: Sequence[float] | None = None) -> list[Hit]:
    weights = _checked(weights, len(rankings))
    for ranking in rankings:
        right = all(isfinite(hit.score) for hit in ranking)
        expect(right, "rankings", "finite scores", [hit.score for hit in ranking])
    return _summed(
        (each, weight * share)
        for ranking, weight in zip(rankings, weights, strict=True)
        for each, share in _shares(ranking).items()
    )


def maximal_marginal_relevance(query: mx.array, candidates: mx.array, k: int, lam: float) -> list[int]:
    """Carbonell and Goldstein 1998."""
    expect(len(query.shape) == 1, "query", "1 axis", tuple(query.shape))
    shape = tuple(candidates.shape)
    fits = len(shape) == 2 and shape[1] == query.shape[0]
    expect(fits, "candidates", f"shape (n, {query.shape[0]})", shape)
    expect(k >= 1, "k", "at least 1", k)
    expect(0 <= lam <= 1, "lam", "0 to 1", lam)
    rows = _units(on_host(candidates))
    relevance = (rows * _units(on_host(query)[None])).sum(axis=1)
    nearest = np.full(len(rows), -np.inf)  # of each row the largest cosine with one that was picked
    worth, picked = relevance.copy(), []
    while len(picked) < min(k, len(rows)):
        best = int(worth.argmax())
        picked.append(best)
        nearest = np.maximum(nearest, (rows * rows[best]).sum(axis=1))
        worth = lam * relevance - (1 - lam) * nearest
        worth[picked] = -np.inf
    return picked


def _checked(weights: Sequence[float] | None, count: int) -> Sequence[float]:
    if weights is None:
        return [1.0] * count
    expect(len(weights) == count, "weights", f"{count} numbers", len(weights))
    right = all(isfinite(weight) and weight >= 0 for weight in weights)
    expect(right, "weights", "finite numbers from 0 on", list(weights))
    return weights


def _first_ranks(ranking: Sequence[str]) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for rank, each in enumerate(ranking, start=1):
        ranks.setdefault(each, rank)
    return ranks


def _shares(ranking: Sequence[Hit]) -> dict[str, float]:
    """Of each id the place of its best score between the lowest and the highest, 0 to 1."""
    best: dict[str, float] = {}
    for hit in ranking:
        best[hit.id] = max(hit.score, best.get(hit.id, hit.score))
    low, high = min((hit.score for hit in ranking), default=0), max(best.values(), default=0)
    return {each: (score - low) / (high - low) if high > low else 1.0 for each, score in best.items()}


def _summed(parts: Iterable[tuple[str, float]]) -> list[Hit]:
    """In order. Sums are exact but for one rounding: in whichever order rankings come, equals are equal."""
    found: dict[str, list[float]] = defaultdict(list)
    for each, part in parts:
        found[each].append(part)
    return hits(found, map(fsum, found.values()), len(found))


def _units(rows: np.ndarray) -> np.ndarray:
    """(n, dim) float64, each of length 1 but for those of length 0."""
    rows = rows.astype(np.float64)
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return rows / np.where(lengths > 0, lengths, 1)
