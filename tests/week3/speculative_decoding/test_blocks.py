"""`verify_block`: a verdict on the whole draft."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal
from spec.speculative_decoding import Verdict
from tests.week3.speculative_decoding.cases import (
    ALMOST,
    BELOW_1,
    EDGES,
    GRID,
    GRID_P,
    GRID_Q,
    SEEDS,
    TRUTH,
    P,
    Q,
    assert_law,
    cells,
    chain,
    completed,
    f32,
    ids,
    joint,
)

GAMMAS = st.sampled_from([1, 2, 4])


@requirement("SD-24")
@given(seed=SEEDS, gamma=GAMMAS)
@example(seed=3, gamma=2)
@example(seed=4, gamma=4)
@example(seed=6, gamma=2)
@example(seed=7, gamma=4)
@example(seed=103, gamma=4)
def test_the_last_success_decides(impl, seed, gamma):
    case = chain(seed, gamma, 5, True, TRUTH.verify_block)
    assert_equal(impl.verify_block(*case), TRUTH.verify_block(*case), "verdict")


@requirement("SD-24")
@pytest.mark.parametrize(
    ("u", "expected"),
    [
        ((0.5, 0.5, 0.6), Verdict(2, 1)),
        ((0.5, 0.9, 0.6), Verdict(0, 0)),
        ((0.5, 0.9, 0.8), Verdict(0, 1)),
        ((0.0, 0.9, 0.6), Verdict(0, 0)),
    ],
)
def test_a_later_token_vouches_for_an_earlier_one(impl, u, expected):
    assert_equal(impl.verify_block(f32(P, P, P), f32(Q, Q), ids(2, 0), f32(*u)), expected, "verdict")


@requirement("SD-24")
@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-24])
def test_where_q_is_p_all_are_accepted(impl, u):
    row = (0.125, 0.625, 0.25)
    found = impl.verify_block(f32(row, row, (0, 0, 1)), f32(row, row), ids(1, 0), f32(u, u, u))
    assert_equal(found, Verdict(2, 2), "verdict")
    found = impl.verify_block(f32((0, 0.5, 0.5), (0, 1, 0)), f32((0, 0.5, 0.5)), ids(0), f32(u, 0.25))
    assert_equal(found, Verdict(0, 1), "verdict on what neither can draw")


@requirement("SD-24")
@pytest.mark.parametrize("u", [0.0, 0.5, BELOW_1])
@pytest.mark.parametrize("edge", EDGES)
def test_the_edges_of_a_block(impl, u, edge):
    p, q, accepted = EDGES[edge]
    found = impl.verify_block(f32(p, ALMOST), f32(q), ids(0), f32(u, u))
    assert_equal(found, Verdict(accepted, 1), "verdict")


@requirement("SD-24")
def test_a_block_may_be_empty(impl):
    found = impl.verify_block(f32(P), np.zeros((0, 3), np.float32), ids(), f32(0.6))
    assert_equal(found, Verdict(0, 1), "verdict")


@requirement("SD-25")
def test_a_step_has_exactly_the_law_of_the_target(impl):
    grid = cells(GRID)
    found = []
    for tokens in itertools.product(range(3), repeat=2):
        chance = GRID_Q[0, tokens[0]] * GRID_Q[1, tokens[1]]
        if chance > 0:
            for u in grid:
                verdict = impl.verify_block(GRID_P, GRID_Q, ids(*tokens), u)
                found.append((chance / len(grid), (*tokens[: verdict.accepted], verdict.token)))
    assert_law(completed(found, GRID_P), joint(GRID_P))


@requirement("SD-26")
@given(seed=SEEDS)
@example(seed=1)
def test_of_one_token_the_verdicts_are_the_same(impl, seed):
    case = chain(seed, 1, 5, True, TRUTH.verify)
    assert_equal(impl.verify_block(*case), TRUTH.verify(*case), "verdict")


@requirement("SD-26")
def test_there_are_never_fewer_tokens(impl):
    grid, tokens = cells((*GRID[:2], 1)), 0.0  # the last uniform draws, and accepts nothing
    for draft in itertools.product(range(3), repeat=2):
        chance = float(GRID_Q[0, draft[0]] * GRID_Q[1, draft[1]])
        accepted = (
            [impl.verify_block(GRID_P, GRID_Q, ids(*draft), u).accepted for u in grid] if chance else [0]
        )
        tokens += chance * (1 + np.mean(accepted))
    assert abs(tokens - 2.09375) < 1e-5, (
        f"expected 2.09375 tokens a step, got {tokens:.5f}; verify gives 2.015625"
    )


@requirement("SD-24")
@given(seed=SEEDS, gamma=GAMMAS)
@example(seed=1, gamma=4)
@example(seed=2, gamma=2)
def test_without_chance_it_is_verify(impl, seed, gamma):
    case = chain(seed, gamma, 3, False, TRUTH.verify)
    assert_equal(impl.verify_block(*case), TRUTH.verify(*case), "verdict")
