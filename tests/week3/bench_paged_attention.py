"""Paged attention in MLX against what else one would write in MLX, on the same BLAS.

Contenders take turns (`races.py`). Beside each stands the floor, the time that its keys and values take to
cross the memory bus once (for prefill: that its multiplications take at the speed of a large matrix product).
Times are printed, not asserted.

Decode and prefill use 8 query heads on 2 kv heads of 64 in float32. Blocks lie in the pool in random order,
as after hours of service.
"""

from runtime import blas

blas.preload()  # before MLX is imported

import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from functools import cache, partial  # noqa: E402

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from solution.paged_attention import PagedKVCache, fragmentation, paged_attention  # noqa: E402
from tests.week3.races import (  # noqa: E402
    Row,
    above,
    agree,
    measure,
    product_speed,
    race,
    read_bandwidth,
    show,
)

HEADS, KV_HEADS, HEAD_DIM = 8, 2, 64
MAX_LENGTH = 8192
LENGTHS = [int(512 * 16 ** ((i + 0.5) / 32)) for i in range(32)]  # log-uniform over 512 … 8192
TOKEN_BYTES = 2 * KV_HEADS * HEAD_DIM * 4  # a key and a value
POOLS = (16, 64, 512)  # megabytes
ROUNDS = 15


# What is measured -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """The same keys and values twice: padded contiguous, and in blocks."""

    lengths: list[int]
    count: int  # queries of each sequence
    queries: mx.array  # (sequences · count, heads, head_dim)
    keys: mx.array  # (sequences, kv_heads, longest, head_dim)
    values: mx.array
    key_blocks: mx.array  # (num_blocks, kv_heads, block_size, head_dim)
    value_blocks: mx.array
    tables: mx.array  # (sequences, max_blocks)

    @property
    def live_bytes(self) -> int:
        return sum(self.lengths) * TOKEN_BYTES


