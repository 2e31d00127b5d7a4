"""Drafters for `generate`: out of the text, by a smaller model, by a part of the model itself.

What they propose in a tree or by skipping layers pays only where docs/benchmarks.md says so.
"""

from collections.abc import Sequence

import numpy as np

from solution.models import Decoder
from spec.speculative_decoding import Draft, Drafter, Sampling

from .model_drafter import ModelDrafter
from .ngrams import occurrences, propose_ngram

MIN_N, MAX_N = 1, 3  # tokens of a suffix that is looked for


def ngrams(min_n: int = MIN_N, max_n: int = MAX_N) -> Drafter:
    """What followed the last few tokens when they stood there before."""
    return Drafter(
        lambda prompt, outputs, gamma, _: Draft(
            propose_ngram([*prompt, *outputs], min_n=min_n, max_n=max_n, gamma=gamma)
        )
    )


def ngram_tree(branches: int, min_n: int = MIN_N, max_n: int = MAX_N) -> Drafter:
    """What followed the last few tokens at several places, the latest first: gamma nodes, few branches."""

    def propose(prompt: Sequence[int], outputs: Sequence[int], gamma: int, _: object) -> Draft:
        text = np.array([*prompt, *outputs])
        ends = occurrences(text, min_n, max_n)[::-1]
        return grown([text[end + 1 : end + 1 + gamma].tolist() for end in ends], branches, gamma)

    return Drafter(propose)


def grown(lines: Sequence[list[int]], branches: int, size: int) -> Draft:
    """A tree of up to `size` nodes: the first lines that begin with different tokens, taken in turn, token by
    token; a line alone is a chain."""
    chosen = list({line[0]: line for line in reversed(lines) if line}.values())[::-1][:branches]
    tokens: list[int] = []
    parents: list[int] = []
    above = [-1] * len(chosen)
    for depth in range(size):
        for branch, line in enumerate(chosen):
            if depth < len(line) and len(tokens) < size:
                tokens.append(line[depth])
                parents.append(above[branch])
                above[branch] = len(tokens) - 1
    return Draft(tokens, None, parents if len(chosen) > 1 else None)


def smaller(decoder: Decoder, sampling: Sampling, vocab_size: int) -> Drafter:
    """Another model with the same tokens; vocab_size: of the target."""
    return Drafter(ModelDrafter(decoder.start(), sampling, vocab_size=vocab_size).propose)


def skipping(decoder: Decoder, layers: Sequence[int], sampling: Sampling) -> Drafter:
    """The target itself without some of its layers, beside its own context."""
    return smaller(decoder.only(layers), sampling, decoder.config.vocab_size)


def every_other(layers: int) -> list[int]:
    """The layers that are kept when half are skipped: the first and the last, which matter most, and every
    second one between them."""
    return [0, *range(2, layers - 1, 2), layers - 1]
