"""Attention over tiles of scores, some queries and some keys each, with a softmax that is carried along.

A row is a query of one of the heads that read a kv head; a tile is laid out (…, split, keys, rows),
and split · rows are all of them. MLX on CPU takes 1.2 ns an element for a maximum along the last axis, along
another 0.25.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import mlx.core as mx
import numpy as np

from spec.long_context import AttentionState

from .attention import STREAMS, exp
from .masks import Places, Rule, mask, seen

ROWS = 512  # taken at once: they share the keys of a kv head
FEW = 8  # rows up to which each gets a product of its own, which the BLAS never shares between threads
TILE = 1 << 18  # scores up to which several blocks are taken together
MOST = 1 << 20  # scores held at once: where a block is large, fewer queries are taken
WORTH_A_THREAD = 1 << 16  # scores from which another stream gains more than it costs
LOWEST = mx.finfo(mx.float32).min  # not −∞: the difference of two of them would be NaN


@dataclass(frozen=True)
class Scoring:
    """How products of queries and keys become scores, and what joins them."""

    scale: float | None = None
    softcap: float | None = None
    alibi_slopes: mx.array | None = None  # (heads,)
    sink_logits: mx.array | None = None  # (heads,)


@dataclass(frozen=True)
class Tile:
    """Some keys, and who sees them."""

    keys: slice
    edge: slice  # of these keys: outside of it every query sees every key
    visible: mx.array | None  # (split, keys of the edge, rows), None where the edge is empty
    used: mx.array | None  # (keys of the edge, 1), whether some query sees it; None where that holds for all
    distance: mx.array | None  # (split, keys, rows) float32, where ALiBi wants it


@dataclass(frozen=True)
class Softmax:
    """Of some queries over the keys so far, with w = exp(score − top)."""

    rows: mx.array  # (batch, kv_heads, split, rows, head_dim) float32, the queries, scaled
    mixed: mx.array  # the same shape, Σ w · value
    total: mx.array  # (batch, kv_heads, split, 1, rows), Σ w
    top: mx.array  # the same shape, finite


@dataclass(frozen=True)
class Lane:
    """Some kv heads, and the stream that computes what their queries see."""

    stream: mx.Stream
    q: mx.array  # (batch, kv_heads, group, queries, head_dim)
    k: mx.array  # (batch, kv_heads, keys, head_dim)
    v: mx.array
    alibi_slopes: mx.array | None  # (kv_heads, group)
    sink_logits: mx.array | None


def attend(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    queries: Places,
    keys: Places,
    rule: Rule,
    scoring: Scoring,
    block: int,
) -> AttentionState:
    """Attention of queries and keys that are at these places, evaluated."""
    batch, heads, count, _ = q.shape
    if 0 in (batch, heads, count):
        return AttentionState(mx.zeros(q.shape), mx.zeros(q.shape[:3]))
    group = heads // k.shape[1]
    at_once, keys_at_once = _sizes(batch * heads, group, count, block)
    lanes = _lanes(q, k, v, scoring, worth_a_thread=batch * heads * count * len(keys) >= WORTH_A_THREAD)
    parts: list[list[tuple[mx.array, mx.array]]] = []
    for start in range(0, count, at_once):
        some = slice(start, start + at_once)
        softmaxes = [_begin(lane, some, scoring.scale) for lane in lanes]
        for tile in _tiles(rule, queries[some], keys, keys_at_once, group, scoring):
            softmaxes = [
                _carried(each, lane, tile, scoring.softcap)
                for each, lane in zip(softmaxes, lanes, strict=True)
            ]
        parts.append([_end(each, lane) for each, lane in zip(softmaxes, lanes, strict=True)])
        mx.eval(parts[-2:-1])  # two steps are under way, and no more
    out, lse = (_joined([_joined([each[i] for each in part], 1) for part in parts], 3) for i in (0, 1))
    state = AttentionState(out.reshape(q.shape), lse.reshape(q.shape[:3]))
    mx.eval(state.out, state.lse)
    return state


def _sizes(heads: int, group: int, count: int, block: int) -> tuple[int, int]:
    """How many queries and how many keys are taken at once; heads: those of all members of the batch."""
    queries = max(1, min(count, ROWS // group, MOST // (heads * block)))
    return queries, block * max(1, TILE // (heads * queries * block))


def _lanes(q: mx.array, k: mx.array, v: mx.array, scoring: Scoring, *, worth_a_thread: bool) -> list[Lane]:
    """The kv heads, dealt to the streams: on CPU each has one thread."""
    kv_heads = k.shape[1]
    group = q.shape[1] // kv_heads
    device = mx.default_device()
    streams = [mx.default_stream(device)]
    if device == mx.cpu and worth_a_thread:
        streams += STREAMS[: kv_heads - 1]
    # A stream that needs what another computes would wait until that one has done everything.
    mx.eval(q, k, v, scoring.alibi_slopes, scoring.sink_logits)
    lanes = []
    for i, stream in enumerate(streams):
        kv = slice(kv_heads * i // len(streams), kv_heads * (i + 1) // len(streams))
        with mx.stream(stream):
            per_head = [
                None if values is None else values.astype(mx.float32).reshape(kv_heads, group)[kv]
                for values in (scoring.alibi_slopes, scoring.sink_logits)
            ]
            asking = mx.unflatten(q, 1, (kv_heads, group))[:, kv]
            lanes.append(Lane(stream, asking, k[:, kv], v[:, kv], *per_head))
    return lanes


def _joined(parts: Sequence[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)


# Which keys go together -----------------------------------------------------------------------------------


def _tiles(
    rule: Rule, queries: Places, keys: Places, at_once: int, group: int, scoring: Scoring
) -> Iterator[Tile]:
    """Stretches of at most so many keys: all that these queries see, and little else."""
    first, last = queries.bounds()
    perhaps = np.flatnonzero(seen(rule, first, last, keys))
    while perhaps.size:
        start = int(perhaps[0])
        inside = np.searchsorted(perhaps, start + at_once)
        part = slice(start, int(perhaps[inside - 1]) + 1)
        perhaps = perhaps[inside:]
        yield _tile(rule, queries, keys, part, group, scoring)


def _tile(rule: Rule, queries: Places, keys: Places, part: slice, group: int, scoring: Scoring) -> Tile:
    first, last = queries.bounds()
    unsure = np.flatnonzero(~seen(rule, last, first, keys[part]))
    edge, visible, used, distance = slice(0, 0), None, None, None
    if unsure.size:
        edge = slice(int(unsure[0]), int(unsure[-1]) + 1)
        sees = mask(rule, queries, keys[part][edge]).T  # (keys, queries)
        some = sees.any(axis=1, keepdims=True)
        visible, used = _by_row(sees, group), None if some.all() else mx.array(some)
    if scoring.alibi_slopes is not None:
        between = np.abs(keys.positions[part, None] - queries.positions).astype(np.float32)
        distance = _by_row(between, group)
    return Tile(part, edge, visible, used, distance)


def _by_row(matrix: np.ndarray, group: int) -> mx.array:
    """(keys, queries) -> (split, keys, rows)"""
    rows = np.tile(matrix, (1, group))
    return mx.array(rows.reshape(len(rows), _split(rows.shape[1]), -1).swapaxes(0, 1))


def _split(rows: int) -> int:
    """In how many products so many rows are multiplied."""
    return rows if rows <= FEW else 1


# The softmax ----------------------------------------------------------------------------------------------


def _begin(lane: Lane, some: slice, scale: float | None) -> Softmax:
    """Before the first tile. A sink is like a key that all have seen already, and its value is 0."""
    with mx.stream(lane.stream):
        q = lane.q[:, :, :, some].astype(mx.float32)  # (batch, kv_heads, group, some queries, head_dim)
        rows = q.flatten(2, 3) * (1 / sqrt(q.shape[4]) if scale is None else scale)
        rows = mx.unflatten(rows, 2, (_split(rows.shape[2]), -1))
        mixed, shape = mx.zeros(rows.shape), (*rows.shape[:3], 1, rows.shape[3])
        if lane.sink_logits is None:
            return Softmax(rows, mixed, mx.zeros(shape), mx.full(shape, LOWEST))
        sinks = mx.broadcast_to(_per_row(lane.sink_logits, rows), shape)
        top = mx.maximum(sinks, LOWEST)
        return Softmax(rows, mixed, exp(sinks - top), top)


def _carried(before: Softmax, lane: Lane, tile: Tile, softcap: float | None) -> Softmax:
    """With the keys of a tile; under way."""
    rows = before.rows
    with mx.stream(lane.stream):
        k, v = (x[:, :, None, tile.keys].astype(mx.float32) for x in (lane.k, lane.v))
        scores = k @ rows.swapaxes(3, 4)  # (batch, kv_heads, split, keys, rows)
        if softcap is not None:
            scores = mx.tanh(scores / softcap) * softcap
        if tile.distance is not None:
            scores = scores - _per_row(lane.alibi_slopes, rows) * tile.distance
        if tile.visible is not None:
            scores[..., tile.edge, :] = mx.where(tile.visible, scores[..., tile.edge, :], -mx.inf)
        if tile.used is not None:  # what nobody sees may be NaN, and 0 · NaN is NaN
            v[..., tile.edge, :] = mx.where(tile.used, v[..., tile.edge, :], 0)
        top = mx.maximum(before.top, scores.max(axis=3, keepdims=True))
        weights = exp(scores - top)
        faded = exp(before.top - top)
        total = before.total * faded + weights.sum(axis=3, keepdims=True)
        mixed = before.mixed * faded.swapaxes(3, 4) + weights.swapaxes(3, 4) @ v
    mx.async_eval(mixed, total, top)
    return Softmax(rows, mixed, total, top)


def _end(softmax: Softmax, lane: Lane) -> tuple[mx.array, mx.array]:
    """(batch, kv_heads, group, queries, head_dim), and lse likewise with a last axis of 1; under way."""
    with mx.stream(lane.stream):
        total, top = (each.swapaxes(3, 4) for each in (softmax.total, softmax.top))
        out, lse = softmax.mixed / mx.where(total > 0, total, 1), top + mx.log(total)
        by_head = (lane.q.shape[2], -1)
        result = tuple(mx.unflatten(each.flatten(2, 3), 2, by_head) for each in (out, lse))
    mx.async_eval(result)
    return result


def _per_row(values: mx.array, rows: mx.array) -> mx.array:
    """(kv_heads, group) -> (kv_heads, split, 1, rows)"""
    split, count = rows.shape[2:4]
    return mx.repeat(values, split * count // values.shape[1], axis=1).reshape(-1, split, 1, count)
