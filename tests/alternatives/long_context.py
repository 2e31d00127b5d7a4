"""Long context in PyTorch: right, and built unlike the reference, so that the suite can be held to it.

What differs, all of it free by the contract:

- a pair of channels is a complex number, a rotation a product; frequencies are float32 throughout;
- one softmax that runs over keys, from the last to the first, and is divided at the end; many states merge
  at once, with weights exp(lse_p − lse);
- a ring without `all_gather`: each shard travels behind its length, keys and values in one message;
- the rolling cache is a dictionary of tokens; rotated are distances, and a query twice where sinks are near;
- codes are packed by token in buffers that double, and never turned back for attention: scales go to the
  query and to the weights;
- heavy hitters mark what is left instead of moving it; pages hold nothing but their bounds;
- where two arguments contradict each other, the error names the other one.
"""

from contextlib import ExitStack
from math import ceil, floor, log, pi, sqrt

import torch
from torch.nn.functional import avg_pool1d, max_pool1d, pad

from spec import CannotTruncate, ContextTooLong, InvalidArgument, NotSupported
from spec.long_context import (
    NTK,
    AttentionState,
    DynamicNTK,
    Linear,
    Llama3,
    LongRoPE,
    Quantized,
    RopeConfig,
    RopeFrequencies,
    YaRN,
)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TILE = 256  # keys at a time, where the contract leaves it open
PAIRS = 2**16  # queries times keys at a time, for each head


def require(condition, sentence):
    if not condition:
        raise InvalidArgument(sentence)


def require_shape(name, array, *shape):
    """None is no array, and has any shape."""
    if array is not None:
        actual = tuple(array.shape)
        require(actual == shape, f"{name}: expected shape {shape}, got {actual}")


def spans(length, step):
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def descending(values):
    """Ids along the last axis, the largest value first and of equals the lower id."""
    return values.sort(dim=-1, descending=True, stable=True).indices


# Frequencies ----------------------------------------------------------------------------------------------


def rope_frequencies(config, seq_len=None):
    d = int(config.head_dim * config.rotary_fraction)
    check_rotation(config, d)
    require(seq_len is None or seq_len >= 1, f"seq_len: expected at least 1, got {seq_len}")
    f = plain(d, config.base)
    match config.scaling:
        case None:
            return RopeFrequencies(f)
        case Linear(factor):
            return RopeFrequencies(f / factor)
        case NTK(factor):
            return RopeFrequencies(plain(d, config.base * factor ** (d / (d - 2))))
        case DynamicNTK(factor, original):
            beyond = max(0, (seq_len or 0) - original) / original
            return RopeFrequencies(plain(d, config.base * (1 + factor * beyond) ** (d / (d - 2))))
        case YaRN() as scaling:
            ramp = yarn_ramp(d, config.base, scaling)
            return RopeFrequencies(torch.lerp(f, f / scaling.factor, ramp), *yarn_factors(scaling))
        case Llama3(factor, low, high, original):
            turns = f * (original / (2 * pi))  # within the original length
            return RopeFrequencies(torch.lerp(f / factor, f, ((turns - low) / (high - low)).clamp(0, 1)))
        case LongRoPE(short, long, original, factor, attention_factor):
            divisors = short if (seq_len or 0) <= original else long
            if attention_factor is None:
                attention_factor = sqrt(1 + log(factor) / log(original))
            return RopeFrequencies(f / torch.tensor(divisors, dtype=torch.float32), attention_factor)


def plain(d, base):
    return torch.exp(torch.arange(0, d, 2) / d * -log(base))


