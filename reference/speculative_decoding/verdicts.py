"""Which drafted tokens stay, and what comes after them."""

import numpy as np

from spec.speculative_decoding import Verdict

from .basics import WORK, check_ids, check_uniforms, draw, expect, in_float32


def acceptance_probability(p, q, tokens):
    check_pair(p, q)
    expect(tokens.shape == (len(p),), "tokens", f"shape ({len(p)},)", tokens.shape)
    check_ids(tokens, p.shape[1], "tokens")
    result = [ratio(p[i, x].astype(WORK), q[i, x].astype(WORK)) for i, x in enumerate(tokens)]
    return in_float32(np.array(result, WORK), p)


def residual(p, q):
    check_pair(p, q)
    rows = [left_over(p[i].astype(WORK), q[i].astype(WORK)) for i in range(len(p))]
    return in_float32(np.array(rows, WORK).reshape(p.shape), p)


def verify(target_probs, draft_probs, draft_tokens, uniforms):
    check_verdict(target_probs, draft_probs, draft_tokens, uniforms)
    p, q = target_probs.astype(WORK), drawn_from(draft_probs, draft_tokens, target_probs.shape[1])
    for i, x in enumerate(draft_tokens):
        if not accepts(uniforms[i], p[i], q[i], x):
            return Verdict(i, draw(left_over(p[i], q[i]), uniforms[-1]))
    return Verdict(len(draft_tokens), draw(p[-1], uniforms[-1]))


def verify_batch(target_probs, draft_probs, draft_tokens, draft_lens, uniforms):
    check_batch(target_probs, draft_probs, draft_tokens, draft_lens, uniforms)
    result = np.full(uniforms.shape, -1, np.int32)
    for r, n in enumerate(draft_lens):
        tokens = draft_tokens[r, :n]
        q = None if draft_probs is None else draft_probs[r, :n]
        verdict = verify(target_probs[r, : n + 1], q, tokens, uniforms[r, : n + 1])
        result[r, : verdict.accepted] = tokens[: verdict.accepted]
        result[r, verdict.accepted] = verdict.token
    return result


# The rule -------------------------------------------------------------------------------------------------


def accepts(u, p, q, x):
    return WORK(u) * q[x] < p[x]


def ratio(p, q):
    """min(1, p / q) of numbers."""
    if q > p:
        return p / q
    return WORK(p > 0)


def left_over(p, q):
    """max(p − q, 0) divided by its sum; p where nothing is left. Rows of V."""
    rest = np.maximum(p - q, 0)
    total = rest.sum()
    return rest / total if total > 0 else p


def certain(x, vocabulary):
    """The distribution of a token that no chance was involved in."""
    return (np.arange(vocabulary) == x).astype(WORK)


def drawn_from(draft_probs, draft_tokens, vocabulary):
    if draft_probs is not None:
        return draft_probs.astype(WORK)
    return [certain(x, vocabulary) for x in draft_tokens]


# Checks ---------------------------------------------------------------------------------------------------


def check_pair(p, q):
    expect(p.ndim == 2, "p", "2 axes", p.shape)
    expect(q.shape == p.shape, "q", f"shape {p.shape}", q.shape)


def check_verdict(target_probs, draft_probs, draft_tokens, uniforms):
    expect(draft_tokens.ndim == 1, "draft_tokens", "1 axis", draft_tokens.shape)
    n = len(draft_tokens)
    fits = target_probs.ndim == 2 and len(target_probs) == n + 1
    expect(fits, "target_probs", f"shape ({n + 1}, V)", target_probs.shape)
    vocabulary = target_probs.shape[1]
    if draft_probs is not None:
        shape = (n, vocabulary)
        expect(draft_probs.shape == shape, "draft_probs", f"shape {shape}", draft_probs.shape)
    check_ids(draft_tokens, vocabulary, "draft_tokens")
    check_uniforms(uniforms, n + 1)


def check_batch(target_probs, draft_probs, draft_tokens, draft_lens, uniforms):
    expect(draft_tokens.ndim == 2, "draft_tokens", "2 axes", draft_tokens.shape)
    rows, n = draft_tokens.shape
    fits = target_probs.ndim == 3 and target_probs.shape[:2] == (rows, n + 1)
    expect(fits, "target_probs", f"shape ({rows}, {n + 1}, V)", target_probs.shape)
    if draft_probs is not None:
        shape = (rows, n, target_probs.shape[2])
        expect(draft_probs.shape == shape, "draft_probs", f"shape {shape}", draft_probs.shape)
    expect(uniforms.shape == (rows, n + 1), "uniforms", f"shape ({rows}, {n + 1})", uniforms.shape)
    expect(draft_lens.shape == (rows,), "draft_lens", f"shape ({rows},)", draft_lens.shape)
    inside = ((draft_lens >= 0) & (draft_lens <= n)).all()
    expect(inside, "draft_lens", f"0 to {n}", draft_lens)
