"""What every part needs: how to refuse, and how to draw."""

import numpy as np

from spec import InvalidArgument

WORK = np.float64  # all arithmetic; the suite also runs it with float32 here, to derive its tolerances


def expect(condition, argument, expected, got):
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def in_float32(values, source):
    """Float32, but float64 where `source` is: so the suite asks for the truth before it is rounded."""
    return values.astype(np.promote_types(source.dtype, np.float32))


def check_ids(ids, vocabulary, argument):
    outside = [int(x) for x in ids if not 0 <= x < vocabulary]
    expect(not outside, argument, f"ids from 0 to {vocabulary - 1}", outside)


def check_uniforms(uniforms, count):
    expect(uniforms.shape == (count,), "uniforms", f"shape ({count},)", uniforms.shape)
    inside = ((uniforms >= 0) & (uniforms < 1)).all()
    expect(inside, "uniforms", "numbers in [0, 1)", uniforms)


def draw(weights, u):
    """The first id whose cumulative weight exceeds u · (their sum)."""
    cumulative = np.cumsum(weights)
    return int(np.argmax(cumulative > WORK(u) * cumulative[-1]))