def yarn_ramp(d, base, scaling):
    """How much of each pair is divided, (d/2,)."""
    ends = scaling.beta_fast, scaling.beta_slow
    low, high = (d * log(scaling.original_length / (2 * pi * beta)) / (2 * log(base)) for beta in ends)
    if scaling.truncate:
        low, high = floor(low), ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    if low == high:
        high += 0.001
    return ((torch.arange(d // 2) - low) / (high - low)).clamp(0, 1)


def yarn_factors(scaling):
    """(attention_factor, softmax_scale)"""
    on_rotation, on_softmax = growth(scaling.factor, scaling.mscale or 1), 1.0
    if scaling.mscale is not None:
        shared = growth(scaling.factor, scaling.mscale_all_dim)
        on_rotation, on_softmax = on_rotation / shared, shared * shared
    return (on_rotation if scaling.attention_factor is None else scaling.attention_factor), on_softmax


def growth(factor, mscale):
    return 1 + mscale * log(factor) / 10


def check_rotation(config, d):
    s = config.scaling
    rules = [
        ("rotary_fraction", 2 <= d <= config.head_dim, "2 to head_dim rotated channels", d),
        ("head_dim", d % 2 == 0, "an even number of rotated channels", d),
        ("base", config.base > 1, "above 1", config.base),
    ]
    if s is not None:
        rules.append(("factor", s.factor >= 1, "at least 1", s.factor))
    if isinstance(s, NTK | DynamicNTK):
        rules.append(("head_dim", d != 2, "more than 2 rotated channels with NTK", d))
    if isinstance(s, DynamicNTK | YaRN | Llama3 | LongRoPE):
        least = 2 if isinstance(s, LongRoPE) else 1
        rules.append(("original_length", s.original_length >= least, f"at least {least}", s.original_length))
    if isinstance(s, YaRN):
        shares = [mscale for mscale in (s.mscale, s.mscale_all_dim) if mscale is not None]
        rules += [
            ("beta_slow", s.beta_slow > 0, "above 0", s.beta_slow),
            ("beta_fast", s.beta_fast >= s.beta_slow, "at least beta_slow", s.beta_fast),
            ("mscale", len(shares) != 1, "mscale_all_dim as well, or neither", shares),
            ("mscale", all(mscale > 0 for mscale in shares), "above 0, as mscale_all_dim", shares),
        ]
    if isinstance(s, Llama3):
        rules += [
            ("low_freq_factor", s.low_freq_factor > 0, "above 0", s.low_freq_factor),
            ("high_freq_factor", s.high_freq_factor > s.low_freq_factor, "above the low", s.high_freq_factor),
        ]
    if isinstance(s, LongRoPE):
        for name, divisors in (("short_factor", s.short_factor), ("long_factor", s.long_factor)):
            fits = len(divisors) == d // 2 and all(divisor > 0 for divisor in divisors)
            rules.append((name, fits, f"{d // 2} numbers above 0", divisors))
    if isinstance(s, YaRN | LongRoPE):
        positive = s.attention_factor is None or s.attention_factor > 0
        rules.append(("attention_factor", positive, "above 0", s.attention_factor))
    for name, holds, expected, got in rules:
        require(holds, f"{name}: expected {expected}, got {got}")


# Checkpoints ----------------------------------------------------------------------------------------------

SCALES_SOFTMAX = {
    "axk1",
    "axk2",
    "bailing_hybrid",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "hy_v4_vl_text",
    "longcat_flash",
    "mistral4",
    "mistral_large4_text",
    "youtu",
}
INTERLEAVED = SCALES_SOFTMAX | {
    "cohere",
    "cohere2",
    "cohere2_moe",
    "ernie4_5",
    "ernie4_5_moe",
    "ernie4_5_vl_moe_text",
    "glm",
    "glm4",
    "glm4v_text",
    "glm_ocr_text",
    "helium",
    "llama4_text",
    "moonshine",
    "openai_privacy_filter",
}


def rope_config_from_hf(config, layer_type=None):
    entry, base = entry_and_base(config, layer_type)
    if config.get("qk_rope_head_dim") is not None:
        head_dim, fraction = config["qk_rope_head_dim"], 1.0
    else:
        head_dim = config.get("head_dim")
        if head_dim is None:
            head_dim = needed(config, "hidden_size") // needed(config, "num_attention_heads")
        given = entry.get("partial_rotary_factor"), config.get("partial_rotary_factor")
        fraction = first_of(*given, config.get("rotary_pct"), 1.0)
    neighbours = config.get("model_type") in INTERLEAVED and config.get("rope_interleave") is not False
    return RopeConfig(head_dim, base, fraction, neighbours, scaling_from_hf(entry, config))


def entry_and_base(config, layer_type):
    """What the config says about rotation in this kind of layer."""
    entry = config.get("rope_scaling") or config.get("rope_parameters") or {}
    local_base = config.get("rope_local_base_freq")
    by_layer = {kind: value for kind, value in entry.items() if isinstance(value, dict)}
    if not by_layer and local_base is not None:
        if layer_type == "sliding_attention":
            return {}, local_base
        by_layer = {"full_attention": entry, "sliding_attention": {}}
    if not by_layer and config.get("model_type") == "olmo3":
        by_layer = {"full_attention": entry, "sliding_attention": {}}
    if by_layer:
        known = layer_type in by_layer
        require(known, f"layer_type: expected one of {sorted(by_layer)}, got {layer_type!r}")
        entry = by_layer[layer_type]
    of_config = config.get("rope_theta"), config.get("rotary_emb_base")
    return entry, first_of(entry.get("rope_theta"), *of_config, 10000.0)


def first_of(*values):
    return next(value for value in values if value is not None)


def needed(mapping, key):
    require(mapping.get(key) is not None, f"{key}: expected a value in the config, got none")
    return mapping[key]


def scaling_from_hf(entry, config):
    kind = first_of(entry.get("rope_type"), entry.get("type"), "default")
    match kind:
        case "default":
            return None
        case "linear":
            return Linear(needed(entry, "factor"))
        case "dynamic":
            return DynamicNTK(needed(entry, "factor"), needed(config, "max_position_embeddings"))
        case "llama3" | "yarn" | "longrope" | "su":
            key = "original_max_position_embeddings"
            original = needed({key: entry.get(key) if config.get(key) is None else config[key]}, key)
        case _:
            raise NotSupported(f"rope_type: expected a known one, got {kind!r}")
    if kind == "llama3":
        names = "factor", "low_freq_factor", "high_freq_factor"
        return Llama3(*(needed(entry, name) for name in names), original)
    factor = entry.get("factor")
    if factor is None:
        factor = needed(config, "max_position_embeddings") / original
    if kind == "yarn":
        return yarn_from_hf(entry, factor, original, config.get("model_type") in SCALES_SOFTMAX)
    lists = (tuple(needed(entry, name)) for name in ("short_factor", "long_factor"))
    return LongRoPE(*lists, original, factor, entry.get("attention_factor"))


def yarn_from_hf(entry, factor, original, scales_softmax):
    attention_factor = entry.get("attention_factor")
    shares = [entry.get(name) or None for name in ("mscale", "mscale_all_dim")]
    if not scales_softmax:
        if attention_factor is None and None not in shares:
            attention_factor = growth(factor, shares[0]) / growth(factor, shares[1])
        shares = [None, None]
    return YaRN(
        factor,
        original,
        beta_fast=entry.get("beta_fast") or 32.0,
        beta_slow=entry.get("beta_slow") or 1.0,
        truncate=entry.get("truncate") is not False,
        attention_factor=attention_factor,
        mscale=shares[0],
        mscale_all_dim=shares[1],
    )


# Rotation -------------------------------------------------------------------------------------------------


def apply_rope(x, positions, inv_freq, *, attention_factor=1.0, interleaved=False):
    require(x.dim() == 4, f"x: expected 4 axes, got {x.dim()}")
    batch, _, tokens, channels = x.shape
    shape = tuple(positions.shape)
    fits = shape in ((tokens,), (batch, tokens))
    require(fits, f"positions: expected ({tokens},) or ({batch}, {tokens}), got {shape}")
    check_inv_freq(inv_freq, channels, "x")

    angles = positions[..., None].float() * inv_freq.float()  # (tokens, pairs) or (batch, tokens, pairs)
    turns = torch.polar(torch.full_like(angles, attention_factor), angles)
    turns = turns if positions.dim() == 1 else turns[:, None]
    half = len(inv_freq)
    moving, still = x[..., : 2 * half].float(), x[..., 2 * half :]
    pairs = moving.unflatten(-1, (half, 2)) if interleaved else moving.unflatten(-1, (2, half)).mT
    turned = torch.view_as_real(torch.complex(*pairs.unbind(-1)) * turns)  # (…, tokens, pairs, 2)
    turned = turned if interleaved else turned.mT
    return torch.cat([turned.flatten(-2).to(x.dtype), still], dim=-1)


def check_inv_freq(inv_freq, channels, channels_in):
    require(inv_freq.dim() == 1, f"inv_freq: expected 1 axis, got {inv_freq.dim()}")
    least = 2 * len(inv_freq)
    require(channels >= least, f"{channels_in}: expected at least {least} channels, got {channels}")


def alibi_slopes(heads):
    require(heads >= 1, f"heads: expected at least 1, got {heads}")
    power = 1 << (heads.bit_length() - 1)
    first = torch.arange(1, power + 1) / power
    others = torch.arange(1, 2 * power, 2) / (2 * power)
    return torch.exp2(-8 * torch.cat([first, others])[:heads])


# Masks ----------------------------------------------------------------------------------------------------


def attention_mask(
    q_positions,
    kv_positions,
    *,
    causal=True,
    window=None,
    sink_tokens=0,
    chunk=None,
    prefix=0,
    segments=None,
):
    for name, positions in (("q_positions", q_positions), ("kv_positions", kv_positions)):
        require(positions.dim() == 1, f"{name}: expected 1 axis, got {positions.dim()}")
    check_mask(causal, window, sink_tokens, chunk, prefix)
    check_segments(segments, len(q_positions), len(kv_positions))
    return ~hidden(q_positions, kv_positions, causal, window, sink_tokens, chunk, prefix, segments)


def hidden(q, k, causal=True, window=None, sink_tokens=0, chunk=None, prefix=0, segments=None):
    """(queries, keys) bool, True where a query does not see a key."""
    q, k = q.long()[:, None], k.long()[None, :]
    away = (q < 0) | (k < 0)
    if causal:
        away |= (k > q) & (k >= prefix)
    if window is not None:
        away |= (k <= q - window) & (k >= sink_tokens)
    if chunk is not None:
        away |= (k // chunk != q // chunk) & (k >= sink_tokens)
    if segments is not None:
        away |= segments[0].long()[:, None] != segments[1].long()[None, :]
    return away


def check_mask(causal, window, sink_tokens, chunk, prefix):
    require(window is None or window >= 1, f"window: expected at least 1, got {window}")
    require(window is None or causal, f"window: expected None without causal, got {window}")
    require(sink_tokens >= 0, f"sink_tokens: expected at least 0, got {sink_tokens}")
    require(chunk is None or chunk >= 1, f"chunk: expected at least 1, got {chunk}")
    require(prefix >= 0, f"prefix: expected at least 0, got {prefix}")


def check_segments(segments, queries, keys):
    if segments is not None:
        require_shape("segments", segments[0], queries)
        require_shape("segments", segments[1], keys)


# A softmax that runs over the keys ------------------------------------------------------------------------


def nothing_seen(q, sink_logits=None):
    """(largest score, sum of exponentials, weighted sum of values) for queries (…, heads, m, head_dim)."""
    top = torch.full((*q.shape[:-1], 1), -torch.inf)
    total = torch.zeros_like(top)
    if sink_logits is not None:  # a key seen before all others, whose value is zero
        top, total = sink_logits.float()[:, None, None].expand_as(top), torch.ones_like(top)
    return top, total, torch.zeros(q.shape)


def absorb(running, scores, mix):
    """mix(weights) is the sum of the values, weighted; scores are −inf where a key is not seen."""
    top, total, out = running
    new_top = torch.maximum(top, scores.amax(-1, keepdim=True))
    shift = new_top.masked_fill(new_top == -torch.inf, 0)
    weights, kept = torch.exp(scores - shift), torch.exp(top - shift)
    return new_top, total * kept + weights.sum(-1, keepdim=True), out * kept + mix(weights)


def divided(running):
    """(out, lse)"""
    top, total, out = running
    return out / total.masked_fill(total == 0, 1), (top + total.log())[..., 0]


def by_kv_head(rows, kv_heads):
    """(…, heads, m, n) as (…, kv_heads, heads of one, m, n)."""
    return rows.unflatten(-3, (kv_heads, rows.shape[-3] // kv_heads))


def default_scale(scale, head_dim):
    return 1 / sqrt(head_dim) if scale is None else scale


def absorb_keys(running, q, k, v, away, softcap=None, bias=None):
    """q (batch, heads, m, head_dim), scaled; k and v (batch, kv_heads, n, head_dim), n above 0."""
    kv_heads = k.shape[1]
    unseen = away.all(dim=0)[:, None]  # may hold NaN
    k, v = (each[:, :, None].float().masked_fill(unseen, 0) for each in (k, v))
    scores = (by_kv_head(q, kv_heads) @ k.mT).flatten(1, 2)  # (batch, heads, m, n)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(away, -torch.inf)
    return absorb(running, scores, lambda weights: (by_kv_head(weights, kv_heads) @ v).flatten(1, 2))


# Attention in parts ---------------------------------------------------------------------------------------


def blockwise_attention(
    q,
    k,
    v,
    *,
    block,
    scale=None,
    q_positions=None,
    kv_positions=None,
    causal=True,
    window=None,
    sink_tokens=0,
    sink_logits=None,
    chunk=None,
    prefix=0,
    segments=None,
    alibi_slopes=None,
    softcap=None,
):
    check_attention(q, k, v)
    (_, heads, queries, width), keys = q.shape, k.shape[2]
    require(block >= 1, f"block: expected at least 1, got {block}")
    require(softcap is None or softcap > 0, f"softcap: expected above 0, got {softcap}")
    require_shape("sink_logits", sink_logits, heads)
    require_shape("alibi_slopes", alibi_slopes, heads)
    q_positions = torch.arange(keys - queries, keys) if q_positions is None else q_positions.long()
    kv_positions = torch.arange(keys) if kv_positions is None else kv_positions.long()
    require_shape("q_positions", q_positions, queries)
    require_shape("kv_positions", kv_positions, keys)
    check_mask(causal, window, sink_tokens, chunk, prefix)
    check_segments(segments, queries, keys)
    scale = default_scale(scale, width)
    slopes = None if alibi_slopes is None else -alibi_slopes.float()[:, None, None]

    out, lse = torch.empty(q.shape), torch.empty(q.shape[:3])
    for rows in spans(queries, max(1, PAIRS // min(block, keys + 1))):
        scaled, q_at = q[:, :, rows].float() * scale, q_positions[rows]
        running = nothing_seen(scaled, sink_logits)
        for part in reversed(spans(keys, block)):
            k_at = kv_positions[part]
            documents = None if segments is None else (segments[0][rows], segments[1][part])
            away = hidden(q_at, k_at, causal, window, sink_tokens, chunk, prefix, documents)
            bias = None if slopes is None else slopes * (q_at[:, None] - k_at).abs()
            running = absorb_keys(running, scaled, k[:, :, part], v[:, :, part], away, softcap, bias)
        out[:, :, rows], lse[:, :, rows] = divided(running)
    return AttentionState(out, lse)


def check_attention(q, k, v):
    require(q.dim() == 4, f"q: expected 4 axes, got {q.dim()}")
    require(k.dim() == 4, f"k: expected 4 axes, got {k.dim()}")
    (batch, heads, _, width), (_, kv_heads, _, _) = q.shape, k.shape
    fits = len(k) == batch and k.shape[3] == width
    require(fits, f"q: expected shape ({len(k)}, heads, queries, {k.shape[3]}), got {tuple(q.shape)}")
    require(v.shape == k.shape, f"k: expected shape {tuple(v.shape)}, got {tuple(k.shape)}")
    require(kv_heads >= 1, "k: expected at least 1 head, got 0")
    require(heads % kv_heads == 0, f"q: expected a multiple of {kv_heads} heads, got {heads}")
    require(q.dtype == k.dtype == v.dtype, f"q: expected {v.dtype}, got {q.dtype}")


def merge_states(states, *, sink_logits=None):
    require(len(states) > 0, "states: expected at least 1, got 0")
    shape = tuple(states[0].out.shape)
    require(len(shape) == 4, f"states: expected out with 4 axes, got {len(shape)}")
    for state in states:
        require_shape("states: out", state.out, *shape)
        require_shape("states: lse", state.lse, *shape[:3])
    require_shape("sink_logits", sink_logits, shape[1])
    out = torch.stack([state.out.float() for state in states])  # (parts, batch, heads, queries, head_dim)
    lse = torch.stack([state.lse.float() for state in states])
    if sink_logits is not None:  # one more part
        sinks = sink_logits.float()[:, None].expand(shape[:3])
        out, lse = torch.cat([out, torch.zeros(1, *shape)]), torch.cat([lse, sinks[None]])
    together = lse.logsumexp(dim=0)
    weights = torch.exp(lse - together.masked_fill(together == -torch.inf, 0))[..., None]
    out = out.masked_fill(lse[..., None] == -torch.inf, 0)
    return AttentionState((weights * out).sum(dim=0), together)


def ring_attention(q, k, v, positions, *, collective, causal=True, scale=None):
    check_attention(q, k, v)
    batch, kv_heads, tokens, width = k.shape
    require(q.shape[2] == tokens, f"q: expected {tokens} tokens, got {q.shape[2]}")
    require_shape("positions", positions, tokens)
    after, before = (collective.rank + 1) % collective.size, (collective.rank - 1) % collective.size
    dtype = str(q.dtype).removeprefix("torch.")
    scaled = q.float() * default_scale(scale, width)

    running = nothing_seen(scaled)
    shard, k_at = torch.stack([k, v]), positions.int()
    for hops_left in reversed(range(collective.size)):
        if hops_left:
            for part in (torch.tensor([len(k_at)], dtype=torch.int32), k_at, shard):
                collective.send(part, after)
        for part in spans(len(k_at), TILE):
            away = hidden(positions, k_at[part], causal)
            running = absorb_keys(running, scaled, *shard[:, :, :, part], away)
        if hops_left:
            count = int(collective.recv((1,), "int32", before))
            k_at = collective.recv((count,), "int32", before)
            shard = collective.recv((2, batch, kv_heads, count, width), dtype, before)
    return divided(running)[0].to(q.dtype)


# Caches ---------------------------------------------------------------------------------------------------


def check_cache(kv_heads, head_dim, dtype):
    require(kv_heads >= 1, f"kv_heads: expected at least 1, got {kv_heads}")
    require(head_dim >= 1, f"head_dim: expected at least 1, got {head_dim}")
    require(dtype in DTYPES, f"dtype: expected one of {list(DTYPES)}, got {dtype!r}")


def check_rows(keys, values, like):
    """like: (kv_heads, head_dim) of the cache's dtype."""
    require(keys.dim() == 3, f"keys: expected 3 axes, got {keys.dim()}")
    for name, rows in (("keys", keys), ("values", values)):
        require_shape(name, rows, len(keys), *like.shape)
        require(rows.dtype == like.dtype, f"{name}: expected {like.dtype}, got {rows.dtype}")


def check_queries(queries, like, most):
    require(queries.dim() == 3, f"queries: expected 3 axes, got {queries.dim()}")
    (m, heads, width), (kv_heads, head_dim) = queries.shape, like.shape
    require(width == head_dim, f"queries: expected head_dim {head_dim}, got {width}")
    grouped = heads >= 1 and heads % kv_heads == 0
    require(grouped, f"queries: expected a multiple of {kv_heads} heads, got {heads}")
    require(queries.dtype == like.dtype, f"queries: expected {like.dtype}, got {queries.dtype}")
    require(most is None or m <= most, f"queries: expected at most {most} tokens, got {m}")


def scaled_queries(queries, like, scale):
    """(m, heads, head_dim) as (kv_heads, heads of one, m, head_dim) float32."""
    scaled = queries.float() * default_scale(scale, queries.shape[2])
    return by_kv_head(scaled.transpose(0, 1), like.shape[0])


def like_queries(out, queries):
    return out.flatten(0, 1).transpose(0, 1).to(queries.dtype)


class RollingKVCache:
    def __init__(
        self,
        window,
        sink_tokens,
        kv_heads,
        head_dim,
        *,
        inv_freq,
        attention_factor=1.0,
        interleaved=False,
        positions="cache",
        dtype="float32",
    ):
        require(window >= 1, f"window: expected at least 1, got {window}")
        require(sink_tokens >= 0, f"sink_tokens: expected at least 0, got {sink_tokens}")
        check_cache(kv_heads, head_dim, dtype)
        check_inv_freq(inv_freq, head_dim, "head_dim")
        known = positions in ("cache", "absolute")
        require(known, f"positions: expected cache or absolute, got {positions!r}")
        self._window, self._sink_tokens = window, sink_tokens
        self._like = torch.empty(kv_heads, head_dim, dtype=DTYPES[dtype])
        self._inv_freq = inv_freq.clone()
        self._options = {"attention_factor": attention_factor, "interleaved": interleaved}
        self._counts_kept = positions == "cache"
        self._rows = {}  # position -> its key and value as they came, (2, kv_heads, head_dim)
        self._length = 0
        self._askable = 0  # tokens of the last append
        self._oldest = 0  # all between the sinks and this one were given up

    def append(self, keys, values):
        check_rows(keys, values, self._like)
        if len(keys) == 0:
            return
        oldest = max(self._oldest, self._length - self._window + 1)
        for position in range(max(self._oldest, self._sink_tokens), min(oldest, self._length)):
            del self._rows[position]
        for position, row in enumerate(torch.stack([keys, values], dim=1), start=self._length):
            self._rows[position] = row.clone()  # alone, so that its memory ends with it
        self._length += len(keys)
        self._askable, self._oldest = len(keys), oldest

    def attend(self, queries, *, scale=None):
        check_queries(queries, self._like, self._askable)
        m = len(queries)
        if m == 0:
            return torch.empty_like(queries)
        seen = self._seen_from(self._length - m)
        q_at, k_at = torch.arange(self._length - m, self._length), torch.tensor(seen)
        keys, values = torch.stack([self._rows[position] for position in seen]).unbind(1)
        sinks = sum(position < self._sink_tokens for position in seen)

        # Distances to the window are those in the sequence. Sinks come nearer by what was given up between.
        origin, given_up = 0, torch.zeros_like(q_at)
        if self._counts_kept:
            origin = seen[min(sinks, len(seen) - 1)]
            given_up = (q_at - self._window + 1 - self._sink_tokens).clamp(min=0)
        products = [
            self._turned(queries, q_at - given_up) @ self._turned(keys[:sinks], k_at[:sinks]).mT,
            self._turned(queries, q_at - origin) @ self._turned(keys[sinks:], k_at[sinks:] - origin).mT,
        ]
        scores = torch.cat(products, dim=-1) * default_scale(scale, queries.shape[2])
        away = hidden(q_at, k_at, window=self._window, sink_tokens=self._sink_tokens)
        weights = scores.masked_fill(away, -torch.inf).softmax(dim=-1)  # (kv_heads, heads of one, m, keys)
        return like_queries(weights @ values.float().transpose(0, 1)[:, None], queries)

    def _turned(self, rows, positions):
        """(tokens, heads, head_dim) as (kv_heads, heads of one, tokens, head_dim) float32."""
        rows = rows.float().transpose(0, 1)[None]
        return by_kv_head(apply_rope(rows, positions, self._inv_freq, **self._options)[0], len(self._like))

    def _seen_from(self, position):
        """The tokens that are there and that a query at this position or a later one sees, ascending."""
        first = position - self._window + 1
        return sorted(each for each in self._rows if each < self._sink_tokens or each >= first)

    def truncate(self, length):
        fits = 0 <= length <= self._length
        require(fits, f"length: expected 0 to {self._length}, got {length}")
        first = max(self._sink_tokens, length - self._window + 1)  # of the window of a token at `length`
        if first < min(self._oldest, length):
            raise CannotTruncate(f"length: expected tokens from {first} on, got them from {self._oldest} on")
        for position in range(length, self._length):
            self._rows.pop(position, None)
        self._askable = max(0, self._askable - (self._length - length))
        self._oldest = min(self._oldest, length)
        self._length = length

    def length(self):
        return self._length

    def positions(self):
        return self._seen_from(self._length - 1)


# Quantisation ---------------------------------------------------------------------------------------------


def quantize_kv(x, *, bits, group, axis):
    check_quantisation(bits, group, axis)
    require(x.dim() == 3, f"x: expected 3 axes, got {x.dim()}")
    length = x.shape[axis]
    require(length % group == 0, f"x: expected a multiple of {group} along axis {axis}, got {length}")
    groups = x.float().unflatten(axis, (length // group, group))
    zero, largest = groups.amin(axis + 1, keepdim=True), groups.amax(axis + 1, keepdim=True)
    scale = (largest - zero) / (2**bits - 1)
    codes = ((groups - zero) / scale.masked_fill(scale == 0, 1)).round().clamp(0, 2**bits - 1)
    codes = codes.flatten(axis, axis + 1).to(torch.uint8)
    return Quantized(codes, scale.squeeze(axis + 1), zero.squeeze(axis + 1), bits, group, axis)


def dequantize_kv(quantized):
    bits, group, axis = quantized.bits, quantized.group, quantized.axis
    check_quantisation(bits, group, axis)
    codes = quantized.codes.int()
    require(codes.dim() == 3, f"codes: expected 3 axes, got {codes.dim()}")
    shape = list(codes.shape)
    require(shape[axis] % group == 0, f"codes: expected a multiple of {group}, got {shape[axis]}")
    shape[axis] //= group
    require_shape("scale", quantized.scale, *shape)
    require_shape("zero", quantized.zero, *shape)
    require(bool((codes < 2**bits).all()), f"bits: expected enough for all codes, got {bits}")
    scale, zero = (each.float().unsqueeze(axis + 1) for each in (quantized.scale, quantized.zero))
    groups = codes.unflatten(axis, (shape[axis], group))
    return torch.addcmul(zero, groups.float(), scale).flatten(axis, axis + 1)


def check_quantisation(bits, group, axis):
    require(bits in (2, 4, 8), f"bits: expected 2, 4 or 8, got {bits}")
    require(group >= 1, f"group: expected at least 1, got {group}")
    require(axis in (0, 2), f"axis: expected 0 or 2, got {axis}")


def packed(codes, bits):
    """(tokens, kv_heads, head_dim) as (tokens, bytes), the first code in the highest bits."""
    per_byte = 8 // bits
    codes = codes.flatten(1).int()
    codes = pad(codes, (0, -codes.shape[1] % per_byte)).unflatten(1, (-1, per_byte))
    places = 2 ** (bits * torch.arange(per_byte - 1, -1, -1, dtype=torch.int32))
    return (codes * places).sum(dim=2).to(torch.uint8)


def unpacked(rows, bits, like):
    """(tokens, bytes) as (tokens, kv_heads, head_dim) float32."""
    shifts = torch.arange(8 - bits, -1, -bits, dtype=torch.int32)
    codes = (rows[..., None].int() >> shifts).remainder(2**bits).flatten(1)  # (tokens, codes and padding)
    return codes[:, : like.numel()].unflatten(1, like.shape).float()


class Growing:
    """Rows in a buffer that doubles when it is full."""

    def __init__(self, *shape, dtype=torch.float32):
        self._buffer, self._count = torch.empty(0, *shape, dtype=dtype), 0

    def append(self, rows):
        end = self._count + len(rows)
        if end > len(self._buffer):
            larger = self._buffer.new_empty(max(end, 2 * len(self._buffer)), *self._buffer.shape[1:])
            larger[: self._count] = self._buffer[: self._count]
            self._buffer = larger
        self._buffer[self._count : end] = rows
        self._count = end

    def __getitem__(self, part):
        return self._buffer[: self._count][part]


class QuantizedKVCache:
    def __init__(self, bits, group, residual, kv_heads, head_dim, *, dtype="float32"):
        check_cache(kv_heads, head_dim, dtype)
        check_quantisation(bits, group, 0)
        require(head_dim % group == 0, f"head_dim: expected a multiple of {group}, got {head_dim}")
        require(residual >= 0, f"residual: expected at least 0, got {residual}")
        self._bits, self._group, self._residual = bits, group, residual
        self._like = torch.empty(kv_heads, head_dim, dtype=DTYPES[dtype])
        self._codes = [Growing(-(-kv_heads * head_dim * bits // 8), dtype=torch.uint8) for _ in range(2)]
        # Scale and zero: of keys for each group of tokens, of values for each token.
        self._steps = [Growing(2, kv_heads, head_dim), Growing(2, kv_heads, head_dim // group)]
        self._quantised = 0  # tokens
        self._newest = self._like.new_empty(2, 0, kv_heads, head_dim)  # keys and values as they came

    def append(self, keys, values):
        check_rows(keys, values, self._like)
        newest = torch.cat([self._newest, torch.stack([keys, values])], dim=1)
        full = max(0, newest.shape[1] - self._residual) // self._group * self._group
        for part in self._pieces(full):
            self._quantise(newest[:, part])
        self._quantised += full
        self._newest = newest[:, full:].clone()

    def _pieces(self, tokens):
        """Whole groups, not many tokens at a time."""
        return spans(tokens, -(-TILE // self._group) * self._group)

    def _quantise(self, rows):
        for which, axis in enumerate((0, 2)):
            coded = quantize_kv(rows[which], bits=self._bits, group=self._group, axis=axis)
            self._codes[which].append(packed(coded.codes, self._bits))
            self._steps[which].append(torch.stack([coded.scale, coded.zero], dim=1))

    def _coded(self, part):
        """Of keys, then of values: codes (tokens, kv_heads, head_dim) as float32, their scales and zeros."""
        groups = slice(part.start // self._group, part.stop // self._group)
        for codes, steps, rows in zip(self._codes, self._steps, (groups, part), strict=True):
            yield unpacked(codes[part], self._bits, self._like), *steps[rows].unbind(1)

    def gather(self):
        found = []
        for (codes, scale, zero), axis, newest in zip(
            self._coded(slice(0, self._quantised)), (0, 2), self._newest, strict=True
        ):
            old = dequantize_kv(Quantized(codes, scale, zero, self._bits, self._group, axis))
            found.append(torch.cat([old.to(newest.dtype), newest]))
        return tuple(found)

    def attend(self, queries, *, scale=None):
        n = self.length()
        check_queries(queries, self._like, n)
        q = scaled_queries(queries, self._like, scale)  # (kv_heads, heads of one, m, head_dim)
        q_at = torch.arange(n - len(queries), n)
        running = nothing_seen(q)
        for part in self._pieces(self._quantised):
            away = hidden(q_at, torch.arange(part.start, part.stop))
            running = self._absorb_coded(running, q, part, away)
        if self._quantised < n:
            keys, values = self._newest.float().transpose(1, 2)[:, :, None]  # (kv_heads, 1, newest, head_dim)
            away = hidden(q_at, torch.arange(self._quantised, n))
            scores = (q @ keys.mT).masked_fill(away, -torch.inf)
            running = absorb(running, scores, lambda weights: weights @ values)
        return like_queries(divided(running)[0], queries)

    def _absorb_coded(self, running, q, part, away):
        """q · (code · scale + zero) is (q · scale) · code + q · zero; likewise for weights and values.

        k kv head, r query head of it, m query, g group of tokens, t token, j group of channels, c channel.
        """
        (codes, scale, zero), (v_codes, v_scale, v_zero) = self._coded(part)
        codes, v_codes = codes.unflatten(0, (-1, self._group)), v_codes.unflatten(2, (-1, self._group))
        scores = torch.einsum("krmgc,gtkc->krmgt", torch.einsum("krmc,gkc->krmgc", q, scale), codes)
        scores = scores + torch.einsum("krmc,gkc->krmg", q, zero)[..., None]

        def mix(weights):
            stepped = torch.einsum("krmt,tkj->krmtj", weights, v_scale)
            sums = torch.einsum("krmtj,tkjc->krmjc", stepped, v_codes)
            return (sums + torch.einsum("krmt,tkj->krmj", weights, v_zero)[..., None]).flatten(3)

        return absorb(running, scores.flatten(3).masked_fill(away, -torch.inf), mix)

    def length(self):
        return self._quantised + self._newest.shape[1]

    def nbytes(self):
        values = self._quantised * self._like.numel()  # on each side
        codes = -(-values * self._bits // 8)
        return 2 * (codes + values // self._group * 8) + self._newest.nbytes


# Selection ------------------------------------------------------------------------------------------------


class HeavyHitterCache:
    def __init__(self, budget, recent, kv_heads, head_dim, *, dtype="float32"):
        check_cache(kv_heads, head_dim, dtype)
        require(recent >= 1, f"recent: expected at least 1, got {recent}")
        require(budget >= recent, f"budget: expected at least {recent}, got {budget}")
        self._budget, self._recent = budget, recent
        self._like = torch.empty(kv_heads, head_dim, dtype=DTYPES[dtype])
        self._length = 0
        # One slot for each token that any kv head still keeps.
        self._position = torch.empty(0, dtype=torch.long)
        self._rows = self._like.new_empty(2, kv_heads, 0, head_dim)  # keys and values
        self._alive = torch.empty(kv_heads, 0, dtype=torch.bool)
        self._scores = torch.empty(kv_heads, 0)

    def step(self, queries, keys, values, *, scale=None):
        check_queries(queries, self._like, None)
        m, kv_heads = len(queries), len(self._like)
        require(m >= 1, "queries: expected at least 1 token, got 0")
        check_rows(keys, values, self._like)
        require(len(keys) == m, f"keys: expected {m} tokens, got {len(keys)}")

        at = torch.arange(self._length, self._length + m)
        position = torch.cat([self._position, at])
        rows = torch.cat([self._rows, torch.stack([keys, values]).transpose(1, 2)], dim=2)
        alive = torch.cat([self._alive, torch.ones(kv_heads, m, dtype=torch.bool)], dim=1)
        k, v = rows.float()[:, :, None]  # (kv_heads, 1, slots, head_dim) each
        away = hidden(at, position) | ~alive[:, None, None]  # (kv_heads, 1, m, slots)
        scores = scaled_queries(queries, self._like, scale) @ k.mT
        weights = scores.masked_fill(away, -torch.inf).softmax(dim=-1)
        votes = pad(self._scores, (0, m)) + weights.sum(dim=(1, 2))

        self._length += m
        self._keep(position, rows, alive, votes)
        return like_queries(weights @ v, queries)

    def _keep(self, position, rows, alive, scores):
        if int(alive[0].sum()) > self._budget:  # as many are alive for every kv head
            old = len(position) - self._recent
            older = scores[:, :old].masked_fill(~alive[:, :old], -torch.inf)
            alive = torch.zeros_like(alive)
            alive.scatter_(1, descending(older)[:, : self._budget - self._recent], True)
            alive[:, old:] = True
        held = alive.any(dim=0)
        self._position, self._alive, self._scores = position[held], alive[:, held], scores[:, held]
        self._rows = rows[:, :, held].masked_fill(~self._alive[..., None], 0)

    def length(self):
        return self._length

    def positions(self):
        return [self._position[alive].tolist() for alive in self._alive]


def select_snapkv(queries, keys, budget, *, window, kernel=5, pooling="avg"):
    require(keys.dim() == 3, f"keys: expected 3 axes, got {keys.dim()}")
    n, kv_heads, width = keys.shape
    require(queries.dim() == 3, f"queries: expected 3 axes, got {queries.dim()}")
    m, heads, _ = queries.shape
    require_shape("queries", queries, m, heads, width)
    grouped = heads % max(1, kv_heads) == 0
    require(grouped, f"queries: expected a multiple of {kv_heads} heads, got {heads}")
    require(m <= n, f"queries: expected at most {n} tokens, got {m}")
    require(window >= 1, f"window: expected at least 1, got {window}")
    require(m >= window, f"queries: expected at least {window} tokens, got {m}")
    require(window < budget, f"window: expected below {budget}, got {window}")
    require(kernel >= 1 and kernel % 2 == 1, f"kernel: expected an odd number, got {kernel}")
    require(pooling in ("avg", "max"), f"pooling: expected avg or max, got {pooling!r}")
    newest = torch.arange(n).expand(kv_heads, n)
    if n <= budget:
        return newest.clone()

    q = scaled_queries(queries[m - window :], keys[0], None)
    scores = q @ keys.float().transpose(0, 1)[:, None].mT  # (kv_heads, heads of one, window, n)
    future = hidden(torch.arange(n - window, n), torch.arange(n))
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    votes = weights[..., : n - window].sum(dim=(1, 2))  # (kv_heads, n − window)
    # Votes are not negative, so that −inf beyond the ends is as good as 0 for the maximum.
    pool = avg_pool1d if pooling == "avg" else max_pool1d
    pooled = pool(votes, kernel, stride=1, padding=kernel // 2)
    chosen = descending(pooled)[:, : budget - window].sort(dim=1).values
    return torch.cat([chosen, newest[:, n - window :]], dim=1)


class PageSelector:
    def __init__(self, page_size, kv_heads, head_dim):
        require(page_size >= 1, f"page_size: expected at least 1, got {page_size}")
        check_cache(kv_heads, head_dim, "float32")
        self._page_size, self._tokens = page_size, 0
        self._least = torch.empty(0, 2, kv_heads, head_dim)  # of each page's keys, and of their negatives

    def add(self, keys):
        require(keys.dim() == 3, f"keys: expected 3 axes, got {keys.dim()}")
        require_shape("keys", keys, len(keys), *self._least.shape[2:])
        page = torch.arange(self._tokens, self._tokens + len(keys)) // self._page_size
        self._tokens += len(keys)
        more = -(-self._tokens // self._page_size) - len(self._least)
        pages = pad(self._least, (0, 0, 0, 0, 0, 0, 0, more), value=torch.inf)
        rows = torch.stack([keys, -keys], dim=1).float()  # (m, 2, kv_heads, head_dim)
        self._least = pages.scatter_reduce(0, page[:, None, None, None].expand(rows.shape), rows, "amin")

    def bounds(self, queries):
        """A channel's largest product is with the largest key where the query is positive, else the least."""
        kv_heads, head_dim = self._least.shape[2:]
        require(queries.dim() == 2, f"queries: expected 2 axes, got {queries.dim()}")
        heads = len(queries)
        require_shape("queries", queries, heads, head_dim)
        grouped = heads >= 1 and heads % kv_heads == 0
        require(grouped, f"queries: expected a multiple of {kv_heads} heads, got {heads}")
        q = queries.float().unflatten(0, (kv_heads, -1))  # (kv_heads, heads of one, head_dim)
        least, least_negative = self._least.permute(1, 2, 3, 0)  # (kv_heads, head_dim, pages) each
        return (q.clamp(max=0) @ least - q.clamp(min=0) @ least_negative).flatten(0, 1)

    def select(self, queries, pages):
        scores = self.bounds(queries).unflatten(0, (self._least.shape[2], -1)).sum(dim=1)  # (kv_heads, all)
        require(pages >= 1, f"pages: expected at least 1, got {pages}")
        newest = scores.shape[1] - 1
        scores[:, newest:] = torch.inf
        return descending(scores)[:, :pages].sort(dim=1).values


# Prefill --------------------------------------------------------------------------------------------------


def chunked_prefill(model, tokens, chunk):
    require(chunk >= 1, f"chunk: expected at least 1, got {chunk}")
    require(tokens.dim() == 1, f"tokens: expected 1 axis, got {tokens.dim()}")
    require(len(tokens) >= 1, "tokens: expected at least 1, got 0")
    least, largest = int(tokens.min()), int(tokens.max())
    known = least >= 0 and largest < model.vocab_size
    require(known, f"tokens: expected ids below {model.vocab_size}, got {least} to {largest}")
    before, pieces = model.length(), tokens.split(min(chunk, len(tokens)))
    after = before + len(tokens)
    if after > model.max_length:
        raise ContextTooLong(f"tokens: expected at most {model.max_length - before} more, got {len(tokens)}")
    if len(pieces) > 1 and model.per_call:
        raise NotSupported(f"chunk: expected one piece, got {len(pieces)}: {', '.join(model.per_call)}")
    turns = model.rope_changes_after is not None and after > model.rope_changes_after
    if turns and (before > 0 or len(pieces) > 1):
        raise NotSupported(f"chunk: expected one piece beyond {model.rope_changes_after} tokens")
    if not (model.per_call or turns) and len(tokens) > 1:  # then the last token waits, as in mlx-lm
        pieces = *tokens[:-1].split(chunk), tokens[-1:]
    with ExitStack() as on_failure:
        on_failure.callback(model.truncate, before)
        for piece in pieces:
            logits = model.forward(piece)
        on_failure.pop_all()
    return logits[-1].clone()
