"""A cache that keeps sinks and a window."""

import numpy as np

from spec import CannotTruncate

from .basics import DTYPES, WORK, expect, stored
from .rotation import apply_rope, check_inv_freq
from .rows import attend_row, check_cache, check_queries, check_rows


class RollingKVCache:
    def __init__(
        self,
        window,
        sink_tokens,
        kv_heads,
        head_dim,
        *,
        inv_freq,
        attention_factor=1.0,
        interleaved=False,
        positions="cache",
        dtype="float32",
    ):
        expect(window >= 1, "window", "at least 1", window)
        expect(sink_tokens >= 0, "sink_tokens", "at least 0", sink_tokens)
        check_cache(kv_heads, head_dim, dtype)
        check_inv_freq(inv_freq, head_dim)
        expect(positions in ("cache", "absolute"), "positions", "cache or absolute", positions)
        self.window, self.sink_tokens = window, sink_tokens
        self.kv_heads, self.head_dim, self.dtype = kv_heads, head_dim, DTYPES[dtype]
        self.rotation = inv_freq, attention_factor, interleaved, positions
        self.keys = self.values = np.zeros((0, kv_heads, head_dim), self.dtype)  # as they came
        self.kept = []  # their positions in the sequence
        self.n = 0
        self.askable = 0  # tokens of the last append
        self.oldest = 0  # no sink before it is there any more

    def append(self, keys, values):
        check_rows(keys, values, self.kv_heads, self.head_dim, self.dtype)
        if len(keys) == 0:
            return
        self.oldest = max(self.oldest, self.n - self.window + 1)
        needed = [i for i, p in enumerate(self.kept) if p < self.sink_tokens or p >= self.oldest]
        self.keys = np.concatenate([self.keys[needed], keys])
        self.values = np.concatenate([self.values[needed], values])
        self.kept = [self.kept[i] for i in needed] + list(range(self.n, self.n + len(keys)))
        self.n += len(keys)
        self.askable = len(keys)

    def attend(self, queries, *, scale=None):
        check_queries(queries, self.kv_heads, self.head_dim, self.dtype)
        fits = len(queries) <= self.askable
        expect(fits, "queries", f"at most {self.askable} tokens", len(queries))
        result = np.zeros(queries.shape, WORK)
        for row, query in enumerate(queries):
            p = self.n - len(queries) + row
            seen = self.seen_by(p)
            at = [self.kept[i] for i in seen]
            result[row] = rolled_row(
                query, self.keys[seen], self.values[seen], at, p, self.rotation, scale, self.dtype
            )
        return result.astype(queries.dtype)

    def seen_by(self, p):
        """Which of the kept tokens a query at position p sees."""
        return [
            i for i, k in enumerate(self.kept) if k <= p and (k > p - self.window or k < self.sink_tokens)
        ]

    def truncate(self, length):
        expect(0 <= length <= self.n, "length", f"0 to {self.n}", length)
        if max(self.sink_tokens, length - self.window + 1) < min(self.oldest, length):
            raise CannotTruncate(f"length: expected at least {self.oldest + self.window - 1}, got {length}")
        left = [i for i, p in enumerate(self.kept) if p < length]
        self.keys, self.values = self.keys[left], self.values[left]
        self.kept = [self.kept[i] for i in left]
        self.askable = max(0, self.askable - (self.n - length))
        self.oldest = min(self.oldest, length)
        self.n = length

    def length(self):
        return self.n

    def positions(self):
        return [self.kept[i] for i in self.seen_by(self.n - 1)]


def rolled_row(query, keys, values, at, p, rotation, scale, dtype):
    """A query at position p over the keys that it sees, at the positions `at`."""
    inv_freq, attention_factor, interleaved, counted = rotation
    if counted == "cache":
        at, p = range(len(keys)), len(keys) - 1

    def turned(rows, positions):
        """(n, heads, head_dim)"""
        x = rows.astype(WORK).swapaxes(0, 1)[None]
        options = {"attention_factor": attention_factor, "interleaved": interleaved}
        return stored(apply_rope(x, np.array(positions), inv_freq, **options)[0].swapaxes(0, 1), dtype)

    return attend_row(turned(query[None], [p])[0], turned(keys, at), values, scale)


def rolling_attention(queries, keys, values, window, sink_tokens, rotation, scale=None):
    """What a `RollingKVCache` that was told all of this answers for its last tokens."""
    result = np.zeros(queries.shape, WORK)
    for row, query in enumerate(queries):
        p = len(keys) - len(queries) + row
        seen = [k for k in range(p + 1) if k > p - window or k < sink_tokens]
        result[row] = rolled_row(query, keys[seen], values[seen], seen, p, rotation, scale, queries.dtype)
    return result.astype(queries.dtype)
