"""Keys and values in codes of a few bits, and a cache of them."""

import mlx.core as mx
import numpy as np

from spec.long_context import Quantized

from .attention import UNSEEN, as_given, by_kv_head, joined, softmax, stream_for
from .checks import expect
from .codes import bytes_of, coded
from .rows import DTYPES, Rows, check_cache, check_queries, check_tokens
from .tiles import KeyTiles, ValueTiles

CHUNK = 64  # queries taken at once
WIDENED = 1 << 19  # codes held as float32 at once: those of a block's keys, or values

# The functions --------------------------------------------------------------------------------------------


def quantize_kv(x: mx.array, *, bits: int, group: int, axis: int) -> Quantized:
    """Codes between the least and the largest value of each group.

    x: (tokens, kv_heads, head_dim); axis: 0, groups of tokens, or 2, groups of channels.
    """
    check_quantisation(bits, group, axis)
    expect(x.ndim == 3, "x", "3 axes", x.shape)
    expect(x.shape[axis] % group == 0, "group", f"a divisor of {x.shape[axis]}", group)
    rows = x.astype(mx.float32).moveaxis(axis, -1)
    codes, scale, zero = coded(mx.unflatten(rows, -1, (rows.shape[-1] // group, group)), bits)
    codes, scale, zero = (each.moveaxis(-1, axis) for each in (codes.flatten(-2), scale, zero))
    mx.eval(codes, scale, zero)
    return Quantized(codes, scale, zero, bits, group, axis)


def dequantize_kv(quantized: Quantized) -> mx.array:
    """code · scale + zero: (tokens, kv_heads, head_dim) float32."""
    bits, group, axis = quantized.bits, quantized.group, quantized.axis
    check_quantisation(bits, group, axis)
    codes, scale, zero = quantized.codes, quantized.scale, quantized.zero
    expect(codes.ndim == 3, "codes", "3 axes", codes.shape)
    expect(codes.shape[axis] % group == 0, "codes", f"a multiple of {group}", codes.shape)
    shape = tuple(size // group if i == axis else size for i, size in enumerate(codes.shape))
    expect(scale.shape == shape, "scale", f"shape {shape}", scale.shape)
    expect(zero.shape == shape, "zero", f"shape {shape}", zero.shape)
    largest = np.asarray(codes).max(initial=0)
    expect(largest < 2**bits, "codes", f"below {2**bits}", largest)
    groups = mx.unflatten(codes.astype(mx.float32), axis, (shape[axis], group))
    scale, zero = (mx.expand_dims(each, axis + 1) for each in (scale, zero))
    values = (groups * scale + zero).flatten(axis, axis + 1)
    mx.eval(values)
    return values


def check_quantisation(bits: int, group: int, axis: int) -> None:
    expect(bits in (2, 4, 8), "bits", "2, 4 or 8", bits)
    expect(group >= 1, "group", "at least 1", group)
    expect(axis in (0, 2), "axis", "0 or 2", axis)


# The cache ------------------------------------------------------------------------------------------------


class QuantizedKVCache:
    """Keys quantised per channel, values per token, the newest tokens as they came."""

    def __init__(
        self,
        bits: int,
        group: int,
        residual: int,
        kv_heads: int,
        head_dim: int,
        *,
        dtype: str = "float32",
    ) -> None:
        """An empty cache. At least the newest `residual` tokens are kept as they came."""
        check_cache(kv_heads, head_dim, dtype)
        check_quantisation(bits, group, 0)
        expect(head_dim % group == 0, "group", f"a divisor of {head_dim}", group)
        expect(residual >= 0, "residual", "at least 0", residual)
        self._bits, self._group, self._residual = bits, group, residual
        self._kv_heads, self._head_dim, self._dtype = kv_heads, head_dim, dtype
        self._block = group * max(1, WIDENED // (kv_heads * head_dim * group))  # tokens of a block
        self._blocks: list[tuple[KeyTiles, ValueTiles]] = []
        self._coded = 0  # tokens in them
        self._newest = self._no_rows()

    def _no_rows(self) -> Rows:
        empty = mx.zeros((self._kv_heads, 0, self._head_dim), DTYPES[self._dtype])
        return Rows(empty, empty)  # keys and values

    def append(self, keys: mx.array, values: mx.array) -> None:
        """(m, kv_heads, head_dim) each, keys already rotated."""
        check_tokens(keys, values, self._kv_heads, self._head_dim, self._dtype)
        if keys.shape[0] == 0:
            return
        rows = [each.swapaxes(0, 1) for each in (keys, values)]  # (kv_heads, m, head_dim)
        held = len(self._newest)
        end = max(0, held + keys.shape[0] - self._residual) // self._group * self._group
        if end > 0:
            rows = [mx.concatenate(pair, axis=1) for pair in zip(self._newest.all(), rows, strict=True)]
            self._quantise([each[:, :end] for each in rows])
            rows = [each[:, end:] for each in rows]
            self._newest = self._no_rows()  # which leaves behind the room that the older ones took
        self._newest.append(*rows)

    def _quantise(self, rows: list[mx.array]) -> None:
        """Keys and values, (kv_heads, tokens, head_dim): a multiple of G tokens."""
        tokens, start = rows[0].shape[1], 0
        while start < tokens:
            filled = self._coded % self._block
            if filled == 0:
                options = self._kv_heads, self._head_dim, self._group, self._bits
                self._blocks.append((KeyTiles(*options), ValueTiles(*options)))
            end = min(tokens, start + self._block - filled)
            for tiles, each in zip(self._blocks[-1], rows, strict=True):
                tiles.append(each[:, start:end].astype(mx.float32))
            self._coded += end - start
            start = end

    def gather(self) -> tuple[mx.array, mx.array]:
        """Keys and values, (n, kv_heads, head_dim) each, in the cache's dtype."""
        dtype = DTYPES[self._dtype]
        old = [[tiles.decoded().astype(dtype) for tiles in block] for block in self._blocks]
        parts = zip(*old, self._newest.all(), strict=True)
        keys, values = (mx.contiguous(mx.concatenate(each, axis=1).swapaxes(0, 1)) for each in parts)
        mx.eval(keys, values)
        return keys, values

    def attend(self, queries: mx.array, *, scale: float | None = None) -> mx.array:
        """queries: (m, heads, head_dim); the last m tokens attend."""
        check_queries(queries, self._kv_heads, self._head_dim, self._dtype)
        count, length = queries.shape[0], self.length()
        expect(count <= length, "queries", f"at most {length} tokens", count)
        asking = by_kv_head(queries, self._kv_heads, scale)
        out = []
        for start in range(0, count, CHUNK):
            mx.eval(out)  # one after the other: together they would hold their scores at the same time
            out.append(self._attend(asking[:, :, start : start + CHUNK], length - count + start))
        return as_given(out, queries)

    def _attend(self, queries: mx.array, first: int) -> mx.array:
        """queries: (kv_heads, group, m, head_dim) at the positions first, first + 1, …; result alike."""
        _, group, count, _ = queries.shape
        rows, end = queries.flatten(1, 2), first + count
        mx.eval(rows)  # a stream that needs what another computes waits until that one has done everything

        def seen(scores: mx.array, tokens: range) -> mx.array:
            """scores: (kv_heads, …, rows, …), with these tokens"""
            if tokens[-1] <= first:
                return scores
            places = mx.tile(mx.arange(first, end), group)[:, None]  # (rows, 1)
            of_keys = mx.arange(tokens.start, tokens.stop).reshape(-1, 1, scores.shape[-1])
            return mx.where(of_keys <= places, scores, UNSEEN)

        states = []
        for i, (keys, values) in enumerate(self._blocks[: -(-end // self._block)]):
            tokens = range(i * self._block, min(self._coded, (i + 1) * self._block))
            with mx.stream(stream_for(i)):
                # (kv_heads, tiles, rows, tokens of one)
                weights, total, top = softmax(seen(keys.products(rows), tokens), axes=(1, 3))
                states.append((values.mixed(weights), total.squeeze(1), top.squeeze(1)))
        if self._coded < end:
            keys, values = (each.astype(mx.float32) for each in self._newest.all())
            scores = seen(rows @ keys.swapaxes(1, 2), range(self._coded, self.length()))
            weights, total, top = softmax(scores)
            states.append((weights @ values, total, top))
        return mx.unflatten(joined(states), 1, (group, count))

    def length(self) -> int:
        return self._coded + len(self._newest)

    def nbytes(self) -> int:
        """Bytes of the tokens held, without spare room."""
        side = self._kv_heads * self._head_dim
        scales = 4 * side  # one for each G of the G · side floats of a tile
        tile = bytes_of(self._group * side, self._bits) + 2 * scales
        newest = len(self._newest) * side * DTYPES[self._dtype].size
        return 2 * (self._coded // self._group * tile + newest)
