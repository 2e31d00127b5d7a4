"""Causal attention over keys and values that lie in blocks.

Two ways, chosen for each sequence. A few queries visit their blocks where they lie, as (query, block) pairs
of the whole batch at once: no key or value is copied and nothing is padded. Many queries of one sequence
share its keys, which are then worth laying out once for large matrix products.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import e, sqrt

import mlx.core as mx
import numpy as np

from .checks import blocks_for

FEW = 2  # queries of a sequence up to which visiting the blocks is faster than laying the keys out
CHUNK = 64  # queries taken at once where there are many; a chunk does not compute the keys in its future
WIDENED = 1 << 13  # keys of half precision held in float32 at once
WORTH_A_THREAD = 1 << 15  # scores from which another thread gains more than it costs

# Each CPU stream has one thread, so the kv heads are dealt out to several streams. Thread-local: a stream may
# only be used on the thread that made it, and the caller may come from any.
STREAMS = [mx.new_thread_local_stream(mx.cpu) for _ in range(min(4, os.cpu_count() or 1) - 1)]


@dataclass(frozen=True)
class Reach:
    """What the queries of one sequence may read: `count` of them at the last positions of `context` keys."""

    table: Sequence[int | None]
    context: int
    count: int

    def blocks(self, block_size: int, window: int | None) -> tuple[int, int]:
        """First and end index in the table of the blocks that its queries see."""
        oldest = 0 if window is None else max(0, self.context - self.count - window + 1)
        return oldest // block_size, blocks_for(self.context, block_size)


@dataclass(frozen=True)
class Pool:
    """Keys and values of the kv heads `kv`, read where they lie."""

    keys: mx.array  # (num_blocks, kv_heads, block_size, head_dim)
    values: mx.array
    kv: range

    @property
    def kv_heads(self) -> int:
        return self.keys.shape[1]

    @property
    def block_size(self) -> int:
        return self.keys.shape[2]

    def rows(self, blocks: mx.array) -> mx.array:
        """(n,) blocks -> (n, len(kv)) rows of `flat`."""
        return blocks[:, None] * self.kv_heads + mx.arange(self.kv.start, self.kv.stop, dtype=mx.uint32)

    def flat(self) -> tuple[mx.array, mx.array]:
        """The pool as (num_blocks · kv_heads, block_size, head_dim)."""
        return self.keys.flatten(0, 1), self.values.flatten(0, 1)

    def widened(self, rows: mx.array) -> tuple[mx.array, mx.array]:
        """Copies in float32: (*rows.shape, block_size, head_dim)."""
        keys, values = self.flat()
        return keys[rows].astype(mx.float32), values[rows].astype(mx.float32)


@dataclass(frozen=True)
class Logits:
    """How products of queries and keys become logits, and which of them count."""

    scale: float
    window: int | None
    softcap: float | None
    sink_logits: mx.array | None  # (heads,)

    def scaled(self, queries: mx.array) -> mx.array:
        scale = self.scale if self.softcap is None else self.scale / self.softcap
        return queries.astype(mx.float32) * scale

    def sinks(self, kv_heads: int, group: int, kv: range) -> mx.array:
        """(len(kv), group), −∞ where there are none."""
        if self.sink_logits is None:
            return mx.full((len(kv), group), -mx.inf)
        return self.sink_logits.astype(mx.float32).reshape(kv_heads, group)[kv.start : kv.stop]

    def of(self, products: mx.array) -> mx.array:
        return products if self.softcap is None else mx.tanh(products) * self.softcap


def attend(
    queries: mx.array,
    key_blocks: mx.array,
    value_blocks: mx.array,
    reaches: Sequence[Reach],
    *,
    scale: float | None,
    window: int | None,
    softcap: float | None,
    sink_logits: mx.array | None,
) -> mx.array:
    """Attention of a ragged batch: (sum of counts, heads, head_dim) in the queries' dtype, evaluated.

    queries: (sum of counts, heads, head_dim); key_blocks, value_blocks: (num_blocks, kv_heads, block_size,
    head_dim); reaches: one for each sequence, with valid ids wherever its queries look.
    """
    if queries.size == 0:
        return mx.array(queries)
    heads = queries.shape[1]
    kv_heads, block_size, head_dim = key_blocks.shape[1:]
    logits = Logits(1 / sqrt(head_dim) if scale is None else scale, window, softcap, sink_logits)
    starts = np.cumsum([0] + [reach.count for reach in reaches]).tolist()
    few = [(start, reach) for start, reach in zip(starts, reaches, strict=False) if 0 < reach.count <= FEW]
    many = [(start, reach) for start, reach in zip(starts, reaches, strict=False) if reach.count > FEW]
    visits = list(_visits(few, block_size, window, None if queries.dtype == mx.float32 else WIDENED))

    parts = []
    scores = heads * sum(reach.count * reach.context for reach in reaches)
    # A stream that needs what another computes would wait until that one has done everything.
    mx.eval(queries, key_blocks, value_blocks)
    for stream, kv in _deal(kv_heads, scores):
        with mx.stream(stream):
            pool = Pool(key_blocks, value_blocks, kv)
            mine = mx.unflatten(queries, 1, (kv_heads, heads // kv_heads))[:, kv.start : kv.stop]
            out = mx.zeros(mine.shape)  # (tokens, kv, group, head_dim)
            for visit in visits:
                out[visit.queries] = _attend_few(mine[visit.queries], pool, visit, logits)
            for start, reach in many:
                rows = slice(start, start + reach.count)
                out[rows] = _attend_many(mine[rows], pool, reach, logits)
            parts.append(out)
    result = mx.concatenate(parts, axis=1).flatten(1, 2).astype(queries.dtype)
    mx.eval(result)  # left lazy, it would own the pool too, and the next write would copy the pool
    return result


def _deal(kv_heads: int, scores: int) -> list[tuple[mx.Stream, range]]:
    """Which stream computes which kv heads."""
    device = mx.default_device()
    streams = [mx.default_stream(device)]
    if device == mx.cpu and scores >= WORTH_A_THREAD:
        streams += STREAMS[: kv_heads - 1]
    bounds = [kv_heads * i // len(streams) for i in range(len(streams) + 1)]
    return [(stream, range(*bounds[i : i + 2])) for i, stream in enumerate(streams)]


def exp(x: mx.array) -> mx.array:
    """e ** x: on MLX's CPU back end a third of the time of `mx.exp`, and as exact."""
    return mx.power(e, x)


