"""Long context in MLX against what else one would run, on the same BLAS.

Contenders take turns (`races.py`). Beside each stands the floor: the time that the keys and values it has to
read take to cross the memory bus once, or for prefill the time of its multiplications at the speed of a large
matrix product. Times are printed, not asserted.

8 query heads on 2 kv heads of 64, float32. A decode step is what a layer does for one more token: rotate the
query and the key, put key and value into the cache, attend.
"""

from runtime import blas

blas.preload()  # before MLX is imported

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import cache, partial  # noqa: E402
from typing import Any  # noqa: E402

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from solution.long_context import (  # noqa: E402
    QuantizedKVCache,
    RollingKVCache,
    blockwise_attention,
    chunked_prefill,
    rope_frequencies,
)
from spec.long_context import Model, RopeConfig  # noqa: E402
from tests.week3.races import (  # noqa: E402
    Row,
    above,
    agree,
    evaluate,
    measure,
    product_speed,
    race,
    read_bandwidth,
    show,
)

HEADS, KV_HEADS, HEAD_DIM = 8, 2, 64
SCALE = HEAD_DIM**-0.5
TOKEN_BYTES = 2 * KV_HEADS * HEAD_DIM * 4  # a key and a value
WINDOW, SINKS = 1024, 4
BITS, GROUP, RESIDUAL = 8, 64, 0
KEYS = 8192
PROMPT = 4096
BLOCK = 256
ROUNDS = 100
LENGTHS = [1024 * 2**i for i in range(7)]  # 1k to 64k
LONGEST_FLAT = 100_000

BASE = 10_000.0
INV_FREQ = rope_frequencies(RopeConfig(HEAD_DIM, BASE)).inv_freq


@cache
def rows(count: int, heads: int, seed: int) -> mx.array:
    """(count, heads, HEAD_DIM)"""
    array = mx.array(np.random.default_rng(seed).standard_normal((count, heads, HEAD_DIM), np.float32))
    mx.eval(array)
    return array


def dense(count: int, heads: int, seed: int) -> mx.array:
    """(1, heads, count, HEAD_DIM), contiguous"""
    array = mx.contiguous(rows(count, heads, seed).swapaxes(0, 1)[None])
    mx.eval(array)
    return array


# Decode steps: each contender is a cache of `length` tokens, and a call is one more token -------------------

Step = Callable[[], mx.array]


def one_token() -> tuple[mx.array, mx.array, mx.array]:
    """Query, key and value, (1, heads, 1, HEAD_DIM) as mlx-lm's caches take them."""
    return dense(1, HEADS, 1), dense(1, KV_HEADS, 2), dense(1, KV_HEADS, 3)


def rotated(x: mx.array, offset: int) -> mx.array:
    return mx.fast.rope(x, HEAD_DIM, traditional=False, base=BASE, scale=1.0, offset=offset)


def full(length: int) -> Step:
    """mlx-lm's cache of everything, `mx.fast` attention."""
    from mlx_lm.models.cache import KVCache

    cache = KVCache()
    cache.update_and_fetch(rotated(dense(length - 1, KV_HEADS, 4), 0), dense(length - 1, KV_HEADS, 5))
    mx.eval(cache.state)
    q, k, v = one_token()

    def step() -> mx.array:
        at = cache.offset
        keys, values = cache.update_and_fetch(rotated(k, at), v)
        out = mx.fast.scaled_dot_product_attention(rotated(q, at), keys, values, scale=SCALE)
        mx.eval(out)
        cache.trim(1)
        return out[0, :, 0]

    return step


def rotating(length: int) -> Step:
    """mlx-lm's ring buffer that keeps the first tokens."""
    from mlx_lm.models.cache import RotatingKVCache

    cache = RotatingKVCache(max_size=WINDOW + SINKS, keep=SINKS)
    keys, values = rotated(dense(length - 1, KV_HEADS, 4), 0), dense(length - 1, KV_HEADS, 5)
    cache.update_and_fetch(keys, values)
    q, k, v = one_token()

    def step() -> mx.array:
        at = cache.offset
        keys, values = cache.update_and_fetch(rotated(k, at), v)
        return mx.fast.scaled_dot_product_attention(rotated(q, at), keys, values, scale=SCALE)[0, :, 0]

    return step


