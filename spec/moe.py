"""Contract of mixture of experts: what a module `moe` must offer.

The rules are in `moe.md`; the ids in the docstrings (MOE-01 …) point there. Signatures and values only:
nothing here computes.

Symbols used throughout: T tokens, E experts, k experts per token, D the width of the model (hidden size), F
the width of an expert (intermediate size). Slot t · k + j is the j-th choice of token t. An `Array` is an
array of the implementation's framework (MLX, PyTorch or NumPy); integer arrays may have any integer dtype.

Sources: Switch (Fedus et al. 2021, arXiv 2101.03961), GShard (arXiv 2006.16668), ST-MoE (arXiv 2202.08906),
Mixtral (arXiv 2401.04088), DeepSeek-V3 (arXiv 2412.19437), Expert Choice (arXiv 2202.09368); transformers
`models/*/modeling_*.py`; mlx-lm `models/switch_layers.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spec.collective import Collective

__all__ = [
    "DEEPSEEK_V2",
    "DEEPSEEK_V3",
    "GPT_OSS",
    "MIXTRAL",
    "QWEN2_MOE",
    "QWEN3_MOE",
    "SWITCH",
    "Balance",
    "Collective",
    "Dispatch",
    "ExpertChoice",
    "ExpertParallelPlan",
    "ExpertWeights",
    "MoEOutput",
    "MoEWeights",
    "QuantizedExpertWeights",
    "QuantizedMatrix",
    "RouterConfig",
    "Routing",
    "SharedExpert",
    "balance",
    "dispatch",
    "expert_capacity",
    "expert_choice",
    "expert_parallel_ffn",
    "expert_parallel_plan",
    "load_balancing_loss",
    "load_balancing_loss_grad",
    "load_experts",
    "moe_ffn",
    "route",
    "router_config_from_hf",
    "router_z_loss",
    "update_selection_bias",
]

Array = Any


# Values ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RouterConfig:
    """How a router chooses. MOE-01 to MOE-14.

    top_k: experts per token, k.
    scoring: "softmax" over all experts, "sigmoid" of each, or "softmax_of_topk" over the k chosen logits.
    normalize: divide the k weights by their sum (plus 1e-20). Changes nothing for "softmax_of_topk".
    n_groups, top_groups: experts form n_groups equal runs of ids; only the best top_groups can be chosen.
    group_score: "max", a group's best score, or "top2_sum", the sum of its two best.
    scale: factor on the weights, after all else.
    capacity_factor: None for no limit, else see `expert_capacity`. MOE-33 to MOE-42.
    capacity_rounding: "floor" or "ceil".
    min_capacity: the least capacity of an expert.
    priority: who comes first when an expert is full: "position", tokens in order; or "choice_then_position",
        first choices of all tokens, then second choices, and so on.
    renormalize_after_drop: divide the weights that remain by their sum, times `scale`. Needs `normalize`,
        or "softmax_of_topk".
    router_dtype: "float32", or "activations" where the model computes its router in their dtype: logits and
        weights may then be rounded to it. MOE-13, MOE-23.
    """

    top_k: int
    scoring: str = "softmax"
    normalize: bool = False
    n_groups: int = 1
    top_groups: int = 1
    group_score: str = "max"
    scale: float = 1.0
    capacity_factor: float | None = None
    capacity_rounding: str = "ceil"
    min_capacity: int = 0
    priority: str = "position"
    renormalize_after_drop: bool = False
    router_dtype: str = "float32"


# What the models that people deploy do. MOE-15.

# One expert, weighted by its raw probability; mesh_tensorflow/transformer/moe.py rounds down, at least 4.
SWITCH = RouterConfig(top_k=1, capacity_factor=1.25, capacity_rounding="floor", min_capacity=4)
# MixtralTopKRouter: softmax over all, the best two divided by their sum.
MIXTRAL = RouterConfig(top_k=2, normalize=True, router_dtype="activations")
# Qwen2MoeTopKRouter with Qwen1.5-MoE-A2.7B's config.json: norm_topk_prob false.
QWEN2_MOE = RouterConfig(top_k=4, router_dtype="activations")
# Qwen3MoeTopKRouter with Qwen3-30B-A3B's config.json: norm_topk_prob true.
QWEN3_MOE = RouterConfig(top_k=8, normalize=True, router_dtype="activations")
# DeepseekV2TopkRouter with DeepSeek-V2's config.json: group_limited_greedy, 3 of 8 groups, factor 16.
DEEPSEEK_V2 = RouterConfig(top_k=6, n_groups=8, top_groups=3, group_score="max", scale=16.0)
# DeepseekV3TopkRouter with DeepSeek-V3's config.json: 4 of 8 groups, factor 2.5.
DEEPSEEK_V3 = RouterConfig(
    top_k=8,
    scoring="sigmoid",
    normalize=True,
    n_groups=8,
    top_groups=4,
    group_score="top2_sum",
    scale=2.5,
)
# GptOssTopKRouter: the four largest logits, softmax over these.
GPT_OSS = RouterConfig(top_k=4, scoring="softmax_of_topk", router_dtype="activations")


@dataclass(frozen=True)
class Routing:
    """experts: (T, k) integers, distinct in a row, best first; weights: (T, k) float32."""

    experts: Array
    weights: Array


@dataclass(frozen=True)
class Dispatch:
    """The kept slots, expert after expert. MOE-29 to MOE-36.

    order: (kept slots,) integers, slots t · k + j, ascending within each expert.
    offsets: (E + 1,) integers, starts at 0; expert e has order[offsets[e]:offsets[e + 1]].
    kept: (T, k) bool.
    """

    order: Array
    offsets: Array
    kept: Array


@dataclass(frozen=True)
class ExpertWeights:
    """Feed-forward networks of E experts, in the activations' dtype. MOE-16 to MOE-19.

    gate, up: (E, F, D); down: (E, D, F). Without a gate, an expert is down · act(up · x); with one,
        down · (act(gate · x) * (up · x)).
    gate_bias, up_bias: (E, F); down_bias: (E, D); each may be None.
    activation: "silu", "relu", or "swigluoai", gpt-oss's clamped one, which needs a gate:
        (u + 1) · g · sigmoid(alpha · g) with g = min(gate, limit), u = clip(up, −limit, limit).
    """

    gate: Array | None
    up: Array
    down: Array
    gate_bias: Array | None = None
    up_bias: Array | None = None
    down_bias: Array | None = None
    activation: str = "silu"
    alpha: float = 1.702
    limit: float = 7.0


@dataclass(frozen=True)
class QuantizedMatrix:
    """E matrices (rows, columns) in MLX's affine quantisation. MOE-27.

    Element c of a row is code · scale + bias: the code of `bits` bits begins at bit (c · bits) mod 32 of word
    c · bits // 32, counted from the least significant; scale and bias are those of group c // group_size.

    codes: (E, rows, columns · bits / 32) uint32; scales, biases: (E, rows, columns / group_size) float32.
    """

    codes: Array
    scales: Array
    biases: Array


@dataclass(frozen=True)
class QuantizedExpertWeights:
    """As `ExpertWeights`, with quantised matrices. bits: 4 or 8; group_size: 32, 64 or 128. MOE-27."""

    gate: QuantizedMatrix | None
    up: QuantizedMatrix
    down: QuantizedMatrix
    bits: int
    group_size: int
    gate_bias: Array | None = None
    up_bias: Array | None = None
    down_bias: Array | None = None
    activation: str = "silu"
    alpha: float = 1.702
    limit: float = 7.0


@dataclass(frozen=True)
class SharedExpert:
    """An expert that every token visits: down · (silu(gate · x) * (up · x)). MOE-20, MOE-21.

    gate, up: (S, D); down: (D, S), S its width; gate_weight: (D,), multiplies its output by
    sigmoid(gate_weight · x); None for 1.
    """

    gate: Array
    up: Array
    down: Array
    gate_weight: Array | None = None


@dataclass(frozen=True)
class MoEWeights:
    """One layer of a checkpoint: what `moe_ffn` takes besides x and the router's rules. MOE-57."""

    router_weight: Array
    experts: ExpertWeights
    router_bias: Array | None = None
    selection_bias: Array | None = None
    shared: SharedExpert | None = None


