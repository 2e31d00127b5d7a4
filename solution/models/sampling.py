"""One token out of logits. On the host, in NumPy: one row of V numbers, of which few matter."""

from dataclasses import dataclass

import numpy as np

from .checks import expect


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn; the limits apply in this order, each to what the one before left.

    temperature: divides the logits; 0 takes the most likely token.
    top_k: only the k most likely tokens.
    top_p: only the most likely tokens that together reach this probability.
    min_p: only tokens that are at least so likely, relative to the most likely one.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def check(self) -> None:
        expect(self.temperature >= 0, "temperature", "at least 0", self.temperature)
        expect(self.top_k is None or self.top_k >= 1, "top_k", "at least 1", self.top_k)
        expect(self.top_p is None or 0 < self.top_p <= 1, "top_p", "above 0, at most 1", self.top_p)
        expect(self.min_p is None or 0 <= self.min_p <= 1, "min_p", "0 to 1", self.min_p)


def draw(logits: np.ndarray, sampling: Sampling, uniform: float) -> int:
    """logits: (V,); uniform in [0, 1): the first id whose cumulative probability exceeds uniform · total."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    ids, weights = candidates(logits, sampling)
    sums = np.cumsum(weights)
    return int(ids[np.searchsorted(sums, uniform * sums[-1], side="right")])


def candidates(logits: np.ndarray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """Ids that can be drawn, ascending, and their weights, float64. Of equals the lower id goes first."""
    scaled = logits.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    ids = np.arange(weights.size)
    if sampling.top_k is not None and sampling.top_k < weights.size:
        ids = _best(weights, ids, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        ids = _nucleus(weights, ids, sampling.top_p)
    if sampling.min_p is not None:
        ids = ids[weights[ids] >= sampling.min_p * weights[ids].max()]
    return ids, weights[ids]


def _best(weights: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """The ids of the largest weights, ascending."""
    least = np.partition(weights[ids], -count)[-count]
    above, level = ids[weights[ids] > least], ids[weights[ids] == least]
    return np.sort(np.concatenate([above, level[: count - len(above)]]))


def _nucleus(weights: np.ndarray, ids: np.ndarray, share: float) -> np.ndarray:
    """The fewest ids, largest weights first, that reach this share of the sum; ascending."""
    total = weights[ids].sum()
    # All that weigh less than this reach less than the rest together, and need not be sorted.
    few = ids[weights[ids] >= (1 - share) * total / len(ids)]
    ordered = few[np.argsort(-weights[few], kind="stable")]
    before = np.cumsum(weights[ordered]) - weights[ordered]
    return np.sort(ordered[before < share * total])
