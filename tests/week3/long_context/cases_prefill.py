"""A small language model for the tests of prefill."""

import numpy as np

from spec.model import Model

VOCAB = 11


class Toy:
    """A model whose logits depend on all tokens in its context and on their order.

    calls: the tokens of each call of `forward`; given: the same as they came. fails_at: the number of the
    call that raises `failure`, after its tokens were appended. Used in a `with` block: what is called
    after it is the diagnosis, which makes the same calls again, each from the context that the test began
    with.
    """

    def __init__(self, context=(), max_length=100, *, fails_at=None, failure=None, **traits):
        self.before = list(context)
        self.context = list(context)
        self.calls, self.given = [], []
        self.fails_at, self.failure = fails_at, failure
        self.is_over = False
        self.model = Model(VOCAB, max_length, self.forward, self.length, self.truncate, **traits)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_over = True

    def forward(self, tokens):
        self.given.append(tokens)
        new = [int(token) for token in tokens]
        self.calls.append(new)
        self.context += new
        if len(self.calls) == self.fails_at:
            raise self.failure
        ends = range(len(self.context) - len(new) + 1, len(self.context) + 1)
        return np.array([logits(self.context[:end]) for end in ends], np.float32).reshape(-1, VOCAB)

    def length(self):
        if self.is_over:  # every prefill begins by asking for the length
            self.context, self.calls = list(self.before), []
        return len(self.context)

    def truncate(self, length):
        del self.context[length:]


def logits(context):
    """What follows after these tokens, (VOCAB,) float32."""
    seed = [len(context), *(token + 1 for token in context)]
    return np.random.default_rng(seed).standard_normal(VOCAB).astype(np.float32)


def prompt(seed, count):
    """(count,) ids, the least and the largest among them if there is room."""
    ids = np.random.default_rng(seed).integers(0, VOCAB, count).astype(np.int32)
    ids[1:3] = [0, VOCAB - 1][: len(ids[1:3])]
    return ids
