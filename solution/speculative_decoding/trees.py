"""Several tokens after the same one: siblings are tried one after another."""

from collections import defaultdict

import mlx.core as mx
import numpy as np

from spec.speculative_decoding import TokenTree

from .checks import check_ids, check_uniforms, expect, on_host
from .verdicts import draw


def verify_tree(
    tree: TokenTree, target_probs: mx.array, draft_probs: mx.array | None, uniforms: mx.array
) -> tuple[list[int], int]:
    """The nodes that stay, from the root on, and the token after them.

    target_probs: (n + 1, V), of the context and then of each node; draft_probs: as large, or None.
    """
    u = on_host(uniforms)
    _check(tree, target_probs, draft_probs, u)
    q = None if draft_probs is None else on_host(draft_probs)
    return path_and_token(tree, on_host(target_probs), q, u)


def path_and_token(
    tree: TokenTree, p: np.ndarray, q: np.ndarray | None, uniforms: np.ndarray
) -> tuple[list[int], int]:
    """What `verify_tree` gives, on the host, of arguments that were checked."""
    children = defaultdict(list)
    for node, parent in enumerate(tree.parents):
        children[parent].append(node)
    path: list[int] = []
    while True:
        node = path[-1] if path else -1
        law = None if q is None else q[node + 1]
        chosen, rest = _among(tree, children[node], p[node + 1], law, uniforms)
        if chosen is None:
            return path, int(draw(rest[None], uniforms[-1:])[0])
        path.append(chosen)


def _among(
    tree: TokenTree, siblings: list[int], p: np.ndarray, q: np.ndarray | None, uniforms: np.ndarray
) -> tuple[int | None, np.ndarray]:
    """The sibling that is accepted, or None; and what is left of p, (V,) float64."""
    p, q = p.astype(np.float64), None if q is None else q.astype(np.float64)
    for node in siblings:
        x = tree.tokens[node]
        if float(uniforms[node]) * (1.0 if q is None else q[x]) < p[x]:
            return node, p
        p = _divided(_without(p, x) if q is None else np.maximum(p - q, 0), p)
        if q is not None and not tree.replacement:
            q = _divided(_without(q, x), np.zeros_like(q))
    return None, p


def _without(law: np.ndarray, x: int) -> np.ndarray:
    rest = law.copy()
    rest[x] = 0
    return rest


def _divided(rest: np.ndarray, instead: np.ndarray) -> np.ndarray:
    """By its sum; `instead` where that is 0."""
    total = rest.sum()
    return rest / total if total > 0 else instead


def check_parents(parents: list[int], count: int, argument: str) -> None:
    fits = len(parents) == count and all(-1 <= parent < node for node, parent in enumerate(parents))
    expect(fits, argument, f"{count} parents, of each node −1 or an earlier one", parents)


def _check(
    tree: TokenTree, target_probs: mx.array, draft_probs: mx.array | None, uniforms: np.ndarray
) -> None:
    count = len(tree.tokens)
    check_parents(list(tree.parents), count, "parents")
    fits = target_probs.ndim == 2 and target_probs.shape[0] == count + 1
    expect(fits, "target_probs", f"shape ({count + 1}, V)", target_probs.shape)
    if draft_probs is not None:
        shape = target_probs.shape
        expect(draft_probs.shape == shape, "draft_probs", f"shape {shape}", draft_probs.shape)
    check_ids(tree.tokens, target_probs.shape[1], "tokens")
    check_uniforms(uniforms, count + 1)
