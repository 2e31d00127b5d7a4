"""Attention over the shards of several ranks."""

import numpy as np

from .attention import check_attention, dense_attention, nothing_seen
from .basics import expect
from .masks import attention_mask
from .merging import merge_two


def ring_attention(q, k, v, positions, *, collective, causal=True, scale=None):
    check_attention(q, k, v)
    (batch, heads, queries, width), kv_heads, keys = q.shape, k.shape[1], k.shape[2]
    expect(keys == queries, "k", f"{queries} tokens", keys)
    expect(positions.shape == (queries,), "positions", f"shape ({queries},)", positions.shape)
    positions = positions.astype(np.int32)
    here, ranks = collective.rank, collective.size
    lengths = collective.all_gather(np.array([queries], np.int32))[:, 0]

    after, before = (here + 1) % ranks, (here - 1) % ranks
    state = nothing_seen(batch, heads, queries, width)
    shard = k, v, positions
    for hop in range(ranks):
        keys, values, kv_positions = shard  # of rank here − hop
        visible = attention_mask(positions, kv_positions, causal=causal)
        state = merge_two(state, dense_attention(q, keys, values, visible, scale))
        if hop < ranks - 1:
            count = int(lengths[(here - hop - 1) % ranks])
            shapes = (batch, kv_heads, count, width), (batch, kv_heads, count, width), (count,)
            shard = tuple(
                passed_on(array, shape, collective, after, before)
                for array, shape in zip(shard, shapes, strict=True)
            )
    return state.out.astype(q.dtype)


def passed_on(array, shape, collective, after, before):
    """Gives the array to the next rank and takes the previous one's; what is empty is not sent."""
    if array.size:
        collective.send(array, after)
    if 0 in shape:
        return np.zeros(shape, array.dtype)
    return collective.recv(shape, array.dtype.name, before)


def whole_attention(q, k, v, positions, causal=True, scale=None):
    """What all ranks together compute."""
    visible = attention_mask(positions, positions, causal=causal)
    return dense_attention(q, k, v, visible, scale).out.astype(q.dtype)
