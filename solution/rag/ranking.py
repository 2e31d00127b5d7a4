"""The k best of many, exactly."""

from collections.abc import Iterable
from heapq import nsmallest

import numpy as np

from spec.rag import Hit

STRIDE = 64  # scores of a group


def contenders(scores: np.ndarray, k: int, *, above: float = -np.inf, slack: float = 0.0) -> np.ndarray:
    """Numbers, ascending, of all scores (n,) that reach the k-th best less `slack` and are more than `above`.
    Some others may be among them.

    The k-th best of the groups' maxima is at most the k-th best score, and takes a pass at the speed of the
    memory; a partition of the scores themselves takes 40 times as long where many are equal.
    """
    groups = len(scores) // STRIDE
    best = scores if groups < k else scores[: groups * STRIDE].reshape(STRIDE, groups).max(axis=0)
    least = np.partition(best, -k)[-k] - slack if k < len(best) else -np.inf
    found = np.flatnonzero(scores >= least)
    return found if least > above else found[scores[found] > above]


def hits(ids: Iterable[str], scores: Iterable[float], k: int) -> list[Hit]:
    """The k best, or all: the better score first, of equal scores the smaller id."""
    worst_last = nsmallest(k, ((-score, each) for each, score in zip(ids, scores, strict=True)))
    return [Hit(each, -score) for score, each in worst_last]
