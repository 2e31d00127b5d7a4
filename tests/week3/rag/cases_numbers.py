"""What plain numbers should be: the reference gives Python floats, an allowance is derived of arrays."""

import itertools

import numpy as np
from hypothesis import assume

from grading.matching import assert_equal
from grading.trees import mapped
from grading.truth import GroundTruth
from spec.rag import Hit


class InArrays:
    """A module whose floats come as arrays without axes."""

    def __init__(self, module, dtype):
        self.module, self.dtype = module, dtype

    def __getattr__(self, name):
        function = getattr(self.module, name)
        return lambda *args, **options: mapped(self.in_array, function(*args, **options))

    def in_array(self, leaf):
        return np.array(leaf, self.dtype) if isinstance(leaf, float) else leaf


TRUTH = GroundTruth("rag")
TRUTH.exact, TRUTH.plain = InArrays(TRUTH.exact, np.float64), InArrays(TRUTH.plain, np.float32)


def assert_number(actual, expected, what):
    """A Python float within the allowance that the input implies."""
    __tracebackhide__ = True
    value, allowed = float(expected.value), expected.allowed
    assert type(actual) is float, f"{what}: expected a float, got {type(actual).__name__} {actual!r}"
    assert abs(actual - value) <= allowed, f"{what}: expected {value:.7g} ± {allowed:.1e}, got {actual:.7g}"


def assert_hits(actual, expected, what="hits"):
    """The same ids in the same order, and each score within its allowance."""
    __tracebackhide__ = True
    assert isinstance(actual, list) and all(type(each) is Hit for each in actual), (
        f"{what}: expected a list of Hit, got {actual!r}"
    )
    assert_equal([each.id for each in actual], [each.id for each in expected], f"ids of {what}")
    for one, other in zip(actual, expected, strict=True):
        assert_number(one.score, other.score, f"score of {one.id}")


def clear_hits(name, rankings, **options):
    """What the reference returns, of rankings where rounding decides nothing about the order; no others."""
    scores = [hit.score for hit in getattr(TRUTH.exact.module, name)(rankings, **options)]
    assume(all(one - other > 1e-5 * abs(one) for one, other in itertools.pairwise(scores)))
    return getattr(TRUTH, name)(rankings, **options)
