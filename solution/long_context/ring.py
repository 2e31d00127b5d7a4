"""Attention over keys that are spread over the ranks of a ring."""

import mlx.core as mx
import numpy as np

from spec.collective import Collective

from .blockwise import merge_states
from .checks import check_attention, check_positions, expect
from .kernels import Scoring, attend
from .masks import Rule, places

BLOCK = 256  # keys taken at once


def ring_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    positions: mx.array,
    *,
    collective: Collective,
    causal: bool = True,
    scale: float | None = None,
) -> mx.array:
    """Attention of this rank's queries over the keys of all ranks, in the dtype of q.

    q: (batch, heads, tokens of this rank, head_dim); k, v: (batch, kv_heads, tokens of this rank, head_dim).
    """
    check_attention(q, k, v)
    tokens = q.shape[2]
    expect(k.shape[2] == tokens, "k", f"{tokens} tokens", k.shape[2])
    check_positions(positions, "positions", tokens)
    here, ranks = collective.rank, collective.size
    lengths = np.asarray(collective.all_gather(mx.array([tokens], mx.int32)))[:, 0].tolist()

    positions = positions.astype(mx.int32)
    shard = [k, v, positions]
    mx.eval(shard)
    state = None
    for hop in range(ranks):  # the shard is that of rank here − hop
        last = hop == ranks - 1
        if not last:
            _send(shard, collective)  # on its way while this rank computes
        keys, values, kv_positions = shard
        where = places(positions, kv_positions, None)
        seen = attend(q, keys, values, *where, Rule(causal), Scoring(scale), BLOCK)
        state = seen if state is None else merge_states([state, seen])
        if not last:
            shard = _receive(shard, lengths[(here - hop - 1) % ranks], collective)
    result = state.out.astype(q.dtype)
    mx.eval(result)
    return result


def _send(shard: list[mx.array], collective: Collective) -> None:
    """To the next rank; what is empty is not sent."""
    for array in shard:
        if array.size:
            collective.send(array, (collective.rank + 1) % collective.size)


def _receive(like: list[mx.array], tokens: int, collective: Collective) -> list[mx.array]:
    """The previous rank's shard, of so many tokens."""
    batch, kv_heads, _, width = like[0].shape
    shape = (batch, kv_heads, tokens, width)
    received = []
    for array, expected in zip(like, (shape, shape, (tokens,)), strict=True):
        if 0 in expected:
            received.append(mx.zeros(expected, array.dtype))
        else:
            dtype = str(array.dtype).rsplit(".", 1)[-1]
            received.append(collective.recv(expected, dtype, (collective.rank - 1) % collective.size))
    return received