@dataclass(frozen=True)
class MoEOutput:
    """y: (T, D) in the dtype of x. routing: as `route` gives it, before anything is dropped. logits: (T, E)
    float32, what the losses take. Rows of routing and logits that belong to masked tokens hold anything."""

    y: Array
    routing: Routing
    logits: Array


@dataclass(frozen=True)
class Balance:
    """load: (E,) integers, slots of each expert; violation, entropy: () float32. MOE-48."""

    load: Array
    violation: Array
    entropy: Array


@dataclass(frozen=True)
class ExpertChoice:
    """tokens: (E, c) integers, best first; weights: (E, c) float32. MOE-50."""

    tokens: Array
    weights: Array


@dataclass(frozen=True)
class ExpertParallelPlan:
    """Who sends what, when R ranks hold E / R experts each. MOE-52.

    order: (T · k,) integers: all slots, source rank after source rank, within one by expert, then by slot.
    expert_counts: (R, E) integers: slots of a source rank that go to an expert.
    send_counts: (R, R) integers: slots that go from a source rank (row) to a destination (column).
    """

    order: Array
    expert_counts: Array
    send_counts: Array


# Routing --------------------------------------------------------------------------------------------------


def route(logits: Array, config: RouterConfig, *, selection_bias: Array | None = None) -> Routing:
    """The k experts of each token and their weights. MOE-01 to MOE-14.

    logits: (T, E), float32, float16 or bfloat16; computed with in float32.
    selection_bias: (E,) float32, added to the scores for the choice only (DeepSeek-V3).

    Raises InvalidArgument when the logits hold NaN or are no matrix, `selection_bias` has another shape, or
    the config cannot be met: top_k not in 1 … E; E no multiple of n_groups; top_groups not in 1 … n_groups;
    fewer than top_k experts in top_groups groups; an unknown scoring, group_score, rounding, priority or
    router_dtype; a selection bias or groups with "softmax_of_topk"; a capacity_factor not above 0, a negative
    min_capacity; `renormalize_after_drop` where the weights are not normalised.
    """
    ...