def rolling(length: int, positions: str = "cache") -> Step:
    cache = RollingKVCache(WINDOW, SINKS, KV_HEADS, HEAD_DIM, inv_freq=INV_FREQ, positions=positions)
    for start in range(0, length - 1, 4096):
        part = slice(start, min(length - 1, start + 4096))
        cache.append(rows(length - 1, KV_HEADS, 4)[part], rows(length - 1, KV_HEADS, 5)[part])
    q, k, v = rows(1, HEADS, 1), rows(1, KV_HEADS, 2), rows(1, KV_HEADS, 3)

    def step() -> mx.array:
        cache.append(k, v)
        return cache.attend(q)[0]

    return step


def read_by(tokens: int) -> float:
    """Seconds that keys and values of so many tokens take to cross the bus."""
    return tokens * TOKEN_BYTES / read_bandwidth()


def window_rows() -> list[Row]:
    names = ("all keys, mx.fast", "RotatingKVCache, mx.fast", "rolling, absolute", "rolling, in the cache")
    makers = (full, rotating, partial(rolling, positions="absolute"), rolling)
    agree([maker(KEYS) for maker in makers[1:3]])
    seconds = race([maker(KEYS) for maker in makers], ROUNDS)
    floors = [read_by(KEYS)] + [read_by(WINDOW + SINKS)] * 3
    setting = f"decode at {KEYS} tokens, window {WINDOW} + {SINKS}"
    result = [
        Row(f"{setting}: {name}", s, seconds[0] / s, "", True, above(s, floor))
        for name, s, floor in zip(names[:2], seconds, floors, strict=False)
    ]
    for name, s, floor in zip(names[2:], seconds[2:], floors[2:], strict=True):
        ratio = seconds[0] / s
        met = ratio >= 3.5
        result.append(Row(f"{setting}: {name}", s, ratio, "at least 3.5 x faster", met, above(s, floor)))
    return result


def flat_rows() -> list[Row]:
    """The ratio is the time over that at 2,000 tokens."""
    lengths = (2_000, 20_000, LONGEST_FLAT)
    steps, held = [], []
    for length in lengths:
        mx.clear_cache()
        rows.cache_clear()
        before = mx.get_active_memory()
        steps.append(rolling(length))
        evaluate(steps[-1]())
        rows.cache_clear()
        held.append(mx.get_active_memory() - before)
    seconds = race(steps, ROUNDS)
    result = []
    for length, s, bytes_ in zip(lengths, seconds, held, strict=True):
        ratio, memory = s / seconds[0], bytes_ / held[0]
        met = ratio <= 1.1 and memory <= 1.1
        name = f"rolling step after {length} tokens, {bytes_ / 1e6:.1f} MB"
        result.append(Row(name, s, ratio, "at most 1.1 x time and memory", met, ""))
    return result


# Quantised caches -----------------------------------------------------------------------------------------


def contiguous(length: int) -> Step:
    """Float32 keys and values where they lie, `mx.fast` attention: attention alone."""
    q, k, v = dense(1, HEADS, 1), dense(length, KV_HEADS, 4), dense(length, KV_HEADS, 5)
    return lambda: mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE)[0, :, 0]


def quantized(length: int, bits: int = BITS) -> Step:
    cache = QuantizedKVCache(bits, GROUP, RESIDUAL, KV_HEADS, HEAD_DIM)
    cache.append(rows(length, KV_HEADS, 4), rows(length, KV_HEADS, 5))
    q = rows(1, HEADS, 1)
    return lambda: cache.attend(q)[0]


def quantized_bytes(length: int, bits: int = BITS) -> int:
    cache = QuantizedKVCache(bits, GROUP, RESIDUAL, KV_HEADS, HEAD_DIM)
    cache.append(rows(length, KV_HEADS, 4), rows(length, KV_HEADS, 5))
    return cache.nbytes()


def quantized_mlx_lm(length: int) -> Step:
    from mlx_lm.models.base import quantized_scaled_dot_product_attention
    from mlx_lm.models.cache import QuantizedKVCache as Theirs

    cache = Theirs(group_size=GROUP, bits=BITS)
    held = cache.update_and_fetch(dense(length, KV_HEADS, 4), dense(length, KV_HEADS, 5))
    mx.eval(held)
    q = dense(1, HEADS, 1)
    options = {"scale": SCALE, "mask": None, "group_size": GROUP, "bits": BITS}
    return lambda: quantized_scaled_dot_product_attention(q, *held, **options)[0, :, 0]


