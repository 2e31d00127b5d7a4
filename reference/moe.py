"""Ground truth of mixture of experts: NumPy, float64 inside, one loop for each idea.

The rules are in spec/moe.md.
"""

from collections import Counter
from fractions import Fraction
from math import ceil, floor

import numpy as np

from spec import InvalidArgument, NotSupported
from spec.moe import (
    Balance,
    Dispatch,
    ExpertChoice,
    ExpertParallelPlan,
    ExpertWeights,
    MoEOutput,
    MoEWeights,
    QuantizedExpertWeights,
    RouterConfig,
    Routing,
    SharedExpert,
)

WORK = np.float64  # all arithmetic; the suite also runs this file with float32 here, to derive its tolerances

TINY = 1e-20  # keeps a sum of scores that underflowed from dividing 0 by 0


def expect(condition, argument, expected, got):
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def in_float32(values, source):
    """Float32, but float64 where `source` is: so the suite asks for the truth before it is rounded."""
    return values.astype(np.promote_types(source.dtype, np.float32))


def softmax(row):
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def sigmoid(row):
    small = np.exp(-np.abs(row))  # 1 / (1 + exp(−row)), without overflow
    return np.where(row >= 0, 1, small) / (1 + small)


def best(values, count):
    """The ids of the largest values: value descending, then id ascending."""
    return np.argsort(-values, kind="stable")[:count]


# Routing --------------------------------------------------------------------------------------------------


def route(logits, config, *, selection_bias=None):
    expect(logits.ndim == 2, "logits", "2 axes", logits.shape)
    check_config(config, logits.shape[1])
    check_selection_bias(selection_bias, config, logits.shape[1])
    expect(not np.isnan(logits.astype(WORK)).any(), "logits", "numbers", "NaN")
    return choose(logits, config, selection_bias)


def choose(logits, config, selection_bias):
    experts = np.zeros((len(logits), config.top_k), np.int32)
    weights = np.zeros((len(logits), config.top_k), WORK)
    for t, row in enumerate(logits.astype(WORK)):
        scores = row if config.scoring == "softmax_of_topk" else score(row, config.scoring)
        choice = scores if selection_bias is None else scores + selection_bias.astype(WORK)
        experts[t] = best(within_best_groups(choice, config), config.top_k)
        weight = scores[experts[t]]
        if config.scoring == "softmax_of_topk":
            weight = softmax(weight)
        elif config.normalize:
            weight = weight / (weight.sum() + WORK(TINY))
        weights[t] = weight * WORK(config.scale)
    if config.router_dtype == "activations":
        weights = stored(weights, logits.dtype)
    return Routing(experts, in_float32(weights, logits))


def score(row, scoring):
    return softmax(row) if scoring == "softmax" else sigmoid(row)


def within_best_groups(choice, config):
    """The scores, −inf outside the best groups."""
    groups = choice.reshape(config.n_groups, -1)
    if config.group_score == "max":
        group_scores = groups.max(axis=1)
    else:
        group_scores = np.array([np.sort(group)[-2:].sum() for group in groups])
    result = np.full_like(groups, -np.inf)
    for group in best(group_scores, config.top_groups):
        result[group] = groups[group]
    return result.reshape(-1)


