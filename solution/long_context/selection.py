"""Keys worth keeping or reading: by the attention they got, by votes on a prompt, by bounds of pages.

Choices are made on the host, where a stable sort keeps the order of equals.
"""

import mlx.core as mx
import numpy as np

from .attention import as_given, by_kv_head, grouped, products, softmax
from .checks import expect
from .rows import DTYPES, Rows, check_cache, check_queries, check_tokens

CHUNK = 64  # queries taken at once


def best(values: np.ndarray, count: int) -> np.ndarray:
    """(rows, n) -> (rows, count): indices of the largest of each row, ascending; of equals the lowest."""
    return np.sort(np.argsort(-values, axis=-1, kind="stable")[:, :count], axis=-1)


def softmax_weights(queries: mx.array, keys: mx.array, first: int) -> mx.array:
    """What each query gives to each key: (kv_heads, group, m, tokens) float32.

    queries: (kv_heads, group, m, head_dim), scaled, at the places first, first + 1, … among the keys;
    keys: (kv_heads, tokens, head_dim).
    """
    scores = products(queries, keys)
    if first < keys.shape[1] - 1:
        places = mx.arange(first, first + queries.shape[2])[:, None]
        scores = mx.where(mx.arange(keys.shape[1]) <= places, scores, -mx.inf)
    weights, total, _ = softmax(scores)
    return weights / total


class HeavyHitterCache:
    """The keys that got most attention, and the newest, of one sequence."""

    def __init__(
        self, budget: int, recent: int, kv_heads: int, head_dim: int, *, dtype: str = "float32"
    ) -> None:
        """An empty cache that keeps at most `budget` keys for each kv head."""
        check_cache(kv_heads, head_dim, dtype)
        expect(1 <= recent <= budget, "recent", f"1 to {budget}", recent)
        self._budget, self._recent = budget, recent
        self._kv_heads, self._head_dim, self._dtype = kv_heads, head_dim, dtype
        self._keys = self._values = mx.zeros((kv_heads, 0, head_dim), DTYPES[dtype])
        self._scores = mx.zeros((kv_heads, 0))  # the attention that each key got so far
        self._positions = np.zeros((kv_heads, 0), np.int64)
        self._length = 0

    def step(
        self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float | None = None
    ) -> mx.array:
        """Appends m tokens, attends, and gives up what exceeds the budget.

        queries: (m, heads, head_dim); keys, values: (m, kv_heads, head_dim), already rotated.
        """
        check_queries(queries, self._kv_heads, self._head_dim, self._dtype)
        count = queries.shape[0]
        expect(count >= 1, "queries", "at least 1 token", count)
        check_tokens(keys, values, self._kv_heads, self._head_dim, self._dtype)
        expect(keys.shape[0] == count, "keys", f"{count} tokens", keys.shape[0])
        keys = mx.concatenate([self._keys, keys.swapaxes(0, 1)], axis=1)  # (kv_heads, tokens, head_dim)
        values = mx.concatenate([self._values, values.swapaxes(0, 1)], axis=1)
        scores = mx.concatenate([self._scores, mx.zeros((self._kv_heads, count))], axis=1)
        new = np.tile(np.arange(self._length, self._length + count), (self._kv_heads, 1))
        positions = np.concatenate([self._positions, new], axis=1)

        asking, first = by_kv_head(queries, self._kv_heads, scale), keys.shape[1] - count
        out = []
        for start in range(0, count, CHUNK):
            piece = asking[:, :, start : start + CHUNK]
            end = first + start + piece.shape[2]
            weights = softmax_weights(piece, keys[:, :end], first + start)
            out.append(grouped(weights, values[:, :end].astype(mx.float32)))
            scores[:, :end] += weights.sum(axis=(1, 2))
            mx.eval(out, scores)
        if keys.shape[1] > self._budget:
            stays = self._worth_keeping(np.asarray(scores))
            positions = np.take_along_axis(positions, stays, axis=1)
            index = mx.array(stays)
            keys, values = (mx.take_along_axis(each, index[..., None], axis=1) for each in (keys, values))
            scores = mx.take_along_axis(scores, index, axis=1)
        result = as_given(out, queries)
        mx.eval(keys, values, scores)
        self._keys, self._values, self._scores, self._positions = keys, values, scores, positions
        self._length += count
        return result

    def _worth_keeping(self, scores: np.ndarray) -> np.ndarray:
        """(kv_heads, tokens) -> (kv_heads, budget), indices"""
        kv_heads, tokens = scores.shape
        older = tokens - self._recent
        most = best(scores[:, :older], self._budget - self._recent)
        return np.concatenate([most, np.tile(np.arange(older, tokens), (kv_heads, 1))], axis=1)

    def length(self) -> int:
        return self._length

    def positions(self) -> list[list[int]]:
        """The tokens that are kept, for each kv head, ascending."""
        return self._positions.tolist()


