"""Mixture of experts in PyTorch: right, and built unlike the reference, so that the suite can be held to it.

What differs, all of it free by the contract:

- no loop over tokens or experts: a router sorts all rows at once, dispatch counts arrivals after a sort;
- the experts that were chosen run together, each on its own buffer of rows, padded to the longest;
- float32 everywhere inside, also where half precision would do;
- gradients are those of autograd;
- over several ranks a token goes to a rank once, however many experts it has there, and comes back as the
  weighted sum of what they say.
"""

from dataclasses import replace

import torch
from torch.nn.functional import one_hot, silu

from spec import InvalidArgument, NotSupported
from spec.moe import (
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    GPT_OSS,
    MIXTRAL,
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

TINY = 1e-20
NOWHERE = -1  # the expert of a slot that was dropped, is padding or lives on another rank


def require(condition, sentence):
    if not condition:
        raise InvalidArgument(sentence)


def require_shape(name, array, *shape):
    """None is no array, and has any shape."""
    if array is not None:
        actual = tuple(array.shape)
        require(actual == shape, f"{name}: expected shape {shape}, got {actual}")


def require_ids(experts, n_experts):
    inside = bool(((experts >= 0) & (experts < n_experts)).all())
    require(inside, f"experts: expected ids below {n_experts}, got {experts.tolist()}")


def all_of(mask, *shape):
    """The mask; of this shape and all True where there is none."""
    return torch.ones(shape, dtype=torch.bool) if mask is None else mask


# Routing --------------------------------------------------------------------------------------------------


def route(logits, config, *, selection_bias=None):
    require(logits.dim() == 2, f"logits: expected 2 axes, got {logits.dim()}")
    check_config(config, logits.shape[1], selection_bias)
    require(not bool(logits.isnan().any()), "logits: expected numbers, got NaN")
    return choose(logits, config, selection_bias)


def choose(logits, config, selection_bias):
    """The routing of logits, which may hold NaN here."""
    scores = scores_of(logits.float(), config.scoring)  # (T, E)
    choice = scores if selection_bias is None else scores + selection_bias.float()
    experts = descending(only_best_groups(choice, config))[:, : config.top_k]
    weights = scores.gather(1, experts)  # (T, k)
    if config.scoring == "softmax_of_topk":
        weights = weights.softmax(dim=1)
    elif config.normalize:
        weights = weights / (weights.sum(dim=1, keepdim=True) + TINY)
    weights = weights * config.scale
    if config.router_dtype == "activations":
        weights = weights.to(logits.dtype)  # as Qwen's router in transformers
    return Routing(experts, weights.float())


def scores_of(logits, scoring):
    if scoring == "softmax":
        return logits.softmax(dim=-1)
    return sigmoid(logits) if scoring == "sigmoid" else logits


def sigmoid(logits):
    """The softmax of a logit and 0: of equal logits all scores are equal.

    `Tensor.sigmoid` takes the last elements of a row another way than the first, and would break ties.
    """
    finite = logits.clamp(max=50)  # from 17 on the score is 1 in float32
    return torch.stack([finite, torch.zeros_like(finite)], dim=-1).softmax(dim=-1)[..., 0]


def descending(values):
    """Ids along the last axis, the largest value first and of equals the lower id."""
    return values.sort(dim=-1, descending=True, stable=True).indices


def only_best_groups(choice, config):
    groups = choice.unflatten(1, (config.n_groups, -1))  # (T, groups, experts of a group)
    if config.group_score == "max":
        group_scores = groups.amax(dim=2)
    else:
        group_scores = groups.topk(min(2, groups.shape[2]), dim=2).values.sum(dim=2)
    closed = torch.ones_like(group_scores, dtype=torch.bool)
    closed.scatter_(1, descending(group_scores)[:, : config.top_groups], False)
    return groups.masked_fill(closed[..., None], -torch.inf).flatten(1)


def check_config(config, n_experts, selection_bias=None):
    c = config
    reachable = c.top_groups * (n_experts // max(1, c.n_groups))
    on_logits = c.scoring == "softmax_of_topk"
    rules = [
        ("top_k", 1 <= c.top_k <= n_experts, f"1 to {n_experts}"),
        ("scoring", c.scoring in ("softmax", "sigmoid", "softmax_of_topk"), "a known one"),
        ("group_score", c.group_score in ("max", "top2_sum"), "max or top2_sum"),
        ("n_groups", c.n_groups >= 1 and n_experts % c.n_groups == 0, f"a divisor of {n_experts}"),
        ("top_groups", 1 <= c.top_groups <= c.n_groups, f"1 to {c.n_groups}"),
        ("top_groups", reachable >= c.top_k, f"groups that hold {c.top_k} experts"),
        ("n_groups", c.n_groups == 1 or not on_logits, "1 with softmax_of_topk"),
        ("capacity_factor", c.capacity_factor is None or c.capacity_factor > 0, "above 0"),
        ("capacity_rounding", c.capacity_rounding in ("floor", "ceil"), "floor or ceil"),
        ("min_capacity", c.min_capacity >= 0, "at least 0"),
        ("router_dtype", c.router_dtype in ("float32", "activations"), "float32 or activations"),
        (
            "renormalize_after_drop",
            c.normalize or on_logits or not c.renormalize_after_drop,
            "False for weights that are not normalised",
        ),
    ]
    for name, holds, expected in rules:
        require(holds, f"{name}: expected {expected}, got {getattr(c, name)}")
    check_priority(c.priority)
    require(selection_bias is None or not on_logits, "selection_bias: expected None, got an array")
    require_shape("selection_bias", selection_bias, n_experts)


def check_priority(priority):
    known = ("position", "choice_then_position")
    require(priority in known, f"priority: expected one of {known}, got {priority!r}")


# Capacity and dispatch ------------------------------------------------------------------------------------


def expert_capacity(tokens, n_experts, config):
    require(tokens >= 0, f"tokens: expected at least 0, got {tokens}")
    require(n_experts >= 1, f"n_experts: expected at least 1, got {n_experts}")
    check_config(config, n_experts)
    require(config.capacity_factor is not None, "capacity_factor: expected a number, got None")
    numerator, denominator = config.capacity_factor.as_integer_ratio()
    slots, parts = tokens * config.top_k * numerator, n_experts * denominator
    share = slots // parts if config.capacity_rounding == "floor" else -(-slots // parts)
    return max(share, config.min_capacity)


def dispatch(experts, n_experts, capacity=None, *, mask=None, segments=None, priority="position"):
    require(experts.dim() == 2, f"experts: expected 2 axes, got {experts.dim()}")
    require(n_experts >= 1, f"n_experts: expected at least 1, got {n_experts}")
    tokens, k = experts.shape
    require_shape("mask", mask, tokens)
    require_shape("segments", segments, tokens)
    check_priority(priority)
    live = all_of(mask, tokens).nonzero()[:, 0]
    ids = experts.long()[live]  # (live tokens, k)
    require_ids(ids, n_experts)
    request = torch.zeros_like(live) if segments is None else segments.long()[live]
    check_segments(request)
    rooms = rooms_of(request, capacity)

    # Who comes how late to which expert, in the order of priority.
    slots = live[:, None] * k + torch.arange(k)
    places = request[:, None] * n_experts + ids
    if priority == "choice_then_position":
        slots, places, rooms = slots.T, places.T, rooms[None, :]
    else:
        rooms = rooms[:, None]
    fits = arrivals(places.flatten()).view(places.shape) < rooms
    kept = torch.zeros(tokens * k, dtype=torch.bool)
    kept[slots[fits]] = True

    slots = kept.nonzero()[:, 0]
    their_experts = experts.long().flatten()[slots]
    offsets = torch.zeros(n_experts + 1, dtype=torch.long)
    offsets[1:] = their_experts.bincount(minlength=n_experts).cumsum(0)
    return Dispatch(slots[their_experts.argsort(stable=True)], offsets, kept.view(tokens, k))


def check_segments(request):
    require(bool((request >= 0).all()), f"segments: expected at least 0, got {request.tolist()}")


def rooms_of(request, capacity):
    """Slots that an expert takes of each token's request, (live tokens,)."""
    if capacity is None:
        return torch.full_like(request, torch.iinfo(torch.long).max)
    rooms = torch.tensor([capacity] if isinstance(capacity, int) else list(capacity), dtype=torch.long)
    require(bool((rooms >= 0).all()), f"capacity: expected at least 0, got {capacity}")
    if isinstance(capacity, int):
        return rooms.expand_as(request)
    reached = bool((request < len(rooms)).all())
    require(reached, f"capacity: expected one for each segment of {request.tolist()}, got {len(rooms)}")
    return rooms[request]


def arrivals(places):
    """For each entry, how many earlier ones went to the same place."""
    by_place, order = places.sort(stable=True)
    starts = torch.searchsorted(by_place, by_place)  # where the run of each begins
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(places)) - starts)


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
    check_layer(x, router_weight, router_bias, selection_bias, config, shared, mask)
    n_experts, tokens = len(router_weight), len(x)
    check_experts(experts, n_experts, x.shape[1])
    require_shape("segments", segments, tokens)
    live = all_of(mask, tokens)

    logits = router_logits(x, router_weight, router_bias, config)
    routing = choose(logits, config, selection_bias)
    ids, weights = routing.experts, routing.weights
    request = torch.zeros(tokens, dtype=torch.long) if segments is None else segments.long()
    rooms = None
    if config.capacity_factor is not None:
        check_segments(request[live])
        # Requests renumbered from 0, so that a large number costs nothing; padding joins the first.
        numbers, own = request[live].unique(return_inverse=True)
        request = torch.zeros_like(request).masked_scatter(live, own)
        counts = own.bincount(minlength=len(numbers)).tolist()
        rooms = [expert_capacity(count, n_experts, config) for count in counts]
    kept = dispatch(ids, n_experts, rooms, mask=live, segments=request, priority=config.priority).kept
    if config.renormalize_after_drop:
        weights = weights.masked_fill(~kept, 0)
        weights = weights / (weights.sum(dim=1, keepdim=True) + TINY) * config.scale

    y = weighted_outputs(x, ids.masked_fill(~kept, NOWHERE), weights, experts)
    if shared is not None:
        y[live] += shared_output(x[live], shared)
    return MoEOutput(y.to(x.dtype), routing, logits.float())


