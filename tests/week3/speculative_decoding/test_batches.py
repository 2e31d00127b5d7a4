"""`verify_batch`: ragged rows, and their distribution in the large."""

import itertools
from math import prod

import numpy as np
import pytest
import scipy
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_integers, check_refusals
from tests.week3.speculative_decoding.cases import (
    ALMOST,
    BELOW_1,
    EDGES,
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
    drafted,
    f32,
    ids,
    joint,
    one_hot,
)

ROWS = 20_000
FALSE_ALARM = 1e-9
SEED = 20  # rows are given, so right code has one verdict, always


def batch(seed, lens, gamma, chance):
    """Rows whose decisions are clear, and NaN and ids out of range where nobody may look."""
    rows = [chain((seed, r), n, 5, chance, TRUTH.verify) for r, n in enumerate(lens)]
    p = np.full((len(lens), gamma + 1, 5), np.nan, np.float32)
    q = np.full((len(lens), gamma, 5), np.nan, np.float32) if chance else None
    tokens = np.full((len(lens), gamma), 99, np.int32)
    u = np.full((len(lens), gamma + 1), np.nan, np.float32)
    for r, (n, (p_row, q_row, x, u_row)) in enumerate(zip(lens, rows, strict=True)):
        p[r, : n + 1], tokens[r, :n], u[r, : n + 1] = p_row, x, u_row
        if chance:
            q[r, :n] = q_row
    return p, q, tokens, ids(*lens), u


LENS = st.lists(st.integers(0, 3), min_size=1, max_size=5)


@requirement("SD-21")
@given(seed=SEEDS, rows=st.integers(1, 6), gamma=st.sampled_from([1, 2, 4]), chance=st.booleans())
@example(seed=1, rows=6, gamma=4, chance=True)
@example(seed=2, rows=6, gamma=2, chance=False)
def test_a_row_is_what_verify_gives(impl, seed, rows, gamma, chance):
    given_ = batch(seed, [gamma] * rows, gamma, chance)
    assert_integers(impl.verify_batch(*given_), TRUTH.verify_batch(*given_), "tokens")


@requirement("SD-21")
def test_shorter_rows_are_packed_to_the_left(impl):
    p = np.stack([one_hot(6, 1, 2, 5, 0), one_hot(6, 3, 4, 0, 0), one_hot(6, 1, 5, 3, 4)])
    given_ = (
        p,
        None,
        np.array([[1, 2, 0], [3, 0, 0], [1, 2, 3]], np.int32),
        ids(2, 1, 3),
        np.full((3, 4), 0.5, np.float32),
    )
    expected = [[1, 2, 5, -1], [3, 4, -1, -1], [1, 5, -1, -1]]
    assert_integers(impl.verify_batch(*given_), expected, "tokens")


@requirement("SD-21")
@pytest.mark.parametrize("u", [0.0, 0.5, BELOW_1])
def test_the_edges_are_those_of_a_single_row(impl, u):
    p, q, accepted = zip(*EDGES.values(), strict=True)
    rows = len(EDGES)
    target = f32(*([row, ALMOST] for row in p))
    found = impl.verify_batch(
        target, f32(*q)[:, None], np.zeros((rows, 1), np.int32), ids(*[1] * rows), f32(*[[u, u]] * rows)
    )
    assert_integers(found, [[0, 1] if n else [1, -1] for n in accepted], "tokens")


@requirement("SD-21")
def test_ids_may_be_large(impl):
    vocabulary = 70_000
    p = np.zeros((1, 2, vocabulary), np.float32)
    p[0, 0, 65_001] = p[0, 1, 69_999] = 1
    found = impl.verify_batch(p, None, np.array([[65_001]], np.int32), ids(1), f32([0.5, 0.5]))
    assert_integers(found, [[65_001, 69_999]], "tokens")


@requirement("SD-22")
@given(seed=SEEDS, lens=LENS, chance=st.booleans())
@example(seed=1, lens=[0, 2, 3, 1, 0], chance=True)
@example(seed=2, lens=[3, 0, 1], chance=False)
@example(seed=3, lens=[0, 0], chance=True)
@example(seed=4, lens=[1, 3], chance=True)
def test_neighbours_and_padding_are_nothing(impl, seed, lens, chance):
    given_ = batch(seed, lens, 3, chance)
    assert_integers(impl.verify_batch(*given_), TRUTH.verify_batch(*given_), "tokens")


@requirement("SD-22")
@pytest.mark.parametrize(("rows", "gamma"), [(0, 2), (3, 0), (0, 0)])
def test_a_batch_may_be_empty(impl, rows, gamma):
    given_ = batch(1, [0] * rows, gamma, True)
    assert_integers(impl.verify_batch(*given_), TRUTH.verify_batch(*given_), "tokens")


def many(rng, p, q):
    """(target_probs, draft_probs, tokens, lens, uniforms) of as many rows as the tests of fit need."""
    gamma, vocabulary = q.shape
    rows = np.broadcast_to(q, (ROWS, gamma, vocabulary))
    tokens = drafted(rng, rows, (ROWS, gamma, vocabulary))
    u = rng.random((ROWS, gamma + 1), np.float32)
    target = np.broadcast_to(p, (ROWS, gamma + 1, vocabulary))
    return target.copy(), rows.copy(), tokens, np.full(ROWS, gamma, np.int32), u


