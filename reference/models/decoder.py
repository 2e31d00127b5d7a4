"""The forward pass of the Llama family: Llama, Mistral, Qwen3 and Qwen3-MoE.

As transformers' models/llama, mistral, qwen3 and qwen3_moe compute it, without a cache.
"""

import numpy as np

from reference import long_context, moe
from spec import NotSupported

from .basics import WORK, by_head, expect, in_rows, linear, setting, tensor

FAMILY = ("llama", "mistral", "qwen3", "qwen3_moe")


def logits(config, weights, tokens, *, kept=None):
    """What follows after each of the tokens, (m, V).

    config: the config.json of a Hugging Face checkpoint; weights: its tensors, by their names there.
    tokens: m ≥ 1 ids, the whole context.
    kept: None for all; (W, S) where each token sees only the first S and the last W up to itself, and counts
        its positions among these, as `RollingKVCache` does.
    """
    check_config(config)
    tokens = np.asarray(tokens)
    expect(tokens.ndim == 1 and len(tokens) >= 1, "tokens", "1 axis, at least 1 token", tokens.shape)
    embeddings = tensor(weights, "model.embed_tokens.weight")  # (V, D)
    known = ((tokens >= 0) & (tokens < len(embeddings))).all()
    expect(known, "tokens", f"ids from 0 to {len(embeddings) - 1}", tokens)

    x = embeddings[tokens]  # (m, D)
    for layer in range(setting(config, "num_hidden_layers")):
        block = f"model.layers.{layer}"
        outer = normed(config, weights, f"{block}.input_layernorm", x)
        x = x + attention(config, weights, layer, outer, kept)
        inner = normed(config, weights, f"{block}.post_attention_layernorm", x)
        x = x + feed_forward(config, weights, layer, inner)
    x = normed(config, weights, "model.norm", x)
    if config.get("tie_word_embeddings", False):
        return x @ embeddings.T
    return linear(weights, "lm_head", x)


def check_config(config):
    kind, activation = config.get("model_type"), config.get("hidden_act", "silu")
    if kind not in FAMILY:
        raise NotSupported(f"model_type: expected one of {', '.join(FAMILY)}, got {kind!r}")
    if activation != "silu":
        raise NotSupported(f"hidden_act: expected 'silu', got {activation!r}")


def normed(config, weights, name, x):
    """Each row divided by its root mean square, times a weight for each channel."""
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    return (
        x / np.sqrt(mean_square + WORK(config.get("rms_norm_eps", 1e-6))) * tensor(weights, f"{name}.weight")
    )


# Attention ------------------------------------------------------------------------------------------------


def attention(config, weights, layer, x, kept):
    """(m, D) -> (m, D)"""
    block = f"model.layers.{layer}.self_attn"
    q, k, v = (by_head(linear(weights, f"{block}.{name}_proj", x), head_dim(config)) for name in "qkv")
    if config["model_type"] in ("qwen3", "qwen3_moe"):
        q, k = (normed(config, weights, f"{block}.{name}_norm", each) for name, each in (("q", q), ("k", k)))
    rope = rotation(config, layer)
    result = (
        over_all(q, k, v, rope, window(config, layer)) if kept is None else over_kept(q, k, v, rope, *kept)
    )
    return linear(weights, f"{block}.o_proj", in_rows(result))


def over_all(q, k, v, rope, window):
    """(1, heads, m, head_dim), causal."""
    tokens = q.shape[2]
    frequencies = long_context.rope_frequencies(rope, tokens)
    q, k = (
        long_context.apply_rope(
            each,
            np.arange(tokens),
            frequencies.inv_freq,
            attention_factor=frequencies.attention_factor,
            interleaved=rope.interleaved,
        )
        for each in (q, k)
    )
    scale = frequencies.softmax_scale / rope.head_dim**0.5
    return long_context.blockwise_attention(q, k, v, block=tokens, scale=scale, window=window).out


def over_kept(q, k, v, rope, window, sinks):
    """(1, heads, m, head_dim), as `RollingKVCache` answers."""
    frequencies = long_context.rope_frequencies(rope, window + sinks)
    turns = frequencies.inv_freq, frequencies.attention_factor, rope.interleaved, "cache"
    scale = frequencies.softmax_scale / rope.head_dim**0.5
    by_token = (each[0].swapaxes(0, 1) for each in (q, k, v))  # (m, heads, head_dim)
    return long_context.rolling_attention(*by_token, window, sinks, turns, scale).swapaxes(0, 1)[None]


def head_dim(config):
    given = config.get("head_dim")
    return given or setting(config, "hidden_size") // setting(config, "num_attention_heads")


def rotation(config, layer):
    kinds = config.get("layer_types")
    return long_context.rope_config_from_hf(config, kinds[layer] if kinds else None)


def window(config, layer):
    """How many keys this layer's queries see, their own included; None for all."""
    kind, listed = config["model_type"], config.get("layer_types")
    if kind == "mistral":
        slides = True
    elif kind == "llama" or not config.get("use_sliding_window", False):
        slides = False
    elif kind == "qwen3_moe":
        slides = True
    elif listed:
        slides = listed[layer] == "sliding_attention"
    else:
        slides = layer >= config.get("max_window_layers", 28)
    return config.get("sliding_window", 4096) if slides else None


# Feed forward ---------------------------------------------------------------------------------------------


def feed_forward(config, weights, layer, x):
    """(m, D) -> (m, D)"""
    block = f"model.layers.{layer}.mlp"
    if f"{block}.gate.weight" in weights:  # a router
        part = moe.load_experts(weights, config, layer)
        return moe.moe_ffn(x, part.router_weight, part.experts, moe.router_config_from_hf(config)).y
    gate, up = linear(weights, f"{block}.gate_proj", x), linear(weights, f"{block}.up_proj", x)
    return linear(weights, f"{block}.down_proj", gate / (1 + np.exp(-gate)) * up)
