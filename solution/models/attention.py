"""Causal attention of the newest tokens of one context over keys that lie one after the other."""

from math import e

import mlx.core as mx
import numpy as np

from solution.long_context import blockwise_attention

from .trees import Tree

MANY = 32  # queries from which on they are taken block by block
BLOCK = 256
LONG = 2048  # scores up to which `mx.softmax`, one operation, is the faster


def attend(
    q: mx.array, keys: mx.array, values: mx.array, *, window: int | None = None, tree: Tree | None = None
) -> mx.array:
    """(m, heads, head_dim), of the last m tokens; queries are scaled already.

    q: (m, heads, head_dim); keys, values: (kv_heads, n, head_dim), of which a query sees those up to its own,
    at most `window`, or in a tree its ancestors and itself of the last m.
    """
    count, length = q.shape[0], keys.shape[1]
    if window is not None and length - count >= window:
        behind = length - count - window + 1  # the oldest key that the first query sees
        keys, values, length = keys[:, behind:], values[:, behind:], length - behind
    if count > MANY and tree is None:
        dense = q.swapaxes(0, 1)[None], keys[None], values[None]
        state = blockwise_attention(*dense, block=BLOCK, scale=1.0, window=window)
        return state.out[0].swapaxes(0, 1).astype(q.dtype)
    if count == 1 and window is None:
        return _mixed(q.reshape(keys.shape[0], -1, q.shape[2]), keys, values, None).reshape(q.shape)
    group = q.shape[1] // keys.shape[0]
    rows = mx.unflatten(q, 1, (keys.shape[0], group)).transpose(1, 2, 0, 3).flatten(1, 2)
    seen = mx.array(np.tile(_seen(count, length, window, tree), (group, 1)))
    mixed = mx.unflatten(_mixed(rows, keys, values, seen), 1, (group, count))
    return mixed.transpose(2, 0, 1, 3).flatten(1, 2)


def _mixed(rows: mx.array, keys: mx.array, values: mx.array, seen: mx.array | None) -> mx.array:
    """rows: (kv_heads, rows, head_dim); seen: (rows, keys) bool, None for all."""
    scores = rows @ keys.swapaxes(1, 2)
    if seen is not None:
        scores = mx.where(seen, scores, -mx.inf)
    if scores.size <= LONG:
        return mx.softmax(scores, axis=-1, precise=True) @ values
    # On MLX's CPU back end a power takes a third of the time of an exponential.
    scores = scores.astype(mx.float32)
    weights = mx.power(e, scores - scores.max(axis=-1, keepdims=True))
    mixed = weights.astype(values.dtype) @ values
    return mixed / weights.sum(axis=-1, keepdims=True).astype(values.dtype)


def _seen(count: int, length: int, window: int | None, tree: Tree | None) -> np.ndarray:
    """(count, length) bool"""
    seen = np.tri(count, length, length - count, dtype=bool)
    if tree is not None:
        seen[:, length - count :] = tree.sees
    if window is not None:
        places = np.arange(length - count, length) if tree is None else length - count + np.array(tree.depths)
        key_places = np.concatenate([np.arange(length - count), places])
        seen &= key_places > places[:, None] - window
    return seen
