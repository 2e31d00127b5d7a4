"""The router and the experts of a checkpoint in the layout of transformers.

Each family is read by functions of its own; a default is what transformers' configuration class assumes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from spec import NotSupported
from spec.moe import ExpertWeights, MoEWeights, RouterConfig, SharedExpert

from .checks import expect

Config = Mapping[str, Any]
Tensors = Mapping[str, mx.array]

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def router_config_from_hf(config: Config) -> RouterConfig:
    """The router of a checkpoint's `config.json`."""
    read_router, _ = _family(config)
    return read_router(config)


def load_experts(tensors: Tensors, config: Config, layer: int) -> MoEWeights:
    """The weights of one layer out of a checkpoint's tensors, by the names they have there."""
    _, read_layer = _family(config)
    return read_layer(tensors, config, layer)


# Mixtral


def _mixtral_router(config: Config) -> RouterConfig:
    return RouterConfig(_top_k(config, 2), normalize=True, router_dtype="activations")


def _mixtral(tensors: Tensors, config: Config, layer: int) -> MoEWeights:
    block, names = f"model.layers.{layer}.mlp", PROJECTIONS
    if f"model.layers.{layer}.block_sparse_moe.gate.weight" in tensors:
        block, names = f"model.layers.{layer}.block_sparse_moe", ("w1", "w3", "w2")
    return MoEWeights(*_router_and_experts(tensors, block, names))


# Qwen


def _qwen2_router(config: Config) -> RouterConfig:
    return _qwen_router(config, _top_k(config, 4))


def _qwen3_router(config: Config) -> RouterConfig:
    return _qwen_router(config, _top_k(config, 8))


def _qwen_router(config: Config, top_k: int) -> RouterConfig:
    normalize = config.get("norm_topk_prob", False)
    return RouterConfig(top_k, normalize=normalize, router_dtype="activations")


def _qwen2(tensors: Tensors, config: Config, layer: int) -> MoEWeights:
    _refuse_dense(_is_dense_qwen(config, layer), layer)
    block = f"model.layers.{layer}.mlp"
    router_weight, experts = _router_and_experts(tensors, block)
    gate_weight = _tensor(tensors, f"{block}.shared_expert_gate.weight")[0]  # (1, D) in the checkpoint
    shared = _shared(tensors, f"{block}.shared_expert", gate_weight)
    return MoEWeights(router_weight, experts, shared=shared)


def _qwen3(tensors: Tensors, config: Config, layer: int) -> MoEWeights:
    _refuse_dense(_is_dense_qwen(config, layer), layer)
    return MoEWeights(*_router_and_experts(tensors, f"model.layers.{layer}.mlp"))


def _is_dense_qwen(config: Config, layer: int) -> bool:
    every = config.get("decoder_sparse_step", 1)
    return layer in (config.get("mlp_only_layers") or ()) or (layer + 1) % every != 0


# DeepSeek


def _deepseek_v2_router(config: Config) -> RouterConfig:
    top_k = _top_k(config, None)
    groups = {}
    method = config.get("topk_method", "greedy")
    if method == "group_limited_greedy":
        groups = {"n_groups": _setting(config, "n_group"), "top_groups": _setting(config, "topk_group")}
    elif method != "greedy":
        raise NotSupported(f"topk_method: expected greedy or group_limited_greedy, got {method!r}")
    return RouterConfig(top_k, scale=config.get("routed_scaling_factor", 1.0), **groups)


def _deepseek_v3_router(config: Config) -> RouterConfig:
    return RouterConfig(
        _top_k(config, 8),
        scoring="sigmoid",
        normalize=config.get("norm_topk_prob", True),
        n_groups=_setting(config, "n_group", 8),
        top_groups=_setting(config, "topk_group", 4),
        group_score="top2_sum",
        scale=config.get("routed_scaling_factor", 2.5),
    )


def _deepseek_v2(tensors: Tensors, config: Config, layer: int) -> MoEWeights:
    _refuse_dense(layer < config.get("first_k_dense_replace", 0), layer)
    block = f"model.layers.{layer}.mlp"
    router_weight, experts = _router_and_experts(tensors, block)
    has_shared = config.get("n_shared_experts", 2)
    shared = _shared(tensors, f"{block}.shared_experts", None) if has_shared else None
    return MoEWeights(router_weight, experts, shared=shared)


