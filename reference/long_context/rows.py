"""Tokens as a cache gets them: checks, and attention of one token after the other."""

import numpy as np

from .attention import dense_attention
from .basics import DTYPES, WORK, expect


def check_cache(kv_heads, head_dim, dtype):
    expect(kv_heads >= 1, "kv_heads", "at least 1", kv_heads)
    expect(head_dim >= 1, "head_dim", "at least 1", head_dim)
    expect(dtype in DTYPES, "dtype", " or ".join(DTYPES), dtype)


def check_rows(keys, values, kv_heads, head_dim, dtype):
    """(m, kv_heads, head_dim) each, in the cache's dtype."""
    shape = (len(keys), kv_heads, head_dim)
    expect(keys.shape == shape, "keys", f"shape (m, {kv_heads}, {head_dim})", keys.shape)
    expect(values.shape == shape, "values", f"shape {shape}", values.shape)
    for name, rows in (("keys", keys), ("values", values)):
        expect(rows.dtype == dtype, name, f"dtype {np.dtype(dtype)}", rows.dtype)


def check_queries(queries, kv_heads, head_dim, dtype):
    fits = queries.ndim == 3 and queries.shape[2] == head_dim and queries.shape[1] >= 1
    expect(fits, "queries", f"shape (m, heads, {head_dim})", queries.shape)
    expect(queries.shape[1] % kv_heads == 0, "queries", f"a multiple of {kv_heads} heads", queries.shape)
    expect(queries.dtype == dtype, "queries", f"dtype {np.dtype(dtype)}", queries.dtype)


def attend_row(query, keys, values, scale):
    """One token's query (heads, head_dim) over keys and values (n, kv_heads, head_dim)."""
    q, k, v = query[None, :, None], keys.swapaxes(0, 1)[None], values.swapaxes(0, 1)[None]
    return dense_attention(q, k, v, np.ones((1, len(keys)), bool), scale).out[0, :, 0]


def attend_last(queries, keys, values, scale=None):
    """The last tokens' queries, each over the keys up to its own."""
    result = np.zeros(queries.shape, WORK)
    for row, query in enumerate(queries):
        end = len(keys) - len(queries) + row + 1
        result[row] = attend_row(query, keys[:end], values[:end], scale)
    return result.astype(queries.dtype)
