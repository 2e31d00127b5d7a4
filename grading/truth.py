"""The reference as tests call it: it answers with the truth and how far a right answer may be from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from grading.bugs import Bug, reference
from grading.tolerance import allowance

SHAKEN = 2
HALF_A_UNIT = 2.0**-24
FLOAT32_INSIDE = Bug("", "computes in float32", old="WORK = np.float64", new="WORK = np.float32")


@dataclass(frozen=True)
class Expected:
    """A float array: its float64 value, the dtype it has to come in, and the error allowed on this input."""

    value: np.ndarray
    dtype: np.dtype
    allowed: float


class GroundTruth:
    """`GroundTruth(topic).f(…)` is an `Expected` where the reference returns a float array."""

    def __init__(self, topic: str) -> None:
        self.exact = reference(topic)
        self.plain = reference(topic, FLOAT32_INSIDE)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def evaluate(*args: Any, **options: Any) -> Any:
            plain = getattr(self.plain, name)(*args, **options)
            if not is_float_array(plain):
                return plain
            exact = getattr(self.exact, name)
            wide = [widened(argument) for argument in args], {k: widened(v) for k, v in options.items()}
            truth = exact(*wide[0], **wide[1])
            rng = np.random.default_rng(0)
            shaken = [exact(*_shaken(rng, wide[0]), **wide[1]) for _ in range(SHAKEN)]
            return Expected(truth, plain.dtype, allowance(truth, plain, shaken))

        return evaluate


def _shaken(rng: np.random.Generator, args: list[Any]) -> list[Any]:
    """Float arrays moved by half a unit in the last place of float32, up or down."""
    return [
        a * (1 + rng.choice([-HALF_A_UNIT, HALF_A_UNIT], a.shape)) if is_float_array(a) else a for a in args
    ]


def is_float_array(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fV"  # bfloat16 is of kind V


def widened(value: Any) -> Any:
    """Float arrays as float64, so that the truth is not rounded to the dtype of the input."""
    return value.astype(np.float64) if is_float_array(value) else value