def check_config(config, n_experts):
    c = config
    expect(1 <= c.top_k <= n_experts, "top_k", f"1 to {n_experts}", c.top_k)
    expect(c.scoring in ("softmax", "sigmoid", "softmax_of_topk"), "scoring", "a known one", c.scoring)
    expect(c.group_score in ("max", "top2_sum"), "group_score", "max or top2_sum", c.group_score)
    divides = c.n_groups >= 1 and n_experts % c.n_groups == 0
    expect(divides, "n_groups", f"a divisor of {n_experts}", c.n_groups)
    expect(1 <= c.top_groups <= c.n_groups, "top_groups", f"1 to {c.n_groups}", c.top_groups)
    reachable = c.top_groups * (n_experts // c.n_groups)
    expect(reachable >= c.top_k, "top_groups", f"groups with {c.top_k} experts", f"{reachable} experts")
    grouped = c.scoring == "softmax_of_topk" and c.n_groups > 1
    expect(not grouped, "n_groups", "1 with softmax_of_topk", c.n_groups)
    factor = c.capacity_factor
    expect(factor is None or factor > 0, "capacity_factor", "above 0", factor)
    expect(
        c.capacity_rounding in ("floor", "ceil"), "capacity_rounding", "floor or ceil", c.capacity_rounding
    )
    expect(c.min_capacity >= 0, "min_capacity", "at least 0", c.min_capacity)
    check_priority(c.priority)
    known = ("float32", "activations")
    expect(c.router_dtype in known, "router_dtype", " or ".join(known), c.router_dtype)
    sums_to_one = c.normalize or c.scoring == "softmax_of_topk"
    allowed = sums_to_one or not c.renormalize_after_drop
    expect(allowed, "renormalize_after_drop", "normalised weights", "weights that are not")


def check_selection_bias(selection_bias, config, n_experts):
    if selection_bias is not None:
        scored = config.scoring != "softmax_of_topk"
        expect(scored, "selection_bias", "None with softmax_of_topk", "an array")
        shape = (n_experts,)
        expect(selection_bias.shape == shape, "selection_bias", f"shape {shape}", selection_bias.shape)


def check_priority(priority):
    known = ("position", "choice_then_position")
    expect(priority in known, "priority", " or ".join(known), priority)


# Capacity and dispatch ------------------------------------------------------------------------------------


def expert_capacity(tokens, n_experts, config):
    expect(tokens >= 0, "tokens", "at least 0", tokens)
    expect(n_experts >= 1, "n_experts", "at least 1", n_experts)
    check_config(config, n_experts)
    expect(config.capacity_factor is not None, "capacity_factor", "a number", None)
    share = Fraction(config.capacity_factor) * tokens * config.top_k / n_experts
    rounded = floor(share) if config.capacity_rounding == "floor" else ceil(share)
    return max(rounded, config.min_capacity)


def dispatch(experts, n_experts, capacity=None, *, mask=None, segments=None, priority="position"):
    expect(experts.ndim == 2, "experts", "2 axes", experts.shape)
    expect(n_experts >= 1, "n_experts", "at least 1", n_experts)
    tokens, k = experts.shape
    check_tokens(tokens, mask, segments)
    mask = np.ones(tokens, bool) if mask is None else mask
    segments = np.zeros(tokens, int) if segments is None else segments
    check_ids(experts[mask], n_experts)
    last = segments[mask].max(initial=-1)
    rooms = [capacity] * (last + 1) if np.ndim(capacity) == 0 else list(capacity)
    expect(last < len(rooms), "capacity", f"one for each of {last + 1} segments", len(rooms))
    expect(all(room is None or room >= 0 for room in rooms), "capacity", "at least 0", capacity)
    check_priority(priority)

    turns = [(t, j) for t in range(tokens) for j in range(k)]
    if priority == "choice_then_position":
        turns = [(t, j) for j in range(k) for t in range(tokens)]
    kept = np.zeros((tokens, k), bool)
    taken = Counter()  # (segment, expert) -> slots
    for t, j in turns:
        if mask[t]:
            place = segments[t], experts[t, j]
            room = rooms[segments[t]]
            kept[t, j] = room is None or taken[place] < room
            taken[place] += 1

    order, offsets = [], [0]
    for e in range(n_experts):
        order += [t * k + j for t in range(tokens) for j in range(k) if kept[t, j] and experts[t, j] == e]
        offsets.append(len(order))
    return Dispatch(np.array(order, np.int32), np.array(offsets, np.int32), kept)


def check_tokens(tokens, mask, segments):
    expect(mask is None or mask.shape == (tokens,), "mask", f"shape ({tokens},)", mask)
    expect(segments is None or segments.shape == (tokens,), "segments", f"shape ({tokens},)", segments)
    counted = segments if segments is None or mask is None else segments[mask]
    expect(counted is None or (counted >= 0).all(), "segments", "at least 0", segments)


def check_ids(experts, n_experts):
    inside = ((experts >= 0) & (experts < n_experts)).all()
    expect(inside, "experts", f"ids below {n_experts}", experts)


# The layer ------------------------------------------------------------------------------------------------


def moe_ffn(
    x,
    router_weight,
    experts,
    config,
    *,
    router_bias=None,
    selection_bias=None,
    shared=None,
    mask=None,
    segments=None,
):
    n_experts = len(router_weight)
    check_layer(x, router_weight, router_bias, selection_bias, config, shared)
    check_experts(experts, n_experts, x.shape[1])
    check_tokens(len(x), mask, segments)
    logits, routing = routed(x, router_weight, router_bias, selection_bias, config)
    kept = dispatch(
        routing.experts,
        n_experts,
        capacities(len(x), n_experts, config, mask, segments),
        mask=mask,
        segments=segments,
        priority=config.priority,
    ).kept
    weights = after_drop(routing.weights.astype(WORK), kept, config)
    y = np.zeros(x.shape, WORK)
    for t in range(len(x)):
        for j, e in enumerate(routing.experts[t]):
            if kept[t, j]:
                y[t] += weights[t, j] * expert(x[t], experts, e)
        if shared is not None and (mask is None or mask[t]):
            y[t] += shared_expert(x[t], shared)
    return MoEOutput(y.astype(x.dtype), routing, logits)


def routed(x, router_weight, router_bias, selection_bias, config):
    logits = x.astype(WORK) @ router_weight.T.astype(WORK)
    if router_bias is not None:
        logits = logits + router_bias.astype(WORK)
    if config.router_dtype == "activations":
        logits = logits.astype(x.dtype)
        return in_float32(logits, x), choose(logits, config, selection_bias)
    logits = in_float32(logits, x)
    return logits, choose(logits, config, selection_bias)


def capacities(tokens, n_experts, config, mask, segments):
    """Of each segment, from its own tokens; padding is none."""
    if config.capacity_factor is None:
        return None
    segments = np.zeros(tokens, int) if segments is None else segments
    counts = np.bincount(segments if mask is None else segments[mask], minlength=1)
    return [expert_capacity(int(count), n_experts, config) for count in counts]


def after_drop(weights, kept, config):
    """The weights, 0 for a dropped slot; those that remain divided by their sum if the config says so."""
    weights = np.where(kept, weights, 0)
    if config.renormalize_after_drop:
        weights = weights / (weights.sum(axis=1, keepdims=True) + WORK(TINY)) * WORK(config.scale)
    return weights


def stored(values, dtype):
    """What may be stored in the activations' dtype, such as what one matrix product hands to the next."""
    return values.astype(dtype).astype(WORK)


def expert(x, weights, e):
    """One token, (D,), through expert e."""
    up = stored(product(weights, "up", e, x.astype(WORK)), x.dtype)
    if weights.gate is None:
        hidden = activated(up, weights.activation)
    else:
        gate = stored(product(weights, "gate", e, x.astype(WORK)), x.dtype)
        hidden = gated(gate, up, weights)
    return stored(product(weights, "down", e, stored(hidden, x.dtype)), x.dtype)


def gated(gate, up, weights):
    if weights.activation == "swigluoai":
        gate, up = np.minimum(gate, weights.limit), np.clip(up, -weights.limit, weights.limit)
        return (up + 1) * gate * sigmoid(WORK(weights.alpha) * gate)
    return activated(gate, weights.activation) * up


def activated(values, activation):
    return values * sigmoid(values) if activation == "silu" else np.maximum(values, 0)


def product(weights, name, e, x):
    """One of an expert's matrices times x, plus its bias."""
    matrix, bias = getattr(weights, name), getattr(weights, f"{name}_bias")
    if isinstance(weights, QuantizedExpertWeights):
        w = dequantized(matrix, e, weights.bits, weights.group_size)
    else:
        w = matrix[e].astype(WORK)
    return w @ x if bias is None else w @ x + bias[e].astype(WORK)


def dequantized(matrix, e, bits, group_size):
    columns = np.arange(matrix.scales.shape[2] * group_size)
    word, shift = columns * bits // 32, columns * bits % 32
    code = (matrix.codes[e][:, word] >> shift.astype(np.uint32)) & np.uint32(2**bits - 1)
    group = columns // group_size
    scale, bias = matrix.scales[e][:, group].astype(WORK), matrix.biases[e][:, group].astype(WORK)
    return code.astype(WORK) * scale + bias  # (rows, columns)


def shared_expert(x, shared):
    alone = ExpertWeights(shared.gate[None], shared.up[None], shared.down[None])
    out = expert(x, alone, 0)
    if shared.gate_weight is not None:
        out = out * sigmoid(shared.gate_weight.astype(WORK) @ x.astype(WORK))
    return out


def check_layer(x, router_weight, router_bias, selection_bias, config, shared):
    expect(x.ndim == 2, "x", "2 axes", x.shape)
    expect(router_weight.ndim == 2, "router_weight", "2 axes", router_weight.shape)
    n_experts, width = router_weight.shape
    expect(width == x.shape[1], "router_weight", f"{x.shape[1]} columns", width)
    fits = router_bias is None or router_bias.shape == (n_experts,)
    expect(fits, "router_bias", f"shape ({n_experts},)", router_bias)
    check_config(config, n_experts)
    check_selection_bias(selection_bias, config, n_experts)
    if shared is not None:
        inner = shared.up.shape[0]
        shapes = shared.gate.shape, shared.up.shape, shared.down.shape
        right = (inner, width), (inner, width), (width, inner)
        expect(shapes == right, "shared", f"shapes {right}", shapes)
        weight = shared.gate_weight
        fits = weight is None or weight.shape == (width,)
        expect(fits, "gate_weight", f"shape ({width},)", weight)


def check_experts(experts, count, width):
    """`count` experts for activations of this width, gate, up and down alike."""
    known = ("silu", "relu", "swigluoai")
    expect(experts.activation in known, "activation", " or ".join(known), experts.activation)
    complete = experts.activation != "swigluoai" or experts.gate is not None
    expect(complete, "gate", "one with swigluoai", None)
    shape = shape_of(experts, "up")
    expect(len(shape) == 3, "up", "3 axes", shape)
    inner = shape[1]
    gated_bias = experts.gate is None and experts.gate_bias is not None
    expect(not gated_bias, "gate_bias", "None without a gate", "an array")
    for name, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
        if getattr(experts, name) is not None:
            actual = shape_of(experts, name)
            expect(actual == (count, *shape), name, f"shape {(count, *shape)}", actual)
            bias = getattr(experts, f"{name}_bias")
            fits = bias is None or bias.shape == (count, shape[0])
            expect(fits, f"{name}_bias", f"shape {(count, shape[0])}", bias)


def shape_of(experts, name):
    """(E, rows, columns) of a matrix, quantised or not."""
    matrix = getattr(experts, name)
    if isinstance(experts, ExpertWeights):
        return matrix.shape
    expect(experts.bits in (4, 8), "bits", "4 or 8", experts.bits)
    expect(experts.group_size in (32, 64, 128), "group_size", "32, 64 or 128", experts.group_size)
    count, rows, groups = matrix.scales.shape
    columns = groups * experts.group_size
    packed = count, rows, columns * experts.bits // 32
    expect(matrix.codes.shape == packed, name, f"codes of shape {packed}", matrix.codes.shape)
    alike = matrix.biases.shape == matrix.scales.shape
    expect(alike, name, f"biases of shape {matrix.scales.shape}", matrix.biases.shape)
    return count, rows, columns


# Losses and balance ---------------------------------------------------------------------------------------


def load_balancing_loss(
    logits, experts, n_experts, *, mask=None, scoring="softmax", pooling="all", divide_by_k=False
):
    parts = pools(logits, experts, n_experts, mask, scoring, pooling)
    losses = [
        n_experts * (frequency(chosen, n_experts, divide_by_k) @ mean_score(rows, scoring))
        for rows, chosen, _ in parts
    ]
    return in_float32(np.asarray(sum(losses, WORK(0)) / max(1, len(losses))), logits)


def load_balancing_loss_grad(
    logits, experts, n_experts, *, mask=None, scoring="softmax", pooling="all", divide_by_k=False
):
    parts = pools(logits, experts, n_experts, mask, scoring, pooling)
    gradient = np.zeros(logits.shape, WORK)
    for rows, chosen, where in parts:
        by_score = n_experts * frequency(chosen, n_experts, divide_by_k) / len(rows) / len(parts)
        gradient[where] = [by_score @ jacobian(row, scoring) for row in rows]
    return in_float32(gradient, logits)


def pools(logits, experts, n_experts, mask, scoring, pooling):
    """The tokens over which f and P are taken, padding left out: logits (n, E), experts (n, k), places."""
    expect(logits.ndim == 3, "logits", "3 axes", logits.shape)
    groups, tokens, width = logits.shape
    expect(width == n_experts, "logits", f"{n_experts} columns", width)
    alike = experts.ndim == 3 and experts.shape[:2] == (groups, tokens)
    expect(alike, "experts", f"shape ({groups}, {tokens}, k)", experts.shape)
    fits = mask is None or mask.shape == (groups, tokens)
    expect(fits, "mask", f"shape ({groups}, {tokens})", mask)
    expect(scoring in ("softmax", "sigmoid"), "scoring", "softmax or sigmoid", scoring)
    expect(pooling in ("all", "each"), "pooling", "all or each", pooling)
    mask = np.ones((groups, tokens), bool) if mask is None else mask
    check_ids(experts[mask], n_experts)
    places = [mask]
    if pooling == "each":
        places = [mask & (np.arange(groups) == g)[:, None] for g in range(groups)]
    return [(logits[where].astype(WORK), experts[where], where) for where in places if where.any()]


def frequency(experts, n_experts, divide_by_k):
    """f: slots of each expert over tokens, (E,)."""
    tokens, k = experts.shape
    counts = np.bincount(experts.reshape(-1), minlength=n_experts).astype(WORK)
    return counts / tokens / k if divide_by_k else counts / tokens


def mean_score(rows, scoring):
    """P: the mean of each expert's score, (E,)."""
    return sum(shares(row, scoring) for row in rows) / len(rows)


def shares(row, scoring):
    """Scores of one token that sum to 1."""
    scores = score(row, scoring)
    return scores if scoring == "softmax" else scores / (scores.sum() + WORK(TINY))


def jacobian(row, scoring):
    """d shares[i] / d row[m], (E, E)."""
    share = shares(row, scoring)
    if scoring == "softmax":
        return np.diag(share) - np.outer(share, share)
    scores = sigmoid(row)
    slope = scores * (1 - scores) / (scores.sum() + WORK(TINY))
    return np.diag(slope) - np.outer(share, slope)


def router_z_loss(logits, *, mask=None):
    expect(logits.ndim == 2, "logits", "2 axes", logits.shape)
    check_tokens(len(logits), mask, None)
    rows = logits.astype(WORK) if mask is None else logits[mask].astype(WORK)
    total = WORK(0)
    for row in rows:
        top = row.max()
        total += (top + np.log(np.exp(row - top).sum())) ** 2
    return in_float32(np.asarray(total / max(1, len(rows))), logits)


def balance(experts, n_experts):
    expect(experts.ndim == 2, "experts", "2 axes", experts.shape)
    check_ids(experts, n_experts)
    load = np.bincount(experts.reshape(-1), minlength=n_experts)
    violation = entropy = WORK(0)
    if load.sum() > 0:
        shares_ = load.astype(WORK) / load.sum()
        violation = load.max() / WORK(load.mean()) - 1
        entropy = -sum((p * np.log(p) for p in shares_ if p > 0), WORK(0))
    return Balance(load.astype(np.int32), np.asarray(violation, np.float32), np.asarray(entropy, np.float32))


def update_selection_bias(bias, load, rate):
    expect(load.shape == bias.shape, "load", f"shape {bias.shape}", load.shape)
    expect(rate >= 0, "rate", "at least 0", rate)
    result = bias.astype(WORK)
    for e in range(len(load)):
        result[e] += WORK(rate) * np.sign(int(load.sum()) - int(load[e]) * len(load))
    return in_float32(result, bias)


def expert_choice(logits, capacity, *, causal=False, mask=None):
    if causal:
        raise NotSupported("causal: expected False, got True: the choice depends on later tokens")
    expect(logits.ndim == 2, "logits", "2 axes", logits.shape)
    expect(capacity >= 1, "capacity", "at least 1", capacity)
    check_tokens(len(logits), mask, None)
    candidates = np.arange(len(logits)) if mask is None else np.flatnonzero(mask)
    scores = np.zeros((len(candidates), logits.shape[1]), WORK)  # (candidates, E)
    for i, t in enumerate(candidates):
        scores[i] = softmax(logits[t].astype(WORK))
    chosen = [best(column, capacity) for column in scores.T]
    tokens = np.array([candidates[rows] for rows in chosen], np.int32)
    weights = np.array([column[rows] for column, rows in zip(scores.T, chosen, strict=True)], WORK)
    return ExpertChoice(tokens, in_float32(weights, logits))


# Several ranks --------------------------------------------------------------------------------------------


def expert_parallel_plan(experts, n_experts, ranks, source_lens):
    expect(experts.ndim == 2, "experts", "2 axes", experts.shape)
    check_ids(experts, n_experts)
    divides = ranks >= 1 and n_experts % ranks == 0
    expect(divides, "ranks", f"a divisor of {n_experts}", ranks)
    expect(len(source_lens) == ranks, "source_lens", f"{ranks} lengths", source_lens)
    fits = all(n >= 0 for n in source_lens) and sum(source_lens) == len(experts)
    expect(fits, "source_lens", f"{len(experts)} tokens in all", source_lens)
    k = experts.shape[1]
    order, expert_counts = [], np.zeros((ranks, n_experts), np.int32)
    first = 0
    for rank, tokens in enumerate(source_lens):
        sorted_slots = dispatch(experts[first : first + tokens], n_experts)
        order += [first * k + slot for slot in sorted_slots.order]
        expert_counts[rank] = np.diff(sorted_slots.offsets)
        first += tokens
    send_counts = expert_counts.reshape(ranks, ranks, -1).sum(axis=2, dtype=np.int32)
    return ExpertParallelPlan(np.array(order, np.int32), expert_counts, send_counts)


def expert_parallel_ffn(
    x,
    router_weight,
    experts,
    config,
    *,
    collective,
    router_bias=None,
    selection_bias=None,
    shared=None,
    mask=None,
):
    if config.capacity_factor is not None:
        raise NotSupported("config: expected no capacity_factor over several ranks, got one")
    n_experts, here, ranks = len(router_weight), collective.rank, collective.size
    expect(n_experts % ranks == 0, "router_weight", f"a multiple of {ranks} experts", n_experts)
    check_layer(x, router_weight, router_bias, selection_bias, config, shared)
    check_experts(experts, n_experts // ranks, x.shape[1])
    check_tokens(len(x), mask, None)

    # Which of my slots go where, and how many rows come to me: everyone learns everyone's counts.
    logits, routing = routed(x, router_weight, router_bias, selection_bias, config)
    slots = dispatch(routing.experts, n_experts, mask=mask)
    counts = collective.all_gather(np.diff(slots.offsets).astype(np.int32))  # (R, E)
    local = n_experts // ranks
    bounds = slots.offsets[::local]  # slots for rank r: order[bounds[r]:bounds[r + 1]]

    # Rows to the experts.
    width, dtype = x.shape[1], x.dtype.name
    rows_for = [
        x[slots.order[bounds[r] : bounds[r + 1]] // config.top_k] for r in range(ranks)
    ]  # by expert, then slot
    others = [r for r in range(ranks) if r != here]
    for r in others:
        if len(rows_for[r]) > 0:
            collective.send(rows_for[r], r)
    mine = slice(here * local, (here + 1) * local)
    arrived = [rows_for[r] for r in range(ranks)]
    for r in others:
        count = int(counts[r, mine].sum())
        arrived[r] = collective.recv((count, width), dtype, r) if count > 0 else rows_for[r][:0]

    # Through the experts, and back.
    for r in range(ranks):
        ids = np.repeat(np.arange(local), counts[r, mine])
        arrived[r] = np.array(
            [expert(row, experts, e) for row, e in zip(arrived[r], ids, strict=True)], WORK
        ).reshape(-1, width)
    for r in others:
        if len(arrived[r]) > 0:
            collective.send(arrived[r].astype(x.dtype), r)
    y = np.zeros(x.shape, WORK)
    for r in range(ranks):
        back = arrived[r]
        if r != here:
            count = len(rows_for[r])
            back = collective.recv((count, width), dtype, r) if count > 0 else back[:0]
        for slot, row in zip(slots.order[bounds[r] : bounds[r + 1]], back, strict=True):
            t, j = divmod(slot, config.top_k)
            y[t] += routing.weights[t, j].astype(WORK) * row.astype(WORK)
    for t in range(len(x)):
        if shared is not None and (mask is None or mask[t]):
            y[t] += shared_expert(x[t], shared)
    return MoEOutput(y.astype(x.dtype), routing, logits)


# Checkpoints ----------------------------------------------------------------------------------------------

# What transformers' configuration classes assume where a config.json says nothing.
DEFAULTS = {
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


def known(config):
    """The config with its defaults."""
    kind = config.get("model_type")
    if kind not in DEFAULTS:
        raise NotSupported(f"model_type: expected one of {', '.join(DEFAULTS)}, got {kind!r}")
    return {**DEFAULTS[kind], **config}


def setting(config, key):
    expect(config.get(key) is not None, key, "a value in the config", "none")
    return config[key]


def router_config_from_hf(config):
    config = known(config)
    kind, top_k = config["model_type"], setting(config, "num_experts_per_tok")
    if kind == "mixtral":
        return RouterConfig(top_k, normalize=True, router_dtype="activations")
    if kind == "gpt_oss":
        return RouterConfig(top_k, "softmax_of_topk", router_dtype="activations")
    if kind in ("qwen2_moe", "qwen3_moe"):
        return RouterConfig(top_k, normalize=config["norm_topk_prob"], router_dtype="activations")
    scale = config["routed_scaling_factor"]
    if kind == "deepseek_v3":
        return RouterConfig(
            top_k,
            "sigmoid",
            config["norm_topk_prob"],
            setting(config, "n_group"),
            setting(config, "topk_group"),
            "top2_sum",
            scale,
        )
    method = config["topk_method"]
    if method == "greedy":
        return RouterConfig(top_k, scale=scale)
    if method != "group_limited_greedy":
        raise NotSupported(f"topk_method: expected greedy or group_limited_greedy, got {method!r}")
    return RouterConfig(
        top_k, n_groups=setting(config, "n_group"), top_groups=setting(config, "topk_group"), scale=scale
    )


def load_experts(tensors, config, layer):
    config = known(config)
    kind = config["model_type"]
    expect(not is_dense(config, layer), "layer", "one with experts", f"{layer}, which is dense")
    if kind == "gpt_oss":
        return load_gpt_oss(tensors, config, layer)

    block = f"model.layers.{layer}.mlp"
    names = ("gate_proj", "up_proj", "down_proj")
    if kind == "mixtral" and f"model.layers.{layer}.block_sparse_moe.gate.weight" in tensors:
        block = f"model.layers.{layer}.block_sparse_moe"
        names = ("w1", "w3", "w2")
    if f"{block}.experts.gate_up_proj" in tensors:
        fused = tensors[f"{block}.experts.gate_up_proj"]  # (E, 2F, D)
        gate, up = fused[:, : fused.shape[1] // 2], fused[:, fused.shape[1] // 2 :]
        down = tensor(tensors, f"{block}.experts.down_proj")
    else:
        count = len(tensor(tensors, f"{block}.gate.weight"))
        gate, up, down = (
            np.stack([tensor(tensors, f"{block}.experts.{e}.{name}.weight") for e in range(count)])
            for name in names
        )
    shared = selection_bias = None
    if kind == "deepseek_v3":
        selection_bias = tensor(tensors, f"{block}.gate.e_score_correction_bias")
    if kind in ("deepseek_v2", "deepseek_v3") and config["n_shared_experts"]:
        shared = load_shared(tensors, f"{block}.shared_experts")
    if kind == "qwen2_moe":
        gate_weight = tensor(tensors, f"{block}.shared_expert_gate.weight")[0]  # (1, D) in the checkpoint
        shared = load_shared(tensors, f"{block}.shared_expert", gate_weight)
    router_weight = tensor(tensors, f"{block}.gate.weight")
    return MoEWeights(router_weight, ExpertWeights(gate, up, down), None, selection_bias, shared)


def is_dense(config, layer):
    if config["model_type"] in ("qwen2_moe", "qwen3_moe"):
        listed = layer in (config["mlp_only_layers"] or [])
        return listed or (layer + 1) % config["decoder_sparse_step"] != 0
    return layer < config.get("first_k_dense_replace", 0)


def load_gpt_oss(tensors, config, layer):
    block = f"model.layers.{layer}.mlp"
    fused = tensor(tensors, f"{block}.experts.gate_up_proj").swapaxes(1, 2)  # (E, 2F, D)
    fused_bias = tensor(tensors, f"{block}.experts.gate_up_proj_bias")  # (E, 2F)
    experts = ExpertWeights(
        gate=fused[:, 0::2],
        up=fused[:, 1::2],
        down=tensor(tensors, f"{block}.experts.down_proj").swapaxes(1, 2),
        gate_bias=fused_bias[:, 0::2],
        up_bias=fused_bias[:, 1::2],
        down_bias=tensor(tensors, f"{block}.experts.down_proj_bias"),
        activation="swigluoai",
        alpha=config["swiglu_alpha"],
        limit=config["swiglu_limit"],
    )
    router = tensor(tensors, f"{block}.router.weight"), tensor(tensors, f"{block}.router.bias")
    return MoEWeights(router[0], experts, router[1])


def load_shared(tensors, block, gate_weight=None):
    gate, up, down = (
        tensor(tensors, f"{block}.{name}.weight") for name in ("gate_proj", "up_proj", "down_proj")
    )
    return SharedExpert(gate, up, down, gate_weight)


def tensor(tensors, name):
    expect(name in tensors, name, "a tensor", "none")
    return tensors[name]