def router_logits(x, router_weight, router_bias, config):
    """In the dtype that the router of the model has."""
    logits = x.float() @ router_weight.float().T
    logits = logits if router_bias is None else logits + router_bias.float()
    return logits.to(x.dtype) if config.router_dtype == "activations" else logits


def weighted_outputs(rows, ids, weights, experts):
    """Sum over j of weights[i, j] · expert(ids[i, j])(rows[i]); (n, D) float32. NOWHERE adds nothing."""
    row, choice = (ids != NOWHERE).nonzero(as_tuple=True)
    outputs = torch.zeros(*ids.shape, rows.shape[1])  # (n, k, D)
    if len(row) > 0:
        through = through_experts(rows[row].float(), ids[row, choice], experts)
        outputs[row, choice] = through * weights[row, choice, None]
    return outputs.sum(dim=1)


def through_experts(rows, ids, experts):
    """Row i through expert ids[i], (n, D). Only the experts that occur are looked at."""
    used, buffer = ids.unique(return_inverse=True)
    seat = arrivals(buffer)
    buffers = rows.new_zeros(len(used), int(seat.max()) + 1, rows.shape[1])
    buffers[buffer, seat] = rows
    return feed_forward(buffers, experts, used)[buffer, seat]


def feed_forward(x, experts, used):
    """Buffer i through expert used[i]: (buffers, rows, D) to the same."""

    def projected(values, name):
        matrix, bias = getattr(experts, name), getattr(experts, f"{name}_bias")
        if isinstance(experts, QuantizedExpertWeights):
            weight = dequantized(matrix, used, experts.bits)
        else:
            weight = matrix[used].float()
        out = values.bmm(weight.mT)
        return out if bias is None else out + bias[used, None].float()

    up = projected(x, "up")
    gate = up if experts.gate is None else projected(x, "gate")
    if experts.activation == "swigluoai":
        gate, up = gate.clamp(max=experts.limit), up.clamp(-experts.limit, experts.limit)
        hidden = (up + 1) * gate * (experts.alpha * gate).sigmoid()
    else:
        hidden = silu(gate) if experts.activation == "silu" else gate.relu()
        hidden = hidden if experts.gate is None else hidden * up
    return projected(hidden, "down")