def _deepseek_v3(tensors: Tensors, config: Config, layer: int) -> MoEWeights:
    _refuse_dense(layer < config.get("first_k_dense_replace", 3), layer)
    block = f"model.layers.{layer}.mlp"
    router_weight, experts = _router_and_experts(tensors, block)
    selection_bias = _tensor(tensors, f"{block}.gate.e_score_correction_bias")
    has_shared = config.get("n_shared_experts", 1)
    shared = _shared(tensors, f"{block}.shared_experts", None) if has_shared else None
    return MoEWeights(router_weight, experts, selection_bias=selection_bias, shared=shared)


# gpt-oss


def _gpt_oss_router(config: Config) -> RouterConfig:
    return RouterConfig(_top_k(config, 4), scoring="softmax_of_topk", router_dtype="activations")


def _gpt_oss(tensors: Tensors, config: Config, layer: int) -> MoEWeights:
    """Stored (E, in, out), gate and up in turns. Laid out as rows here, once, and not at each product."""
    block = f"model.layers.{layer}.mlp"
    fused = _tensor(tensors, f"{block}.experts.gate_up_proj").swapaxes(1, 2)  # (E, 2F, D)
    fused_bias = _tensor(tensors, f"{block}.experts.gate_up_proj_bias")  # (E, 2F)
    experts = ExpertWeights(
        gate=mx.contiguous(fused[:, 0::2]),
        up=mx.contiguous(fused[:, 1::2]),
        down=mx.contiguous(_tensor(tensors, f"{block}.experts.down_proj").swapaxes(1, 2)),
        gate_bias=mx.contiguous(fused_bias[:, 0::2]),
        up_bias=mx.contiguous(fused_bias[:, 1::2]),
        down_bias=_tensor(tensors, f"{block}.experts.down_proj_bias"),
        activation="swigluoai",
        alpha=config.get("swiglu_alpha", 1.702),
        limit=config.get("swiglu_limit", 7.0),
    )
    router_weight = _tensor(tensors, f"{block}.router.weight")
    return MoEWeights(router_weight, experts, _tensor(tensors, f"{block}.router.bias"))


FAMILIES: dict[str, tuple[Callable[[Config], RouterConfig], Callable[[Tensors, Config, int], MoEWeights]]] = {
    "mixtral": (_mixtral_router, _mixtral),
    "qwen2_moe": (_qwen2_router, _qwen2),
    "qwen3_moe": (_qwen3_router, _qwen3),
    "deepseek_v2": (_deepseek_v2_router, _deepseek_v2),
    "deepseek_v3": (_deepseek_v3_router, _deepseek_v3),
    "gpt_oss": (_gpt_oss_router, _gpt_oss),
}


def _family(
    config: Config,
) -> tuple[Callable[[Config], RouterConfig], Callable[[Tensors, Config, int], MoEWeights]]:
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise NotSupported(f"model_type: expected one of {', '.join(FAMILIES)}, got {kind!r}")
    return FAMILIES[kind]


# What families share


def _router_and_experts(
    tensors: Tensors, block: str, names: tuple[str, str, str] = PROJECTIONS
) -> tuple[mx.array, ExpertWeights]:
    router_weight = _tensor(tensors, f"{block}.gate.weight")  # (E, D)
    return router_weight, _experts(tensors, block, names, router_weight.shape[0])


def _experts(tensors: Tensors, block: str, names: tuple[str, str, str], count: int) -> ExpertWeights:
    """Fused in one tensor, gate in the first half; or a tensor for each expert and matrix."""
    if f"{block}.experts.gate_up_proj" in tensors:
        gate, up = mx.split(tensors[f"{block}.experts.gate_up_proj"], 2, axis=1)  # (E, 2F, D)
        return ExpertWeights(gate, up, _tensor(tensors, f"{block}.experts.down_proj"))
    gate, up, down = (
        mx.stack([_tensor(tensors, f"{block}.experts.{e}.{name}.weight") for e in range(count)])
        for name in names
    )
    return ExpertWeights(gate, up, down)


def _shared(tensors: Tensors, block: str, gate_weight: mx.array | None) -> SharedExpert:
    gate, up, down = (_tensor(tensors, f"{block}.{name}.weight") for name in PROJECTIONS)
    return SharedExpert(gate, up, down, gate_weight)


def _refuse_dense(dense: bool, layer: int) -> None:
    expect(not dense, "layer", "one with experts", f"{layer}, which is dense")


def _top_k(config: Config, default: int | None) -> int:
    top_k: int = _setting(config, "num_experts_per_tok", default)
    return top_k


def _setting(config: Config, key: str, default: Any = None) -> Any:
    value = config.get(key, default)
    expect(value is not None, key, "a value in the config", "none")
    return value


def _tensor(tensors: Tensors, name: str) -> mx.array:
    expect(name in tensors, name, "a tensor", "none")
    return tensors[name]
