"""Arithmetic and checks that all parts share."""

import ml_dtypes
import numpy as np

from spec import InvalidArgument

WORK = np.float64  # all arithmetic; the suite also runs it with float32 here, to derive its tolerances

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def expect(condition, argument, expected, got):
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def in_float32(values, source):
    """Float32, but float64 where `source` is: so the suite asks for the truth before it is rounded."""
    return values.astype(np.promote_types(source.dtype, np.float32))


def stored(values, dtype):
    """What one step hands to the next may be stored in the dtype of the cache."""
    return values.astype(dtype).astype(WORK)


def best(values, count):
    """The indices of the largest values, ascending; of equals the lower index is taken."""
    return np.sort(np.argsort(-values, kind="stable")[:count])
