"""What the answers of right implementations of long context may differ in."""

from dataclasses import fields, replace

import numpy as np

from grading.ranks import FreshGroups
from spec.long_context import RopeFrequencies


class FreeChoices:
    """Integer dtypes, and how ranks talk to each other, are the implementation's."""

    def __init__(self):
        groups = FreshGroups()
        self.arguments, self.ended = groups.arguments, groups.ended

    def answer(self, call, answer):
        """Any integers are as good as any others, but no mask."""
        if isinstance(answer, RopeFrequencies):
            return in_octaves(answer)
        if isinstance(answer, np.ndarray) and answer.dtype.kind in "biu":
            return answer.dtype == bool, answer
        return answer


def in_octaves(frequencies):
    """Each pair relative to its own size, and plain numbers as float32 tells them apart."""
    parts = {f.name: getattr(frequencies, f.name) for f in fields(frequencies)}
    if not isinstance(parts["inv_freq"], np.ndarray):
        return frequencies
    with np.errstate(all="ignore"):
        parts["inv_freq"] = np.log2(parts["inv_freq"].astype(np.float64)).astype(parts["inv_freq"].dtype)
    for name in ("attention_factor", "softmax_scale"):
        if isinstance(parts[name], int | float):
            parts[name] = np.array(parts[name], np.float32)
    return replace(frequencies, **parts)
