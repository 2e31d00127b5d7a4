"""What a decoder is made of, out of a `config.json` or the metadata of a GGUF file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from solution.long_context import rope_config_from_hf
from solution.moe import router_config_from_hf
from spec import NotSupported
from spec.long_context import DynamicNTK, LongRoPE, RopeConfig
from spec.moe import RouterConfig

from .checks import expect

Settings = Mapping[str, Any]  # a `config.json`

FAMILIES = ("llama", "mistral", "qwen3", "qwen3_moe")
NORMED = ("qwen3", "qwen3_moe")  # each head of the queries and keys has a norm of its own


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder of the Llama family.

    vocab_size, width, inner: tokens, channels of a token, and of a dense layer's inside.
    layers, heads, kv_heads, head_dim: of attention.
    max_length: tokens of a context that it was made for.
    eps: in the norms. tied: the head is the embedding.
    has_head_norms: queries and keys are normed head by head (Qwen3).
    window: each token attends to so many, itself included; None for all before it.
    rope: how it rotates. router: of the layers in `sparse`, which are mixtures of experts.
    n_experts, expert_inner: experts of such a layer, and channels inside of one.
    stop_ids: tokens that end a text.
    """

    family: str
    vocab_size: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_length: int
    eps: float
    tied: bool
    has_head_norms: bool
    window: int | None
    rope: RopeConfig
    router: RouterConfig | None
    sparse: frozenset[int]
    n_experts: int
    expert_inner: int
    stop_ids: tuple[int, ...]

    @property
    def rope_changes_after(self) -> int | None:
        """The longest context for which the frequencies stay as they are."""
        scaling = self.rope.scaling
        if isinstance(scaling, LongRoPE) and scaling.short_factor == scaling.long_factor:
            return None
        return scaling.original_length if isinstance(scaling, (DynamicNTK, LongRoPE)) else None


def config_from_hf(settings: Settings) -> DecoderConfig:
    """Raises NotSupported for what this decoder does not compute; InvalidArgument for what is missing."""
    family = settings.get("model_type")
    if family not in FAMILIES:
        raise NotSupported(f"model_type: expected one of {', '.join(FAMILIES)}, got {family!r}")
    _refuse(settings, "attention_bias", False)
    _refuse(settings, "mlp_bias", False)
    _refuse(settings, "hidden_act", "silu")
    width, heads = _number(settings, "hidden_size"), _number(settings, "num_attention_heads")
    kv_heads = settings.get("num_key_value_heads") or heads
    expect(heads % kv_heads == 0, "num_key_value_heads", f"a divisor of {heads}", kv_heads)
    layers, rope = _number(settings, "num_hidden_layers"), rope_config_from_hf(settings)
    sparse = _sparse_layers(settings, layers) if family == "qwen3_moe" else frozenset()
    experts = "num_experts" if "num_experts" in settings else "num_local_experts"
    return DecoderConfig(
        family=family,
        vocab_size=_number(settings, "vocab_size"),
        width=width,
        inner=_number(settings, "intermediate_size") if len(sparse) < layers else 0,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=rope.head_dim,
        max_length=_number(settings, "max_position_embeddings"),
        eps=settings.get("rms_norm_eps", 1e-6),
        tied=settings.get("tie_word_embeddings", False),
        has_head_norms=family in NORMED,
        window=_window(settings),
        rope=rope,
        router=router_config_from_hf(settings) if sparse else None,
        sparse=sparse,
        n_experts=_number(settings, experts) if sparse else 0,
        expert_inner=_number(settings, "moe_intermediate_size") if sparse else 0,
        stop_ids=_ids(settings.get("eos_token_id")),
    )


def _number(settings: Settings, key: str) -> int:
    value = settings.get(key)
    expect(isinstance(value, int) and value >= 1, key, "a number of at least 1 in the config", value)
    return value


def _refuse(settings: Settings, key: str, computed: Any) -> None:
    value = settings.get(key, computed)
    if value != computed:
        raise NotSupported(f"{key}: expected {computed!r}, got {value!r}")


def _window(settings: Settings) -> int | None:
    """Of all layers alike: one that only some have is refused."""
    window = settings.get("sliding_window")
    if window is None or not settings.get("use_sliding_window", settings["model_type"] == "mistral"):
        return None
    kinds = set(settings.get("layer_types") or ["sliding_attention"])
    if settings["model_type"] != "mistral" and "layer_types" not in settings:
        kinds = {"some sliding_attention"}
    if kinds != {"sliding_attention"}:
        raise NotSupported(f"layer_types: expected one kind of attention, got {', '.join(sorted(kinds))}")
    return window


def _sparse_layers(settings: Settings, layers: int) -> frozenset[int]:
    """Which layers of a Qwen3-MoE have experts."""
    every, dense = settings.get("decoder_sparse_step", 1), settings.get("mlp_only_layers") or ()
    return frozenset(layer for layer in range(layers) if (layer + 1) % every == 0 and layer not in dense)


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


# GGUF -----------------------------------------------------------------------------------------------------

ARCHITECTURES = {"llama": "llama", "qwen3": "qwen3", "qwen3moe": "qwen3_moe"}
INTERLEAVED = ("llama",)  # stored so that the channels (2i, 2i + 1) turn together


def settings_from_gguf(metadata: Mapping[str, Any], rope_factors: list[float] | None) -> dict[str, Any]:
    """The `config.json` that the metadata of a GGUF file amounts to.

    rope_factors: its tensor `rope_freqs.weight`, by which the frequencies are divided (Llama 3.1).
    """
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise NotSupported(f"general.architecture: expected one of {known}, got {architecture!r}")

    def entry(key: str, default: Any = None) -> Any:
        value = metadata.get(f"{architecture}.{key}", default)
        return value if value is None or isinstance(value, (str, int, float)) else np.asarray(value).item()

    heads, max_length = entry("attention.head_count"), entry("context_length")
    settings = {
        "model_type": ARCHITECTURES[architecture],
        "vocab_size": len(metadata.get("tokenizer.ggml.tokens", ())),
        "hidden_size": entry("embedding_length"),
        "intermediate_size": entry("feed_forward_length"),
        "num_hidden_layers": entry("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": entry("attention.head_count_kv", heads),
        "head_dim": entry("attention.key_length"),
        "max_position_embeddings": max_length,
        "rms_norm_eps": entry("attention.layer_norm_rms_epsilon"),
        "rope_theta": entry("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(entry, rope_factors, max_length),
        "eos_token_id": _eos(metadata),
    }
    if architecture == "qwen3moe":
        settings |= {
            "num_experts": entry("expert_count"),
            "num_experts_per_tok": entry("expert_used_count"),
            "moe_intermediate_size": entry("expert_feed_forward_length"),
            "norm_topk_prob": True,
        }
    return {key: value for key, value in settings.items() if value is not None}


def _rope_scaling(entry: Any, factors: list[float] | None, max_length: int) -> dict[str, Any] | None:
    if factors is not None:
        lists = {"short_factor": factors, "long_factor": factors}
        original = {"original_max_position_embeddings": max_length, "attention_factor": 1.0}
        return {"rope_type": "longrope", "factor": 1.0} | lists | original
    kind = entry("rope.scaling.type", "none")
    if kind == "none":
        return None
    original = entry("rope.scaling.original_context_length", max_length)
    scaling = {"rope_type": kind, "factor": entry("rope.scaling.factor")}
    return scaling | {"original_max_position_embeddings": original}


def _eos(metadata: Mapping[str, Any]) -> int | None:
    value = metadata.get("tokenizer.ggml.eos_token_id")
    return None if value is None else int(np.asarray(value).item())