def expert_capacity(tokens: int, n_experts: int, config: RouterConfig) -> int:
    """Slots that an expert takes: tokens · top_k · capacity_factor / n_experts, rounded. MOE-33, MOE-36.

    Raises InvalidArgument when `tokens` is negative, `n_experts` below 1, or the config has no
    capacity_factor or is one that `route` refuses.
    """
    ...


def dispatch(
    experts: Array,
    n_experts: int,
    capacity: int | Sequence[int] | None = None,
    *,
    mask: Array | None = None,
    segments: Array | None = None,
    priority: str = "position",
) -> Dispatch:
    """Sorts slots by expert, and drops those for which there is no room. MOE-29 to MOE-36.

    experts: (T, k) integers, distinct within a row.
    capacity: slots that an expert takes; None for all. With segments, of each segment: one number for all,
        or one number a segment.
    mask: (T,) bool; False for padding, whose rows of `experts` may hold anything.
    segments: (T,) integers from 0 on: the request of each token.

    Raises InvalidArgument when a shape is wrong, an expert that counts is not in 0 … E − 1, a capacity or a
    segment is negative, capacities are given one a segment and do not reach the last, or the priority is
    unknown.
    """
    ...


# The layer ------------------------------------------------------------------------------------------------


def moe_ffn(
    x: Array,
    router_weight: Array,
    experts: ExpertWeights | QuantizedExpertWeights,
    config: RouterConfig,
    *,
    router_bias: Array | None = None,
    selection_bias: Array | None = None,
    shared: SharedExpert | None = None,
    mask: Array | None = None,
    segments: Array | None = None,
) -> MoEOutput:
    """y[t] = sum over j of weights[t, j] · expert(experts[t, j])(x[t]), plus the shared expert.

    MOE-16 to MOE-28, MOE-37 to MOE-42.

    x: (T, D), float32, float16 or bfloat16; each weight may be of any of these. Matrix products accumulate in
        float32; what one hands to the next may be stored in the dtype of x.
    router_weight: (E, D); router_bias: (E,), added to the logits (gpt-oss); selection_bias: see `route`.
    mask: (T,) bool; False for padding: its row of y is zero.
    segments: (T,) integers from 0 on: the request of each token; capacity is counted within each.

    Raises InvalidArgument when shapes disagree, an activation is unknown or lacks its gate, a gate_bias comes
    without a gate, and what `route` and `dispatch` raise for their arguments; never because of a value in x.
    """
    ...


# Losses and balance ---------------------------------------------------------------------------------------


def load_balancing_loss(
    logits: Array,
    experts: Array,
    n_experts: int,
    *,
    mask: Array | None = None,
    scoring: str = "softmax",
    pooling: str = "all",
    divide_by_k: bool = False,
) -> Array:
    """E · sum over i of f_i · P_i, () float32, without a coefficient. MOE-43 to MOE-45, MOE-61, MOE-62.

    logits: (G, T, E); experts: (G, T, k) integers; mask: (G, T) bool, False for padding. A group is whatever
        the caller averages over: a layer, or a sequence.
    f_i: slots of expert i over the number of tokens (over k times that with `divide_by_k`). P_i: mean score
        of expert i; scoring "softmax", or "sigmoid", each token's divided by their sum plus 1e-20.
    pooling: "all": f and P over the tokens of all groups; "each": the mean of the groups' own losses, groups
        without tokens left out. Without any token the loss is 0.

    Raises InvalidArgument when shapes disagree, an expert that counts is not in 0 … E − 1, or an option is
    unknown.
    """
    ...


