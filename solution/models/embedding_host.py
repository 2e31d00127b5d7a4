"""A sentence encoder on the CPU, in NumPy: twice as fast there as in MLX.

What lies between products is done in place, in rows that stay in the cache, where MLX's CPU back end
allocates each result anew. Texts lie one after another in one matrix, and nothing is padded. Each core has a
batch, all of it, products included: nobody waits for others but at the end.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from threadpoolctl import ThreadpoolController

from .elementwise import FARTHEST, LOGIT

if TYPE_CHECKING:
    from .embedding import Affine, Network, Norm

CORES = os.cpu_count() or 1
ROWS = 64  # of 1,536 numbers: with what `_gelu` needs besides they fill the second cache


@dataclass(frozen=True)
class Alike:
    """Neighbouring texts of one length: tokens first to end of the matrix."""

    first: int
    end: int
    length: int


class Host:
    """Computes with the weights of a network, in the memory where MLX has them. MLX evaluates them here: an
    array that waits for that belongs to the thread that made it."""

    def __init__(self, network: "Network") -> None:
        self._network = _on_host(network)

    def rows_of(self, batches: Sequence[Sequence[Sequence[int]]]) -> list[np.ndarray]:
        """(texts, D) of each batch"""
        if len(batches) < 2:
            return [self.rows(batch) for batch in batches]
        with _blas().limit(limits=1), ThreadPoolExecutor(CORES) as pool:  # it changes no result
            return list(pool.map(self.rows, batches))

    def rows(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """(texts, D), of length 1 each. texts: ids of tokens; those of one length are neighbours."""
        network, lengths = self._network, [len(text) for text in texts]
        starts = np.cumsum([0, *lengths])
        places = np.concatenate([np.arange(length) for length in lengths])
        x = network.words[np.concatenate(texts)] + network.places[places]
        x = self._normed(x, network.first)  # (tokens, D)
        groups = _alike(lengths)
        for layer in network.layers:
            mixed = self._attention(_affine(x, layer.qkv), groups)
            mixed = _affine(mixed, layer.out)
            mixed += x
            x = self._normed(mixed, layer.after_attention)
            inner = _affine(x, layer.up)
            for first in range(0, len(inner), ROWS):
                _gelu(inner[first : first + ROWS])
            out = _affine(inner, layer.down)
            out += x
            x = self._normed(out, layer.after)
        sums = np.add.reduceat(x, starts[:-1])  # of length 1 they are what means are
        return sums / np.linalg.norm(sums, axis=1, keepdims=True)

    def _attention(self, qkv: np.ndarray, groups: Sequence[Alike]) -> np.ndarray:
        """(tokens, D) of (tokens, 3D); each text sees itself alone."""
        heads, width = self._network.heads, self._network.width
        mixed = np.empty((len(qkv), width), np.float32)
        for group in groups:
            parts = qkv[group.first : group.end].reshape(-1, group.length, 3, heads, width // heads)
            q, k, v = parts.transpose(2, 0, 3, 1, 4)  # (texts, heads, length, D / heads)
            weights = q @ k.swapaxes(-1, -2)
            weights -= weights.max(axis=-1, keepdims=True)
            np.exp(weights, out=weights)
            weights /= weights.sum(axis=-1, keepdims=True)
            out = mixed[group.first : group.end].reshape(-1, group.length, heads, width // heads)
            out[...] = (weights @ v).swapaxes(1, 2)
        return mixed

    def _normed(self, x: np.ndarray, norm: "Norm") -> np.ndarray:
        """In place."""
        x -= x.mean(axis=1, keepdims=True)
        variance = np.einsum("ij,ij->i", x, x) / x.shape[1]
        x *= (1 / np.sqrt(variance + self._network.eps))[:, None]
        x *= norm.gain
        x += norm.bias
        return x


def _on_host(value: Any) -> Any:
    """The same, of NumPy's arrays."""
    if isinstance(value, mx.array):
        return np.asarray(value)
    if isinstance(value, tuple):
        return tuple(map(_on_host, value))
    if is_dataclass(value):
        return replace(value, **{each.name: _on_host(getattr(value, each.name)) for each in fields(value)})
    return value


def _alike(lengths: Sequence[int]) -> list[Alike]:
    groups, first = [], 0
    for length, texts in groupby(lengths):
        end = first + length * sum(1 for _ in texts)
        groups.append(Alike(first, end, length))
        first = end
    return groups


def _affine(x: np.ndarray, by: "Affine") -> np.ndarray:
    product = x @ by.matrix
    product += by.bias
    return product


def _gelu(x: np.ndarray) -> None:
    """In place; the formula is that of `elementwise.gelu`."""
    size = np.abs(x)
    square = np.minimum(size * size, np.float32(FARTHEST**2))
    *lower, highest = map(np.float32, LOGIT)
    exponent = square * highest
    for coefficient in reversed(lower[1:]):
        exponent += coefficient
        exponent *= square
    exponent += lower[0]
    exponent *= size
    odds = np.exp(-exponent, out=exponent)  # of a number beyond |x| on one side, against one that is not
    size *= odds
    odds += 1
    size /= odds
    np.maximum(x, 0, out=x)
    x -= size


@cache
def _blas() -> ThreadpoolController:
    """The libraries that compute products in this process, found once."""
    return ThreadpoolController().select(user_api="blas")
