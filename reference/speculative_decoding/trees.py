"""Several tokens after the same one: siblings are tried one after another."""

from .basics import WORK, check_ids, check_uniforms, draw, expect
from .verdicts import accepts, certain, left_over


def verify_tree(tree, target_probs, draft_probs, uniforms):
    check_tree(tree, target_probs, draft_probs, uniforms)
    path, node = [], -1
    while True:
        p = target_probs[node + 1].astype(WORK)
        q = None if draft_probs is None else draft_probs[node + 1].astype(WORK)
        for child in children(tree, node):
            x = tree.tokens[child]
            law = certain(x, len(p)) if q is None else q
            if accepts(uniforms[child], p, law, x):
                path.append(child)
                node = child
                break
            p = left_over(p, law)
            if q is not None and not tree.replacement:
                q = without(q, x)
        else:
            return path, draw(p, uniforms[-1])


def children(tree, node):
    return [i for i, parent in enumerate(tree.parents) if parent == node]


def without(q, x):
    rest = q.copy()
    rest[x] = 0
    total = rest.sum()
    return rest / total if total > 0 else rest


def check_tree(tree, target_probs, draft_probs, uniforms):
    n = len(tree.tokens)
    expect(len(tree.parents) == n, "parents", f"{n} of them, one a token", len(tree.parents))
    before = all(-1 <= parent < i for i, parent in enumerate(tree.parents))
    expect(before, "parents", "of node i one of -1 to i - 1", list(tree.parents))
    fits = target_probs.ndim == 2 and len(target_probs) == n + 1
    expect(fits, "target_probs", f"shape ({n + 1}, V)", target_probs.shape)
    if draft_probs is not None:
        shape = target_probs.shape
        expect(draft_probs.shape == shape, "draft_probs", f"shape {shape}", draft_probs.shape)
    check_ids(tree.tokens, target_probs.shape[1], "tokens")
    check_uniforms(uniforms, n + 1)
