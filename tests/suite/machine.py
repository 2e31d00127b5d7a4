"""How slow this machine is: budgets of processor time are those of the machine that they were measured on.

A shared machine computes up to four times slower in its bad hours, and CI must not turn red for that.
"""

import time

LOOP = 0.013  # seconds of the processor for the loop below, on the machine of the budgets


def slowness():
    """How many times as long a plain loop takes here, now; 1 on a faster machine, which keeps its room."""

    def seconds():
        begun = time.process_time()
        for _ in range(10**6):
            pass
        return time.process_time() - begun

    return max(1.0, min(seconds() for _ in range(5)) / LOOP)
