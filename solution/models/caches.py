"""Where the keys and values of one context are kept: four ways, one interface."""

from collections.abc import Sequence
from math import gcd
from typing import Protocol

import mlx.core as mx

from solution.long_context import QuantizedKVCache, RollingKVCache, rope_frequencies
from solution.paged_attention import PagedKVCache
from spec import NotSupported

from .attention import attend
from .checks import expect
from .config import DecoderConfig
from .trees import Tree

SPARE = 256  # tokens for which a contiguous cache has spare room, at least
BLOCK = 32  # tokens of a page
RESERVED = 8192  # tokens that a paged cache has room for, where no number is given
WINDOW = 1024  # tokens that a rolling cache keeps, where no number is given
GROUP = 64  # neighbours with one scale, where head_dim allows


class Cache(Protocol):
    """A pass calls `begin`, `attend` for each layer in turn, then `commit`; or `abort` when it failed.

    rotates: queries and keys come as they are, and the cache turns them.
    """

    rotates: bool

    def length(self) -> int:
        """Tokens committed."""

    def begin(self, count: int, tree: Tree | None) -> None:
        """`count` tokens are to come, behind one another or as a tree."""

    def attend(self, layer: int, q: mx.array, kv: mx.array, tree: Tree | None) -> mx.array:
        """Keeps the keys and values of this pass and attends: (count, heads, head_dim).

        q: (count, heads, head_dim), scaled; kv: (count, 2 · kv_heads, head_dim), keys and then values.
        """

    def commit(self, path: Sequence[int]) -> None:
        """Appends these tokens of the pass, ascending, and forgets its others."""

    def abort(self) -> None:
        """Forgets the pass."""

    def can_truncate(self, length: int, appended: int) -> bool:
        """Whether `truncate(length)` is possible, or will be once a pass has appended so many tokens."""

    def truncate(self, length: int) -> None: ...


# Contiguous -----------------------------------------------------------------------------------------------


