"""A cache of the first and the newest tokens of a sequence.

Keys are kept as they came. What a query reads is rotated once and kept beside them: attention goes by
distances, so the newest keys may be counted from any place near enough that float32 tells angles apart.
Their distance to the sinks is another one, for which the query is rotated a second time.
"""

import mlx.core as mx

from spec import CannotTruncate

from .attention import as_given, by_kv_head, mixed, products
from .checks import expect
from .rotation import check_inv_freq, turned
from .rows import DTYPES, SPARE, Rows, check_cache, check_queries, check_tokens

CHUNK = 64  # queries taken at once


class Near:
    """Rotated keys of neighbouring tokens: a copy for reading, which may be thrown away at any time."""

    def __init__(self, kv_heads: int, head_dim: int) -> None:
        self.keys = mx.zeros((kv_heads, 0, head_dim))
        self.first = self.end = 0  # the tokens that it holds

    def restart(self, first: int, room: int) -> None:
        """Empty, with room for the tokens from `first` on."""
        kv_heads, _, head_dim = self.keys.shape
        self.keys = mx.zeros((kv_heads, room, head_dim))
        self.first = self.end = first

    def append(self, keys: mx.array) -> None:
        """keys: (kv_heads, m, head_dim)"""
        end = self.end + keys.shape[1]
        self.keys[:, self.end - self.first : end - self.first] = keys
        self.end = end

    def keep(self, end: int) -> None:
        self.end = max(self.first, min(self.end, end))


