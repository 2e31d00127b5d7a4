"""Attention over a part of the keys at a time, and the merging of such parts."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from spec.long_context import AttentionState

from .attention import exp
from .checks import check_attention, check_per_head, check_positions, expect
from .kernels import Scoring, attend
from .masks import Rule, places


def blockwise_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    block: int,
    scale: float | None = None,
    q_positions: mx.array | None = None,
    kv_positions: mx.array | None = None,
    causal: bool = True,
    window: int | None = None,
    sink_tokens: int = 0,
    sink_logits: mx.array | None = None,
    chunk: int | None = None,
    prefix: int = 0,
    segments: tuple[mx.array, mx.array] | None = None,
    alibi_slopes: mx.array | None = None,
    softcap: float | None = None,
) -> AttentionState:
    """Attention over `block` keys at a time; never the whole matrix of scores.

    q: (batch, heads, queries, head_dim); k, v: (batch, kv_heads, keys, head_dim).
    """
    check_attention(q, k, v)
    heads, queries, keys = q.shape[1], q.shape[2], k.shape[2]
    expect(block >= 1, "block", "at least 1", block)
    expect(softcap is None or softcap > 0, "softcap", "above 0", softcap)
    check_per_head(sink_logits, "sink_logits", heads)
    check_per_head(alibi_slopes, "alibi_slopes", heads)
    q_positions = np.arange(keys - queries, keys) if q_positions is None else q_positions
    kv_positions = np.arange(keys) if kv_positions is None else kv_positions
    check_positions(q_positions, "q_positions", queries)
    check_positions(kv_positions, "kv_positions", keys)
    rule = Rule(causal, window, sink_tokens, chunk, prefix)
    rule.check()
    where = places(q_positions, kv_positions, segments)
    return attend(q, k, v, *where, rule, Scoring(scale, softcap, alibi_slopes, sink_logits), block)


# Merging --------------------------------------------------------------------------------------------------


def merge_states(states: Sequence[AttentionState], *, sink_logits: mx.array | None = None) -> AttentionState:
    """Attention over all keys, from attention over parts of them."""
    expect(len(states) > 0, "states", "at least 1", 0)
    shape = states[0].out.shape
    expect(len(shape) == 4, "states", "out with 4 axes", shape)
    for state in states:
        shapes = state.out.shape, state.lse.shape
        expect(shapes == (shape, shape[:3]), "states", f"shapes {(shape, shape[:3])}", shapes)
    check_per_head(sink_logits, "sink_logits", shape[1])
    lse = mx.stack([state.lse.astype(mx.float32) for state in states])  # (states, batch, heads, queries)
    top = lse.max(axis=0)
    if sink_logits is not None:
        sinks = sink_logits.astype(mx.float32)[:, None]
        top = mx.maximum(top, sinks)
    top = mx.where(top == -mx.inf, 0, top)
    weights = exp(lse - top)
    total = weights.sum(axis=0)
    if sink_logits is not None:
        total = total + exp(sinks - top)
    weights = weights / mx.where(total == 0, 1, total)
    out = mx.zeros(shape)
    for state, weight, each in zip(states, weights, lse, strict=True):
        unseen = (each == -mx.inf)[..., None]
        out = out + mx.where(unseen, 0, state.out.astype(mx.float32)) * weight[..., None]
    merged = AttentionState(out, top + mx.log(total))
    mx.eval(merged.out, merged.lse)
    return merged
