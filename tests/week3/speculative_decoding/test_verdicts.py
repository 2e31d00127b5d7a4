"""`acceptance_probability`, `residual` and `verify`: which drafted tokens of a chain stay."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical, assert_matches, check_refusals
from grading.truth import GroundTruth
from spec.speculative_decoding import Verdict
from tests.week3.speculative_decoding.cases import (
    ALMOST,
    BELOW_1,
    GRID,
    GRID_P,
    GRID_Q,
    SEEDS,
    TRUTH,
    P,
    Q,
    assert_law,
    assert_probs,
    cells,
    chain,
    completed,
    f32,
    ids,
    joint,
    one_hot,
    probabilities,
)

reference = GroundTruth("speculative_decoding")

GAMMAS = st.sampled_from([1, 2, 4])


def check(impl, p, q, tokens, u):
    assert_equal(impl.verify(p, q, tokens, u), TRUTH.verify(p, q, tokens, u), "verdict")


def told(impl, p, q, tokens, u, accepted, token):
    q = None if q is None else f32(*q)
    assert_equal(impl.verify(f32(*p), q, ids(*tokens), f32(*u)), Verdict(accepted, token), "verdict")


@requirement("SD-12")
@given(seed=SEEDS, n=st.sampled_from([1, 4]))
@example(seed=1, n=4)
@example(seed=2, n=4)
def test_accepted_with_the_ratio_but_at_most_1(impl, seed, n):
    rng = np.random.default_rng(seed)
    p, q = probabilities(rng, (n, 5)), probabilities(rng, (n, 5))
    tokens = rng.integers(0, 5, n).astype(np.int32)
    assert_matches(impl.acceptance_probability(p, q, tokens), reference.acceptance_probability(p, q, tokens))


@requirement("SD-12")
def test_without_q_or_p_it_is_certain(impl):
    p, q = f32([0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.75, 0, 0]), f32(*[[0, 0.5, 0.5, 0]] * 3)
    assert_identical(impl.acceptance_probability(p, q, ids(0, 2, 3)), f32(1, 0, 0))
    assert_identical(impl.acceptance_probability(p[:0], q[:0], ids()), f32())


@requirement("SD-13")
@given(seed=SEEDS, n=st.sampled_from([1, 4]))
@example(seed=1, n=4)
def test_what_p_has_more_than_q(impl, seed, n):
    rng = np.random.default_rng(seed)
    p, q = probabilities(rng, (n, 5)), probabilities(rng, (n, 5))
    assert_probs(impl.residual(p, q), reference.residual(p, q))


@requirement("SD-13")
def test_where_nothing_is_left_it_is_p(impl):
    p, q = f32([0.5, 0.5, 0], [0.5, 0.25, 0.25]), f32([0.5, 0.5, 0], [0.25, 0.5, 0.25])
    assert_probs(impl.residual(p, q), reference.residual(p, q))
    assert_probs(impl.residual(p[:0], q[:0]), reference.residual(p[:0], q[:0]))


@requirement("SD-13")
def test_a_little_is_not_nothing(impl):
    """The differences are exact in float32."""
    little = 2.0**-20
    p, q = f32([0.5 + little, 0.5 - little, 0], [0.25, 0.25, 0.5]), f32([0.5, 0.5, 0], [0.25, 0.25, 0.5])
    assert_probs(impl.residual(p, q), reference.residual(p, q))


@requirement("SD-14")
@given(seed=SEEDS, gamma=GAMMAS)
@example(seed=1, gamma=4)
@example(seed=5, gamma=2)
def test_accepted_until_the_first_rejection(impl, seed, gamma):
    p, q, tokens, u = chain(seed, gamma, 5, True, TRUTH.verify)
    accepted = impl.verify(p, q, tokens, u).accepted
    assert_equal(accepted, TRUTH.verify(p, q, tokens, u).accepted, "accepted")


@requirement("SD-14")
@pytest.mark.parametrize(
    ("u", "accepted"), [((0.5, 0.5, 0.5), 0), ((0.25, 0.5, 0.5), 2), ((0.3, 0.9, 0.1), 2)]
)
def test_a_token_after_a_rejected_one_is_lost(impl, u, accepted):
    rows, q = f32(P, P, P), f32(Q, Q)
    assert_equal(impl.verify(rows, q, ids(2, 0), f32(*u)).accepted, accepted, "accepted")


@requirement("SD-14")
@pytest.mark.parametrize(
    ("u", "accepted"), [((0.1, 0.9, 0.5), 1), ((0.9, 0.1, 0.5), 2), ((0.9, 0.5, 0.1), 1)]
)
def test_each_token_has_its_own_uniform(impl, u, accepted):
    assert_equal(impl.verify(f32(P, P, P), f32(Q, Q), ids(0, 2), f32(*u)).accepted, accepted, "accepted")


@requirement("SD-15")
@given(seed=SEEDS, gamma=GAMMAS)
@example(seed=1, gamma=4)
def test_after_a_rejection_the_residual_is_drawn(impl, seed, gamma):
    p, q, tokens, u = chain(seed, gamma, 5, True, TRUTH.verify)
    p[0, tokens[0]] = 0  # never accepted
    p[0] = (p[0] + 2.0**-10) * (np.arange(5) != tokens[0])
    p[0] /= p[0].sum()
    clear = [TRUTH.verify(p, q, tokens, f32(*u[:-1], v)).token for v in (u[-1] - 1e-4, u[-1] + 1e-4)]
    if 1e-4 < u[-1] < 1 - 1e-4 and clear[0] == clear[1]:
        check(impl, p, q, tokens, u)


@requirement("SD-15")
@pytest.mark.parametrize(("u", "token"), [(0.0, 0), (0.5, 0), (0.7, 0), (0.8, 1), (0.99, 1)])
def test_the_residual_of_the_example(impl, u, token):
    told(impl, [P, P], [Q], (2,), (0.5, u), 0, token)


@requirement("SD-16")
@pytest.mark.parametrize(("u", "token"), [(0.05, 0), (0.2, 1), (0.5, 2), (0.99, 2)])
def test_after_all_accepted_one_more(impl, u, token):
    told(impl, [P, P, (0.1, 0.2, 0.7)], [Q, Q], (0, 1), (0.9, 0.9, u), 2, token)


@requirement("SD-17")
@given(seed=SEEDS, gamma=GAMMAS)
@example(seed=1, gamma=4)
@example(seed=2, gamma=1)
def test_without_chance_a_token_counts_as_certain(impl, seed, gamma):
    check(impl, *chain(seed, gamma, 5, False, TRUTH.verify))


@requirement("SD-17")
@pytest.mark.parametrize(
    ("u", "last", "accepted", "token"),
    [(0.1, 0.4, 1, 0), (0.3, 0.6, 0, 0), (0.3, 0.65, 0, 1), (0.5, 0.99, 0, 1)],
)
def test_without_chance_the_rejected_token_is_taken_out(impl, u, last, accepted, token):
    told(impl, [P, P], None, (2,), (u, last), accepted, token)


@requirement("SD-16")
@pytest.mark.parametrize(("u", "token"), [(0.0, 0), (0.4, 0), (0.6, 1), (0.9, 2)])
@pytest.mark.parametrize("chance", [True, False])
def test_nothing_drafted_is_an_ordinary_draw(impl, u, token, chance):
    q = np.zeros((0, 3), np.float32) if chance else None
    assert_equal(impl.verify(f32(P), q, ids(), f32(u)), Verdict(0, token), "verdict")


@requirement("SD-18")
@pytest.mark.parametrize("u", [0.0, 0.5, BELOW_1])
def test_what_the_target_forbids_is_rejected(impl, u):
    told(impl, [(0, 1), (1, 0)], [(1, 0)], (0,), (u, u), 0, 1)
    told(impl, [(0, 1), (1, 0)], None, (0,), (u, u), 0, 1)
    told(impl, [(0, 1), (1, 0)], [(0, 1)], (0,), (u, u), 0, 1)


@requirement("SD-18")
@pytest.mark.parametrize("u", [0.0, 0.5, BELOW_1])
def test_what_the_drafter_could_not_draw_is_accepted_where_the_target_can(impl, u):
    told(impl, [(0.125, 0.875), (0, 1)], [(0, 1)], (0,), (u, 0.5), 1, 1)


@requirement("SD-18")
@pytest.mark.parametrize("u", [0.0, 0.5, BELOW_1])
@pytest.mark.parametrize("token", [0, 1, 2])
def test_the_same_distribution_is_always_accepted(impl, u, token):
    row = (0.125, 0.625, 0.25)
    told(impl, [row, (0, 0, 1)], [row], (token,), (u, 0.5), 1, 2)


@requirement("SD-18")
@pytest.mark.parametrize("u", [0.0, 2.0**-24, BELOW_1])
def test_what_has_no_weight_is_never_drawn(impl, u):
    first, last = (1, 4) if u < 0.5 else (3, 4)
    row = f32([0, 1, 3, 2, 0]) / 6
    assert_equal(impl.verify(row, None, ids(), f32(u)).token, first, "token drawn from p")
    p, q = f32([0, 5, 5, 6, 0], [0, 0, 0, 0, 16]) / 16, f32([4, 1, 1, 2, 8]) / 16
    token = impl.verify(p, q, ids(4), f32(0.5, u)).token
    assert_equal(token, first, "token drawn from the residual")
    assert_equal(impl.verify(p, q, ids(1), f32(0.5, u)).token, last, "token drawn from the last row")


@requirement("SD-18")
def test_where_nothing_else_is_left_the_token_itself_is_drawn(impl):
    """p is 1 but for rounding, and u beyond it: accepted or rejected, the next token is 1."""
    verdict = impl.verify(f32(ALMOST, ALMOST), None, ids(1), f32(BELOW_1, 0.5))
    assert_equal(verdict.token, 1, "token")


@requirement("SD-18")
def test_rounding_of_a_long_sum_draws_nothing_impossible(impl):
    rng = np.random.default_rng(3)
    row = rng.random(5003).astype(np.float32)
    row[-2000:] = 0
    row /= row.sum()
    token = impl.verify(row[None], None, ids(), f32(BELOW_1)).token
    assert token < 3003, f"expected a token of positive probability, got {token}"
    assert_equal(impl.verify(row[None][:, ::-1].copy(), None, ids(), f32(0.0)).token, 2000, "token at u = 0")


@requirement("SD-19")
@given(seed=SEEDS, gamma=GAMMAS, chance=st.booleans())
@example(seed=1, gamma=4, chance=True)
@example(seed=2, gamma=4, chance=False)
def test_greedy_rows_are_compared(impl, seed, gamma, chance):
    rng = np.random.default_rng(seed)
    own, tokens = rng.integers(0, 3, gamma + 1), rng.integers(0, 3, gamma).astype(np.int32)
    if rng.random() < 0.5:
        tokens[:-1] = own[: gamma - 1]
    q = probabilities(rng, (gamma, 3)) if chance else None
    same = list(itertools.takewhile(lambda i: tokens[i] == own[i], range(gamma)))
    verdict = impl.verify(one_hot(3, *own), q, tokens, rng.random(gamma + 1, np.float32))
    assert_equal(verdict, Verdict(len(same), int(own[len(same)])), "verdict")


@requirement("SD-20")
def test_a_step_has_exactly_the_law_of_the_target(impl):
    grid = cells(GRID)
    found = []
    for tokens in itertools.product(range(3), repeat=2):
        chance = GRID_Q[0, tokens[0]] * GRID_Q[1, tokens[1]]
        if chance > 0:
            for u in grid:
                verdict = impl.verify(GRID_P, GRID_Q, ids(*tokens), u)
                found.append((chance / len(grid), (*tokens[: verdict.accepted], verdict.token)))
    assert_law(completed(found, GRID_P), joint(GRID_P))


@requirement("SD-20")
@pytest.mark.parametrize("tokens", [(0, 0), (2, 1), (1, 2)])
def test_certain_drafts_have_exactly_the_law_of_the_target(impl, tokens):
    rows = np.concatenate([1 + one_hot(3, *tokens), f32([1, 2, 1])]) / 4  # without the token: halves
    grid = cells((4, 4, 4))
    found = []
    for u in grid:
        verdict = impl.verify(rows, None, ids(*tokens), u)
        found.append((1 / len(grid), (*tokens[: verdict.accepted], verdict.token)))
    assert_law(completed(found, rows), joint(rows))


@requirement("SD-54")
@pytest.mark.parametrize("name", ["verify", "verify_block"])
def test_bad_arguments_of_a_verdict_are_refused(impl, name):
    valid = {
        "target_probs": f32(P, P, P),
        "draft_probs": f32(Q, Q),
        "draft_tokens": ids(0, 1),
        "uniforms": f32(0.9, 0.9, 0.0),
    }
    function = getattr(impl, name)
    assert_equal(function(**valid), Verdict(2, 0), "verdict")
    either = "/".join(valid)
    check_refusals(
        function,
        valid,
        [
            ("draft_tokens", {"draft_tokens": ids(0, 1)[None]}),
            (either, {"target_probs": f32(P, P)}),
            (either, {"target_probs": f32(P, P, P, P)}),
            (either, {"target_probs": f32(P, P, P)[None]}),
            (either, {"draft_probs": f32(Q)}),
            (either, {"draft_probs": f32(Q, Q, Q)}),
            (either, {"draft_probs": f32(Q, Q)[:, :2]}),
            (either, {"uniforms": f32(0.9, 0.9)}),
            (either, {"uniforms": f32(0.9, 0.9, 0.0, 0.0)}),
            ("draft_tokens", {"draft_tokens": ids(0, 3)}),
            ("draft_tokens", {"draft_tokens": ids(-1, 1)}),
            ("uniforms", {"uniforms": f32(0.9, 1.0, 0.0)}),
            ("uniforms", {"uniforms": f32(0.9, 0.9, -0.25)}),
        ],
    )


@requirement("SD-54")
def test_bad_rows_are_refused(impl):
    valid = {"p": f32(P, P), "q": f32(Q, Q)}
    assert_probs(impl.residual(**valid), reference.residual(**valid))
    wrong = [
        ("p/q", {"p": P}),
        ("p/q", {"p": P, "q": Q}),
        ("p/q", {"q": f32(Q)}),
        ("p/q", {"q": f32(Q, Q)[:, :2]}),
    ]
    check_refusals(impl.residual, valid, wrong)
    valid["tokens"] = ids(0, 2)
    assert_matches(impl.acceptance_probability(**valid), reference.acceptance_probability(**valid))
    wrong = [
        (f"{names}/tokens", {"tokens": ids(0, 2)[: len(replaced.get("q", P))], **replaced})
        for names, replaced in wrong
    ]
    more = [
        ("tokens/p/q", {"tokens": ids(0)}),
        ("tokens/p/q", {"tokens": ids(0, 1, 2)}),
        ("tokens", {"tokens": ids(0, 3)}),
        ("tokens", {"tokens": ids(-1, 0)}),
    ]
    check_refusals(impl.acceptance_probability, valid, wrong + more)
