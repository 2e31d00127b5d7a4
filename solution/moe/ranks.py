"""Experts spread over several ranks: who sends what, and the layer that does it."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from spec import NotSupported
from spec.collective import Collective
from spec.moe import ExpertParallelPlan, MoEOutput, RouterConfig, SharedExpert

from .checks import Experts, check_experts, check_ids, check_layer, check_tokens, expect
from .kernels import all_streams, through_experts
from .layer import combine, counting, finish, router_logits
from .router import as_routing, choose
from .slots import sorted_slots


def expert_parallel_plan(
    experts: mx.array, n_experts: int, ranks: int, source_lens: Sequence[int]
) -> ExpertParallelPlan:
    """Expert e lives on rank e // (E / R). experts: (T, k); source_lens: tokens of each rank, in order."""
    expect(experts.ndim == 2, "experts", "2 axes", experts.shape)
    ids = np.asarray(experts)
    check_ids(ids, n_experts)
    divides = ranks >= 1 and n_experts % ranks == 0
    expect(divides, "ranks", f"a divisor of {n_experts}", ranks)
    expect(len(source_lens) == ranks, "source_lens", f"{ranks} lengths", source_lens)
    fits = all(n >= 0 for n in source_lens) and sum(source_lens) == len(ids)
    expect(fits, "source_lens", f"{len(ids)} tokens in all", source_lens)

    source = np.repeat(np.arange(ranks), source_lens)[:, None]  # (T, 1)
    lines = (source * n_experts + ids).reshape(-1)  # of each slot: its source rank and its expert
    counts = np.bincount(lines, minlength=ranks * n_experts).reshape(ranks, n_experts)
    return ExpertParallelPlan(
        mx.array(np.argsort(lines, kind="stable").astype(np.int32)),
        mx.array(counts.astype(np.int32)),
        mx.array(counts.reshape(ranks, ranks, -1).sum(axis=2).astype(np.int32)),
    )


def expert_parallel_ffn(
    x: mx.array,
    router_weight: mx.array,
    experts: Experts,
    config: RouterConfig,
    *,
    collective: Collective,
    router_bias: mx.array | None = None,
    selection_bias: mx.array | None = None,
    shared: SharedExpert | None = None,
    mask: mx.array | None = None,
) -> MoEOutput:
    """`moe_ffn` of this rank's tokens, with the experts spread over the ranks.

    Called by every rank at the same time, also by one without tokens. experts: this rank's E / R, those from
    rank · E / R on; router_weight: (E, D), the whole router.
    """
    if config.capacity_factor is not None:
        raise NotSupported("config: expected no capacity_factor over several ranks, got one")
    n_experts, here, ranks = router_weight.shape[0], collective.rank, collective.size
    expect(n_experts % ranks == 0, "router_weight", f"a multiple of {ranks} experts", n_experts)
    local = n_experts // ranks
    check_layer(x, router_weight, router_bias, selection_bias, config, shared)
    check_experts(experts, local, x.shape[1])
    check_tokens(x.shape[0], mask, None)

    streams, rows = all_streams(), x.astype(mx.float32)
    logits = router_logits(rows, router_weight, router_bias)
    chosen, weights = choose(np.asarray(logits), config, selection_bias)
    tokens = counting(x, mask)
    slots = sorted_slots(chosen, n_experts, tokens, None, np.zeros(len(tokens), int), config.priority)
    sent = mx.array(np.diff(slots.offsets).astype(np.int32))  # rows of mine for each expert
    leaving = x[mx.array(slots.order // config.top_k)]  # for rank 0, rank 1, …: sorted by expert
    mx.eval(leaving)
    table = np.asarray(collective.all_gather(sent))[:, here * local : (here + 1) * local]
    going, coming = np.diff(slots.offsets[::local]), table.sum(axis=1)

    arrived = exchange(collective, leaving, going, coming)
    # Rows have come by source rank, within one by expert.
    expert_of = np.concatenate([np.repeat(np.arange(local), row) for row in table])
    by_expert = np.argsort(expert_of, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(table.sum(axis=0))])
    out, place = through_experts(arrived.astype(mx.float32), by_expert, offsets, experts, streams)
    row = np.empty_like(place)
    row[by_expert] = place
    out = out[mx.array(row)].astype(x.dtype)
    mx.eval(out)

    returned = exchange(collective, out, coming, going)
    y = combine(returned.astype(mx.float32), np.arange(len(slots.order)), slots, weights)
    y = finish(y, x, rows, shared, mask, streams)
    mx.eval(y)
    return MoEOutput(y, as_routing(chosen, weights), logits)


def exchange(collective: Collective, rows: mx.array, going: np.ndarray, coming: np.ndarray) -> mx.array:
    """Sends each rank its going[r] rows and receives coming[r] from it: (sum of coming, D), by rank."""
    bounds = np.cumsum([0, *going]).tolist()
    parts = [rows[first:end] for first, end in zip(bounds, bounds[1:], strict=False)]
    mx.eval(parts)
    others = [r for r in range(collective.size) if r != collective.rank]
    for r in others:
        if going[r] > 0:
            collective.send(parts[r], r)
    dtype = str(rows.dtype).rsplit(".", 1)[-1]
    for r in others:
        if coming[r] > 0:
            parts[r] = collective.recv((int(coming[r]), rows.shape[1]), dtype, r)
    together = mx.concatenate([rows[:0], *(part for part, n in zip(parts, coming, strict=True) if n > 0)])
    mx.eval(together)
    return together