def load_balancing_loss_grad(
    logits: Array,
    experts: Array,
    n_experts: int,
    *,
    mask: Array | None = None,
    scoring: str = "softmax",
    pooling: str = "all",
    divide_by_k: bool = False,
) -> Array:
    """d `load_balancing_loss` / d logits, (G, T, E) float32; f counts as a constant. MOE-46, MOE-61.

    Raises what `load_balancing_loss` raises.
    """
    ...


def router_z_loss(logits: Array, *, mask: Array | None = None) -> Array:
    """Mean over tokens of logsumexp(logits)², () float32; 0 without any token. MOE-47, MOE-61.

    logits: (T, E); mask: (T,) bool. Raises InvalidArgument when a shape is wrong.
    """
    ...


def balance(experts: Array, n_experts: int) -> Balance:
    """How evenly slots fall on experts. MOE-48, MOE-62.

    violation: max(load) / mean(load) − 1; entropy: of load / sum(load), natural. Both 0 without any slot.
    Raises InvalidArgument when `experts` is not (T, k) or an expert is not in 0 … E − 1.
    """
    ...


def update_selection_bias(bias: Array, load: Array, rate: float) -> Array:
    """bias + rate where the load is below the mean load, − rate where it is above; (E,) float32. MOE-49.

    Raises InvalidArgument when the shapes differ or the rate is negative.
    """
    ...


def expert_choice(
    logits: Array, capacity: int, *, causal: bool = False, mask: Array | None = None
) -> ExpertChoice:
    """Each expert takes the tokens that score it highest. MOE-50, MOE-51.

    logits: (T, E); scores are a softmax over experts, and the weights are these scores.
    capacity: tokens of each expert, at most the number of unmasked tokens: c = min of the two.
    mask: (T,) bool; False for padding, which is never taken.

    Raises NotSupported when `causal`: the choice looks at later tokens. InvalidArgument when the capacity is
    below 1 or a shape is wrong.
    """
    ...


# Several ranks --------------------------------------------------------------------------------------------


def expert_parallel_plan(
    experts: Array, n_experts: int, ranks: int, source_lens: Sequence[int]
) -> ExpertParallelPlan:
    """Expert e lives on rank e // (E / R). MOE-52, MOE-63.

    experts: (T, k) integers; source_lens: tokens of each rank, in order.
    Raises InvalidArgument when E is no multiple of `ranks`, the lengths are not `ranks` many, one is negative
    or they are not T in all, or an expert is not in 0 … E − 1.
    """
    ...


def expert_parallel_ffn(
    x: Array,
    router_weight: Array,
    experts: ExpertWeights | QuantizedExpertWeights,
    config: RouterConfig,
    *,
    collective: Collective,
    router_bias: Array | None = None,
    selection_bias: Array | None = None,
    shared: SharedExpert | None = None,
    mask: Array | None = None,
) -> MoEOutput:
    """`moe_ffn` of this rank's tokens, with the experts spread over the ranks. MOE-53 to MOE-55, MOE-63.

    Called by every rank of the collective at the same time, also by one without tokens.

    x: (tokens of this rank, D); router_weight: (E, D), the whole router; experts: this rank's E / R experts,
    those from rank · E / R on. The rest as in `moe_ffn`.

    Raises, before it talks to another rank, NotSupported when the config has a capacity_factor;
    InvalidArgument when the ranks' experts are not E in all, and what `moe_ffn` raises.
    """
    ...


# Checkpoints ----------------------------------------------------------------------------------------------


def router_config_from_hf(config: Mapping[str, Any]) -> RouterConfig:
    """The router of a checkpoint's `config.json`. MOE-56, MOE-64.

    model_type: "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3" or "gpt_oss".
    Raises NotSupported for another model_type or topk_method; InvalidArgument when a key without a default is
    missing, or null.
    """
    ...


def load_experts(tensors: Mapping[str, Array], config: Mapping[str, Any], layer: int) -> MoEWeights:
    """The weights of one layer out of a checkpoint's tensors. MOE-57 to MOE-60, MOE-64.

    tensors: by the names they have in the checkpoint; there are as many experts as the router has rows.
    Raises NotSupported for another model_type; InvalidArgument when the layer is a dense one or a tensor is
    missing.
    """
    ...