class Contiguous:
    """One array a layer for keys and values, with spare room at the end.

    MLX writes into an array in place while nothing else holds it, so a layer writes first and reads then, and
    all is evaluated before the next pass.
    """

    rotates = False

    def __init__(self, config: DecoderConfig, dtype: str) -> None:
        empty = mx.zeros((2 * config.kv_heads, 0, config.head_dim), getattr(mx, dtype))
        self._layers, self._kv_heads = [empty] * config.layers, config.kv_heads
        self._window, self._length, self._end = config.window, 0, 0

    def length(self) -> int:
        return self._length

    def begin(self, count: int, tree: Tree | None) -> None:
        self._end = self._length + count
        room = self._layers[0].shape[1]
        if self._end > room:
            more = max(SPARE, self._end // 4) + self._end - room
            self._layers = [_longer(x, more) for x in self._layers]
            mx.eval(self._layers)

    def attend(self, layer: int, q: mx.array, kv: mx.array, tree: Tree | None) -> mx.array:
        held = self._layers[layer]
        held[:, self._length : self._end] = kv.swapaxes(0, 1)
        keys, values = held[: self._kv_heads, : self._end], held[self._kv_heads :, : self._end]
        return attend(q, keys, values, window=self._window, tree=tree)

    def commit(self, path: Sequence[int]) -> None:
        end = self._length + len(path)
        if list(path) != list(range(len(path))):
            nodes = mx.array([self._length + node for node in path])
            for each in self._layers:
                each[:, self._length : end] = each[:, nodes]
            mx.eval(self._layers)
        self._length = self._end = end

    def abort(self) -> None:
        self._end = self._length

    def can_truncate(self, length: int, appended: int) -> bool:
        return 0 <= length <= self._length + appended

    def truncate(self, length: int) -> None:
        self._length = self._end = length


def _longer(x: mx.array, more: int) -> mx.array:
    return mx.concatenate([x, mx.zeros((x.shape[0], more, x.shape[2]), x.dtype)], axis=1)


# Trees beside a cache -------------------------------------------------------------------------------------


class Beside:
    """The nodes of a tree, kept apart until it is known which of them the context goes on with."""

    def __init__(self) -> None:
        self._nodes: list[tuple[mx.array, mx.array]] = []  # of each layer: (nodes, kv_heads, head_dim)

    def attend(
        self, q: mx.array, k: mx.array, v: mx.array, context: Sequence[mx.array], tree: Tree
    ) -> mx.array:
        """context: keys and values, (n, kv_heads, head_dim) each."""
        self._nodes.append((k, v))
        mx.eval(k, v)
        pairs = zip(context, (k, v), strict=True)
        keys, values = (mx.concatenate(pair).swapaxes(0, 1) for pair in pairs)
        return attend(q, keys, values, tree=tree)

    def take(self, path: Sequence[int]) -> list[tuple[mx.array, mx.array]]:
        """Keys and values of these nodes, layer by layer."""
        nodes, self._nodes = self._nodes, []
        chosen = mx.array(list(path), mx.uint32)
        return [(k[chosen], v[chosen]) for k, v in nodes]

    def forget(self) -> None:
        self._nodes = []


# Paged ----------------------------------------------------------------------------------------------------


class Paged:
    """Blocks of one pool, which has room for `max_length` tokens."""

    rotates = False

    def __init__(self, config: DecoderConfig, max_length: int, dtype: str) -> None:
        options = {"layers": config.layers, "dtype": dtype, "window": config.window}
        blocks = -(-max_length // BLOCK)
        self._pool = PagedKVCache(blocks, BLOCK, config.kv_heads, config.head_dim, **options)
        self._pool.add(0)
        self._window, self._beside, self._is_reserved = config.window, Beside(), False

    def length(self) -> int:
        return self._pool.length(0)

    def begin(self, count: int, tree: Tree | None) -> None:
        if tree is not None and self._window is not None:
            raise NotSupported("parents: expected None in a paged cache with a window, got a tree")
        if tree is None or tree.is_chain:
            self._pool.reserve([0], [count])
            self._is_reserved = True

    def attend(self, layer: int, q: mx.array, kv: mx.array, tree: Tree | None) -> mx.array:
        k, v = mx.split(kv, 2, axis=1)
        if tree is not None and not tree.is_chain:
            return self._beside.attend(q, k, v, self._pool.gather(0, layer=layer), tree)
        self._pool.write(layer, k, v)
        return self._pool.attend([0], q, [q.shape[0]], layer=layer, scale=1.0)

    def commit(self, path: Sequence[int]) -> None:
        end = self.length() + len(path)
        if self._is_reserved:
            self._pool.commit([0])
            self._is_reserved = False
            self._pool.truncate(0, end)
        elif path:
            self._pool.reserve([0], [len(path)])
            for layer, (k, v) in enumerate(self._beside.take(path)):
                self._pool.write(layer, k, v)
            self._pool.commit([0])
        self._beside.forget()

    def abort(self) -> None:
        if self._is_reserved:
            self._pool.rollback([0])
            self._is_reserved = False
        self._beside.forget()

    def can_truncate(self, length: int, appended: int) -> bool:
        end = self.length() + appended
        if self._window is None or length == end:
            return 0 <= length <= end
        given_up = self._pool.block_table(0).count(None)
        if appended:
            given_up = max(given_up, max(0, end - self._window) // BLOCK)
        oldest = max(0, length - self._window + 1)  # that the next token sees
        blocks = range(oldest // BLOCK, -(-length // BLOCK))
        return 0 <= length < end and (not blocks or blocks.start >= given_up)

    def truncate(self, length: int) -> None:
        self._pool.truncate(0, length)


# Quantised ------------------------------------------------------------------------------------------------


class Codes:
    """Keys and values in codes of 4 or 8 bits. What is taken back is taken back by coding the rest anew."""

    rotates = False

    def __init__(self, config: DecoderConfig, bits: int, dtype: str) -> None:
        if config.window is not None:
            raise NotSupported(f"cache: expected another one with a window of {config.window}, got int{bits}")
        self._bits, self._shape, self._dtype = bits, (config.kv_heads, config.head_dim), dtype
        self._layers = [self._empty() for _ in range(config.layers)]
        self._beside, self._length = Beside(), 0

    def _empty(self) -> QuantizedKVCache:
        group = gcd(GROUP, self._shape[1])
        return QuantizedKVCache(self._bits, group, 0, *self._shape, dtype=self._dtype)

    def length(self) -> int:
        return self._length

    def begin(self, count: int, tree: Tree | None) -> None:
        pass

    def attend(self, layer: int, q: mx.array, kv: mx.array, tree: Tree | None) -> mx.array:
        k, v = mx.split(kv, 2, axis=1)
        if tree is not None:  # also a chain: what is appended here is coded
            return self._beside.attend(q, k, v, self._layers[layer].gather(), tree)
        self._layers[layer].append(k, v)
        return self._layers[layer].attend(q, scale=1.0)

    def commit(self, path: Sequence[int]) -> None:
        for cache, (k, v) in zip(self._layers, self._beside.take(path), strict=False):
            cache.append(k, v)
        self._length += len(path)

    def abort(self) -> None:
        self._beside.forget()
        self.truncate(self._length)

    def can_truncate(self, length: int, appended: int) -> bool:
        return 0 <= length <= self._length + appended

    def truncate(self, length: int) -> None:
        for layer, cache in enumerate(self._layers):
            if cache.length() > length:
                keys, values = cache.gather()
                self._layers[layer] = self._empty()
                self._layers[layer].append(keys[:length], values[:length])
        self._length = length


# Rolling --------------------------------------------------------------------------------------------------


class Rolling:
    """The first tokens and the newest, counted within the cache."""

    rotates = True

    def __init__(self, config: DecoderConfig, window: int, sinks: int, dtype: str) -> None:
        if config.window is not None:
            raise NotSupported(f"cache: expected another one with a window of {config.window}, got rolling")
        frequencies = rope_frequencies(config.rope, window + sinks)
        turning = {"inv_freq": frequencies.inv_freq, "attention_factor": frequencies.attention_factor}
        shape = config.kv_heads, config.head_dim
        self._layers = [
            RollingKVCache(window, sinks, *shape, interleaved=True, dtype=dtype, **turning)
            for _ in range(config.layers)
        ]
        self._window, self._sinks = window, sinks
        self._length = self._oldest = 0  # no other token than sinks is there before `_oldest`

    def length(self) -> int:
        return self._length

    def begin(self, count: int, tree: Tree | None) -> None:
        if tree is not None and not tree.is_chain:
            raise NotSupported("parents: expected a chain in a rolling cache, got a tree")

    def attend(self, layer: int, q: mx.array, kv: mx.array, tree: Tree | None) -> mx.array:
        self._layers[layer].append(*mx.split(kv, 2, axis=1))
        return self._layers[layer].attend(q, scale=1.0)

    def commit(self, path: Sequence[int]) -> None:
        self._oldest = self._oldest_after_a_pass()
        self.truncate(self._length + len(path))

    def _oldest_after_a_pass(self) -> int:
        """What its first token saw is kept."""
        return max(self._oldest, self._length - self._window + 1)

    def abort(self) -> None:
        self.truncate(self._length)

    def can_truncate(self, length: int, appended: int) -> bool:
        end, oldest = self._length + appended, self._oldest
        if length == end:
            return True
        if appended:
            oldest = self._oldest_after_a_pass()
        first = max(self._sinks, length - self._window + 1)  # not a sink, and seen by the next token
        return 0 <= length < end and first >= min(oldest, length)

    def truncate(self, length: int) -> None:
        for cache in self._layers:
            if cache.length() > length:
                cache.truncate(length)
        self._length, self._oldest = length, min(self._oldest, length)


BITS = {"int8": 8, "int4": 4}
KINDS = ("contiguous", "paged", "rolling", *BITS)


def make(
    kind: str, config: DecoderConfig, max_length: int, window: int | None, sinks: int, dtype: str
) -> Cache:
    """An empty one."""
    expect(kind in KINDS, "cache", " or ".join(KINDS), kind)
    if kind != "rolling":
        expect(window is None, "window", "None without a rolling cache", window)
        expect(sinks == 0, "sinks", "0 without a rolling cache", sinks)
    if kind == "contiguous":
        return Contiguous(config, dtype)
    if kind == "paged":
        return Paged(config, max_length, dtype)
    if kind in BITS:
        return Codes(config, BITS[kind], dtype)
    return Rolling(config, WINDOW if window is None else window, sinks, dtype)