def dequantized(matrix, used, bits):
    words = matrix.codes.long()[used]  # (used, rows, words)
    codes = (words[..., None] >> torch.arange(0, 32, bits)) & (2**bits - 1)
    groups = codes.flatten(2).unflatten(2, (matrix.scales.shape[2], -1))  # (used, rows, groups, group_size)
    return (groups * matrix.scales[used, ..., None] + matrix.biases[used, ..., None]).flatten(2)


def shared_output(x, shared):
    one = ExpertWeights(shared.gate[None], shared.up[None], shared.down[None])
    out = feed_forward(x.float()[None], one, torch.tensor([0]))[0]
    if shared.gate_weight is None:
        return out
    gate = (x.float() * shared.gate_weight.float()).sum(dim=1, keepdim=True)
    return out * gate.sigmoid()


def check_layer(x, router_weight, router_bias, selection_bias, config, shared, mask):
    require(x.dim() == 2, f"x: expected 2 axes, got {x.dim()}")
    require(router_weight.dim() == 2, f"router_weight: expected 2 axes, got {router_weight.dim()}")
    n_experts, width = len(router_weight), x.shape[1]
    require_shape("router_weight", router_weight, n_experts, width)
    require_shape("router_bias", router_bias, n_experts)
    check_config(config, n_experts, selection_bias)
    require_shape("mask", mask, len(x))
    if shared is not None:
        inner = len(shared.up)
        require_shape("shared.gate", shared.gate, inner, width)
        require_shape("shared.up", shared.up, inner, width)
        require_shape("shared.down", shared.down, width, inner)
        require_shape("shared.gate_weight", shared.gate_weight, width)


