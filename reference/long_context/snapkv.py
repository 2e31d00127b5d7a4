"""Chooses the tokens of a prompt that its last queries look at."""

from math import sqrt

import numpy as np

from .basics import WORK, best, expect


def select_snapkv(queries, keys, budget, *, window, kernel=5, pooling="avg"):
    expect(keys.ndim == 3, "keys", "3 axes", keys.shape)
    n, kv_heads, width = keys.shape
    fits = queries.ndim == 3 and queries.shape[2] == width and queries.shape[1] % max(1, kv_heads) == 0
    expect(fits, "queries", f"shape (m, heads, {width}), a multiple of {kv_heads} heads", queries.shape)
    expect(len(queries) <= n, "queries", f"at most {n} tokens", len(queries))
    expect(1 <= window <= len(queries), "window", f"1 to {len(queries)}", window)
    expect(window < budget, "budget", f"above {window}", budget)
    expect(kernel >= 1 and kernel % 2 == 1, "kernel", "an odd number", kernel)
    expect(pooling in ("avg", "max"), "pooling", "avg or max", pooling)
    if n <= budget:
        return np.tile(np.arange(n, dtype=np.int32), (kv_heads, 1))
    votes = snapkv_votes(queries, keys, window, kernel, pooling)
    newest = np.arange(n - window, n)
    chosen = [np.concatenate([best(row, budget - window), newest]) for row in votes]
    return np.array(chosen, np.int32)


def snapkv_votes(queries, keys, window, kernel, pooling):
    """(kv_heads, n − window): how much the last queries looked at each earlier token, pooled."""
    (n, kv_heads, width), heads = keys.shape, queries.shape[1]
    votes = np.zeros((kv_heads, n - window), WORK)
    for h in range(heads):
        kv_head = h // (heads // kv_heads)
        for row in range(-window, 0):
            end = n + row + 1
            products = keys[:end, kv_head].astype(WORK) @ queries[row, h].astype(WORK) / WORK(sqrt(width))
            weights = np.exp(products - products.max())
            votes[kv_head] += (weights / weights.sum())[: n - window]
    return np.array([pooled(row, kernel, pooling) for row in votes], WORK)


def pooled(votes, kernel, pooling):
    """Each with its kernel // 2 neighbours on both sides; beyond the ends there is 0."""
    around = np.pad(votes, kernel // 2)
    windows = [around[i : i + kernel] for i in range(len(votes))]
    return np.array([w.sum() / kernel if pooling == "avg" else w.max() for w in windows], WORK)
