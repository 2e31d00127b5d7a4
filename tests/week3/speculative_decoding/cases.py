"""Inputs for the tests of speculative decoding, whose decisions are clear.

Whether u · q is below p is asked only where rounding does not decide, or where all numbers are exact in
every float dtype. Vocabularies, draft lengths and batches are pairwise distinct.
"""

import itertools

import numpy as np
from hypothesis import strategies as st

from grading.edited import reference
from grading.matching import assert_matches
from spec.speculative_decoding import Verdict

SEEDS = st.integers(0, 2**32 - 1)
TRUTH = reference("speculative_decoding")
NUDGE = 2.0**-14  # a decision is clear if it stays as it is when all numbers move by this part of them

# What the text speaks of, in every row.
P = np.float32([0.5, 0.3, 0.2])
Q = np.float32([0.2, 0.2, 0.6])


BELOW_1 = np.float32(1 - 2**-24)  # the largest uniform


def f32(*rows):
    return np.array(rows, np.float32)


def ids(*tokens):
    return np.array(tokens, np.int32)


def one_hot(vocabulary, *tokens):
    """(n, V): 1 at each row's token."""
    return np.eye(vocabulary, dtype=np.float32)[list(tokens)].reshape(len(tokens), vocabulary)


def assert_probs(actual, expected, what="probabilities"):
    """Within the allowance, and 0 exactly where the truth is."""
    assert_matches(actual, expected, what)
    leaked = (actual != 0) & (expected.value == 0)
    assert not leaked.any(), f"{what}: expected exactly 0 at {np.argwhere(leaked).tolist()}"


# Probabilities


def probabilities(rng, shape):
    """Rows over the last axis, some of their places 0."""
    powers = rng.exponential(size=shape) * (rng.random(shape) < 0.8)
    powers[..., 0] += 0.05
    moved = rng.permuted(powers, axis=-1)
    return (moved / moved.sum(axis=-1, keepdims=True)).astype(np.float32)


def nudged(rng, array):
    """Every number moved a little; 0 and 1 stay."""
    moved = array * (1 + rng.choice([-NUDGE, NUDGE], array.shape))
    return np.where(array == 1, array, moved)


def is_clear(function, before, arrays):
    """Whether function(*before, *arrays) stays what it is when the arrays move a little."""
    rng = np.random.default_rng(0)
    answer = function(*before, *arrays)
    others = [
        function(*before, *(None if each is None else moved(rng, each) for each in arrays)) for _ in range(8)
    ]
    return all(
        np.array_equal(one, two)
        for other in others
        for one, two in zip(parts(answer), parts(other), strict=True)
    )


def moved(rng, array):
    """Probabilities and uniforms, nudged: none reaches 1, which no uniform may be."""
    return np.where(array < 1, np.minimum(nudged(rng, array), BELOW_1), array)


def parts(answer):
    if isinstance(answer, Verdict):
        return answer.accepted, answer.token
    return answer if isinstance(answer, tuple) else (answer,)


def drafted(rng, q, shape):
    """Tokens drawn from q, (…, V); any tokens where q is None."""
    vocabulary = shape[-1]
    if q is None:
        return rng.integers(0, vocabulary, shape[:-1]).astype(np.int32)
    u = rng.random((*shape[:-1], 1))
    cumulative = np.cumsum(q, axis=-1, dtype=np.float64)
    return np.argmax(cumulative > u * cumulative[..., -1:], axis=-1).astype(np.int32)


def chain(seed, gamma, vocabulary, chance, function):
    """(target_probs, draft_probs, draft_tokens, uniforms) on which the function's decision is clear."""
    rng = np.random.default_rng(seed)
    while True:
        p = probabilities(rng, (gamma + 1, vocabulary))
        q = probabilities(rng, (gamma, vocabulary)) if chance else None
        if q is not None and rng.random() < 0.5:  # a drafter that is often right
            q = (0.7 * p[:gamma] + 0.3 * q).astype(np.float32)
        tokens = drafted(rng, q, (gamma, vocabulary))
        u = rng.random(gamma + 1, np.float32)
        if is_clear(lambda p, q, u, x=tokens: function(p, q, x, u), (), (p, q, u)):
            return p, q, tokens, u


# The edges of a verdict on one drafted token: all that can be drawn is token 1, whatever u is, and rounding
# took a little of its weight

ALMOST = (0, 1 - 2**-23, 0)
EDGES = {  # p and q of the drafted token 0, and whether it is accepted
    "what the target forbids": (ALMOST, (1, 0, 0), 0),
    "what neither can draw": (ALMOST, ALMOST, 0),
    "what the drafter could not draw": ((0.125, 0.875, 0), (0, 1, 0), 1),
}


# Exact laws: uniforms in the middles of cells, whose borders are where decisions change

GRID_P = f32([1, 2, 5], [5, 0, 3], [2, 4, 2]) / 8
GRID_Q = f32([3, 3, 2], [2, 0, 6]) / 8
GRID = (3, 6, 4)  # cells of the uniforms, the last one's at the end
TREE_P, TREE_Q = f32(1, 2, 5) / 8, f32(2, 4, 2) / 8


def cells(counts):
    """All uniforms of the grid, (the product of counts, len(counts)) float32."""
    middles = [(np.arange(count) + 0.5) / count for count in counts]
    return np.array(list(itertools.product(*middles)), np.float32)


def joint(rows):
    """The law of independent tokens, one a row."""
    law = np.ones(())
    for row in rows:
        law = np.multiply.outer(law, row / row.sum(dtype=np.float64))
    return law


def completed(weighted_outputs, rows):
    """The law of len(rows) tokens of which a step gave the first few, and the target gives the rest."""
    law = np.zeros([len(row) for row in rows])
    for weight, tokens in weighted_outputs:
        law[tuple(tokens)] += weight * joint(rows[len(tokens) :])
    return law


def assert_law(law, expected, tolerance=1e-6):
    """tolerance: of the sum of a few thousand float32 weights."""
    far = np.abs(law - expected)
    at = np.unravel_index(np.argmax(far), far.shape)
    tokens = tuple(map(int, at))
    assert far[at] <= tolerance, (
        f"tokens {tokens}: expected probability {expected[at]:.6f}, got {law[at]:.6f}"
    )
