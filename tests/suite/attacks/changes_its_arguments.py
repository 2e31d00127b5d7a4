"""Changes in place everything that it was given."""

import numpy as np


def attack(first, second):
    for value in (first, second):
        if isinstance(value, np.ndarray) and value.size:
            value.flags.writeable = True
            value[...] = 0
        elif isinstance(value, list):
            value[:] = [0] * (len(value) + 1)