# A few queries: every one visits its blocks ---------------------------------------------------------------


@dataclass(frozen=True)
class Visits:
    """Pairs of a query and a block that it sees, query by query."""

    queries: mx.array  # (rows,) which query of the batch
    row: mx.array  # (pairs,) which of these rows
    bounds: mx.array  # (rows, 2) first and end pair of each row
    block: mx.array  # (pairs,)
    edge: mx.array  # (edges,) pairs whose block is seen in part
    seen: mx.array  # (edges, block_size) which slots of it


def _visits(
    few: list[tuple[int, Reach]], block_size: int, window: int | None, at_once: int | None
) -> Iterator[Visits]:
    """All visits of these sequences, in portions of about `at_once` keys where that is given."""
    portion, keys = [], 0
    for start, reach in few:
        portion.append((start, reach))
        keys += reach.count * reach.context
        if at_once is not None and keys >= at_once:
            yield _portion(portion, block_size, window)
            portion, keys = [], 0
    if portion:
        yield _portion(portion, block_size, window)


def _portion(few: list[tuple[int, Reach]], block_size: int, window: int | None) -> Visits:
    queries = [start + i for start, reach in few for i in range(reach.count)]
    end = np.array([reach.context - reach.count + i + 1 for _, reach in few for i in range(reach.count)])
    first = np.zeros_like(end) if window is None else np.maximum(0, end - window)
    first_block, end_block = first // block_size, blocks_for(end, block_size)
    tables = chain.from_iterable([reach.table] * reach.count for _, reach in few)
    block = [t[a:b] for t, a, b in zip(tables, first_block.tolist(), end_block.tolist(), strict=True)]

    visited = end_block - first_block
    row = np.repeat(np.arange(len(queries)), visited)  # (pairs,)
    end_pair = np.cumsum(visited)  # (rows,)
    index = np.arange(len(row)) + (end_block - end_pair)[row]  # in its table
    begin = index * block_size  # position of its first slot
    edge = np.flatnonzero((begin < first[row]) | (begin + block_size > end[row]))
    position = begin[edge][:, None] + np.arange(block_size)  # (edges, block_size)
    seen = (position >= first[row[edge]][:, None]) & (position < end[row[edge]][:, None])
    return Visits(
        mx.array(queries, mx.uint32),
        mx.array(row.astype(np.uint32)),
        mx.array(np.stack([end_pair - visited, end_pair], axis=1).astype(np.uint32)),
        mx.array(np.concatenate(block).astype(np.uint32)),
        mx.array(edge.astype(np.uint32)),
        mx.array(seen),
    )


