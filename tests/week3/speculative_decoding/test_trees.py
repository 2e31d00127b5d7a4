"""`verify_tree`: several tokens may follow the same one."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, check_refusals
from spec.speculative_decoding import TokenTree
from tests.week3.speculative_decoding.cases import (
    ALMOST,
    BELOW_1,
    EDGES,
    SEEDS,
    TREE_P,
    TREE_Q,
    TRUTH,
    P,
    Q,
    assert_law,
    cells,
    chain,
    drafted,
    f32,
    is_clear,
    probabilities,
)

# Parents before children; siblings apart, children before the siblings of their parents.
SHAPES = [
    (-1, -1),
    (-1, 0, -1),
    (-1, -1, 0, 1, -1),
    (-1, 0, 0, -1, 3, 2),
    (-1, -1, -1, 2, 2),
    (-1, -1, 1, 0, 1, 2),
]


def case(seed, parents, chance, replacement, vocabulary=4):
    """(tree, target_probs, draft_probs, uniforms) on which the decision is clear."""
    rng, n = np.random.default_rng(seed), len(parents)
    while True:
        p = probabilities(rng, (n + 1, vocabulary))
        q = (0.6 * p + 0.4 * probabilities(rng, p.shape) + 0.01).astype(np.float32) if chance else None
        if chance:
            q /= q.sum(axis=1, keepdims=True)
        tree = TokenTree(siblings(rng, parents, q, replacement, vocabulary), list(parents), replacement)
        u = rng.random(n + 1, np.float32)
        if is_clear(lambda p, q, u, tree=tree: TRUTH.verify_tree(tree, p, q, u), (), (p, q, u)):
            return tree, p, q, u


def siblings(rng, parents, q, replacement, vocabulary):
    """Tokens drawn as the tree says; different ones among siblings where no chance is involved."""
    tokens = []
    for i, parent in enumerate(parents):
        taken = [tokens[j] for j in range(i) if parents[j] == parent]
        law = np.full(vocabulary, 1.0) if q is None else q[parent + 1].astype(np.float64)
        if not replacement:
            law[taken] = 0
        tokens.append(int(drafted(rng, law[None], (1, vocabulary))[0]))
    return tokens


def check(impl, given_):
    path, token = impl.verify_tree(*given_)
    expected = TRUTH.verify_tree(*given_)
    assert_equal(list(path), expected[0], "path")
    assert_equal(token, expected[1], "token")


@requirement("SD-27")
@given(seed=SEEDS, gamma=st.sampled_from([1, 2, 4]), chance=st.booleans(), replacement=st.booleans())
@example(seed=4, gamma=4, chance=True, replacement=False)
@example(seed=2, gamma=2, chance=False, replacement=True)
def test_a_chain_is_a_tree(impl, seed, gamma, chance, replacement):
    p, q, tokens, u = chain(seed, gamma, 5, chance, TRUTH.verify)
    tree = TokenTree(tokens.tolist(), list(range(-1, gamma - 1)), replacement)
    if chance:
        q = np.concatenate([q, np.full((1, 5), np.nan, np.float32)])  # nobody follows the last one
    path, token = impl.verify_tree(tree, p, q, u)
    verdict = TRUTH.verify(p, None if q is None else q[:-1], tokens, u)
    assert_equal((list(path), token), (list(range(verdict.accepted)), verdict.token), "path and token")


@requirement("SD-27")
def test_a_tree_of_nothing(impl):
    path, token = impl.verify_tree(TokenTree([], []), f32(P), None, f32(0.6))
    assert_equal((list(path), token), ([], 1), "path and token")


@requirement("SD-28")
@given(seed=SEEDS, parents=st.sampled_from(SHAPES))
@example(seed=1, parents=SHAPES[3])
@example(seed=2, parents=SHAPES[4])
@example(seed=3, parents=SHAPES[1])
@example(seed=4, parents=SHAPES[5])
@example(seed=674, parents=SHAPES[0])
def test_siblings_are_tried_in_order_against_what_is_left(impl, seed, parents):
    check(impl, case(seed, parents, True, True))


@requirement("SD-28")
@pytest.mark.parametrize(
    ("u", "expected"),
    [
        ((0.25, 0.5, 0.5), ([0], 1)),
        ((0.5, 0.5, 0.5), ([1], 2)),
        ((0.9, 0.9, 0.9), ([1], 2)),
        ((0.1, 0.9, 0.9), ([0], 2)),
    ],
)
def test_siblings_of_the_example(impl, u, expected):
    tree = TokenTree([2, 0], [-1, -1], True)
    path, token = impl.verify_tree(tree, f32(P, (0, 0.6, 0.4), (0, 0.1, 0.9)), f32(Q, Q, Q), f32(*u))
    assert_equal((list(path), token), expected, "path and token")


@requirement("SD-29")
@given(seed=SEEDS, parents=st.sampled_from(SHAPES))
@example(seed=1, parents=SHAPES[4])
@example(seed=2, parents=SHAPES[2])
@example(seed=5, parents=SHAPES[4])
def test_without_replacement_q_loses_what_was_rejected(impl, seed, parents):
    check(impl, case(seed, parents, True, False))


@requirement("SD-29")
@pytest.mark.parametrize(("replacement", "expected"), [(False, ([], 0)), (True, ([1], 0))])
def test_the_second_sibling_of_the_example(impl, replacement, expected):
    tree = TokenTree([2, 1], [-1, -1], replacement)
    path, token = impl.verify_tree(tree, f32(P, P, P), f32(Q, Q, Q), f32(0.9, 0.75, 0.25))
    assert_equal((list(path), token), expected, "path and token")


@requirement("SD-28")
@given(seed=SEEDS, parents=st.sampled_from(SHAPES), replacement=st.booleans())
@example(seed=1, parents=SHAPES[4], replacement=False)
@example(seed=2, parents=SHAPES[0], replacement=True)
@example(seed=2, parents=SHAPES[1], replacement=False)
def test_without_chance_a_rejected_sibling_is_taken_out(impl, seed, parents, replacement):
    tree, *rest = case(seed, parents, False, False)
    check(impl, (TokenTree(tree.tokens, tree.parents, replacement), *rest))


@requirement("SD-28")
@pytest.mark.parametrize(
    ("u", "expected"), [((0.4, 0.1, 0.1), [0]), ((0.7, 0.5, 0.1), [1]), ((0.7, 0.7, 0.9), [])]
)
def test_certain_siblings_of_the_example(impl, u, expected):
    path, token = impl.verify_tree(TokenTree([0, 1], [-1, -1]), f32(P, P, P), None, f32(*u))
    assert_equal((list(path), token), (expected, 0 if expected else 2), "path and token")


@requirement("SD-28")
@pytest.mark.parametrize("u", [0.0, 0.5, BELOW_1])
@pytest.mark.parametrize("edge", EDGES)
def test_the_edges_of_a_tree(impl, u, edge):
    p, q, accepted = EDGES[edge]
    path, token = impl.verify_tree(TokenTree([0], [-1], True), f32(p, ALMOST), f32(q, q), f32(u, u))
    assert_equal((list(path), token), ([0][:accepted], 1), "path and token")


@requirement("SD-28")
def test_where_nothing_is_left_of_p_it_stays(impl):
    """p is 1 but for rounding, and u beyond it: accepted or rejected, the next token is 1."""
    tree = TokenTree([1], [-1])
    _, token = impl.verify_tree(tree, f32(ALMOST, ALMOST), None, f32(BELOW_1, 0.5))
    assert_equal(token, 1, "token")


@requirement("SD-29")
def test_where_nothing_is_left_of_q_the_target_decides(impl):
    """q is 1 at the first sibling. Without it q is 0 everywhere, and what the target can say is accepted."""
    rows, laws = f32((0.75, 0.25, 0), P, P), f32((0, 0, 1), Q, Q)
    path, token = impl.verify_tree(TokenTree([2, 1], [-1, -1]), rows, laws, f32(0.5, 0.9, 0.6))
    assert_equal((list(path), token), ([1], 1), "path and token")


@requirement("SD-30")
@pytest.mark.parametrize("replacement", [True, False])
def test_two_siblings_have_exactly_the_law_of_the_target(impl, replacement):
    grid, law = cells((4, 2, 4)), np.zeros(3)
    rows, laws = np.stack([TREE_P] * 3), np.stack([TREE_Q] * 3)
    for a, b in itertools.product(range(3), repeat=2):
        left = 1 if replacement else 1 - TREE_Q[a]
        chance = TREE_Q[a] * TREE_Q[b] / left if replacement or a != b else 0
        if chance:
            tree = TokenTree([a, b], [-1, -1], replacement)
            for u in grid:
                path, token = impl.verify_tree(tree, rows, laws, u)
                law[[a, b][path[0]] if path else token] += chance / len(grid)
    assert_law(law, TREE_P.astype(np.float64))


@requirement("SD-30")
def test_certain_siblings_and_their_children_have_exactly_the_law_of_the_target(impl):
    rows = f32([1, 2, 1], [1, 1, 2], [2, 1, 1], [1, 2, 1]) / 4
    tree, grid, law = TokenTree([0, 2, 2], [-1, -1, 0]), cells((4, 3, 4, 4)), np.zeros((3, 3))
    for u in grid:
        path, token = impl.verify_tree(tree, rows, None, u)
        tokens = [*(tree.tokens[i] for i in path), token]
        if len(tokens) == 1:  # the target goes on
            law[tokens[0]] += rows[0].astype(np.float64) / len(grid)
        else:
            law[tokens[0], tokens[1]] += 1 / len(grid)
    after = {0: rows[1], 1: rows[0], 2: rows[2]}
    assert_law(law, np.array([rows[0, x] * after[x].astype(np.float64) for x in range(3)]))


@requirement("SD-54")
def test_bad_trees_are_refused(impl):
    rows, laws = f32(P, P, P), f32(Q, Q, Q)
    valid = {
        "tree": TokenTree([0, 1], [-1, -1]),
        "target_probs": rows,
        "draft_probs": laws,
        "uniforms": f32(0.9, 0.9, 0),
    }
    path, token = impl.verify_tree(**valid)
    assert_equal((list(path), token), ([0], 0), "path and token")
    either = "tree/tokens/parents/target_probs/draft_probs/uniforms"

    def tree(tokens, parents):
        return {"tree": TokenTree(tokens, parents)}

    check_refusals(
        impl.verify_tree,
        valid,
        [
            (either, tree([0, 1], [-1])),
            ("parents/tree", tree([0, 1], [-1, 1])),
            ("parents/tree", tree([0, 1], [0, -1])),
            ("parents/tree", tree([0, 1], [-1, -2])),
            ("tokens/tree", tree([0, 3], [-1, -1])),
            ("tokens/tree", tree([-1, 1], [-1, -1])),
            (either, {"target_probs": rows[:2]}),
            (either, {"target_probs": rows[None]}),
            (either, {"target_probs": rows[:2], "draft_probs": None}),
            (either, {"target_probs": rows[None], "draft_probs": None}),
            (either, {"draft_probs": laws[:2]}),
            (either, {"draft_probs": laws[:, :2]}),
            (either, {"uniforms": f32(0.9, 0.9)}),
            ("uniforms", {"uniforms": f32(0.9, 1.0, 0)}),
            ("uniforms", {"uniforms": f32(-0.5, 0.9, 0)}),
        ],
    )
