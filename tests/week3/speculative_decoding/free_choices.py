"""What the answers of right implementations of speculative decoding may differ in."""

import numpy as np

from grading.trees import mapped
from tests.week3.speculative_decoding.cases_toys import begin_again


class FreeChoices:
    """Integer dtypes are the implementation's. Toy models begin again for each call that is made again."""

    def arguments(self, call):
        begin_again(call.name)
        return call.args, call.kwargs

    def answer(self, call, answer):
        return mapped(lambda leaf: leaf.astype(np.int64) if is_integers(leaf) else leaf, answer)

    def ended(self, call, error):
        pass


def is_integers(value):
    return isinstance(value, np.ndarray) and value.dtype.kind in "iu"
