"""How much `adaptive` drafts on this machine, by a clock made of what passes take in docs/benchmarks.md."""

import mlx.core as mx
import numpy as np
import pytest

from solution.speculative_decoding import generate
from solution.speculative_decoding.pace import Pace
from spec.model import Model
from spec.speculative_decoding import Draft, Drafter, Sampling

PROMPT, VOCAB = [0] * 40, 4
TOKENS, PASSES = [1, 2, 3, 5, 9], [1, 1.48, 1.64, 1.86, 2.20]  # a pass over one token is 1
READING = 0.075  # a token of a prompt: 512 in the time of 38 passes


def seconds(count, drafts, token=0.0):
    """What `count` tokens take, all of them 1; drafts: place and gamma -> tokens, None for plain decoding.

    token: what each drafted one takes."""
    held, taken = [], [0.0]

    def forward(tokens):
        new = len(tokens)
        taken[0] += np.interp(new, TOKENS, PASSES) if held else READING * new
        held.extend([0] * new)
        return mx.array(np.tile(np.eye(VOCAB, dtype=np.float32)[1], (new, 1)))

    def truncate(length):
        del held[length:]

    def propose(prompt, outputs, gamma, uniforms):
        draft = Draft(drafts(len(outputs), gamma))
        taken[0] += token * len(draft.tokens)
        return draft

    drafter = drafts and Drafter(propose)
    model = Model(VOCAB, 1000, forward, lambda: len(held), truncate)
    found = generate(
        model, drafter, PROMPT, max_tokens=count, gamma=5, sampling=Sampling(temperature=0.0), seed=0,
        adaptive=True, clock=lambda: taken[0],
    )  # fmt: skip
    assert found.tokens == [1] * count
    return taken[0]


@pytest.mark.parametrize("count", [32, 64, 128, 512])
def test_a_drafter_that_is_never_right_costs_little_in_a_short_text_too(count):
    plain, drafted = seconds(count, None), seconds(count, lambda place, gamma: [2] * gamma)
    assert drafted <= 1.02 * plain


@pytest.mark.parametrize("begins", [0, 1, 10, 30])
def test_a_text_that_begins_to_copy_is_drafted_soon(begins):
    """At least 1.8 times plain decoding, the bar of copying prompts in docs/benchmarks.md."""
    plain = seconds(192, None)
    drafted = seconds(192, lambda place, gamma: [1 if place + i >= begins else 2 for i in range(gamma)])
    assert drafted <= plain / 1.8


@pytest.mark.parametrize("most", [1, 3, 5])
def test_a_drafter_that_is_right_and_dear_costs_little_too(most):
    """Each of its tokens takes as long as one of the target. It may give fewer than it is asked for."""
    plain = seconds(300, None)
    assert seconds(300, lambda place, gamma: [1] * min(gamma, most), token=1.0) <= 1.1 * plain


def test_a_step_costs_what_it_took():
    pace = Pace(5)
    for accepted in (0, 1, 1, 0, 1):
        pace.ended(1, accepted, 2.0)
    assert pace.costs == {1: 2.0}
