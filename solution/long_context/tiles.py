"""Keys and values in tiles of codes, and products with them in which no value is decoded.

A tile is what becomes codes together: G tokens of one kv head, and for values G channels of them. What makes
floats of the codes is folded into the small operand: the queries, or the softmax weights. Products are made
tile by tile, for values too: a fast BLAS deals out larger ones to its threads, which then stand in the way of
those of the streams.
"""

import mlx.core as mx

from .codes import bytes_of, coded, packed, unpacked
from .rows import SPARE, Rows


class KeyTiles:
    """Keys in groups along the tokens, so that a tile has one scale and zero for each channel."""

    def __init__(self, kv_heads: int, head_dim: int, group: int, bits: int) -> None:
        self._shape, self._bits = (head_dim, group), bits
        in_bytes = mx.zeros((kv_heads, 0, bytes_of(head_dim * group, bits)), mx.uint8)
        empty = mx.zeros((kv_heads, 0, head_dim))
        self._rows = _tiles(in_bytes, empty, group)

    def append(self, keys: mx.array) -> None:
        """(kv_heads, tokens, head_dim) float32, whole tiles"""
        _, group = self._shape
        tiles = mx.unflatten(keys, 1, (keys.shape[1] // group, group)).swapaxes(2, 3)
        codes, scale, zero = coded(tiles, self._bits)
        self._rows.append(packed(codes.flatten(2), self._bits), scale, zero)

    def decoded(self) -> mx.array:
        """All of them, (kv_heads, tokens, head_dim) float32."""
        codes, scale, zero = self._all()
        return (codes * scale[..., None] + zero[..., None]).swapaxes(2, 3).flatten(1, 2)

    def products(self, queries: mx.array) -> mx.array:
        """(kv_heads, rows, head_dim) -> (kv_heads, tiles, rows, tokens of one)

        q · (code · scale + zero) = (q · scale) · code + q · zero
        """
        codes, scale, zero = self._all()
        offset = (queries @ zero.swapaxes(1, 2)).swapaxes(1, 2)  # (kv_heads, tiles, rows)
        return (queries[:, None] * scale[:, :, None]) @ codes + offset[..., None]

    def _all(self) -> tuple[mx.array, mx.array, mx.array]:
        """Codes (kv_heads, tiles, head_dim, tokens) as float32, scales and zeros (…, tiles, head_dim)."""
        in_bytes, scale, zero = self._rows.all()
        return unpacked(in_bytes, self._bits, self._shape), scale, zero


class ValueTiles:
    """Values in groups along the channels, so that a tile has one scale and zero for each token."""

    def __init__(self, kv_heads: int, head_dim: int, group: int, bits: int) -> None:
        self._group, self._bits = group, bits
        parts = head_dim // group  # of a token's channels
        in_bytes = mx.zeros((kv_heads, parts, 0, bytes_of(group * group, bits)), mx.uint8)
        empty = mx.zeros((kv_heads, parts, 0, group))
        self._rows = _tiles(in_bytes, empty, group)

    def append(self, values: mx.array) -> None:
        """(kv_heads, tokens, head_dim) float32, whole tiles"""
        kv_heads, tokens, head_dim = values.shape
        group = self._group
        tiles = values.reshape(kv_heads, tokens // group, group, head_dim // group, group)
        codes, scale, zero = coded(tiles.transpose(0, 3, 1, 2, 4), self._bits)
        self._rows.append(packed(codes.flatten(3), self._bits), scale, zero)

    def decoded(self) -> mx.array:
        """All of them, (kv_heads, tokens, head_dim) float32."""
        codes, scale, zero = self._all()
        values = codes * scale[..., None] + zero[..., None]
        return values.transpose(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)

    def mixed(self, weights: mx.array) -> mx.array:
        """(kv_heads, tiles, rows, tokens of one) -> (kv_heads, rows, head_dim)

        Σ p · (code · scale + zero) = Σ (p · scale) · code + Σ p · zero
        """
        codes, scale, zero = self._all()
        weights = weights[:, None]  # (kv_heads, 1, tiles, rows, tokens)
        by_tile = (weights * scale[..., None, :]) @ codes  # (kv_heads, parts, tiles, rows, channels)
        offset = (weights * zero[..., None, :]).sum(axis=2).sum(axis=-1, keepdims=True)
        return (by_tile.sum(axis=2) + offset).swapaxes(1, 2).flatten(2)

    def _all(self) -> tuple[mx.array, mx.array, mx.array]:
        """Codes (kv_heads, parts, tiles, tokens, channels) as float32, scales and zeros (…, tokens)."""
        in_bytes, scale, zero = self._rows.all()
        return unpacked(in_bytes, self._bits, (self._group, self._group)), scale, zero


def _tiles(in_bytes: mx.array, empty: mx.array, group: int) -> Rows:
    """Codes, scales and zeros; a row is a tile."""
    return Rows(in_bytes, empty, empty, spare=max(1, SPARE // group))
