"""Distance without rotation."""

from math import floor

import numpy as np

from .basics import expect


def alibi_slopes(heads):
    expect(heads >= 1, "heads", "at least 1", heads)
    power = 2 ** floor(np.log2(heads))  # the largest power of two that is not above
    slopes = geometric(power) + geometric(2 * power)[::2]
    return np.array(slopes[:heads], np.float32)


def geometric(heads):
    return [2.0 ** (-8 * (h + 1) / heads) for h in range(heads)]
