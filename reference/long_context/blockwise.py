"""Attention over blocks of keys."""

import numpy as np

from spec.long_context import AttentionState

from .attention import check_attention, check_per_head, dense_attention, nothing_seen
from .basics import WORK, expect, in_float32
from .masks import attention_mask, check_mask_options, check_segments
from .merging import merge_two, only_sinks


def blockwise_attention(
    q,
    k,
    v,
    *,
    block,
    scale=None,
    q_positions=None,
    kv_positions=None,
    causal=True,
    window=None,
    sink_tokens=0,
    sink_logits=None,
    chunk=None,
    prefix=0,
    segments=None,
    alibi_slopes=None,
    softcap=None,
):
    check_attention(q, k, v)
    (batch, heads, queries, width), keys = q.shape, k.shape[2]
    expect(block >= 1, "block", "at least 1", block)
    expect(softcap is None or softcap > 0, "softcap", "above 0", softcap)
    check_per_head(sink_logits, "sink_logits", heads)
    check_per_head(alibi_slopes, "alibi_slopes", heads)
    q_positions = np.arange(keys - queries, keys) if q_positions is None else q_positions
    kv_positions = np.arange(keys) if kv_positions is None else kv_positions
    expect(q_positions.shape == (queries,), "q_positions", f"shape ({queries},)", q_positions.shape)
    expect(kv_positions.shape == (keys,), "kv_positions", f"shape ({keys},)", kv_positions.shape)
    q_positions, kv_positions = q_positions.astype(int), kv_positions.astype(int)
    check_mask_options(causal, window, sink_tokens, chunk, prefix)
    check_segments(segments, queries, keys)

    state = nothing_seen(batch, heads, queries, width)
    for start in range(0, keys, block):
        part = slice(start, start + block)
        visible = attention_mask(
            q_positions,
            kv_positions[part],
            causal=causal,
            window=window,
            sink_tokens=sink_tokens,
            chunk=chunk,
            prefix=prefix,
            segments=None if segments is None else (segments[0], segments[1][part]),
        )
        distance = np.abs(q_positions[:, None] - kv_positions[None, part])
        bias = None if alibi_slopes is None else -alibi_slopes.astype(WORK)[:, None, None] * distance
        seen = dense_attention(q, k[:, :, part], v[:, :, part], visible, scale, softcap, bias)
        state = merge_two(state, seen)
    if sink_logits is not None:
        state = merge_two(state, only_sinks(state, sink_logits))
    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))
