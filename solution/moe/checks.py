"""Errors as sentences, and the checks that several entry points share."""

from typing import Any

import mlx.core as mx
import numpy as np

from spec import InvalidArgument
from spec.moe import ExpertWeights, QuantizedExpertWeights, RouterConfig, SharedExpert

Experts = ExpertWeights | QuantizedExpertWeights


def expect(condition: bool, argument: str, expected: Any, got: Any) -> None:
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def shape_of(array: mx.array | None) -> tuple[int, ...] | None:
    return None if array is None else array.shape


# Routing --------------------------------------------------------------------------------------------------


def check_config(config: RouterConfig, n_experts: int) -> None:
    c = config
    expect(1 <= c.top_k <= n_experts, "top_k", f"1 to {n_experts}", c.top_k)
    scorings = ("softmax", "sigmoid", "softmax_of_topk")
    expect(c.scoring in scorings, "scoring", f"one of {', '.join(scorings)}", c.scoring)
    expect(c.group_score in ("max", "top2_sum"), "group_score", "max or top2_sum", c.group_score)
    divides = c.n_groups >= 1 and n_experts % c.n_groups == 0
    expect(divides, "n_groups", f"a divisor of {n_experts}", c.n_groups)
    expect(1 <= c.top_groups <= c.n_groups, "top_groups", f"1 to {c.n_groups}", c.top_groups)
    reachable = c.top_groups * (n_experts // c.n_groups)
    expect(reachable >= c.top_k, "top_groups", f"groups with {c.top_k} experts", f"{reachable} experts")
    of_topk = c.scoring == "softmax_of_topk"
    expect(not (of_topk and c.n_groups > 1), "n_groups", "1 with softmax_of_topk", c.n_groups)
    factor, rounding = c.capacity_factor, c.capacity_rounding
    expect(factor is None or factor > 0, "capacity_factor", "above 0", factor)
    expect(rounding in ("floor", "ceil"), "capacity_rounding", "floor or ceil", rounding)
    expect(c.min_capacity >= 0, "min_capacity", "at least 0", c.min_capacity)
    check_priority(c.priority)
    dtypes = ("float32", "activations")
    expect(c.router_dtype in dtypes, "router_dtype", " or ".join(dtypes), c.router_dtype)
    allowed = c.normalize or of_topk or not c.renormalize_after_drop
    expect(allowed, "renormalize_after_drop", "normalised weights", "weights that are not")


def check_selection_bias(selection_bias: mx.array | None, config: RouterConfig, n_experts: int) -> None:
    if selection_bias is not None:
        scored = config.scoring != "softmax_of_topk"
        expect(scored, "selection_bias", "None with softmax_of_topk", "an array")
        shape = (n_experts,)
        expect(selection_bias.shape == shape, "selection_bias", f"shape {shape}", selection_bias.shape)


def check_priority(priority: str) -> None:
    known = ("position", "choice_then_position")
    expect(priority in known, "priority", " or ".join(known), priority)


def check_ids(experts: np.ndarray, n_experts: int) -> None:
    wrong = experts[(experts < 0) | (experts >= n_experts)]
    expect(not wrong.size, "experts", f"ids from 0 to {n_experts - 1}", wrong)


def check_tokens(tokens: int, mask: mx.array | None, segments: mx.array | None) -> None:
    shape = (tokens,)
    expect(mask is None or mask.shape == shape, "mask", f"shape {shape}", shape_of(mask))
    expect(segments is None or segments.shape == shape, "segments", f"shape {shape}", shape_of(segments))


# The layer ------------------------------------------------------------------------------------------------


def check_layer(
    x: mx.array,
    router_weight: mx.array,
    router_bias: mx.array | None,
    selection_bias: mx.array | None,
    config: RouterConfig,
    shared: SharedExpert | None,
) -> None:
    expect(x.ndim == 2, "x", "2 axes", x.shape)
    expect(router_weight.ndim == 2, "router_weight", "2 axes", router_weight.shape)
    n_experts, width = router_weight.shape
    expect(width == x.shape[1], "router_weight", f"{x.shape[1]} columns", width)
    fits = router_bias is None or router_bias.shape == (n_experts,)
    expect(fits, "router_bias", f"shape ({n_experts},)", shape_of(router_bias))
    check_config(config, n_experts)
    check_selection_bias(selection_bias, config, n_experts)
    if shared is not None:
        inner = shared.up.shape[0]
        shapes = shared.gate.shape, shared.up.shape, shared.down.shape
        right = (inner, width), (inner, width), (width, inner)
        expect(shapes == right, "shared", f"shapes {right}", shapes)
        weight = shared.gate_weight
        expect(
            weight is None or weight.shape == (width,), "gate_weight", f"shape ({width},)", shape_of(weight)
        )


def check_experts(experts: Experts, count: int, width: int) -> None:
    """`count` experts for activations of this width, gate, up and down alike."""
    known = ("silu", "relu", "swigluoai")
    expect(experts.activation in known, "activation", f"one of {', '.join(known)}", experts.activation)
    complete = experts.activation != "swigluoai" or experts.gate is not None
    expect(complete, "gate", "one with swigluoai", None)
    if isinstance(experts, QuantizedExpertWeights):
        expect(experts.bits in (4, 8), "bits", "4 or 8", experts.bits)
        expect(experts.group_size in (32, 64, 128), "group_size", "32, 64 or 128", experts.group_size)
    unused = experts.gate is None and experts.gate_bias is not None
    expect(not unused, "gate_bias", "None without a gate", "an array")
    inner = _matrix_shape(experts, "up")[1]
    for name, rows, columns in (("gate", inner, width), ("up", inner, width), ("down", width, inner)):
        if getattr(experts, name) is not None:
            shape, actual = (count, rows, columns), _matrix_shape(experts, name)
            expect(actual == shape, name, f"shape {shape}", actual)
            bias = getattr(experts, f"{name}_bias")
            fits = bias is None or bias.shape == (count, rows)
            expect(fits, f"{name}_bias", f"shape {(count, rows)}", shape_of(bias))


def _matrix_shape(experts: Experts, name: str) -> tuple[int, int, int]:
    """(experts, rows, columns) of a matrix, quantised or not."""
    matrix = getattr(experts, name)
    if isinstance(experts, ExpertWeights):
        expect(matrix.ndim == 3, name, "3 axes", matrix.shape)
        return matrix.shape
    expect(matrix.scales.ndim == 3, name, "scales with 3 axes", matrix.scales.shape)
    count, rows, groups = matrix.scales.shape
    columns = groups * experts.group_size
    packed = (count, rows, columns * experts.bits // 32)
    expect(matrix.codes.shape == packed, name, f"codes of shape {packed}", matrix.codes.shape)
    alike = matrix.biases.shape == matrix.scales.shape
    expect(alike, name, f"biases of shape {matrix.scales.shape}", matrix.biases.shape)
    return count, rows, columns
