"""Which drafted tokens of a chain stay, and what comes after them. All rows of a batch at once."""

import mlx.core as mx
import numpy as np

from spec.speculative_decoding import Verdict

from .checks import check_ids, check_uniforms, expect, on_host


def acceptance_probability(p: mx.array, q: mx.array, tokens: mx.array) -> mx.array:
    """min(1, p / q) at each row's token, (n,) float32."""
    _check_pair(p, q)
    rows, vocab_size = p.shape
    expect(tokens.shape == (rows,), "tokens", f"shape ({rows},)", tokens.shape)
    ids = np.asarray(tokens)
    check_ids(ids.tolist(), vocab_size, "tokens")
    at_p, at_q = (on_host(each)[np.arange(rows), ids] for each in (p, q))
    return mx.array(np.divide(at_p, at_q, out=(at_p > 0).astype(np.float32), where=at_q > at_p))


def residual(p: mx.array, q: mx.array) -> mx.array:
    """max(p − q, 0), (n, V) float32, each row divided by its sum; p where that is 0."""
    _check_pair(p, q)
    host_p = on_host(p)
    rest = np.maximum(host_p - on_host(q), 0)
    total = rest.sum(axis=1, keepdims=True)
    return mx.array(np.divide(rest, total, out=host_p.copy(), where=total > 0))


def verify(
    target_probs: mx.array, draft_probs: mx.array | None, draft_tokens: mx.array, uniforms: mx.array
) -> Verdict:
    """Of one chain. target_probs: (γ + 1, V); draft_probs: (γ, V) or None; uniforms: (γ + 1,)."""
    return verdict(*checked_chain(target_probs, draft_probs, draft_tokens, uniforms))


def verify_batch(
    target_probs: mx.array,
    draft_probs: mx.array | None,
    draft_tokens: mx.array,
    draft_lens: mx.array,
    uniforms: mx.array,
) -> mx.array:
    """Of R chains, padded: (R, γ + 1) int32, the tokens of each from the left, then −1.

    target_probs: (R, γ + 1, V); draft_probs: (R, γ, V) or None; draft_lens: (R,); uniforms: (R, γ + 1).
    """
    _check_batch(target_probs, draft_probs, draft_tokens, draft_lens, uniforms)
    tokens, lens, u = np.asarray(draft_tokens), np.asarray(draft_lens), on_host(uniforms)
    q = None if draft_probs is None else on_host(draft_probs)
    accepted, final = verdicts(on_host(target_probs), q, tokens, lens, u)
    places = np.arange(u.shape[1])
    packed = np.full(u.shape, -1, np.int32)
    packed[:, :-1] = np.where(places[:-1] < accepted[:, None], tokens, -1)
    packed[np.arange(len(u)), accepted] = final
    return mx.array(packed)


# The rule, on the host ------------------------------------------------------------------------------------


def verdict(p: np.ndarray, q: np.ndarray | None, tokens: np.ndarray, uniforms: np.ndarray) -> Verdict:
    """Of one chain of arguments that were checked."""
    lens = np.array([len(tokens)])
    batch = p[None], None if q is None else q[None], tokens[None], lens, uniforms[None]
    (accepted,), (token,) = verdicts(*batch)
    return Verdict(int(accepted), int(token))


