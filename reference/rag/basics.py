"""What every part needs: how to refuse, and in which order things are ranked."""

import numpy as np

from spec import InvalidArgument, UnknownDocument

WORK = np.float64  # all arithmetic; the suite also runs it with float32 here, to derive its tolerances


def expect(condition, argument, expected, got):
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def expect_there(ids, there, argument):
    unknown = [each for each in ids if each not in there]
    if unknown:
        raise UnknownDocument(f"{argument}: expected ids that are there, got {unknown}")


def best_first(hits):
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))
