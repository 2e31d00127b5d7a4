"""Chooses the pages of keys that may matter to a query."""

from math import ceil

import numpy as np

from .basics import WORK, best, expect, in_float32
from .rows import check_cache


class PageSelector:
    def __init__(self, page_size, kv_heads, head_dim):
        expect(page_size >= 1, "page_size", "at least 1", page_size)
        check_cache(kv_heads, head_dim, "float32")
        self.page_size, self.kv_heads, self.head_dim = page_size, kv_heads, head_dim
        self.keys = np.zeros((0, kv_heads, head_dim), WORK)

    def add(self, keys):
        shape = (len(keys), self.kv_heads, self.head_dim)
        expect(keys.shape == shape, "keys", f"shape (m, {self.kv_heads}, {self.head_dim})", keys.shape)
        self.keys = np.concatenate([self.keys, keys.astype(WORK)])

    def bounds(self, queries):
        self.check(queries)
        return page_bounds(queries, self.keys, self.page_size).astype(np.float32)

    def select(self, queries, pages):
        self.check(queries)
        expect(pages >= 1, "pages", "at least 1", pages)
        scores = page_scores(queries, self.keys, self.page_size)  # (kv_heads, all pages)
        if pages >= scores.shape[1]:
            return np.tile(np.arange(scores.shape[1], dtype=np.int32), (self.kv_heads, 1))
        newest = scores.shape[1] - 1
        return np.array([[*best(row[:newest], pages - 1), newest] for row in scores], np.int32)

    def check(self, queries):
        fits = queries.ndim == 2 and queries.shape[1] == self.head_dim
        fits = fits and len(queries) >= 1 and len(queries) % self.kv_heads == 0
        expect(
            fits, "queries", f"shape (heads, {self.head_dim}), a multiple of {self.kv_heads}", queries.shape
        )


def page_bounds(queries, keys, page_size):
    """(heads, pages): the largest product of a key between the page's least and largest channels."""
    heads, (n, kv_heads, _) = len(queries), keys.shape
    result = np.zeros((heads, ceil(n / page_size)), WORK)
    for h in range(heads):
        kv_head = h // (heads // kv_heads)
        query = queries[h].astype(WORK)
        for page in range(result.shape[1]):
            rows = keys[page * page_size : (page + 1) * page_size, kv_head].astype(WORK)
            result[h, page] = np.maximum(query * rows.min(axis=0), query * rows.max(axis=0)).sum()
    return in_float32(result, queries)


def page_scores(queries, keys, page_size):
    """(kv_heads, pages): the bounds of the query heads that read a kv head, added up."""
    bounds = page_bounds(queries, keys, page_size)
    heads, pages, kv_heads = len(queries), bounds.shape[1], keys.shape[1]
    return bounds.reshape(kv_heads, heads // kv_heads, pages).sum(axis=1)
