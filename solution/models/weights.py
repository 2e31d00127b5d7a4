"""The weights of a decoder as its passes want them.

Every matrix lies as (in, out): a product of one row reads it from front to back, which on CPU is as fast as
memory. What reads the same rows is one matrix: queries, keys and values; gate and up. What multiplies the
rows before a product is multiplied into the matrix: the gains of norms, and the scale of the scores.
"""

from dataclasses import dataclass
from math import sqrt

import mlx.core as mx

from solution.moe import load_experts
from spec.moe import MoEWeights

from .checkpoints import Checkpoint
from .rotation import pairs_together


@dataclass(frozen=True)
class Dense:
    """down · (silu(gate · x) * (up · x)). gate_up: (D, 2F); down: (F, D)."""

    gate_up: mx.array
    down: mx.array


@dataclass(frozen=True)
class Sparse:
    """A mixture of experts. gain: (D,), of the norm before it."""

    gain: mx.array
    experts: MoEWeights


@dataclass(frozen=True)
class Layer:
    """qkv: (D, (heads + 2 · kv_heads) · head_dim), heads one after the other; out: (heads · head_dim, D).
    head_gain: (heads + kv_heads, head_dim), of the norms of queries and keys; None where there are none."""

    qkv: mx.array
    head_gain: mx.array | None
    out: mx.array
    inner: Dense | Sparse


@dataclass(frozen=True)
class Weights:
    """embedding: (V, D), which may be a view of another layout. head: (D, V). gain: (D,), of the norm before
    the head."""

    embedding: mx.array
    layers: tuple[Layer, ...]
    gain: mx.array
    head: mx.array


def lay_out(checkpoint: Checkpoint, scale: float, dtype: mx.Dtype) -> Weights:
    """scale: of the scores, beside 1 / sqrt(head_dim)."""
    tensors, config = checkpoint.tensors, checkpoint.config
    layers = []
    for index in range(config.layers):
        layers.append(_layer(checkpoint, index, scale / sqrt(config.head_dim), dtype))
        mx.eval([*_arrays(layers[-1])])  # one after the other, so that one is held twice and not all
    embedding = tensors["model.embed_tokens.weight"]
    head = _across(embedding if config.tied else tensors["lm_head.weight"], dtype)
    embedding = head.T if config.tied else embedding.astype(dtype)
    gain = tensors["model.norm.weight"].astype(dtype)
    mx.eval(embedding, head, gain)
    return Weights(embedding, tuple(layers), gain, head)


def _layer(checkpoint: Checkpoint, index: int, scale: float, dtype: mx.Dtype) -> Layer:
    config = checkpoint.config

    def tensor(name: str) -> mx.array:
        return checkpoint.tensors[f"model.layers.{index}.{name}.weight"]

    def heads(name: str, count: int) -> mx.array:
        """(count, head_dim, D or nothing), neighbours turning together"""
        found = tensor(name).reshape(count, config.head_dim, -1)
        rotated = int(config.head_dim * config.rope.rotary_fraction)
        return found if checkpoint.is_interleaved else pairs_together(found, rotated)

    before_attention = tensor("input_layernorm")
    q = heads("self_attn.q_proj", config.heads)
    k = heads("self_attn.k_proj", config.kv_heads)
    head_gain = None
    if config.has_head_norms:  # which would undo a scale on the queries before them
        gains = [heads("self_attn.q_norm", 1) * scale] * config.heads
        gains += [heads("self_attn.k_norm", 1)] * config.kv_heads
        head_gain = mx.concatenate(gains).squeeze(-1).astype(dtype)
    else:
        q = q * scale
    qkv = mx.concatenate([q.flatten(0, 1), k.flatten(0, 1), tensor("self_attn.v_proj")])
    out = _across(tensor("self_attn.o_proj"), dtype)
    gain = tensor("post_attention_layernorm")
    if index in config.sparse:
        experts = load_experts(checkpoint.tensors, checkpoint.settings, index)
        inner: Dense | Sparse = Sparse(gain.astype(dtype), experts)
    else:
        gate_up = mx.concatenate([tensor("mlp.gate_proj"), tensor("mlp.up_proj")])
        inner = Dense(_across(gate_up * gain, dtype), _across(tensor("mlp.down_proj"), dtype))
    return Layer(_across(qkv * before_attention, dtype), head_gain, out, inner)


def _across(matrix: mx.array, dtype: mx.Dtype) -> mx.array:
    """(out, in) -> (in, out), contiguous"""
    return mx.contiguous(matrix.T.astype(dtype))


def _arrays(layer: Layer) -> list[mx.array]:
    inner = layer.inner
    if isinstance(inner, Dense):
        parts = [inner.gate_up, inner.down]
    else:
        experts = inner.experts.experts
        parts = [inner.gain, inner.experts.router_weight, experts.gate, experts.up, experts.down]
    return [part for part in [layer.qkv, layer.head_gain, layer.out, *parts] if part is not None]