def verdicts(
    p: np.ndarray, q: np.ndarray | None, tokens: np.ndarray, lens: np.ndarray, uniforms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of each chain stay, (R,), and the token after them, (R,)."""
    rows, gamma = tokens.shape
    every, places = np.arange(rows), np.arange(gamma)
    inside = places < lens[:, None]
    ids = np.where(inside, tokens, 0)  # (R, γ)
    at_p = p[every[:, None], places, ids]
    at_q = 1.0 if q is None else q[every[:, None], places, ids]
    accepts = inside & (uniforms[:, :gamma].astype(np.float64) * at_q < at_p)
    accepted = np.minimum.accumulate(accepts, axis=1).sum(axis=1)

    weights = p[every, accepted]  # (R, V), a copy
    rejected = np.flatnonzero(accepted < lens)
    first = accepted[rejected]
    rest = weights[rejected]
    if q is None:  # the certain token is taken out
        rest[np.arange(len(rest)), ids[rejected, first]] = 0
    else:
        rest = np.maximum(rest - q[rejected, first], 0)
    is_left = rest.any(axis=1)  # by rounding, nothing may be
    weights[rejected[is_left]] = rest[is_left]
    return accepted, draw(weights, uniforms[every, lens])


def draw(weights: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """In each row the first id whose cumulative weight exceeds u · (their sum). (R, V), (R,) -> (R,)"""
    sums = np.cumsum(weights, axis=1, dtype=np.float64)
    bounds = uniforms.astype(np.float64) * sums[:, -1]
    if len(sums) == 1:
        return np.searchsorted(sums[0], bounds, side="right")
    return (sums > bounds[:, None]).argmax(axis=1)


# Checks ---------------------------------------------------------------------------------------------------


def checked_chain(
    target_probs: mx.array, draft_probs: mx.array | None, draft_tokens: mx.array, uniforms: mx.array
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
    """The arguments of `verify` on the host."""
    expect(draft_tokens.ndim == 1, "draft_tokens", "1 axis", draft_tokens.shape)
    gamma = draft_tokens.shape[0]
    fits = target_probs.ndim == 2 and target_probs.shape[0] == gamma + 1
    expect(fits, "target_probs", f"shape ({gamma + 1}, V)", target_probs.shape)
    vocab_size = target_probs.shape[1]
    if draft_probs is not None:
        shape = gamma, vocab_size
        expect(draft_probs.shape == shape, "draft_probs", f"shape {shape}", draft_probs.shape)
    tokens, u = np.asarray(draft_tokens), on_host(uniforms)
    check_ids(tokens.tolist(), vocab_size, "draft_tokens")
    check_uniforms(u, gamma + 1)
    return on_host(target_probs), None if draft_probs is None else on_host(draft_probs), tokens, u


def _check_pair(p: mx.array, q: mx.array) -> None:
    expect(p.ndim == 2, "p", "2 axes", p.shape)
    expect(q.shape == p.shape, "q", f"shape {p.shape}", q.shape)


def _check_batch(
    target_probs: mx.array,
    draft_probs: mx.array | None,
    draft_tokens: mx.array,
    draft_lens: mx.array,
    uniforms: mx.array,
) -> None:
    expect(draft_tokens.ndim == 2, "draft_tokens", "2 axes", draft_tokens.shape)
    rows, gamma = draft_tokens.shape
    fits = target_probs.ndim == 3 and target_probs.shape[:2] == (rows, gamma + 1)
    expect(fits, "target_probs", f"shape ({rows}, {gamma + 1}, V)", target_probs.shape)
    vocab_size = target_probs.shape[2]
    if draft_probs is not None:
        shape = rows, gamma, vocab_size
        expect(draft_probs.shape == shape, "draft_probs", f"shape {shape}", draft_probs.shape)
    shape = rows, gamma + 1
    expect(uniforms.shape == shape, "uniforms", f"shape {shape}", uniforms.shape)
    expect(draft_lens.shape == (rows,), "draft_lens", f"shape ({rows},)", draft_lens.shape)
    lens = np.asarray(draft_lens)[:, None]
    expect(bool(((lens >= 0) & (lens <= gamma)).all()), "draft_lens", f"0 to {gamma}", draft_lens)
    drafted, u = np.asarray(draft_tokens)[np.arange(gamma) < lens], on_host(uniforms)
    check_ids(drafted.tolist(), vocab_size, "draft_tokens")
    used = u[np.arange(gamma + 1) <= lens]
    check_uniforms(used, used.size)