def quantized_rows() -> list[Row]:
    steps = [contiguous(KEYS), quantized_mlx_lm(KEYS), quantized(KEYS)]
    full_seconds, theirs, own = race(steps, ROUNDS)
    size = quantized_bytes(KEYS) / (KEYS * TOKEN_BYTES)
    least = read_by(KEYS)
    setting = f"attention over {KEYS} keys"
    floor = above(own, least * size)
    met = own <= 1.05 * full_seconds and size <= 0.285
    return [
        Row(f"{setting}: float32, mx.fast", full_seconds, 1.0, "", True, above(full_seconds, least)),
        Row(
            f"{setting}: {BITS} bit, mlx-lm",
            theirs,
            theirs / full_seconds,
            "",
            True,
            above(theirs, least * size),
        ),
        Row(
            f"{setting}: {BITS} bit, {size:.3f} of the bytes",
            own,
            own / full_seconds,
            "at most 1.05 x the time at 0.28 of the bytes",
            met,
            floor,
        ),
        Row(
            f"{setting}: {BITS} bit, against mlx-lm",
            own,
            theirs / own,
            "at least 2 x faster",
            theirs / own >= 2,
            floor,
        ),
    ]


# Prefill --------------------------------------------------------------------------------------------------


def prompt(length: int) -> tuple[mx.array, mx.array, mx.array]:
    return dense(length, HEADS, 6), dense(length, KV_HEADS, 4), dense(length, KV_HEADS, 5)


def fast(length: int) -> Step:
    q, k, v = prompt(length)
    return lambda: mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE, mask="causal")


def blockwise(length: int) -> Step:
    q, k, v = prompt(length)
    return lambda: blockwise_attention(q, k, v, block=BLOCK).out


def pytorch(length: int) -> Callable[[], Any]:
    import torch

    q, k, v = (torch.from_numpy(np.asarray(x)) for x in prompt(length))
    attention = torch.nn.functional.scaled_dot_product_attention
    return lambda: attention(q, k, v, is_causal=True, enable_gqa=True)


def products(length: int) -> int:
    """Multiplications and additions of queries with keys, and of weights with values."""
    return 2 * 2 * HEADS * HEAD_DIM * length * (length + 1) // 2


def peak_of(step: Step) -> int:
    """Bytes that MLX holds at most, beyond what it holds before."""
    evaluate(step())
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    evaluate(step())
    return mx.get_peak_memory() - before


def prefill_rows() -> list[Row]:
    steps = [fast(PROMPT), pytorch(PROMPT), blockwise(PROMPT)]
    agree(steps)
    theirs, torch_seconds, own = race(steps, 5)
    least = products(PROMPT) / product_speed()
    scores = HEADS * PROMPT * PROMPT * 4
    peak = peak_of(steps[-1])
    setting = f"prefill of {PROMPT}"
    floor = f"{scores / 10 / 1e6:.1f} MB"
    return [
        Row(f"{setting}: mx.fast, causal", theirs, 1.0, "", True, above(theirs, least)),
        Row(
            f"{setting}: PyTorch",
            torch_seconds,
            theirs / torch_seconds,
            "",
            True,
            above(torch_seconds, least),
        ),
        Row(
            f"{setting}: blockwise",
            own,
            theirs / own,
            "at least 1.8 x faster",
            theirs / own >= 1.8,
            above(own, least),
        ),
        Row(
            f"{setting}: memory of blockwise, {peak / 1e6:.1f} MB",
            own,
            peak / scores,
            "at most 0.1 of the scores",
            peak <= scores / 10,
            floor,
        ),
    ]


class Layers(nn.Module):
    """Two layers of a transformer with mlx-lm's cache, small enough to wait for."""

    WIDTH, VOCABULARY = HEADS * HEAD_DIM, 1000

    def __init__(self) -> None:
        super().__init__()
        width, inner = self.WIDTH, 4 * self.WIDTH
        self.embedding = nn.Embedding(self.VOCABULARY, width)
        self.projections = [nn.Linear(width, width + 2 * KV_HEADS * HEAD_DIM, bias=False) for _ in range(2)]
        self.outputs = [nn.Linear(width, width, bias=False) for _ in range(2)]
        self.up = [nn.Linear(width, inner, bias=False) for _ in range(2)]
        self.down = [nn.Linear(inner, width, bias=False) for _ in range(2)]

    def __call__(self, tokens: mx.array, caches: list[Any]) -> mx.array:
        """(m,) -> (m, VOCABULARY)"""
        x = self.embedding(tokens)[None]
        for layer, held in enumerate(caches):
            projected = self.projections[layer](x)
            sizes = [self.WIDTH, self.WIDTH + KV_HEADS * HEAD_DIM]
            q, k, v = (
                part.reshape(1, len(tokens), -1, HEAD_DIM).swapaxes(1, 2)
                for part in mx.split(projected, sizes, axis=-1)
            )
            at = held.offset
            k, v = held.update_and_fetch(rotated(k, at), v)
            mixed = blockwise_attention(rotated(q, at), k, v, block=BLOCK).out
            x = x + self.outputs[layer](mixed.swapaxes(1, 2).reshape(1, len(tokens), -1))
            x = x + self.down[layer](nn.relu(self.up[layer](x)))
        return self.embedding.as_linear(x)[0]


