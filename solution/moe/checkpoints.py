"""The router and the experts of a checkpoint in the layout of transformers."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from spec import NotSupported
from spec.moe import ExpertWeights, MoEWeights, RouterConfig, SharedExpert

from .checks import expect

# What transformers' configuration classes assume where a config.json says nothing.
DEFAULTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts_per_tok": 4,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": None,
    },
    "qwen3_moe": {
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": None,
    },
    "deepseek_v2": {
        "n_shared_experts": 2,
        "topk_method": "greedy",
        "routed_scaling_factor": 1.0,
        "first_k_dense_replace": 0,
    },
    "deepseek_v3": {
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "n_group": 8,
        "topk_group": 4,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "first_k_dense_replace": 3,
    },
    "gpt_oss": {
        "num_experts_per_tok": 4,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
    },
}
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def router_config_from_hf(config: Mapping[str, Any]) -> RouterConfig:
    """The router of a checkpoint's `config.json`."""
    config = _with_defaults(config)
    kind, top_k = config["model_type"], _setting(config, "num_experts_per_tok")
    if kind == "mixtral":
        return RouterConfig(top_k, normalize=True, router_dtype="activations")
    if kind == "gpt_oss":
        return RouterConfig(top_k, scoring="softmax_of_topk", router_dtype="activations")
    if kind in ("qwen2_moe", "qwen3_moe"):
        return RouterConfig(top_k, normalize=config["norm_topk_prob"], router_dtype="activations")
    scale = config["routed_scaling_factor"]
    if kind == "deepseek_v3":
        return RouterConfig(
            top_k,
            scoring="sigmoid",
            normalize=config["norm_topk_prob"],
            n_groups=_setting(config, "n_group"),
            top_groups=_setting(config, "topk_group"),
            group_score="top2_sum",
            scale=scale,
        )
    method = config["topk_method"]
    if method == "greedy":
        return RouterConfig(top_k, scale=scale)
    if method == "group_limited_greedy":
        groups, top_groups = _setting(config, "n_group"), _setting(config, "topk_group")
        return RouterConfig(top_k, n_groups=groups, top_groups=top_groups, scale=scale)
    raise NotSupported(f"topk_method: expected greedy or group_limited_greedy, got {method!r}")


def load_experts(tensors: Mapping[str, mx.array], config: Mapping[str, Any], layer: int) -> MoEWeights:
    """The weights of one layer out of a checkpoint's tensors, by the names they have there."""
    config = _with_defaults(config)
    kind = config["model_type"]
    expect(not _is_dense(config, layer), "layer", "one with experts", f"{layer}, which is dense")
    block = f"model.layers.{layer}.mlp"
    if kind == "gpt_oss":
        return _gpt_oss(tensors, config, block)
    if kind == "mixtral":
        return _mixtral(tensors, layer)
    return _qwen_or_deepseek(tensors, config, block)


def _mixtral(tensors: Mapping[str, mx.array], layer: int) -> MoEWeights:
    block, names = f"model.layers.{layer}.mlp", PROJECTIONS
    if f"model.layers.{layer}.block_sparse_moe.gate.weight" in tensors:
        block, names = f"model.layers.{layer}.block_sparse_moe", ("w1", "w3", "w2")
    router_weight = _tensor(tensors, f"{block}.gate.weight")
    return MoEWeights(router_weight, _experts(tensors, block, names, router_weight.shape[0]))


def _qwen_or_deepseek(tensors: Mapping[str, mx.array], config: Mapping[str, Any], block: str) -> MoEWeights:
    kind = config["model_type"]
    router_weight = _tensor(tensors, f"{block}.gate.weight")
    experts = _experts(tensors, block, PROJECTIONS, router_weight.shape[0])
    shared = selection_bias = None
    if kind == "deepseek_v3":
        selection_bias = _tensor(tensors, f"{block}.gate.e_score_correction_bias")
    if kind in ("deepseek_v2", "deepseek_v3") and config["n_shared_experts"]:
        shared = _shared(tensors, f"{block}.shared_experts", None)
    if kind == "qwen2_moe":
        gate_weight = _tensor(tensors, f"{block}.shared_expert_gate.weight")[0]  # (1, D) in the checkpoint
        shared = _shared(tensors, f"{block}.shared_expert", gate_weight)
    return MoEWeights(router_weight, experts, selection_bias=selection_bias, shared=shared)


def _gpt_oss(tensors: Mapping[str, mx.array], config: Mapping[str, Any], block: str) -> MoEWeights:
    """Stored (E, in, out), gate and up in turns. Laid out as rows here, once, and not at each product."""
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
        alpha=config["swiglu_alpha"],
        limit=config["swiglu_limit"],
    )
    router_weight = _tensor(tensors, f"{block}.router.weight")
    return MoEWeights(router_weight, experts, _tensor(tensors, f"{block}.router.bias"))


def _experts(
    tensors: Mapping[str, mx.array], block: str, names: tuple[str, str, str], count: int
) -> ExpertWeights:
    """Fused in one tensor, gate in the first half; or a tensor for each expert and matrix."""
    if f"{block}.experts.gate_up_proj" in tensors:
        gate, up = mx.split(tensors[f"{block}.experts.gate_up_proj"], 2, axis=1)  # (E, 2F, D)
        return ExpertWeights(gate, up, _tensor(tensors, f"{block}.experts.down_proj"))
    gate, up, down = (
        mx.stack([_tensor(tensors, f"{block}.experts.{e}.{name}.weight") for e in range(count)])
        for name in names
    )
    return ExpertWeights(gate, up, down)


def _shared(tensors: Mapping[str, mx.array], block: str, gate_weight: mx.array | None) -> SharedExpert:
    gate, up, down = (_tensor(tensors, f"{block}.{name}.weight") for name in PROJECTIONS)
    return SharedExpert(gate, up, down, gate_weight)


def _is_dense(config: Mapping[str, Any], layer: int) -> bool:
    if config["model_type"] in ("qwen2_moe", "qwen3_moe"):
        listed = layer in (config["mlp_only_layers"] or [])
        return listed or (layer + 1) % config["decoder_sparse_step"] != 0
    return layer < config.get("first_k_dense_replace", 0)


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    kind = config.get("model_type")
    if kind not in DEFAULTS:
        raise NotSupported(f"model_type: expected one of {', '.join(DEFAULTS)}, got {kind!r}")
    return {**DEFAULTS[kind], **config}


def _setting(config: Mapping[str, Any], key: str) -> Any:
    expect(config.get(key) is not None, key, "a value in the config", "none")
    return config[key]


def _tensor(tensors: Mapping[str, mx.array], name: str) -> mx.array:
    expect(name in tensors, name, "a tensor", "none")
    return tensors[name]