def check_experts(experts, count, width):
    known = ("silu", "relu", "swigluoai")
    require(experts.activation in known, f"activation: expected {known}, got {experts.activation!r}")
    complete = experts.gate is not None or experts.activation != "swigluoai"
    require(complete, "gate: expected one with swigluoai, got None")
    stray = experts.gate is None and experts.gate_bias is not None
    require(not stray, "gate_bias: expected None without a gate, got an array")
    quantized = isinstance(experts, QuantizedExpertWeights)
    if quantized:
        require(experts.bits in (4, 8), f"bits: expected 4 or 8, got {experts.bits}")
        sizes = (32, 64, 128)
        require(experts.group_size in sizes, f"group_size: expected {sizes}, got {experts.group_size}")
    matrix = experts.up.scales if quantized else experts.up
    require(matrix.ndim == 3, f"up: expected 3 axes, got {tuple(matrix.shape)}")
    inner = matrix.shape[1]
    for name, rows, columns in (("gate", inner, width), ("up", inner, width), ("down", width, inner)):
        matrix = getattr(experts, name)
        if matrix is None:
            continue
        if quantized:
            size = experts.group_size
            require(columns % size == 0, f"{name}: expected a multiple of {size} columns, got {columns}")
            groups = columns // size
            require_shape(f"{name}.codes", matrix.codes, count, rows, columns * experts.bits // 32)
            require_shape(f"{name}.scales", matrix.scales, count, rows, groups)
            require_shape(f"{name}.biases", matrix.biases, count, rows, groups)
        else:
            require_shape(name, matrix, count, rows, columns)
        require_shape(f"{name}_bias", getattr(experts, f"{name}_bias"), count, rows)


# Losses and balance ---------------------------------------------------------------------------------------


def load_balancing_loss(
    logits, experts, n_experts, *, mask=None, scoring="softmax", pooling="all", divide_by_k=False
):
    check_loss(logits, experts, n_experts, mask, scoring, pooling)
    live = all_of(mask, *logits.shape[:2])[..., None]  # (G, T, 1)
    scores = scores_of(logits.float().masked_fill(~live, 0), scoring)
    if scoring == "sigmoid":
        scores = scores / (scores.sum(dim=-1, keepdim=True) + TINY)
    slots = one_hot(experts.long().masked_fill(~live, 0), n_experts).sum(dim=2)  # (G, T, E)
    sums = [(part * live).sum(dim=1) for part in (slots, scores, live)]  # (G, E), (G, E), (G, 1)
    if pooling == "all":
        sums = [part.sum(dim=0, keepdim=True) for part in sums]
    slots, scores, tokens = sums
    divisor = tokens.clamp(min=1)
    frequency = slots / divisor / (experts.shape[2] if divide_by_k else 1)
    losses = n_experts * (frequency * scores / divisor).sum(dim=1)
    return losses.sum() / (tokens > 0).sum().clamp(min=1)


def load_balancing_loss_grad(
    logits, experts, n_experts, *, mask=None, scoring="softmax", pooling="all", divide_by_k=False
):
    variable = logits.float().clone().requires_grad_()
    loss = load_balancing_loss(
        variable,
        experts,
        n_experts,
        mask=mask,
        scoring=scoring,
        pooling=pooling,
        divide_by_k=divide_by_k,
    )
    return torch.autograd.grad(loss, variable)[0]


def check_loss(logits, experts, n_experts, mask, scoring, pooling):
    require(logits.dim() == 3, f"logits: expected 3 axes, got {logits.dim()}")
    groups, tokens, width = logits.shape
    require(width == n_experts, f"logits: expected {n_experts} columns, got {width}")
    require(experts.dim() == 3, f"experts: expected 3 axes, got {experts.dim()}")
    require_shape("experts", experts, groups, tokens, experts.shape[2])
    require_shape("mask", mask, groups, tokens)
    require(scoring in ("softmax", "sigmoid"), f"scoring: expected softmax or sigmoid, got {scoring!r}")
    require(pooling in ("all", "each"), f"pooling: expected all or each, got {pooling!r}")
    require_ids(experts.long()[all_of(mask, groups, tokens)], n_experts)


def router_z_loss(logits, *, mask=None):
    require(logits.dim() == 2, f"logits: expected 2 axes, got {logits.dim()}")
    require_shape("mask", mask, len(logits))
    live = logits.float()[all_of(mask, len(logits))]
    return live.logsumexp(dim=1).square().sum() / max(1, len(live))


def balance(experts, n_experts):
    require(experts.dim() == 2, f"experts: expected 2 axes, got {experts.dim()}")
    require_ids(experts.long(), n_experts)
    load, slots = experts.long().flatten().bincount(minlength=n_experts), experts.numel()
    if slots == 0:
        return Balance(load, torch.tensor(0.0), torch.tensor(0.0))
    above_mean = load.max() * n_experts - slots  # times n_experts: exact
    return Balance(load, above_mean / slots, torch.special.entr(load / slots).sum())


def update_selection_bias(bias, load, rate):
    require_shape("load", load, *bias.shape)
    require(rate >= 0, f"rate: expected at least 0, got {rate}")
    load = load.long()
    return bias.float() + rate * (load.sum() - load * len(load)).sign()


def expert_choice(logits, capacity, *, causal=False, mask=None):
    if causal:
        raise NotSupported("causal: expected False, got True: an expert looks at later tokens")
    require(logits.dim() == 2, f"logits: expected 2 axes, got {logits.dim()}")
    require(capacity >= 1, f"capacity: expected at least 1, got {capacity}")
    require_shape("mask", mask, len(logits))
    live = all_of(mask, len(logits))
    scores = logits.float().softmax(dim=1).T  # (E, T)
    tokens = descending(scores.masked_fill(~live, -torch.inf))[:, : min(capacity, int(live.sum()))]
    return ExpertChoice(tokens, scores.gather(1, tokens))


# Several ranks --------------------------------------------------------------------------------------------


def expert_parallel_plan(experts, n_experts, ranks, source_lens):
    require(experts.dim() == 2, f"experts: expected 2 axes, got {experts.dim()}")
    require_ids(experts.long(), n_experts)
    divides = ranks >= 1 and n_experts % ranks == 0
    require(divides, f"ranks: expected a divisor of {n_experts}, got {ranks}")
    lens = list(source_lens)
    fits = len(lens) == ranks and min(lens) >= 0 and sum(lens) == len(experts)
    require(fits, f"source_lens: expected {ranks} lengths, {len(experts)} tokens in all, got {lens}")
    source = torch.arange(ranks).repeat_interleave(torch.tensor(lens))  # of each token
    ways = (source[:, None] * n_experts + experts.long()).flatten()  # one number for source and expert
    expert_counts = ways.bincount(minlength=ranks * n_experts).view(ranks, n_experts)
    send_counts = expert_counts.view(ranks, ranks, -1).sum(dim=2)
    return ExpertParallelPlan(ways.argsort(stable=True), expert_counts, send_counts)


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
        raise NotSupported(f"config: expected no capacity_factor, got {config.capacity_factor}")
    check_layer(x, router_weight, router_bias, selection_bias, config, shared, mask)
    ranks, here, n_experts, width = collective.size, collective.rank, len(router_weight), x.shape[1]
    divides = n_experts % ranks == 0
    require(divides, f"router_weight: expected a multiple of {ranks} experts, got {n_experts}")
    local = n_experts // ranks
    check_experts(experts, local, width)
    live = all_of(mask, len(x))
    logits = router_logits(x, router_weight, router_bias, config)
    routing = choose(logits, config, selection_bias)

    # A token goes once to each rank that has one of its experts, with their local ids and weights.
    rank_of = routing.experts // local  # (T, k)
    tokens_for = [((rank_of == r).any(dim=1) & live).nonzero()[:, 0] for r in range(ranks)]
    counts = torch.tensor([len(tokens) for tokens in tokens_for], dtype=torch.int32)
    incoming = collective.all_gather(counts)[:, here].tolist()
    ids = (routing.experts % local).int()
    parcels = [
        (x[tokens], ids[tokens].masked_fill(rank_of[tokens] != r, NOWHERE), routing.weights[tokens])
        for r, tokens in enumerate(tokens_for)
    ]
    others = [r for r in range(ranks) if r != here]
    for r in others:
        if len(tokens_for[r]) > 0:
            for part in parcels[r]:
                collective.send(part, r)

    # What arrives goes through the experts and back as one sum a token, before it is rounded.
    dtype = str(x.dtype).removeprefix("torch.")
    for r in others:
        if incoming[r] > 0:
            slots = incoming[r], config.top_k
            rows = collective.recv((incoming[r], width), dtype, r)
            their_ids = collective.recv(slots, "int32", r)
            weights = collective.recv(slots, "float32", r)
            collective.send(weighted_outputs(rows, their_ids, weights, experts), r)
    y = torch.zeros(x.shape)
    y[tokens_for[here]] = weighted_outputs(*parcels[here], experts)
    for r in others:
        if len(tokens_for[r]) > 0:
            y[tokens_for[r]] += collective.recv((len(tokens_for[r]), width), "float32", r)
    if shared is not None:
        y[live] += shared_output(x[live], shared)
    return MoEOutput(y.to(x.dtype), routing, logits.float())


# Checkpoints ----------------------------------------------------------------------------------------------

PROJECTIONS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
OLD_MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}

