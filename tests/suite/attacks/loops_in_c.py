"""Never answers, and never lets another thread of its process run."""

import itertools


def attack():
    return -1 in itertools.count()
