"""The reference as tests call it: it answers with the truth and how far a right answer may be from it."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from grading.bugs import Bug
from grading.edited import reference, sources
from grading.tolerance import allowance
from grading.trees import leaves, mapped

SHAKEN = 2
HALF_A_UNIT = 2.0**-24
FLOAT32_INSIDE = Bug("", "computes in float32", "", (("WORK = np.float64", "WORK = np.float32"),))


def in_float32(topic: str) -> ModuleType:
    """The reference as it computes in float32; as it is where it computes nothing."""
    computes = any("WORK = np.float64" in source for source in sources(topic).values())
    return reference(topic, FLOAT32_INSIDE) if computes else reference(topic)


@dataclass(frozen=True)
class Expected:
    """A float array: its float64 value, the dtype it has to come in, and the error allowed on this input."""

    value: np.ndarray
    dtype: np.dtype
    allowed: float


class GroundTruth:
    """`GroundTruth(topic).f(…)` is what the reference returns, with an `Expected` for each float array in it.

    Raises ValueError where float32 decides otherwise than float64, say between two experts of almost the same
    score: on such an input either decision is right, and a test must not ask for one.
    """

    def __init__(self, topic: str) -> None:
        self.exact = reference(topic)
        self.plain = in_float32(topic)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def evaluate(*args: Any, **options: Any) -> Any:
            plain = getattr(self.plain, name)(*args, **options)
            if not any(map(is_float_array, leaves(plain))):
                return plain
            exact = getattr(self.exact, name)
            wide_args, wide_options = mapped(widened, args), mapped(widened, options)
            truth = exact(*wide_args, **wide_options)
            rng = np.random.default_rng(0)
            shakers = [_shaker(rng)] * SHAKEN + [raised]
            shaken = [leaves(exact(*mapped(shaker, wide_args), **wide_options)) for shaker in shakers]
            found = iter(
                [_expected(*each) for each in zip(leaves(plain), leaves(truth), *shaken, strict=True)]
            )
            return mapped(lambda _: next(found), plain)

        return evaluate


def _expected(plain: Any, truth: Any, *shaken: Any) -> Any:
    if is_float_array(plain):
        return Expected(truth, plain.dtype, allowance(truth, plain, shaken))
    for other in (plain, *shaken):
        if not np.array_equal(other, truth):
            raise ValueError(f"rounding decides between {truth} and {other}: choose inputs that are clear")
    return plain


def _shaker(rng: np.random.Generator) -> Callable[[Any], Any]:
    """Moves float arrays by half a unit in the last place of float32, up or down."""
    return lambda a: a * (1 + rng.choice([-HALF_A_UNIT, HALF_A_UNIT], a.shape)) if is_float_array(a) else a


def raised(value: Any) -> Any:
    """Half a unit up, all of them: errors of the same sign, such as those of an exponential, add up."""
    return widened(value) * (1 + HALF_A_UNIT) if is_float_array(value) else value


def is_float_array(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fV"  # bfloat16 is of kind V


def widened(value: Any) -> Any:
    """Float arrays as float64, so that the truth is not rounded to the dtype of the input."""
    return value.astype(np.float64) if is_float_array(value) else value
