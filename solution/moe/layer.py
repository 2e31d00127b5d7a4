"""The layer: route, sort, run the experts, put back together."""

import mlx.core as mx
import numpy as np

from spec.moe import MoEOutput, RouterConfig, SharedExpert

from .checks import Experts, check_experts, check_layer, check_tokens
from .kernels import all_streams, one_through_experts, through_experts, through_shared
from .router import as_routing, choose
from .slots import Slots, after_drop, room_of_config, segments_of, sorted_slots


def moe_ffn(
    x: mx.array,
    router_weight: mx.array,
    experts: Experts,
    config: RouterConfig,
    *,
    router_bias: mx.array | None = None,
    selection_bias: mx.array | None = None,
    shared: SharedExpert | None = None,
    mask: mx.array | None = None,
    segments: mx.array | None = None,
) -> MoEOutput:
    """y[t] = sum over j of weights[t, j] · expert(experts[t, j])(x[t]), plus the shared expert.

    x: (T, D); router_weight: (E, D); mask: (T,) bool, False for padding; segments: (T,), each with a capacity
    of its own.
    """
    check_layer(x, router_weight, router_bias, selection_bias, config, shared)
    rows = x.astype(mx.float32)
    logits = router_logits(rows, router_weight, router_bias)  # while it is computed, the rest is checked
    n_experts = router_weight.shape[0]
    check_experts(experts, n_experts, x.shape[1])
    check_tokens(x.shape[0], mask, segments)
    counts = counting(x, mask)
    segment = segments_of(x.shape[0], segments, counts)

    streams = all_streams()
    chosen, weights = choose(np.asarray(logits), config, selection_bias)
    if x.shape[0] == 1 and config.capacity_factor is None:
        y = mx.array(weights) @ one_through_experts(rows, chosen[0], experts, streams)
    else:
        room = room_of_config(config, n_experts, segment, counts)
        slots = sorted_slots(chosen, n_experts, counts, room, segment, config.priority)
        out, place = through_experts(rows, slots.order // config.top_k, slots.offsets, experts, streams)
        y = combine(out, place, slots, after_drop(weights, slots.kept, config))
    y = finish(y, x, rows, shared, mask, streams)
    output = MoEOutput(y, as_routing(chosen, weights), logits)
    mx.eval(y)
    return output


def counting(x: mx.array, mask: mx.array | None) -> np.ndarray:
    return np.ones(x.shape[0], bool) if mask is None else np.asarray(mask)


def router_logits(rows: mx.array, router_weight: mx.array, router_bias: mx.array | None) -> mx.array:
    """rows: (T, D) float32 -> (T, E) float32, on its way."""
    logits = rows @ router_weight.T.astype(mx.float32)
    if router_bias is not None:
        logits = logits + router_bias.astype(mx.float32)
    mx.async_eval(logits)
    return logits


def combine(out: mx.array, place: np.ndarray, slots: Slots, weights: np.ndarray) -> mx.array:
    """(T, D): the rows of each token's slots, times their weights.

    out: (rows, D); place: which of the rows belongs to slots.order[i]. Gathered, and summed in the order of
    the choices, so the same call gives the same bits.
    """
    row = np.full(slots.kept.size, out.shape[0])
    row[slots.order] = place
    if len(slots.order) < row.size:  # a dropped slot takes zeros: 0 times a NaN of another's would be NaN
        out = mx.concatenate([out, mx.zeros((1, out.shape[1]))])
    rows = out[mx.array(row.reshape(slots.kept.shape))]  # (T, k, D)
    return (mx.array(weights)[:, None] @ rows).squeeze(1)


def finish(
    y: mx.array,
    x: mx.array,
    rows: mx.array,
    shared: SharedExpert | None,
    mask: mx.array | None,
    streams: list[mx.Stream],
) -> mx.array:
    """The shared expert on top, zeros for padding, the dtype of x; on its way."""
    if shared is not None and x.shape[0] > 0:
        y = y + through_shared(rows, shared, streams)
    if mask is not None:
        y = mx.where(mask[:, None], y, 0)
    y = y.astype(x.dtype)
    mx.async_eval(y)
    return y
