"""Who sees whom. Positions are small, so masks are made on the host."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .checks import expect


@dataclass(frozen=True)
class Rule:
    """Which keys a query sees, by positions."""

    causal: bool = True
    window: int | None = None
    sink_tokens: int = 0
    chunk: int | None = None
    prefix: int = 0

    def check(self) -> None:
        window, chunk = self.window, self.chunk
        expect(window is None or window >= 1, "window", "at least 1", window)
        expect(window is None or self.causal, "window", "None without causal", window)
        expect(self.sink_tokens >= 0, "sink_tokens", "at least 0", self.sink_tokens)
        expect(chunk is None or chunk >= 1, "chunk", "at least 1", chunk)
        expect(self.prefix >= 0, "prefix", "at least 0", self.prefix)


@dataclass(frozen=True)
class Places:
    """Where tokens are: their positions and, where they are told apart, their documents. (n,) each."""

    positions: np.ndarray
    segments: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, part: slice) -> "Places":
        return Places(self.positions[part], None if self.segments is None else self.segments[part])

    def bounds(self) -> tuple["Places", "Places"]:
        """The least and the largest of each."""
        least, largest = (
            Places(bound(self.positions), None if self.segments is None else bound(self.segments))
            for bound in (np.min, np.max)
        )
        return least, largest


def attention_mask(
    q_positions: mx.array,
    kv_positions: mx.array,
    *,
    causal: bool = True,
    window: int | None = None,
    sink_tokens: int = 0,
    chunk: int | None = None,
    prefix: int = 0,
    segments: tuple[mx.array, mx.array] | None = None,
) -> mx.array:
    """(queries, keys) bool, True where a query sees a key."""
    expect(q_positions.ndim == 1, "q_positions", "1 axis", q_positions.shape)
    expect(kv_positions.ndim == 1, "kv_positions", "1 axis", kv_positions.shape)
    rule = Rule(causal, window, sink_tokens, chunk, prefix)
    rule.check()
    return mx.array(mask(rule, *places(q_positions, kv_positions, segments)))


def places(
    q_positions: mx.array, kv_positions: mx.array, segments: tuple[mx.array, mx.array] | None
) -> tuple[Places, Places]:
    """Of the queries and of the keys."""
    positions = q_positions, kv_positions
    if segments is not None:
        shapes = tuple(each.shape for each in segments)
        expected = q_positions.shape, kv_positions.shape
        expect(shapes == expected, "segments", f"shapes {expected[0]} and {expected[1]}", shapes)
    queries, keys = (
        Places(np.asarray(at).astype(np.int64), None if of is None else np.asarray(of).astype(np.int64))
        for at, of in zip(positions, segments or (None, None), strict=True)
    )
    return queries, keys


def mask(rule: Rule, queries: Places, keys: Places) -> np.ndarray:
    """(queries, keys) bool"""
    rows = Places(queries.positions[:, None], None if queries.segments is None else queries.segments[:, None])
    return seen(rule, rows, rows, keys)


def seen(rule: Rule, first: Places, last: Places, keys: Places) -> np.ndarray:
    """Which keys the queries from `first` to `last` may see; with these swapped, which all of them see."""
    q, k = last.positions, keys.positions
    visible = (k >= 0) & (q >= 0)
    if rule.causal:
        visible &= (k <= q) | (k < rule.prefix)
    near = np.ones_like(visible)
    if rule.window is not None:
        near &= k > first.positions - rule.window
    if rule.chunk is not None:
        run = k // rule.chunk
        near &= (first.positions // rule.chunk <= run) & (run <= q // rule.chunk)
    visible &= near | (k < rule.sink_tokens)
    if keys.segments is not None:
        visible &= (first.segments <= keys.segments) & (keys.segments <= last.segments)
    return visible
