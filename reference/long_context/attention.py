"""Attention in one piece, with its log-sum-exp."""

from math import sqrt

import numpy as np

from spec.long_context import AttentionState

from .basics import WORK, expect


def dense_attention(q, k, v, visible, scale=None, softcap=None, bias=None):
    """visible: (queries, keys) bool; bias: (heads, queries, keys), or None."""
    batch, heads, queries, width = q.shape
    scale = 1 / sqrt(width) if scale is None else scale
    state = nothing_seen(batch, heads, queries, width)
    anyone_sees = visible.any(axis=0)[:, None]
    for b in range(batch):
        for h in range(heads):
            kv_head = h // (heads // k.shape[1])
            scores = q[b, h].astype(WORK) @ k[b, kv_head].astype(WORK).T * WORK(scale)  # (queries, keys)
            if softcap is not None:
                scores = WORK(softcap) * np.tanh(scores / WORK(softcap))
            if bias is not None:
                scores = scores + bias[h]
            scores = np.where(visible, scores, -np.inf)
            values = np.where(anyone_sees, v[b, kv_head].astype(WORK), 0)  # 0 · NaN would be NaN
            top = scores.max(axis=1, initial=-np.inf, keepdims=True)
            weights = np.exp(scores - np.where(np.isneginf(top), 0, top))
            total = weights.sum(axis=1, keepdims=True)
            seen = total[:, 0] > 0
            state.out[b, h, seen] = weights[seen] @ values / total[seen]
            state.lse[b, h, seen] = (top + np.log(total, where=total > 0, out=np.zeros_like(total)))[seen, 0]
    return state


def nothing_seen(batch, heads, queries, width):
    return AttentionState(
        np.zeros((batch, heads, queries, width), WORK), np.full((batch, heads, queries), -np.inf, WORK)
    )


def check_attention(q, k, v):
    expect(q.ndim == 4, "q", "4 axes", q.shape)
    batch, heads, _, width = q.shape
    fits = k.ndim == 4 and k.shape[0] == batch and k.shape[3] == width
    expect(fits, "k", f"shape ({batch}, kv_heads, keys, {width})", k.shape)
    expect(k.shape[1] >= 1 and heads % k.shape[1] == 0, "k", f"kv_heads that divide {heads}", k.shape)
    expect(v.shape == k.shape, "v", f"shape {k.shape}", v.shape)
    expect(q.dtype == k.dtype == v.dtype, "k, v", f"dtype {q.dtype}", (k.dtype, v.dtype))


def check_per_head(values, argument, heads):
    expect(values is None or values.shape == (heads,), argument, f"shape ({heads},)", values)
