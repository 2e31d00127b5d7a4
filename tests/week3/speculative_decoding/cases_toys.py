"""Small language models and drafters, which write down how they are called."""

import weakref
from functools import lru_cache

import numpy as np

from spec.errors import CannotTruncate
from spec.model import Model
from spec.speculative_decoding import Draft, Drafter
from tests.week3.speculative_decoding.cases import TRUTH

VOCAB = 7
TOYS = weakref.WeakSet()
RESTARTS = {"generate", "generate_many", "ModelDrafter"}  # what begins with the context a test began with


def begin_again(name):
    """Before a recorded call is made again, to find out which known bug a failure is."""
    if name in RESTARTS:
        for toy in TOYS:
            toy.begin()


class Toy:
    """A model whose logits depend on all tokens in its context and on their order.

    calls: (context, tokens, parents) of each call of `forward`. wrongs: what nobody may do.
    table: (V, V) logits by the last token alone. window: of a cache that overwrites its oldest keys.
    fails_at: the number of the call that raises `failure`, before it appends anything.
    """

    def __init__(
        self, seed=0, *, vocab=VOCAB, max_length=100, context=(), table=None, window=None, trees=False,
        fails_at=None, failure=None, rows=None,
    ):  # fmt: skip
        self.seed, self.vocab, self.table, self.window = seed, vocab, table, window
        self.before, self.max_length, self.rows = list(context), max_length, rows
        self.fails_at, self.failure = fails_at, failure
        self.begin()
        TOYS.add(self)
        self.model = Model(
            vocab,
            max_length,
            self.forward if trees else lambda tokens: self.forward(tokens),
            self.length,
            self.truncate,
            can_truncate=None if window is None else self.can_truncate,
            accept=self.accept if trees else None,
        )

    def begin(self):
        self.context, self.calls, self.wrongs = list(self.before), [], []
        self.asked = 0  # how often a drafter was, where a test counts it
        self.open = None  # how many tokens the context had before a tree that nobody accepted yet

    def forward(self, tokens, last=None, parents=None):
        new = [int(token) for token in tokens]
        self.calls.append((list(self.context), new, None if parents is None else [int(i) for i in parents]))
        if len(self.calls) == self.fails_at:
            raise self.failure
        self.nothing_open("forward")
        if len(self.context) + len(new) > self.max_length:
            self.wrongs.append(f"forward: {len(self.context)} + {len(new)} tokens, {self.max_length} fit")
        lines = []
        for i, token in enumerate(new):
            parent = i - 1 if parents is None else int(parents[i])
            lines.append([*(lines[parent] if parent >= 0 else self.context), token])
        if parents is not None:
            self.open = len(self.context)
        self.context += new
        rows = lines if last is None else lines[-last:]
        return np.array([self.logits(line) for line in rows], np.float32).reshape(len(rows), -1)

    def logits(self, tokens):
        """What follows these tokens, (V,) float32."""
        if self.rows is not None:
            return np.float32(self.rows)
        if self.table is not None:
            return self.table[tokens[-1]]
        return at_random(self.seed, self.vocab, tuple(tokens))

    def length(self):
        return len(self.context)

    def truncate(self, length):
        self.nothing_open("truncate")
        if not 0 <= length <= len(self.context):
            self.wrongs.append(f"truncate({length}) of {len(self.context)} tokens")
        if not self.can_truncate(length):
            self.wrongs.append(f"truncate({length}): the window has overwritten what this needs")
            raise CannotTruncate(f"length: expected what the window holds, got {length}")
        del self.context[length:]

    def can_truncate(self, length, appended=0):
        most = len(self.context) + appended
        return self.window is None or length in (0, most) or most <= self.window

    def accept(self, path):
        if self.open is None:
            self.wrongs.append("accept: without a tree")
            return
        kept = [self.context[self.open + i] for i in path]
        self.context[self.open :] = kept
        self.open = None

    def nothing_open(self, name):
        if self.open is not None:
            self.wrongs.append(f"{name} before accept")
            self.open = None


@lru_cache(10_000)
def at_random(seed, vocab, tokens):
    """The same logits for the same tokens, (V,) float32: drafter, target and truth ask for them in turn."""
    entropy = [seed, len(tokens), *(token + 1 for token in tokens)]
    return (2 * np.random.default_rng(entropy).standard_normal(vocab)).astype(np.float32)


# Drafters


def drafter(propose):
    """propose(tokens, gamma): what a chain should be, as a list of ids; no chance is involved."""
    return Drafter(lambda prompt, outputs, gamma, uniforms: Draft(propose([*prompt, *outputs], gamma)))


def oracle(toy, sampling, prompt_length, wrong=lambda place: False):
    """Proposes what greedy decoding gives, but at places of the text that are `wrong` another token."""

    def propose(tokens, gamma):
        line = list(tokens)
        for _ in range(gamma):
            token = greedy(toy, sampling, line[:prompt_length], line[prompt_length:])
            line.append((token + 1) % toy.vocab if wrong(len(line)) else token)
        return line[len(tokens) :]

    return drafter(propose)


def greedy(toy, sampling, prompt, outputs):
    """The most probable token after prompt + outputs."""
    row = toy.logits([*prompt, *outputs])[None]
    return int(np.argmax(TRUTH.process_logits(row, sampling, prompt, [outputs])[0]))


def plain(toy, sampling, prompt, count):
    """Greedy decoding, without stops."""
    outputs = []
    for _ in range(count):
        outputs.append(greedy(toy, sampling, prompt, outputs))
    return outputs
