"""What the answers of right implementations of retrieval-augmented generation may differ in."""

import numpy as np

from grading.trees import mapped
from spec.rag import Hit
from tests.week3.rag.cases import Disk


class FreeChoices:
    """Plain numbers are as near as float32 tells them apart, and the files of an index are never answers.

    Disks begin again, each with the first call to it.
    """

    def __init__(self):
        Disk.again += 1

    def arguments(self, call):
        return call.args, call.kwargs

    def answer(self, call, answer):
        return comparable(answer)

    def ended(self, call, error):
        pass


def comparable(answer):
    """Hits as ids and an array of scores; a dict in the order of its names; numbers as arrays."""
    if isinstance(answer, list) and answer and all(isinstance(each, Hit) for each in answer):
        return [each.id for each in answer], as_array([each.score for each in answer])
    if isinstance(answer, dict) and answer and all(isinstance(each, float) for each in answer.values()):
        return sorted(answer), as_array([answer[name] for name in sorted(answer)])
    if isinstance(answer, list):
        return [comparable(each) for each in answer]
    return mapped(lambda leaf: np.array(leaf, np.float32) if isinstance(leaf, float) else leaf, answer)


def as_array(scores):
    """(n,) float32; as they are where they are no floats."""
    return np.array(scores, np.float32) if all(isinstance(each, float) for each in scores) else scores
