"""`expert_choice`: experts choose tokens."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_integers, assert_matches, check_refusals, refused
from grading.truth import GroundTruth
from spec import NotSupported
from tests.week3.moe.cases import DTYPES, SEEDS, apart, normal

reference = GroundTruth("moe")


def clear_columns(rng, tokens, n_experts, dtype="float32"):
    """Logits in which each expert's scores of the tokens are clearly apart."""
    while True:
        logits = normal(rng, (tokens, n_experts), dtype, 2.0)
        scores = np.exp(logits.astype(np.float64))
        scores = scores / scores.sum(axis=1, keepdims=True)
        if all(apart(np.sort(column)[::-1]) for column in scores.T):
            return logits


def assert_choice(actual, expected):
    assert_integers(actual.tokens, expected.tokens, "tokens")
    assert_matches(actual.weights, expected.weights, "weights")


@requirement("MOE-50")
@given(seed=SEEDS, tokens=st.sampled_from([1, 6]), capacity=st.integers(1, 7))
@example(seed=1, tokens=6, capacity=2)
@example(seed=1, tokens=6, capacity=7)
def test_each_expert_takes_its_best_tokens(impl, seed, tokens, capacity):
    logits = clear_columns(np.random.default_rng(seed), tokens, 4)
    assert_choice(impl.expert_choice(logits, capacity), reference.expert_choice(logits, capacity))


@requirement("MOE-50")
@given(seed=SEEDS, capacity=st.integers(1, 4))
@example(seed=1, capacity=4)
def test_padding_is_never_taken(impl, seed, capacity):
    rng = np.random.default_rng(seed)
    logits = clear_columns(rng, 6, 4)
    mask = rng.permutation([True, True, True, False, False, False])
    for padding in (50.0, np.nan):
        logits[~mask] = padding
        actual = impl.expert_choice(logits, capacity, mask=mask)
        assert_choice(actual, reference.expert_choice(logits, capacity, mask=mask))


@requirement("MOE-50")
def test_without_candidates_nothing_is_taken(impl):
    for logits, mask in ((np.zeros((3, 4)), np.zeros(3, bool)), (np.zeros((0, 4)), None)):
        logits = logits.astype(np.float32)
        actual = impl.expert_choice(logits, 2, mask=mask)
        assert_choice(actual, reference.expert_choice(logits, 2, mask=mask))


@requirement("MOE-50")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_weights_of_a_choice_are_float32(impl, dtype):
    logits = clear_columns(np.random.default_rng(1), 5, 3, dtype)
    assert_choice(impl.expert_choice(logits, 2), reference.expert_choice(logits, 2))


@requirement("MOE-50")
def test_a_choice_by_large_logits_is_finite(impl):
    logits = np.array([[1e4, 0, 1e4 - 1], [-1e4, 1, -1e4], [0, -3e4, 1]], np.float32)
    assert_choice(impl.expert_choice(logits, 1), reference.expert_choice(logits, 1))


@requirement("MOE-50")
def test_of_equal_tokens_the_earlier_is_taken(impl):
    logits = np.zeros((5, 4), np.float32)
    logits[0, 1] = logits[3, 1] = -1  # worse for expert 1, and a little better for the others
    actual = impl.expert_choice(logits, 3)
    assert_integers(actual.tokens, [[0, 3, 1], [1, 2, 4], [0, 3, 1], [0, 3, 1]], "tokens")


@requirement("MOE-51")
def test_expert_choice_is_refused_where_it_cannot_be(impl):
    logits = clear_columns(np.random.default_rng(1), 5, 4)
    mask = np.array([True, True, False, True, True])
    valid = {"logits": logits, "capacity": 2, "mask": mask}
    assert_choice(impl.expert_choice(**valid), reference.expert_choice(**valid))
    with refused(NotSupported, "causal"):
        impl.expert_choice(**valid, causal=True)
    check_refusals(
        impl.expert_choice,
        valid,
        [
            ("capacity", {"capacity": 0}),
            ("logits", {"logits": logits[0]}),
            ("mask/logits", {"mask": mask[:4]}),
        ],
    )
