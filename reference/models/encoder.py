"""Sentence embeddings of a BERT encoder as sentence-transformers makes them: the mean state, of length 1."""

import numpy as np
from scipy.special import erf

from reference import long_context
from spec import NotSupported

from .basics import WORK, by_head, expect, in_rows, linear, setting, tensor


def embed(config, weights, tokens):
    """The embedding of one text, (D,), of Euclidean length 1.

    config: the config.json of a Hugging Face checkpoint; weights: its tensors, by their names there.
    tokens: (m,) ids, m ≥ 1, [CLS] and [SEP] included. Every token counts: there is no padding.
    """
    mean = states(config, weights, tokens).mean(axis=0)
    return mean / np.sqrt(np.sum(mean * mean))


def states(config, weights, tokens):
    """The last layer's, (m, D)."""
    kind, activation = config.get("model_type"), config.get("hidden_act", "gelu")
    if kind != "bert" or activation != "gelu":
        raise NotSupported(
            f"model_type, hidden_act: expected 'bert' and 'gelu', got {kind!r} and {activation!r}"
        )
    tokens = np.asarray(tokens)
    most = setting(config, "max_position_embeddings")
    expect(
        tokens.ndim == 1 and 1 <= len(tokens) <= most, "tokens", f"1 axis, 1 to {most} tokens", tokens.shape
    )
    words, positions, types = (
        tensor(weights, f"embeddings.{name}_embeddings.weight") for name in ("word", "position", "token_type")
    )
    expect(((tokens >= 0) & (tokens < len(words))).all(), "tokens", f"ids from 0 to {len(words) - 1}", tokens)

    x = words[tokens] + positions[: len(tokens)] + types[0]
    x = normed(config, weights, "embeddings.LayerNorm", x)
    for layer in range(setting(config, "num_hidden_layers")):
        block = f"encoder.layer.{layer}"
        seen = attention(config, weights, f"{block}.attention", x)
        x = normed(config, weights, f"{block}.attention.output.LayerNorm", x + seen)
        inner = gelu(linear(weights, f"{block}.intermediate.dense", x))
        x = normed(
            config, weights, f"{block}.output.LayerNorm", x + linear(weights, f"{block}.output.dense", inner)
        )
    return x


def normed(config, weights, name, x):
    """Each row with mean 0 and variance 1, times a weight and plus a bias for each channel."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    eps = WORK(config.get("layer_norm_eps", 1e-12))
    return centred / np.sqrt(variance + eps) * tensor(weights, f"{name}.weight") + tensor(
        weights, f"{name}.bias"
    )


def attention(config, weights, block, x):
    """Every token sees every other."""
    width = setting(config, "hidden_size") // setting(config, "num_attention_heads")
    q, k, v = (
        by_head(linear(weights, f"{block}.self.{name}", x), width) for name in ("query", "key", "value")
    )
    seen = long_context.blockwise_attention(q, k, v, block=len(x), causal=False)
    return linear(weights, f"{block}.output.dense", in_rows(seen.out))


def gelu(x):
    return x / 2 * (1 + erf(x / WORK(2) ** WORK(0.5)))
