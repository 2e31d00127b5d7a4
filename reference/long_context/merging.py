"""Joins what parts of the keys gave."""

import numpy as np

from spec.long_context import AttentionState

from .attention import check_per_head, nothing_seen
from .basics import WORK, expect, in_float32


def merge_states(states, *, sink_logits=None):
    expect(len(states) > 0, "states", "at least 1", 0)
    first = states[0]
    expect(first.out.ndim == 4, "states", "out with 4 axes", first.out.shape)
    for state in states:
        shapes = state.out.shape, state.lse.shape
        expected = first.out.shape, first.out.shape[:3]
        expect(shapes == expected, "states", f"shapes {expected}", shapes)
    check_per_head(sink_logits, "sink_logits", first.out.shape[1])
    merged = nothing_seen(*first.out.shape)
    for state in states:
        merged = merge_two(merged, state)
    if sink_logits is not None:
        merged = merge_two(merged, only_sinks(merged, sink_logits))
    return AttentionState(in_float32(merged.out, first.out), in_float32(merged.lse, first.lse))


def merge_two(a, b):
    lse_a, lse_b = a.lse.astype(WORK), b.lse.astype(WORK)
    top = np.maximum(lse_a, lse_b)
    top = np.where(np.isneginf(top), 0, top)
    weight_a, weight_b = np.exp(lse_a - top), np.exp(lse_b - top)
    total = weight_a + weight_b
    divisor = np.where(total > 0, total, 1)[..., None]
    parts = [
        np.where(np.isneginf(lse)[..., None], 0, out.astype(WORK)) * weight[..., None] / divisor
        for out, lse, weight in ((a.out, lse_a, weight_a), (b.out, lse_b, weight_b))
    ]
    lse = np.where(total > 0, top + np.log(np.where(total > 0, total, 1)), -np.inf)
    return AttentionState(parts[0] + parts[1], lse)


def only_sinks(state, sink_logits):
    """As if each query had seen nothing but the sink, whose value is 0."""
    lse = np.broadcast_to(sink_logits.astype(WORK)[:, None], state.lse.shape)
    return AttentionState(np.zeros_like(state.out), lse)