def _attend_few(queries: mx.array, pool: Pool, visits: Visits, logits: Logits) -> mx.array:
    """queries: (rows, kv, group, head_dim) -> the same shape."""
    rows, kv, group, head_dim = queries.shape
    heads, row, edge = kv * group, visits.row, visits.edge
    held = pool.rows(visits.block)  # (pairs, kv)
    keys, values = pool.flat()
    if keys.dtype != mx.float32:  # gather_mm needs float32 on CPU, and rounds scores to its operands' dtype
        keys, values = (x.flatten(0, 1) for x in pool.widened(held))
        held = mx.arange(held.size, dtype=mx.uint32).reshape(held.shape)
    # One row a product. Products of `group` rows would read each block once instead of `group` times, but the
    # other times it is in the cache, while a fast BLAS deals out even such small products to its threads.
    held_by_head = mx.repeat(held, group, axis=1).flatten()  # (pairs · heads,)
    asks = (row[:, None] * heads + mx.arange(heads, dtype=mx.uint32)).flatten()
    asking = logits.scaled(queries).reshape(rows * heads, 1, head_dim)
    products = mx.gather_mm(asking, keys.swapaxes(1, 2), asks, held_by_head)
    scores = logits.of(products).reshape(-1, heads, pool.block_size)  # (pairs, heads, block_size)
    if edge.size:
        scores[edge] = mx.where(visits.seen[:, None], scores[edge], -mx.inf)
    sinks = mx.repeat(logits.sinks(pool.kv_heads, group, pool.kv).reshape(1, heads), rows, axis=0)
    top = sinks.at[row].maximum(scores.max(axis=-1))  # (rows, heads)
    weights = exp(scores - top[row][..., None])  # (pairs, heads, block_size)
    total = exp(sinks - top).at[row].add(weights.sum(axis=-1))

    mixed = mx.gather_mm(weights.reshape(products.shape), values, rhs_indices=held_by_head)
    mixed = mixed.reshape(-1, heads, head_dim)
    if edge.size:  # slots that are not seen may hold NaN, and 0 · NaN is NaN
        # (edges, kv, 1, block_size, head_dim)
        clean = mx.where(visits.seen[:, None, :, None], values[held[edge]], 0)[:, :, None]
        edge_weights = weights[edge].reshape(-1, kv, group, 1, pool.block_size)
        mixed[edge] = (edge_weights @ clean).reshape(-1, heads, head_dim)
    # A sum over the pairs of each row: a tenth of the time of `.at[row].add`, and NaN stays in its row.
    summed = mx.segmented_mm(mx.ones((1, mixed.shape[0])), mixed.flatten(1), visits.bounds)
    return summed.reshape(queries.shape) / total.reshape(rows, kv, group, 1)


# Many queries of one sequence: lay its keys out, go chunk by chunk ----------------------------------------


def _attend_many(queries: mx.array, pool: Pool, reach: Reach, logits: Logits) -> mx.array:
    """queries: (count, kv, group, head_dim) -> the same shape."""
    first_block, end_block = reach.blocks(pool.block_size, logits.window)
    blocks = mx.array(np.asarray(reach.table[first_block:end_block], np.uint32))
    keys, values = (x.flatten(1, 2) for x in pool.widened(pool.rows(blocks).T))  # (kv, keys, head_dim)
    origin = first_block * pool.block_size  # position of the first key laid out
    sinks = logits.sinks(pool.kv_heads, queries.shape[2], pool.kv)[..., None, None]
    queries = logits.scaled(queries).transpose(1, 2, 0, 3)  # (kv, group, count, head_dim)
    before = reach.context - reach.count  # position of the first query
    out = []
    for start in range(0, reach.count, CHUNK):
        chunk = queries[:, :, start : start + CHUNK]
        first, end = before + start, before + start + chunk.shape[2]  # its positions
        oldest = 0 if logits.window is None else max(0, first - logits.window + 1)
        visible = slice(oldest - origin, end - origin)
        products = chunk.flatten(1, 2) @ keys[:, visible].swapaxes(1, 2)
        scores = logits.of(mx.unflatten(products, 1, chunk.shape[1:3]))
        checked = first if logits.window is None else oldest  # keys from here on, not every query sees
        key, query = mx.arange(checked, end), mx.arange(first, end)[:, None]
        seen = key <= query
        if logits.window is not None:
            seen = seen & (key > query - logits.window)
        scores[..., checked - oldest :] = mx.where(seen, scores[..., checked - oldest :], -mx.inf)
        top = mx.maximum(scores.max(axis=-1, keepdims=True), sinks)
        weights = exp(scores - top)  # (kv, group, queries, keys)
        total = weights.sum(axis=-1, keepdims=True) + exp(sinks - top)
        mixed = weights.flatten(1, 2) @ values[:, visible]
        out.append(mx.unflatten(mixed, 1, chunk.shape[1:3]) / total)
    return mx.concatenate(out, axis=2).transpose(2, 0, 1, 3)
