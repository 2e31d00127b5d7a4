"""What the answers of right implementations of mixture of experts may differ in."""

from dataclasses import replace

import numpy as np

from grading.ranks import FreshGroups
from grading.trees import mapped
from spec.moe import MoEOutput


class FreeChoices:
    """Integer dtypes, the routing of padding, and how ranks talk to each other, are the implementation's."""

    def __init__(self):
        groups = FreshGroups()
        self.arguments, self.ended = groups.arguments, groups.ended

    def answer(self, call, answer):
        if isinstance(answer, MoEOutput):
            return self.output(answer, call.kwargs.get("mask"))
        return alike(answer)

    def output(self, answer, mask):
        if mask is None:
            return alike(answer)
        parts = answer.logits, answer.routing.experts, answer.routing.weights
        if not all(isinstance(each, np.ndarray) and len(each) == len(mask) for each in parts):
            return answer
        logits, experts, weights = (each[mask] for each in parts)
        return alike(MoEOutput(answer.y, replace(answer.routing, experts=experts, weights=weights), logits))


def alike(value):
    """The value with all integers of one dtype."""
    return mapped(lambda leaf: leaf.astype(np.int64) if is_integer_array(leaf) else leaf, value)


def is_integer_array(value):
    return isinstance(value, np.ndarray) and value.dtype.kind in "iu"
