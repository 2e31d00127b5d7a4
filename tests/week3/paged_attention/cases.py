"""Inputs for the tests of paged attention, built so that nothing can hide in them.

Heads, key heads, block size and head dimension are pairwise distinct, physical ids are shuffled, lengths sit
on both sides of block boundaries.
"""

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from grading.matching import assert_identical

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Shape:
    heads: int
    kv_heads: int
    block_size: int
    head_dim: int


SHAPES = st.sampled_from([Shape(6, 2, 4, 8), Shape(6, 3, 5, 7), Shape(8, 2, 3, 5), Shape(4, 1, 2, 3)])


@dataclass(frozen=True)
class Batch:
    """The arguments of `paged_attention`; iterating gives them in order."""

    queries: np.ndarray  # (sum(query_lens), heads, head_dim)
    key_blocks: np.ndarray  # (num_blocks, kv_heads, block_size, head_dim)
    value_blocks: np.ndarray
    block_tables: np.ndarray  # (sequences, max_blocks or one more)
    context_lens: np.ndarray
    query_lens: np.ndarray

    def __iter__(self):
        return iter(
            (
                self.queries,
                self.key_blocks,
                self.value_blocks,
                self.block_tables,
                self.context_lens,
                self.query_lens,
            )
        )

    def __repr__(self):
        _, kv_heads, block_size, head_dim = self.key_blocks.shape
        return (
            f"Batch(context_lens={self.context_lens.tolist()}, query_lens={self.query_lens.tolist()}, "
            f"block_size={block_size}, heads={self.queries.shape[1]}, kv_heads={kv_heads}, "
            f"head_dim={head_dim}, dtype={self.queries.dtype}, block_tables={self.block_tables.tolist()})"
        )

    def _repr_pretty_(self, printer, cycle):
        printer.text(repr(self))  # what Hypothesis prints; it would spell the arrays out

    def with_unwritten_slots(self, value):
        """The same batch; every slot that holds no token holds `value`."""
        written = np.zeros((self.key_blocks.shape[0], self.key_blocks.shape[2]), bool)
        for row, n in zip(self.block_tables, self.context_lens, strict=True):
            for position in range(n):
                block_size = written.shape[1]
                written[row[position // block_size], position % block_size] = True
        unwritten = ~written[:, None, :, None]
        return replace(
            self,
            key_blocks=np.where(unwritten, np.asarray(value, self.key_blocks.dtype), self.key_blocks),
            value_blocks=np.where(unwritten, np.asarray(value, self.value_blocks.dtype), self.value_blocks),
        )

    def with_padding(self, entry):
        """The same batch; table entries past each length are `entry`."""
        tables = self.block_tables.copy()
        block_size = self.key_blocks.shape[2]
        for row, n in zip(tables, self.context_lens, strict=True):
            row[-(-n // block_size) :] = entry
        return replace(self, block_tables=tables)

    def with_entries(self, rows, first, end, entry):
        """The same batch; entries first … end − 1 of these rows' tables are `entry`."""
        tables = self.block_tables.copy()
        tables[rows, first:end] = entry
        return replace(self, block_tables=tables)


def ragged_batch(shape, context_lens, query_lens, seed, *, dtype="float32", magnitude=1.0):
    """A batch of these lengths: normal keys, values and queries, blocks at shuffled physical ids.

    Slots without a token hold other normal numbers, tables are padded with block 0, and every other seed
    leaves the longest of them no padding at all.
    """
    rng = np.random.default_rng(seed)
    size = shape.block_size
    counts = [-(-n // size) for n in context_lens]
    num_blocks = sum(counts) + 3
    ids = rng.permutation(num_blocks)
    pool = (num_blocks, shape.kv_heads, size, shape.head_dim)
    key_blocks = normal(rng, pool, dtype, magnitude)
    value_blocks = normal(rng, pool, dtype)
    width = max(1, max(counts, default=0) + seed % 2)
    block_tables = np.zeros((len(context_lens), width), np.int32)
    taken = 0
    for row, count in zip(block_tables, counts, strict=True):
        row[:count] = ids[taken : taken + count]
        taken += count
    queries = normal(rng, (sum(query_lens), shape.heads, shape.head_dim), dtype, magnitude)
    lens = np.array(context_lens, np.int32), np.array(query_lens, np.int32)
    return Batch(queries, key_blocks, value_blocks, block_tables, *lens)


def normal(rng, shape, dtype="float32", magnitude=1.0):
    return (magnitude * rng.standard_normal(shape)).astype(DTYPES[dtype])


def rare(array, seed):
    """The same array; a fifth of it are values that arithmetic or another dtype would change."""
    rng = np.random.default_rng([seed, 5])
    special = np.array([-0.0, np.nan, np.inf, 1e-7, 1e-30]).astype(array.dtype)
    return np.where(rng.random(array.shape) < 0.2, rng.choice(special, array.shape), array)


def context_lengths(block_size):
    """On both sides of block boundaries."""
    return st.sampled_from(
        [1, block_size - 1, block_size, block_size + 1, 2 * block_size, 3 * block_size + 2]
    ).filter(lambda n: n > 0)


@st.composite
def decode_batches(draw, max_sequences=3, **options):
    """One query a sequence."""
    shape = draw(SHAPES)
    lens = draw(st.lists(context_lengths(shape.block_size), min_size=1, max_size=max_sequences))
    return ragged_batch(shape, lens, [1] * len(lens), draw(SEEDS), **options)


@st.composite
def ragged_batches(draw, max_sequences=3, min_queries=1, **options):
    """Decode, chunked and whole prefill mixed."""
    shape = draw(SHAPES)
    lens = draw(st.lists(context_lengths(shape.block_size), min_size=1, max_size=max_sequences))
    query_lens = [draw(st.integers(min_queries, n)) for n in lens]
    return ragged_batch(shape, lens, query_lens, draw(SEEDS), **options)


def batches(**options):
    """One query a sequence, or several: implementations often have a path for each."""
    return decode_batches(**options) | ragged_batches(**options)


# Caches

KV_HEADS, HEADS, HEAD_DIM = 2, 6, 5


def rows(count, seed, dtype="float32"):
    """Keys and values of `count` tokens, (count, KV_HEADS, HEAD_DIM) each."""
    rng = np.random.default_rng(seed)
    shape = (count, KV_HEADS, HEAD_DIM)
    return normal(rng, shape, dtype), normal(rng, shape, dtype)


def query_rows(count, seed, dtype="float32"):
    return normal(np.random.default_rng([seed, 1]), (count, HEADS, HEAD_DIM), dtype)


def joined(*parts):
    """Several (keys, values) one after another."""
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def written_by_hand(rows, slots, blocks):
    blocks = blocks.copy()
    for row, slot in zip(rows, slots, strict=True):
        if slot >= 0:
            blocks[slot // blocks.shape[2], :, slot % blocks.shape[2]] = row
    return blocks


B = 4


def caching(impl, num_blocks=20, **options):
    return impl.PagedKVCache(num_blocks, B, KV_HEADS, HEAD_DIM, prefix_caching=True, **options)


def rows_of(tokens, history=()):
    """Keys and values that depend on each token and on all before it, as in a real model."""
    parts = [rows(0, 0)]
    for end in range(len(history) + 1, len(history) + len(tokens) + 1):
        parts.append(rows(1, [token + 1 for token in (*history, *tokens)[:end]]))
    return joined(*parts)


def run(cache, seq_id, tokens, **extras):
    """Adds a sequence, computes what is not cached, and returns how much was."""
    hit = cache.add(seq_id, tokens, **extras)
    cache.append(seq_id, *rows_of(tokens[hit:], tokens[:hit]), tokens=tokens[hit:])
    return hit


def assert_content(cache, seq_id, tokens):
    keys, values = rows_of(tokens)
    assert_identical(cache.gather(seq_id)[0], keys, f"keys of {seq_id}")
    assert_identical(cache.gather(seq_id)[1], values, f"values of {seq_id}")