def select_snapkv(
    queries: mx.array,
    keys: mx.array,
    budget: int,
    *,
    window: int,
    kernel: int = 5,
    pooling: str = "avg",
) -> mx.array:
    """Which tokens of a prompt to keep: (kv_heads, min(budget, n)), ascending.

    queries: (m, heads, head_dim), the last of the prompt; keys: (n, kv_heads, head_dim); already rotated.
    """
    expect(keys.ndim == 3, "keys", "3 axes", keys.shape)
    n, kv_heads, width = keys.shape
    fits = queries.ndim == 3 and queries.shape[2] == width and queries.shape[1] % max(1, kv_heads) == 0
    expect(fits, "queries", f"shape (m, heads, {width}), a multiple of {kv_heads} heads", queries.shape)
    count = queries.shape[0]
    expect(count <= n, "queries", f"at most {n} tokens", count)
    expect(1 <= window <= count, "window", f"1 to {count}", window)
    expect(window < budget, "budget", f"above {window}", budget)
    expect(kernel >= 1 and kernel % 2 == 1, "kernel", "an odd number", kernel)
    expect(pooling in ("avg", "max"), "pooling", "avg or max", pooling)
    if n <= budget:
        return mx.array(np.tile(np.arange(n, dtype=np.int32), (kv_heads, 1)))
    asking = by_kv_head(queries[-window:], kv_heads, None)
    weights = softmax_weights(asking, keys.swapaxes(0, 1), n - window)
    votes = np.asarray(weights[..., : n - window].sum(axis=(1, 2)))  # (kv_heads, n − window)
    chosen = best(_pooled(votes, kernel, pooling), budget - window)
    newest = np.tile(np.arange(n - window, n), (kv_heads, 1))
    return mx.array(np.concatenate([chosen, newest], axis=1).astype(np.int32))


def _pooled(votes: np.ndarray, kernel: int, pooling: str) -> np.ndarray:
    """Each vote with its kernel // 2 neighbours on both sides; beyond the ends there is 0."""
    around = np.pad(votes, ((0, 0), (kernel // 2, kernel // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(around, kernel, axis=1)
    return windows.sum(axis=-1) / np.float32(kernel) if pooling == "avg" else windows.max(axis=-1)


class PageSelector:
    """Which pages of keys a query should read: Quest's upper bounds."""

    def __init__(self, page_size: int, kv_heads: int, head_dim: int) -> None:
        """No keys yet."""
        expect(page_size >= 1, "page_size", "at least 1", page_size)
        check_cache(kv_heads, head_dim, "float32")
        self._page_size, self._kv_heads, self._head_dim = page_size, kv_heads, head_dim
        empty = mx.zeros((kv_heads, 0, head_dim))
        self._pages = Rows(empty, empty)  # least and largest of each channel
        self._tokens = 0

    def add(self, keys: mx.array) -> None:
        """keys: (m, kv_heads, head_dim), already rotated."""
        fits = keys.ndim == 3 and keys.shape[1:] == (self._kv_heads, self._head_dim)
        expect(fits, "keys", f"shape (m, {self._kv_heads}, {self._head_dim})", keys.shape)
        if keys.shape[0] == 0:
            return
        full, filled = divmod(self._tokens, self._page_size)
        after = -(filled + keys.shape[0]) % self._page_size
        rows = keys.astype(mx.float32).swapaxes(0, 1)  # (kv_heads, m, head_dim)
        open_page = self._pages.part(full, len(self._pages))  # 0 or 1
        bounds = []
        for bound, reduce in zip(open_page, (mx.min, mx.max), strict=True):
            # Slots that are taken repeat what is known of them, and empty ones the last key: no bound moves.
            slots = [mx.repeat(bound, filled, axis=1), rows, mx.repeat(rows[:, -1:], after, axis=1)]
            pages = mx.unflatten(mx.concatenate(slots, axis=1), 1, (-1, self._page_size))
            bounds.append(reduce(pages, axis=2))
        mx.eval(bounds)
        self._pages.keep(full)
        self._pages.append(*bounds)
        self._tokens += keys.shape[0]

    def bounds(self, queries: mx.array) -> mx.array:
        """queries: (heads, head_dim) -> (heads, pages) float32, without scale."""
        self._check(queries)
        asking = mx.unflatten(queries.astype(mx.float32), 0, (self._kv_heads, -1))
        least, largest = (each.swapaxes(1, 2) for each in self._pages.all())
        bounds = mx.maximum(asking, 0) @ largest + mx.minimum(asking, 0) @ least  # (kv_heads, group, pages)
        result = bounds.flatten(0, 1)
        mx.eval(result)
        return result

    def select(self, queries: mx.array, pages: int) -> mx.array:
        """(kv_heads, min(pages, all)), ascending: the last page, and the others with the largest bounds."""
        self._check(queries)
        expect(pages >= 1, "pages", "at least 1", pages)
        newest = len(self._pages) - 1
        if pages > newest:
            return mx.array(np.tile(np.arange(newest + 1, dtype=np.int32), (self._kv_heads, 1)))
        scores = np.asarray(mx.unflatten(self.bounds(queries), 0, (self._kv_heads, -1)).sum(axis=1))
        chosen = best(scores[:, :newest], pages - 1)
        last = np.full((self._kv_heads, 1), newest)
        return mx.array(np.concatenate([chosen, last], axis=1).astype(np.int32))

    def _check(self, queries: mx.array) -> None:
        fits = queries.ndim == 2 and queries.shape[1] == self._head_dim
        fits = fits and queries.shape[0] >= 1 and queries.shape[0] % self._kv_heads == 0
        expected = f"shape (heads, {self._head_dim}), a multiple of {self._kv_heads}"
        expect(fits, "queries", expected, queries.shape)