# What a config.json may leave out, after the configuration classes of transformers.
QWEN = {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": None}
DEFAULTS = {
    "mixtral": {"num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts_per_tok": 4, **QWEN},
    "qwen3_moe": {"num_experts_per_tok": 8, **QWEN},
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
    "gpt_oss": {"num_experts_per_tok": 4, "swiglu_alpha": 1.702, "swiglu_limit": 7.0},
}


def reader_of(config):
    """setting(key) of the config, or its default."""
    kind = config.get("model_type")
    if kind not in DEFAULTS:
        raise NotSupported(f"model_type: expected one of {list(DEFAULTS)}, got {kind!r}")
    values = DEFAULTS[kind] | dict(config)

    def setting(key):
        optional = key in ("n_shared_experts", "mlp_only_layers")  # null says: there are none
        require(optional or values.get(key) is not None, f"{key}: expected a value in the config, got none")
        return values[key]

    return setting


def router_config_from_hf(config):
    setting = reader_of(config)
    top_k = setting("num_experts_per_tok")
    match setting("model_type"):
        case "mixtral":
            return replace(MIXTRAL, top_k=top_k)
        case "gpt_oss":
            return replace(GPT_OSS, top_k=top_k)
        case "qwen2_moe" | "qwen3_moe":
            return replace(MIXTRAL, top_k=top_k, normalize=setting("norm_topk_prob"))
        case "deepseek_v3":
            preset = replace(DEEPSEEK_V3, normalize=setting("norm_topk_prob"))
        case "deepseek_v2":
            method = setting("topk_method")
            if method == "greedy":
                return RouterConfig(top_k, scale=setting("routed_scaling_factor"))
            if method != "group_limited_greedy":
                raise NotSupported(f"topk_method: expected greedy or group_limited_greedy, got {method!r}")
            preset = DEEPSEEK_V2
    return replace(
        preset,
        top_k=top_k,
        n_groups=setting("n_group"),
        top_groups=setting("topk_group"),
        scale=setting("routed_scaling_factor"),
    )


def load_experts(tensors, config, layer):
    setting = reader_of(config)
    kind = setting("model_type")
    require(not is_dense(setting, layer), f"layer: expected one with experts, got {layer}, a dense one")
    block = f"model.layers.{layer}.mlp."
    old_block = f"model.layers.{layer}.block_sparse_moe."
    old_mixtral = kind == "mixtral" and any(name.startswith(old_block) for name in tensors)
    if old_mixtral:
        block = old_block

    def tensor(name):
        require(block + name in tensors, f"{block}{name}: expected a tensor, got none")
        return tensors[block + name]

    def matrices(name, names=PROJECTIONS):
        return {field: tensor(f"{name}.{its}.weight") for field, its in names.items()}

    if kind == "gpt_oss":
        return gpt_oss(tensor, setting)
    router_weight = tensor("gate.weight")
    if f"{block}experts.gate_up_proj" in tensors:
        gate, up = tensor("experts.gate_up_proj").chunk(2, dim=1)
        experts = ExpertWeights(gate, up, tensor("experts.down_proj"))
    else:
        names = OLD_MIXTRAL if old_mixtral else PROJECTIONS
        each = [matrices(f"experts.{e}", names) for e in range(len(router_weight))]
        experts = ExpertWeights(**{field: torch.stack([one[field] for one in each]) for field in names})
    selection_bias = tensor("gate.e_score_correction_bias") if kind == "deepseek_v3" else None
    shared = None
    if kind == "qwen2_moe":
        gate_weight = tensor("shared_expert_gate.weight").flatten()  # (1, D) there
        shared = SharedExpert(**matrices("shared_expert"), gate_weight=gate_weight)
    elif kind.startswith("deepseek") and setting("n_shared_experts"):
        shared = SharedExpert(**matrices("shared_experts"))
    return MoEWeights(router_weight, experts, None, selection_bias, shared)


def is_dense(setting, layer):
    kind = setting("model_type")
    if kind.startswith("qwen"):
        return layer in (setting("mlp_only_layers") or ()) or (layer + 1) % setting("decoder_sparse_step") > 0
    return kind.startswith("deepseek") and layer < setting("first_k_dense_replace")


def gpt_oss(tensor, setting):
    """Stored for x · matrix, (E, D, 2F), with gate and up in turns."""
    gate, up = tensor("experts.gate_up_proj").mT.unflatten(1, (-1, 2)).unbind(2)  # (E, F, D) each
    gate_bias, up_bias = tensor("experts.gate_up_proj_bias").unflatten(1, (-1, 2)).unbind(2)
    experts = ExpertWeights(
        gate,
        up,
        tensor("experts.down_proj").mT,
        gate_bias,
        up_bias,
        tensor("experts.down_proj_bias"),
        activation="swigluoai",
        alpha=setting("swiglu_alpha"),
        limit=setting("swiglu_limit"),
    )
    return MoEWeights(tensor("router.weight"), experts, tensor("router.bias"))
