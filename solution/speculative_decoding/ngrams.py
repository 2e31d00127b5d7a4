"""Drafts out of the text itself: what followed the last few tokens when they stood there before."""

from collections.abc import Sequence

import numpy as np

from .checks import expect


def propose_ngram(tokens: Sequence[int], *, min_n: int, max_n: int, gamma: int) -> list[int]:
    """Up to gamma tokens that follow the leftmost occurrence of the longest suffix that has one."""
    expect(min_n >= 1, "min_n", "at least 1", min_n)
    expect(max_n >= min_n, "max_n", f"at least {min_n}", max_n)
    expect(gamma >= 0, "gamma", "at least 0", gamma)
    text = np.array(tokens)
    ends = occurrences(text, min_n, max_n)
    return text[ends[0] + 1 :][:gamma].tolist() if len(ends) else []


def occurrences(text: np.ndarray, min_n: int, max_n: int) -> np.ndarray:
    """Where the longest suffix that stood there before ended then, ascending; none below min_n tokens.

    What ends like the last n tokens is among what ends like the last n − 1: one pass over the text, and then
    over fewer and fewer places.
    """
    ends, found = np.arange(len(text) - 1), 0
    while found < max_n:
        reach = ends[ends >= found]
        longer = reach[text[reach - found] == text[-1 - found]] if len(reach) else reach
        if not len(longer):
            break
        ends, found = longer, found + 1
    return ends if found >= min_n else ends[:0]