@cache
def batch(lengths: tuple[int, ...], block_size: int, count: int = 1) -> Batch:
    rng = np.random.default_rng(0)
    lengths_ = rng.permutation(lengths).tolist()
    longest = max(lengths_)
    keys, values = (
        rng.standard_normal((len(lengths_), KV_HEADS, longest, HEAD_DIM), np.float32) for _ in range(2)
    )
    pages = [-(-n // block_size) for n in lengths_]
    ids = np.split(rng.permutation(sum(pages)), np.cumsum(pages)[:-1])
    pool = (sum(pages), KV_HEADS, block_size, HEAD_DIM)
    key_blocks, value_blocks = np.zeros(pool, np.float32), np.zeros(pool, np.float32)
    tables = np.zeros((len(lengths_), max(pages)), np.int32)
    for row, (n, blocks) in enumerate(zip(lengths_, ids, strict=True)):
        tables[row, : len(blocks)] = blocks
        for i, block in enumerate(blocks):
            part = slice(i * block_size, min(n, (i + 1) * block_size))
            key_blocks[block, :, : part.stop - part.start] = keys[row, :, part]
            value_blocks[block, :, : part.stop - part.start] = values[row, :, part]
    queries = rng.standard_normal((len(lengths_) * count, HEADS, HEAD_DIM), np.float32)
    arrays = [mx.array(a) for a in (queries, keys, values, key_blocks, value_blocks, tables)]
    return Batch(lengths_, count, *arrays)


def fast_attention(b: Batch, keys: mx.array, values: mx.array) -> mx.array:
    """`mx.fast` on padded keys and values, (sequences, kv_heads, longest, head_dim)."""
    queries = b.queries.reshape(-1, b.count, HEADS, HEAD_DIM).swapaxes(1, 2)
    mask = None
    if b.count > 1:
        mask = "causal"
    elif len(b.lengths) > 1:
        mask = (mx.arange(keys.shape[2]) < mx.array(b.lengths)[:, None])[:, None, None]
    out = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=HEAD_DIM**-0.5, mask=mask)
    return out.swapaxes(1, 2).reshape(b.queries.shape)


def contiguous(b: Batch) -> mx.array:
    """Not paged: every sequence padded to the longest, one call of `mx.fast`."""
    return fast_attention(b, b.keys, b.values)


def gather_all(b: Batch) -> mx.array:
    """Paged: blocks gathered into a padded copy, one call of `mx.fast`."""
    keys, values = (
        pool[b.tables].swapaxes(1, 2).flatten(2, 3)[:, :, : max(b.lengths)]
        for pool in (b.key_blocks, b.value_blocks)
    )
    return fast_attention(b, keys, values)


def gather_each(b: Batch) -> mx.array:
    """Paged: sequence after sequence, its blocks gathered, `mx.fast` on them."""
    block_size = b.key_blocks.shape[2]
    out = []
    for row, n in enumerate(b.lengths):
        blocks = b.tables[row, : -(-n // block_size)]
        keys, values = (
            pool[blocks].swapaxes(0, 1).flatten(1, 2)[None, :, :n] for pool in (b.key_blocks, b.value_blocks)
        )
        queries = b.queries[row : row + 1, :, None]
        out.append(mx.fast.scaled_dot_product_attention(queries, keys, values, scale=HEAD_DIM**-0.5))
    return mx.concatenate(out).reshape(b.queries.shape)


def paged(b: Batch) -> mx.array:
    """The solution."""
    counts = mx.array([b.count] * len(b.lengths))
    return paged_attention(b.queries, b.key_blocks, b.value_blocks, b.tables, mx.array(b.lengths), counts)


DECODE = partial(batch, tuple(LENGTHS))
SINGLE = partial(batch, (MAX_LENGTH,))
PREFILL = partial(batch, (1024,), 32, 1024)


class Appends:
    """A cache with a pool of some size; every call appends one token to each of 32 sequences."""

    def __init__(self, megabytes: int) -> None:
        block_size, self.ids = 32, list(range(32))
        self.cache = PagedKVCache(
            megabytes * 2**20 // (TOKEN_BYTES * block_size), block_size, KV_HEADS, HEAD_DIM
        )
        for seq_id in self.ids:
            self.cache.add(seq_id)
        self.token = mx.random.normal((len(self.ids), KV_HEADS, HEAD_DIM), key=mx.random.key(0))
        mx.eval(self.token)

    def __call__(self) -> mx.array:
        self.cache.reserve(self.ids, [1] * len(self.ids))
        self.cache.write(0, self.token, self.token)
        self.cache.commit(self.ids)
        if self.cache.length(0) >= 256:  # the smallest pool holds 512 tokens of each
            for seq_id in self.ids:
                self.cache.truncate(seq_id, 0)
        return self.token


# Taking turns ---------------------------------------------------------------------------------------------


def rows(
    setting: str,
    contenders: Sequence[tuple[str, Callable[[], mx.array]]],
    floor: float,
    bar: str,
    met: Callable[[float, float], tuple[float, bool]],
) -> list[Row]:
    """The first contender is what the last, the solution, is measured against."""
    agree([run for _, run in contenders])
    seconds = race([run for _, run in contenders], ROUNDS)
    ratio, reached = met(seconds[0], seconds[-1])
    others = [
        Row(f"{setting}: {name}", s, seconds[0] / s, "", True, above(s, floor))
        for (name, _), s in zip(contenders[:-1], seconds, strict=False)
    ]
    own, far = seconds[-1], above(seconds[-1], floor)
    return [*others, Row(f"{setting}: {contenders[-1][0]}", own, ratio, bar, reached, far)]


def faster(times: float) -> tuple[str, Callable[[float, float], tuple[float, bool]]]:
    return f"at least {times} x faster", lambda other, own: (other / own, other / own >= times)


def at_most(times: float) -> tuple[str, Callable[[float, float], tuple[float, bool]]]:
    return f"at most {times} x the time", lambda other, own: (own / other, own / other <= times)


def decode_rows(block_size: int, bar: float) -> list[Row]:
    b = DECODE(block_size)
    contenders = [
        ("padded contiguous, mx.fast", partial(contiguous, b)),
        ("gather all, pad, mx.fast", partial(gather_all, b)),
        ("gather each, mx.fast", partial(gather_each, b)),
        ("paged", partial(paged, b)),
    ]
    floor = b.live_bytes / read_bandwidth()
    return rows(f"decode 32 sequences, blocks of {block_size}", contenders, floor, *faster(bar))


def single_rows(block_size: int) -> list[Row]:
    b = SINGLE(block_size)
    contenders = [
        ("contiguous, mx.fast", partial(contiguous, b)),
        ("gather, mx.fast", partial(gather_each, b)),
        ("paged", partial(paged, b)),
    ]
    floor = b.live_bytes / read_bandwidth()
    return rows(f"decode 1 sequence, blocks of {block_size}", contenders, floor, *at_most(1.6))


def prefill_rows() -> list[Row]:
    b = PREFILL()
    contenders = [
        ("contiguous, mx.fast", partial(contiguous, b)),
        ("gather, mx.fast", partial(gather_all, b)),
        ("paged", partial(paged, b)),
    ]
    products = 2 * 2 * HEADS * HEAD_DIM * sum(range(1, 1025))  # of queries and keys, of weights and values
    return rows("prefill 1024", contenders, products / product_speed(), *faster(1.5))


def append_rows() -> list[Row]:
    contenders = [(f"pool of {size} MB", Appends(size)) for size in POOLS]
    floor = len(contenders[0][1].ids) * TOKEN_BYTES / read_bandwidth()
    return rows("append to 32 sequences", contenders, floor, *at_most(1.3))


def memory_rows() -> list[Row]:
    """Bytes set aside over bytes in use; the time is that of counting them."""
    measured = []
    for block_size in (32, 128):
        start = time.perf_counter()
        counted = fragmentation(LENGTHS, block_size, MAX_LENGTH)
        seconds = time.perf_counter() - start
        ratio = counted.paged.reserved / counted.paged.used
        name = f"memory of 32 sequences, blocks of {block_size}: pages over live bytes"
        measured.append(Row(name, seconds, ratio, "at most 1.04", ratio <= 1.04, "1.00"))
    reserved = counted.contiguous.reserved / counted.contiguous.used
    name = f"memory of 32 sequences: reserved {MAX_LENGTH} each over live bytes"
    return [Row(name, seconds, reserved, "", True, "1.00"), *measured]


def report() -> list[Row]:
    """Every bar, measured in this process."""
    return [
        *decode_rows(32, 1.8),
        *decode_rows(128, 2.8),
        *(row for block_size in (16, 32, 128) for row in single_rows(block_size)),
        *prefill_rows(),
        *append_rows(),
        *memory_rows(),
    ]


# For pytest-benchmark -------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [32, 128])
@pytest.mark.parametrize("contender", [contiguous, gather_all, gather_each, paged])
def test_decode_32_sequences(benchmark, contender, block_size):
    measure(benchmark, f"decode 32 sequences, blocks of {block_size}", partial(contender, DECODE(block_size)))


@pytest.mark.parametrize("block_size", [16, 32, 128])
@pytest.mark.parametrize("contender", [contiguous, gather_each, paged])
def test_decode_one_sequence(benchmark, contender, block_size):
    measure(benchmark, f"decode 1 sequence, blocks of {block_size}", partial(contender, SINGLE(block_size)))


@pytest.mark.parametrize("contender", [contiguous, gather_all, paged])
def test_prefill(benchmark, contender):
    measure(benchmark, "prefill 1024", partial(contender, PREFILL()))


@pytest.mark.parametrize("megabytes", POOLS)
def test_append_to_32_sequences(benchmark, megabytes):
    measure(benchmark, "append to 32 sequences", Appends(megabytes))


def test_report(benchmark, capsys):
    show(benchmark, capsys, report)
