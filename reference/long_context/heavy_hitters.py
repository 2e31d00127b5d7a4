"""A cache that keeps what got most attention."""

from math import sqrt

import numpy as np

from .basics import DTYPES, WORK, best, expect
from .rows import check_cache, check_queries, check_rows


class HeavyHitterCache:
    def __init__(self, budget, recent, kv_heads, head_dim, *, dtype="float32"):
        check_cache(kv_heads, head_dim, dtype)
        expect(1 <= recent <= budget, "recent", f"1 to {budget}", recent)
        self.budget, self.recent = budget, recent
        self.kv_heads, self.head_dim, self.dtype = kv_heads, head_dim, DTYPES[dtype]
        self.heads = [nothing_kept(head_dim, self.dtype) for _ in range(kv_heads)]
        self.n = 0

    def step(self, queries, keys, values, *, scale=None):
        check_queries(queries, self.kv_heads, self.head_dim, self.dtype)
        expect(len(queries) >= 1, "queries", "at least 1 token", len(queries))
        check_rows(keys, values, self.kv_heads, self.head_dim, self.dtype)
        expect(len(keys) == len(queries), "keys", f"{len(queries)} tokens", len(keys))
        result, self.heads = heavy_hitter_step(
            self.heads, self.n, queries, keys, values, self.budget, self.recent, scale
        )
        self.n += len(keys)
        return result

    def length(self):
        return self.n

    def positions(self):
        return [list(at) for at, _, _, _ in self.heads]


def nothing_kept(head_dim, dtype):
    """Of one kv head: positions, keys, values, and the attention that each key got so far."""
    empty = np.zeros((0, head_dim), dtype)
    return [], empty, empty, np.zeros(0, WORK)


def heavy_hitter_step(kept, n, queries, keys, values, budget, recent, scale=None):
    """The output for m tokens at the positions n, n + 1, …, and what is kept after them."""
    result, kept_after = np.zeros(queries.shape, WORK), []
    m, heads, width = queries.shape
    scale = WORK(1 / sqrt(width) if scale is None else scale)
    group = heads // len(kept)
    for kv_head, (at, old_keys, old_values, scores) in enumerate(kept):
        at = [*at, *range(n, n + m)]
        k = np.concatenate([old_keys, keys[:, kv_head]])
        v = np.concatenate([old_values, values[:, kv_head]])
        scores = np.concatenate([scores, np.zeros(m, WORK)])
        for h in range(kv_head * group, (kv_head + 1) * group):
            for row in range(m):
                seen = len(at) - m + row + 1  # itself included
                products = k[:seen].astype(WORK) @ queries[row, h].astype(WORK) * scale
                weights = np.exp(products - products.max())
                weights = weights / weights.sum()
                result[row, h] = weights @ v[:seen].astype(WORK)
                scores[:seen] += weights
        stays = np.arange(len(at))
        if len(at) > budget:
            older = len(at) - recent
            stays = np.concatenate([best(scores[:older], budget - recent), stays[older:]])
        kept_after.append(([at[i] for i in stays], k[stays], v[stays], scores[stays]))
    return result.astype(queries.dtype), kept_after


def heavy_hitter_outputs(pieces, budget, recent, kv_heads, scale=None):
    """What a `HeavyHitterCache` answers to these steps, [(queries, keys, values), …]."""
    kept = [nothing_kept(pieces[0][1].shape[2], pieces[0][1].dtype) for _ in range(kv_heads)]
    n, outputs = 0, []
    for queries, keys, values in pieces:
        result, kept = heavy_hitter_step(kept, n, queries, keys, values, budget, recent, scale)
        n += len(keys)
        outputs.append(result)
    return outputs