@requirement("SD-23")
def test_many_rows_have_the_law_of_the_target(impl):
    """Joint over γ + 1 tokens. What a step left open is drawn from the target here."""
    rng = np.random.default_rng(SEED)
    p, q = f32(P, [0.2, 0.5, 0.3], [0.1, 0.6, 0.3]), f32(Q, [0.4, 0.4, 0.2])
    result = impl.verify_batch(*many(rng, p, q))
    for place in range(1, 3):
        fresh = np.argmax(np.cumsum(p[place]) > rng.random((ROWS, 1)), axis=1)
        result[:, place] = np.where(result[:, place] < 0, fresh, result[:, place])
    cells_ = result @ [9, 3, 1]
    first = np.minimum(p[0], q[0]) + 0.4 * p[0]  # drawn from p after a rejection
    wrong = joint([first, *p[1:]]).reshape(-1)
    assert_fits(np.bincount(cells_, minlength=27), joint(p).reshape(-1), wrong, "tokens")


@requirement("SD-23")
def test_the_number_accepted_has_its_law(impl):
    """Ignoring the draft would give the right tokens as well."""
    rng = np.random.default_rng(SEED)
    result = impl.verify_batch(*many(rng, f32(P, P, P), f32(Q, Q)))
    accepted = (result >= 0).sum(axis=1) - 1
    law, wrong = np.array([0.4, 0.24, 0.36]), np.array([0.43, 0.24, 0.33])
    assert_fits(np.bincount(accepted, minlength=3), law, wrong, "accepted")


def assert_fits(counts, law, wrong, what):
    """A test of fit. `wrong`: a law that it must be able to tell from the right one, or it proves nothing."""
    rows, free = counts.sum(), len(law) - 1
    assert (law * rows).min() >= 10, "the design of this test: at least 10 expected in each cell"
    limit = scipy.stats.chi2.isf(FALSE_ALARM, free)
    found = scipy.stats.ncx2.sf(limit, free, rows * ((wrong - law) ** 2 / law).sum())
    assert found > 0.999, f"the design of this test: it finds the wrong law with probability {found:.3f}"
    distance = ((counts - law * rows) ** 2 / (law * rows)).sum()
    shares = np.round(law, 3).tolist(), np.round(counts / rows, 3).tolist()
    assert distance <= limit, (
        f"{what}: expected shares {shares[0]}, got {shares[1]}: right code is so far off once in 10⁹ runs"
    )


@requirement("SD-23")
def test_rows_on_a_grid_have_exactly_the_law_of_the_target(impl):
    """All drafts and all cells of the uniforms, in one call."""
    grid = cells((6, 6, 4))
    drafts = [x for x in itertools.product(range(3), repeat=2) if GRID_Q[0, x[0]] * GRID_Q[1, x[1]] > 0]
    rows = len(drafts) * len(grid)
    tokens = np.repeat(np.array(drafts, np.int32), len(grid), axis=0)
    target, q = np.broadcast_to(GRID_P, (rows, 3, 3)).copy(), np.broadcast_to(GRID_Q, (rows, 2, 3)).copy()
    result = impl.verify_batch(target, q, tokens, np.full(rows, 2, np.int32), np.tile(grid, (len(drafts), 1)))
    weights = [prod(float(GRID_Q[i, x]) for i, x in enumerate(draft)) / len(grid) for draft in tokens]
    outputs = [tuple(int(x) for x in row if x >= 0) for row in result]
    assert_law(completed(zip(weights, outputs, strict=True), GRID_P), joint(GRID_P))


@requirement("SD-54")
def test_bad_batches_are_refused(impl):
    p, q = np.stack([f32(P, P, P)] * 2), np.stack([f32(Q, Q)] * 2)
    valid = {
        "target_probs": p,
        "draft_probs": q,
        "draft_tokens": np.array([[0, 1], [0, 9]], np.int32),
        "draft_lens": ids(2, 1),
        "uniforms": f32([0.9, 0.9, 0.0], [0.9, 0.0, 2.0]),
    }
    assert_integers(impl.verify_batch(**valid), [[0, 1, 0], [0, 0, -1]], "tokens")
    either = "/".join(valid)
    check_refusals(
        impl.verify_batch,
        valid,
        [
            (either, {"target_probs": p[:, :2]}),
            (either, {"target_probs": p[:1]}),
            (either, {"target_probs": p[0]}),
            (either, {"draft_probs": q[:, :1]}),
            (either, {"draft_probs": q[..., :2]}),
            (either, {"draft_probs": np.concatenate([q, q], axis=1)}),
            (either, {"uniforms": np.concatenate([valid["uniforms"], f32([0.5], [0.5])], axis=1)}),
            (either, {"draft_tokens": ids(0, 1)}),
            (either, {"uniforms": valid["uniforms"][:, :2]}),
            (either, {"draft_lens": ids(2)}),
            (either, {"draft_lens": ids(2, 1)[None]}),
            ("draft_lens", {"draft_lens": ids(2, 3)}),
            ("draft_lens", {"draft_lens": ids(2, -1)}),
            ("draft_tokens", {"draft_lens": ids(2, 2), "uniforms": np.full((2, 3), 0.5, np.float32)}),
            ("draft_tokens", {"draft_tokens": np.array([[0, 3], [0, 9]], np.int32)}),
            ("uniforms", {"uniforms": f32([0.9, 1.0, 0.0], [0.9, 0.0, 2.0])}),
            ("uniforms", {"uniforms": f32([0.9, 0.9, 0.0], [0.9, -1.0, 2.0])}),
        ],
    )
