"""Asks for 100 GB, touched so that it cannot stay a promise."""

import numpy as np


def attack():
    for allocate in (bytearray, np.zeros):
        try:
            memory = allocate(100 << 30)
        except MemoryError:
            continue
        memory[:: 1 << 12] = memory[1 :: 1 << 12]
        raise LookupError("100 GB were there to take")