@cache
def layers() -> Layers:
    mx.random.seed(0)
    network = Layers()
    mx.eval(network.parameters())
    return network


def in_pieces(chunk: int) -> Step:
    from mlx_lm.models.cache import KVCache

    tokens = mx.array(np.random.default_rng(7).integers(0, Layers.VOCABULARY, PROMPT))

    def run() -> mx.array:
        caches = [KVCache(), KVCache()]

        def forward(piece: mx.array) -> mx.array:
            logits = layers()(piece, caches)
            mx.eval(logits)
            return logits

        def truncate(length: int) -> None:
            for each in caches:
                each.trim(each.offset - length)

        model = Model(Layers.VOCABULARY, PROMPT, forward, lambda: caches[0].offset, truncate)
        return chunked_prefill(model, tokens, chunk)

    return run


def pieces_rows() -> list[Row]:
    chunks = (PROMPT, 2048, 512, 128)
    steps = [in_pieces(chunk) for chunk in chunks]
    agree(steps)
    seconds = race(steps, 4)
    result = []
    for chunk, s in zip(chunks, seconds, strict=True):
        ratio, barred = s / seconds[0], chunk == 512
        bar, met = ("at most 1.1 x one shot", ratio <= 1.1) if barred else ("", True)
        result.append(Row(f"prompt of {PROMPT}, two layers, pieces of {chunk}", s, ratio, bar, met, ""))
    return result


# Growth ---------------------------------------------------------------------------------------------------


def growth_rows() -> list[Row]:
    """Decode and prefill from 1k to 64k; the ratio is the time over that at 1k."""
    evaluate(blockwise(LENGTHS[0])())  # what the first call sets up
    result = []
    for name, maker, size in (
        ("all keys, mx.fast", full, lambda n: n * TOKEN_BYTES),
        (f"{BITS} bit", quantized, quantized_bytes),
        (f"window {WINDOW} + {SINKS}", rolling, lambda n: min(n, WINDOW + SINKS) * TOKEN_BYTES),
    ):
        seconds = [race([maker(n)], ROUNDS // 4)[0] for n in LENGTHS]
        for n, s in zip(LENGTHS, seconds, strict=True):
            ratio = s / seconds[0]
            result.append(Row(f"decode at {n}: {name}, {size(n) / 1e6:.2f} MB", s, ratio, "", True, ""))
    first = None
    for n in LENGTHS:  # once each: 64k take a minute
        step = blockwise(n)
        held = mx.get_active_memory()
        mx.reset_peak_memory()
        start = time.perf_counter()
        evaluate(step())
        seconds = time.perf_counter() - start
        first = first or seconds
        peak = f"{(mx.get_peak_memory() - held) / 1e6:.1f} MB"
        result.append(Row(f"prefill of {n}: blockwise, {peak}", seconds, seconds / first, "", True, ""))
    return result


def report() -> list[Row]:
    """Every bar, measured in this process."""
    return [*window_rows(), *flat_rows(), *quantized_rows(), *prefill_rows(), *pieces_rows(), *growth_rows()]


# For pytest-benchmark -------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", [full, rotating, rolling])
def test_decode_with_a_window(benchmark, maker):
    measure(benchmark, f"decode at {KEYS}, window {WINDOW} + {SINKS}", maker(KEYS))


@pytest.mark.parametrize("maker", [contiguous, quantized_mlx_lm, quantized])
def test_decode_over_codes(benchmark, maker):
    measure(benchmark, f"attention over {KEYS} keys, {BITS} bit", maker(KEYS))


@pytest.mark.parametrize("maker", [fast, pytorch, blockwise])
def test_prefill(benchmark, maker):
    measure(benchmark, f"prefill of {PROMPT}", maker(PROMPT))


@pytest.mark.parametrize("chunk", [PROMPT, 512])
def test_prefill_in_pieces(benchmark, chunk):
    measure(benchmark, f"prompt of {PROMPT} in pieces", in_pieces(chunk))


def test_report(benchmark, capsys):
    show(benchmark, capsys, report)