class RollingKVCache:
    """The first S and the last W tokens of one sequence, rotated when they are read."""

    def __init__(
        self,
        window: int,
        sink_tokens: int,
        kv_heads: int,
        head_dim: int,
        *,
        inv_freq: mx.array,
        attention_factor: float = 1.0,
        interleaved: bool = False,
        positions: str = "cache",
        dtype: str = "float32",
    ) -> None:
        """An empty cache. positions: "cache" counts the keys that a query sees, "absolute" all tokens."""
        expect(window >= 1, "window", "at least 1", window)
        expect(sink_tokens >= 0, "sink_tokens", "at least 0", sink_tokens)
        check_cache(kv_heads, head_dim, dtype)
        check_inv_freq(inv_freq, head_dim)
        expect(positions in ("cache", "absolute"), "positions", "cache or absolute", positions)
        self._window, self._sink_tokens = window, sink_tokens
        self._kv_heads, self._head_dim, self._dtype = kv_heads, head_dim, dtype
        self._inv_freq = inv_freq.astype(mx.float32)
        self._attention_factor, self._interleaved = attention_factor, interleaved
        self._absolute = positions == "absolute"
        no_angles = mx.zeros((0, inv_freq.size))
        self._table = Rows(no_angles, no_angles)  # cos and sin at 0, 1, …
        empty, empty_rotated = (
            mx.zeros((kv_heads, 0, head_dim), each) for each in (DTYPES[dtype], mx.float32)
        )
        self._sinks, self._recent = Rows(empty, empty), Rows(empty, empty)  # keys and values as they came
        self._rotated_sinks = Rows(empty_rotated)
        self._near = Near(kv_heads, head_dim)
        self._length = 0
        self._askable = 0  # tokens of the last append
        self._oldest = 0  # no other token than sinks is there before it

    def append(self, keys: mx.array, values: mx.array) -> None:
        """keys, values: (m, kv_heads, head_dim), not rotated."""
        check_tokens(keys, values, self._kv_heads, self._head_dim, self._dtype)
        count = keys.shape[0]
        if count == 0:
            return
        self._oldest = max(self._oldest, self._length - self._window + 1)
        self._recent.drop(min(len(self._recent), max(0, self._oldest - self._first_recent())))
        rows = [each.swapaxes(0, 1) for each in (keys, values)]  # (kv_heads, m, head_dim)
        sinks = min(count, max(0, self._sink_tokens - self._length))
        if sinks > 0:
            self._sinks.append(*(each[:, :sinks] for each in rows))
        if sinks < count:
            self._recent.append(*(each[:, sinks:] for each in rows))
        self._length += count
        self._askable = count

    def attend(self, queries: mx.array, *, scale: float | None = None) -> mx.array:
        """queries: (m, heads, head_dim), not rotated; the last m tokens attend."""
        check_queries(queries, self._kv_heads, self._head_dim, self._dtype)
        count = queries.shape[0]
        expect(count <= self._askable, "queries", f"at most {self._askable} tokens", count)
        asking = by_kv_head(queries, self._kv_heads, scale)
        first, out = self._length - count, []
        at_once = min(CHUNK, self._window)  # no more, so that keys are counted from nearby
        for start in range(0, count, at_once):
            mx.eval(out)  # which reads rotated keys, before more of them are written
            out.append(self._attend(asking[:, :, start : start + at_once], first + start))
        return as_given(out, queries)

    def _attend(self, queries: mx.array, first: int) -> mx.array:
        """queries: (kv_heads, group, m, head_dim) at the positions first, first + 1, …; result alike."""
        end = first + queries.shape[2]
        places = mx.arange(first, end)
        sinks = min(self._sink_tokens, end)
        oldest = max(self._sink_tokens, first - self._window + 1)
        scores, values = [], []
        if sinks > 0:
            farthest = end if self._absolute else self._sink_tokens + self._window
            asking = self._rotate(queries, mx.minimum(places, farthest - 1), farthest)
            scores.append(products(asking, self._sink_keys(sinks)))
            values.append(self._sinks.part(0, sinks)[1])
        if oldest < end:
            keys, origin = self._recent_keys(oldest, end)
            if sinks == 0 or not self._absolute:
                asking = self._rotate(queries, places - origin, end - origin)
            scores.append(products(asking, keys))
            values.append(self._recent_part(oldest, end)[1])
        scores = mx.concatenate(scores, axis=-1)
        if end - first > 1:
            key, query = mx.concatenate([mx.arange(sinks), mx.arange(oldest, end)]), places[:, None]
            near = (key > query - self._window) | (key < self._sink_tokens)
            scores = mx.where((key <= query) & near, scores, -mx.inf)
        return mixed(scores, values)

    def _rotate(self, rows: mx.array, positions: mx.array, end: int) -> mx.array:
        """rows: (…, tokens, head_dim), at these positions below `end`"""
        cos, sin = self._angles(positions, end)
        return turned(rows.astype(mx.float32), cos, sin, self._interleaved)

    def _angles(self, positions: mx.array, end: int) -> list[mx.array]:
        """cos and sin, (positions, d/2) each: out of a table, unless the positions grow for ever."""
        if self._absolute:
            return self._cos_sin(positions)
        known = len(self._table)
        if known < end:
            self._table.append(*self._cos_sin(mx.arange(known, max(end, 2 * known))))
        return [column[positions] for column in self._table.columns]

    def _cos_sin(self, positions: mx.array) -> list[mx.array]:
        angles = positions.astype(mx.float32)[:, None] * self._inv_freq
        return [turn(angles) * self._attention_factor for turn in (mx.cos, mx.sin)]

    def _sink_keys(self, count: int) -> mx.array:
        """(kv_heads, count, head_dim), rotated at 0, 1, …"""
        done = len(self._rotated_sinks)
        if done < count:
            keys, _ = self._sinks.part(done, count)
            self._rotated_sinks.append(self._rotate(keys, mx.arange(done, count), count))
        return self._rotated_sinks.part(0, count)[0]

    def _recent_keys(self, first: int, end: int) -> tuple[mx.array, int]:
        """(kv_heads, end − first, head_dim), rotated, and the token that was counted as 0."""
        near = self._near
        if not (near.first <= first <= near.end and end - near.first <= near.keys.shape[1]):
            near.restart(first, max(end - first, min(2 * self._window, max(SPARE, 2 * (end - first)))))
        origin = 0 if self._absolute else near.first
        if near.end < end:
            keys, _ = self._recent_part(near.end, end)
            near.append(self._rotate(keys, mx.arange(near.end - origin, end - origin), end - origin))
        return near.keys[:, first - near.first : end - near.first], origin

    def _recent_part(self, first: int, end: int) -> list[mx.array]:
        """Keys and values of these tokens, (kv_heads, end − first, head_dim) each."""
        start = self._first_recent()
        return self._recent.part(first - start, end - start)

    def truncate(self, length: int) -> None:
        """Keeps the first `length` tokens; raises where the next one would see a token given up."""
        expect(0 <= length <= self._length, "length", f"0 to {self._length}", length)
        if max(self._sink_tokens, length - self._window + 1) < min(self._oldest, length):
            least = self._oldest + self._window - 1
            raise CannotTruncate(f"length: expected at least {least}, got {length}")
        self._recent.keep(max(0, length - self._first_recent()))
        self._sinks.keep(min(len(self._sinks), length))
        self._rotated_sinks.keep(min(len(self._rotated_sinks), length))
        self._near.keep(length)
        self._oldest = min(self._oldest, length)
        self._askable = max(0, self._askable - (self._length - length))
        self._length = length

    def length(self) -> int:
        return self._length

    def positions(self) -> list[int]:
        """The tokens that the last one sees."""
        # After a truncation the oldest that it saw may be gone: the next token will not see it.
        oldest = max(self._first_recent(), self._length - self._window)
        recent = range(oldest, self._length)
        return [*range(min(self._sink_tokens, self._length)), *recent]

    def _first_recent(self) -> int:
        return self._length - len(self._recent)
