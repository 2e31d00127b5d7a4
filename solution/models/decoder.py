"""The forward pass of a decoder, over the new tokens of one context or of many."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import e

import mlx.core as mx

from solution.moe import moe_ffn

from .caches import Cache
from .config import DecoderConfig
from .rotation import Rotation, turned
from .trees import Tree
from .weights import Dense, Layer, Sparse, Weights


@dataclass(frozen=True)
class Network:
    """A model without a context."""

    config: DecoderConfig
    weights: Weights
    rotation: Rotation


@dataclass(frozen=True)
class Piece:
    """New tokens of one context: rows `first` to `end` of a pass."""

    cache: Cache
    first: int
    end: int
    tree: Tree | None


def run(
    network: Network, ids: Sequence[int], pieces: Sequence[Piece], rows: Sequence[int] | None
) -> mx.array:
    """Logits, (len(rows), V) float32, evaluated as the caches are; rows: of the pass, None for all.

    The keys and values of all tokens are in the caches afterwards, as the tokens after their length.
    """
    weights, eps = network.weights, network.config.eps
    turns = _turns(network, pieces)
    x = mx.contiguous(weights.embedding[mx.array(ids)])  # (tokens, D)
    for index, layer in enumerate(weights.layers):
        x = _attend(network.config, index, layer, x, turns, pieces)
        x = _think(network.config, layer, x)
    if rows is not None:
        x = x[mx.array(rows)]
    logits = (mx.fast.rms_norm(x, weights.gain, eps) @ weights.head).astype(mx.float32)
    mx.eval(logits)  # the caches too: what still waited for a write would make the next one copy them
    return logits


def _turns(network: Network, pieces: Sequence[Piece]) -> mx.array:
    """(tokens, heads of queries, keys and values, head_dim/2); values do not turn."""
    parts = []
    for piece in pieces:
        before = piece.cache.length()
        positions: Sequence[int] = range(before, before + piece.end - piece.first)
        if piece.tree is not None:
            positions = [before + depth for depth in piece.tree.depths]
        parts.append(network.rotation.at(positions, max(positions) + 1))
    turns = parts[0] if len(parts) == 1 else mx.concatenate(parts)  # (tokens, 1, head_dim/2)
    config, (tokens, _, pairs) = network.config, turns.shape
    asking = mx.broadcast_to(turns, (tokens, config.heads + config.kv_heads, pairs))
    return mx.concatenate([asking, mx.ones((tokens, config.kv_heads, pairs), turns.dtype)], axis=1)


def _attend(
    config: DecoderConfig, index: int, layer: Layer, x: mx.array, turns: mx.array, pieces: Sequence[Piece]
) -> mx.array:
    qkv = mx.fast.rms_norm(x, None, config.eps) @ layer.qkv
    qkv = qkv.reshape(x.shape[0], config.heads + 2 * config.kv_heads, config.head_dim)
    if layer.head_gain is not None:
        qk, v = mx.split(qkv, [config.heads + config.kv_heads], axis=1)
        qkv = mx.concatenate([mx.fast.rms_norm(qk, None, config.eps) * layer.head_gain, v], axis=1)
    rotated, out = turned(qkv, turns), []
    for piece in pieces:
        rows = qkv if piece.cache.rotates else rotated
        if len(pieces) > 1:
            rows = rows[piece.first : piece.end]
        out.append(piece.cache.attend(index, rows[:, : config.heads], rows[:, config.heads :], piece.tree))
    mixed = out[0] if len(out) == 1 else mx.concatenate(out)
    return x + mixed.flatten(1) @ layer.out  # not `addmm`, which rounds each part of the sum beside a large x


def _think(config: DecoderConfig, layer: Layer, x: mx.array) -> mx.array:
    rows, inner = mx.fast.rms_norm(x, None, config.eps), layer.inner
    if isinstance(inner, Sparse):
        return x + _mixture(config, inner, rows)
    return x + _gated(rows, inner) @ inner.down


def _gated(rows: mx.array, inner: Dense) -> mx.array:
    gate, up = mx.split(rows @ inner.gate_up, 2, axis=-1)
    # silu: on MLX's CPU back end a power takes a third of the time of `mx.sigmoid`.
    return gate * up / (1 + mx.power(1 / e, gate))


def _mixture(config: DecoderConfig, inner: Sparse, rows: mx.array) -> mx.array:
    experts = inner.experts
    return moe_ffn(rows * inner.gain, experts.router_weight, experts.experts, config.router).y
