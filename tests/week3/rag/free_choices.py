"""What the answers of right implementations of retrieval-augmented generation may differ in."""

import numpy as np

from grading.trees import mapped


class FreeChoices:
    """Plain numbers may be rounded to float32. Files of an index and what it keeps for a pipeline are never answers."""

    def arguments(self, call):
        return call.args, call.kwargs

    def answer(self, call, answer):
        return mapped(lambda leaf: np.array(leaf, np.float32) if isinstance(leaf, float) else leaf, answer)

    def ended(self, call, error):
        pass
