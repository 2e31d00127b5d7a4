"""From positions to addresses and back, and attention over a pool that the caller keeps."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from spec.paged_attention import Fragmentation, MemoryUse, PageTable

from .checks import blocks_for, expect
from .kernels import Reach, attend

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def paged_attention(
    queries: mx.array,
    key_blocks: mx.array,
    value_blocks: mx.array,
    block_tables: mx.array,
    context_lens: mx.array,
    query_lens: mx.array,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sink_logits: mx.array | None = None,
) -> mx.array:
    """Causal attention of a ragged batch over keys and values in blocks.

    queries: (sum(query_lens), heads, head_dim), sequence after sequence.
    key_blocks, value_blocks: (num_blocks, kv_heads, block_size, head_dim).
    block_tables: (sequences, max_blocks) int32; entries that no visible key needs may hold anything.
    context_lens, query_lens: (sequences,) int32; the queries sit at the last positions of the context.
    sink_logits: (heads,) float32.

    Returns (sum(query_lens), heads, head_dim) in the queries' dtype.
    """
    _check_arrays(queries, key_blocks, value_blocks, block_tables, context_lens, query_lens)
    check_options(queries.shape[1], window, softcap, sink_logits)
    num_blocks, _, block_size, _ = key_blocks.shape
    reaches = []
    for table, context, count in zip(
        np.asarray(block_tables), context_lens.tolist(), query_lens.tolist(), strict=True
    ):
        reach = Reach(table, context, count)
        first, end = reach.blocks(block_size, window)
        if count > 0:
            expect(end <= len(table), "block_tables", f"{end} entries for {context} keys", len(table))
            needed = table[first:end]
            wrong = needed[(needed < 0) | (needed >= num_blocks)]
            expect(not wrong.size, "block_tables", f"ids from 0 to {num_blocks - 1}", wrong)
        reaches.append(reach)
    return attend(
        queries,
        key_blocks,
        value_blocks,
        reaches,
        scale=scale,
        window=window,
        softcap=softcap,
        sink_logits=sink_logits,
    )


def _check_arrays(queries, key_blocks, value_blocks, block_tables, context_lens, query_lens) -> None:
    expect(queries.ndim == 3, "queries", "3 axes", queries.shape)
    expect(queries.dtype in DTYPES.values(), "queries", f"one of {', '.join(DTYPES)}", queries.dtype)
    expect(key_blocks.ndim == 4, "key_blocks", "4 axes", key_blocks.shape)
    expect(value_blocks.shape == key_blocks.shape, "value_blocks", key_blocks.shape, value_blocks.shape)
    expect(key_blocks.dtype == queries.dtype, "key_blocks", queries.dtype, key_blocks.dtype)
    expect(value_blocks.dtype == queries.dtype, "value_blocks", queries.dtype, value_blocks.dtype)
    tokens, heads, head_dim = queries.shape
    _, kv_heads, _, pool_head_dim = key_blocks.shape
    expect(pool_head_dim == head_dim, "key_blocks", f"head_dim {head_dim}", pool_head_dim)
    expect(kv_heads > 0 and heads % kv_heads == 0, "queries", f"a multiple of {kv_heads} heads", heads)
    expect(block_tables.ndim == 2, "block_tables", "2 axes", block_tables.shape)
    rows = (block_tables.shape[0],)
    expect(context_lens.shape == rows, "context_lens", rows, context_lens.shape)
    expect(query_lens.shape == rows, "query_lens", rows, query_lens.shape)
    contexts, counts = np.asarray(context_lens), np.asarray(query_lens)
    expect((counts >= 0).all(), "query_lens", "at least 0", counts)
    expect((counts <= contexts).all(), "query_lens", "at most the contexts", counts)
    expect(counts.sum() == tokens, "queries", f"{sum(counts)} rows", tokens)


def check_options(
    heads: int, window: int | None, softcap: float | None, sink_logits: mx.array | None
) -> None:
    expect(window is None or window >= 1, "window", "at least 1", window)
    expect(softcap is None or softcap > 0, "softcap", "above 0", softcap)
    if sink_logits is not None:
        expect(sink_logits.shape == (heads,), "sink_logits", f"shape ({heads},)", sink_logits.shape)


def slot_mapping(block_table: Sequence[int | None], start: int, count: int, block_size: int) -> mx.array:
    """Slots of the positions start … start + count − 1, (count,) int64."""
    expect(block_size >= 1, "block_size", "at least 1", block_size)
    expect(start >= 0, "start", "at least 0", start)
    expect(count >= 0, "count", "at least 0", count)
    capacity = len(block_table) * block_size
    expect(start + count <= capacity, "count", f"positions below {capacity}", start + count)
    first, end = start // block_size, blocks_for(start + count, block_size)
    needed = list(block_table[first:end]) if count > 0 else []
    expect(None not in needed, "block_table", f"blocks for positions from {start} on", block_table)
    slots = np.array(needed, np.int64)[:, None] * block_size + np.arange(block_size)  # (blocks, block_size)
    offset = start - first * block_size
    return mx.array(slots.reshape(-1)[offset : offset + count])


def write_slots(
    keys: mx.array, values: mx.array, slots: mx.array, key_blocks: mx.array, value_blocks: mx.array
) -> tuple[mx.array, mx.array]:
    """The pool with row i of `keys` and `values` at slots[i]; slots below 0 are skipped.

    keys, values: (tokens, kv_heads, head_dim); slots: (tokens,) integers;
    key_blocks, value_blocks: (num_blocks, kv_heads, block_size, head_dim), which stay as they are.
    """
    expect(key_blocks.ndim == 4, "key_blocks", "4 axes", key_blocks.shape)
    expect(value_blocks.shape == key_blocks.shape, "value_blocks", key_blocks.shape, value_blocks.shape)
    expect(slots.ndim == 1, "slots", "1 axis", slots.shape)
    num_blocks, kv_heads, block_size, head_dim = key_blocks.shape
    rows = (slots.shape[0], kv_heads, head_dim)
    expect(keys.shape == rows, "keys", rows, keys.shape)
    expect(values.shape == rows, "values", rows, values.shape)
    expect(keys.dtype == key_blocks.dtype, "keys", key_blocks.dtype, keys.dtype)
    expect(values.dtype == value_blocks.dtype, "values", value_blocks.dtype, values.dtype)
    slots = np.asarray(slots)
    expect((slots < num_blocks * block_size).all(), "slots", f"below {num_blocks * block_size}", slots)

    key_blocks, value_blocks = mx.array(key_blocks), mx.array(value_blocks)  # not the caller's objects
    written = np.flatnonzero(slots >= 0)
    if written.size:
        block, offset = (mx.array(part) for part in np.divmod(slots[written], block_size))
        written = mx.array(written)
        key_blocks[block, :, offset] = keys[written]
        value_blocks[block, :, offset] = values[written]
    mx.eval(key_blocks, value_blocks)
    return key_blocks, value_blocks


def to_csr(block_tables: Sequence[Sequence[int]], lengths: Sequence[int], block_size: int) -> PageTable:
    """The page table of these sequences in compressed sparse rows; entries past a length are left out."""
    expect(block_size >= 1, "block_size", "at least 1", block_size)
    expect(len(lengths) == len(block_tables), "lengths", len(block_tables), len(lengths))
    indptr, indices = [0], []
    for table, length in zip(block_tables, lengths, strict=True):
        expect(length >= 1, "lengths", "at least 1", length)
        pages = blocks_for(length, block_size)
        expect(pages <= len(table), "block_tables", f"{pages} blocks for {length} tokens", len(table))
        indices.extend(table[:pages])
        indptr.append(len(indices))
    last_page_len = [(length - 1) % block_size + 1 for length in lengths]
    return PageTable(
        mx.array(indptr, mx.int32), mx.array(indices, mx.int32), mx.array(last_page_len, mx.int32)
    )


def fragmentation(lengths: Sequence[int], block_size: int, max_length: int) -> Fragmentation:
    """Slots used, reserved and unused, paged and contiguous."""
    expect(block_size >= 1, "block_size", "at least 1", block_size)
    expect(max_length >= 1, "max_length", "at least 1", max_length)
    expect(all(0 <= n <= max_length for n in lengths), "lengths", f"0 to {max_length}", list(lengths))
    used = sum(lengths)
    paged = sum(blocks_for(n, block_size) for n in lengths) * block_size
    contiguous = len(lengths) * max_length
    return Fragmentation(
        paged=MemoryUse(used, paged, paged - used),
        contiguous=MemoryUse(used, contiguous, contiguous - used),
    )
