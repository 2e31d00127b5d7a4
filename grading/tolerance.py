"""How far a right answer may be from the truth: derived from the input, never chosen by hand."""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

UNITS = 4  # units in the last place of the output's scale, for another order of summation


def allowance(truth: np.ndarray, plain: np.ndarray, shaken: Sequence[np.ndarray] = ()) -> float:
    """The largest admissible error on this input.

    truth: what the reference finds in float64. plain: what it finds in float32, rounded to the output's
    dtype, as any straightforward implementation would. shaken: the truth for inputs that differ by half a
    unit in the last place of float32, since one plain evaluation may be right by luck. Four times the error
    of both, and a few units in the last place of the largest value.
    """
    if truth.size == 0:
        return 0.0
    exact = truth.astype(np.float64)
    error = np.abs(plain.astype(np.float64) - exact).max()
    error += max((np.abs(other - exact).max() for other in shaken), default=0.0)
    return float(4 * error + UNITS * unit_in_the_last_place(np.abs(exact).max(), plain.dtype))


def unit_in_the_last_place(value: float, dtype: np.dtype) -> float:
    """The distance between numbers of this dtype next to `value`."""
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    if not np.isfinite(value):
        return 0.0
    exponent = np.floor(np.log2(max(float(value), float(info.smallest_normal))))
    return float(info.eps * 2.0**exponent)
