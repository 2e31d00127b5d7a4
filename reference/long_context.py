"""Ground truth of long context: NumPy, float64 inside, one loop for each idea.

The rules are in spec/long_context.md.
"""

from math import ceil, floor, log, pi, sqrt

import ml_dtypes
import numpy as np

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

WORK = np.float64  # all arithmetic; the suite also runs this file with float32 here, to derive its tolerances

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def expect(condition, argument, expected, got):
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def in_float32(values, source):
    """Float32, but float64 where `source` is: so the suite asks for the truth before it is rounded."""
    return values.astype(np.promote_types(source.dtype, np.float32))


def stored(values, dtype):
    """What one step hands to the next may be stored in the dtype of the cache."""
    return values.astype(dtype).astype(WORK)


# Frequencies ----------------------------------------------------------------------------------------------


def rope_frequencies(config, seq_len=None):
    d = int(config.head_dim * config.rotary_fraction)
    check_rotation(config, d)
    expect(seq_len is None or seq_len >= 1, "seq_len", "at least 1", seq_len)
    scaling = config.scaling
    attention_factor = softmax_scale = 1.0
    if scaling is None:
        frequencies = plain(d, config.base)
    elif isinstance(scaling, Linear):
        frequencies = plain(d, config.base) / WORK(scaling.factor)
    elif isinstance(scaling, NTK):
        frequencies = plain(d, config.base * scaling.factor ** (d / (d - 2)))
    elif isinstance(scaling, DynamicNTK):
        length = max(seq_len or 1, scaling.original_length)
        stretch = scaling.factor * length / scaling.original_length - (scaling.factor - 1)
        frequencies = plain(d, config.base * stretch ** (d / (d - 2)))
    elif isinstance(scaling, YaRN):
        frequencies = yarn(d, config.base, scaling)
        attention_factor, softmax_scale = yarn_factors(scaling)
    elif isinstance(scaling, Llama3):
        frequencies = np.array([llama3(f, scaling) for f in plain(d, config.base)], WORK)
    else:
        is_long = seq_len is not None and seq_len > scaling.original_length
        divisors = np.array(scaling.long_factor if is_long else scaling.short_factor, WORK)
        frequencies = plain(d, config.base) / divisors
        attention_factor = longrope_factor(scaling)
    return RopeFrequencies(frequencies.astype(np.float32), attention_factor, softmax_scale)


def plain(d, base):
    """(d/2,): base^(−2i/d)."""
    return WORK(base) ** (-np.arange(0, d, 2).astype(WORK) / d)


def yarn(d, base, scaling):
    low, high = (turning_pair(beta, d, base, scaling) for beta in (scaling.beta_fast, scaling.beta_slow))
    if scaling.truncate:
        low, high = floor(low), ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    if low == high:
        high += 0.001
    result = np.zeros(d // 2, WORK)
    for i, f in enumerate(plain(d, base)):
        ramp = WORK(min(max((i - low) / (high - low), 0), 1))
        result[i] = f / WORK(scaling.factor) * ramp + f * (1 - ramp)
    return result


def turning_pair(rotations, d, base, scaling):
    """The pair, as a real number, that turns so often within the original length."""
    return d * log(scaling.original_length / (rotations * 2 * pi)) / (2 * log(base))


def yarn_factors(scaling):
    """(attention_factor, softmax_scale)"""
    attention_factor, softmax_scale = growth(scaling.factor, 1), 1.0
    if scaling.mscale is not None:
        all_dim = growth(scaling.factor, scaling.mscale_all_dim)
        attention_factor = growth(scaling.factor, scaling.mscale) / all_dim
        softmax_scale = all_dim**2
    if scaling.attention_factor is not None:
        attention_factor = scaling.attention_factor
    return attention_factor, softmax_scale


def growth(factor, mscale):
    return 0.1 * mscale * log(factor) + 1


def llama3(f, scaling):
    wavelength = 2 * WORK(pi) / f
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if wavelength < scaling.original_length / high:
        return f
    if wavelength > scaling.original_length / low:
        return f / WORK(scaling.factor)
    smooth = (scaling.original_length / wavelength - low) / (high - low)
    return (1 - smooth) * f / WORK(scaling.factor) + smooth * f


def longrope_factor(scaling):
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return sqrt(1 + log(scaling.factor) / log(scaling.original_length))


def check_rotation(config, d):
    expect(2 <= d <= config.head_dim, "rotary_fraction", "2 to head_dim channels", d)
    expect(d % 2 == 0, "head_dim", "an even number of rotated channels", d)
    expect(config.base > 1, "base", "above 1", config.base)
    s = config.scaling
    if s is None:
        return
    expect(s.factor >= 1, "factor", "at least 1", s.factor)
    if isinstance(s, (NTK, DynamicNTK)):
        expect(d > 2, "head_dim", "more than 2 rotated channels with NTK", d)
    if isinstance(s, (DynamicNTK, YaRN, Llama3, LongRoPE)):
        least = 2 if isinstance(s, LongRoPE) else 1
        expect(s.original_length >= least, "original_length", f"at least {least}", s.original_length)
    if isinstance(s, YaRN):
        expect(s.beta_slow > 0, "beta_slow", "above 0", s.beta_slow)
        expect(s.beta_fast >= s.beta_slow, "beta_fast", f"at least {s.beta_slow}", s.beta_fast)
        both = (s.mscale is None) == (s.mscale_all_dim is None)
        expect(both, "mscale", "both mscale and mscale_all_dim, or neither", (s.mscale, s.mscale_all_dim))
        positive = s.mscale is None or (s.mscale > 0 and s.mscale_all_dim > 0)
        expect(positive, "mscale", "above 0", (s.mscale, s.mscale_all_dim))
    if isinstance(s, Llama3):
        expect(s.low_freq_factor > 0, "low_freq_factor", "above 0", s.low_freq_factor)
        above = s.high_freq_factor > s.low_freq_factor
        expect(above, "high_freq_factor", f"above {s.low_freq_factor}", s.high_freq_factor)
    if isinstance(s, LongRoPE):
        for name in ("short_factor", "long_factor"):
            divisors = getattr(s, name)
            fits = len(divisors) == d // 2 and all(divisor > 0 for divisor in divisors)
            expect(fits, name, f"{d // 2} numbers above 0", divisors)
    if isinstance(s, (YaRN, LongRoPE)):
        positive = s.attention_factor is None or s.attention_factor > 0
        expect(positive, "attention_factor", "above 0", s.attention_factor)


# Checkpoints ----------------------------------------------------------------------------------------------

# As their modelling code in transformers does it.
INTERLEAVED = (
    "cohere",
    "cohere2",
    "cohere2_moe",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "ernie4_5",
    "ernie4_5_moe",
    "glm",
    "glm4",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "helium",
    "llama4_text",
    "youtu",
)
SCALES_SOFTMAX = ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "youtu")


def rope_config_from_hf(config, layer_type=None):
    config = without_nulls(config)
    entry = without_nulls(rope_entry(config, layer_type))
    base = config.get("rope_theta", config.get("rotary_emb_base", 10000.0))
    base = entry.get("rope_theta", base)
    fraction = config.get("partial_rotary_factor", config.get("rotary_pct", 1.0))
    fraction = entry.get("partial_rotary_factor", fraction)
    if "qk_rope_head_dim" in config:
        fraction = 1.0  # these channels are the part that rotates
    interleaved = config.get("model_type") in INTERLEAVED and config.get("rope_interleave", True)
    return RopeConfig(head_dim(config), base, fraction, interleaved, scaling_of(entry, config))


def rope_entry(config, layer_type):
    """The dictionary about rotation that holds for this kind of layer."""
    entry = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kinds = {name: value for name, value in entry.items() if isinstance(value, dict)}
    if not kinds and "rope_local_base_freq" in config:  # Gemma 3
        kinds = {"full_attention": entry, "sliding_attention": {"rope_theta": config["rope_local_base_freq"]}}
    if not kinds and config.get("model_type") == "olmo3":
        kinds = {"full_attention": entry, "sliding_attention": {}}
    if not kinds:
        return entry
    expect(layer_type in kinds, "layer_type", " or ".join(sorted(kinds)), layer_type)
    return kinds[layer_type]


def head_dim(config):
    for key in ("qk_rope_head_dim", "head_dim"):
        if key in config:
            return config[key]
    return setting(config, "hidden_size") // setting(config, "num_attention_heads")


def scaling_of(entry, config):
    kind = entry.get("rope_type", entry.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return Linear(setting(entry, "factor"))
    if kind == "dynamic":
        return DynamicNTK(setting(entry, "factor"), setting(config, "max_position_embeddings"))
    if kind not in ("yarn", "llama3", "longrope", "su"):
        raise NotSupported(f"rope_type: expected one that spec/long_context.md lists, got {kind!r}")
    key = "original_max_position_embeddings"
    original = setting(config if key in config else entry, key)
    if kind == "llama3":
        low, high = setting(entry, "low_freq_factor"), setting(entry, "high_freq_factor")
        return Llama3(setting(entry, "factor"), low, high, original)
    factor = entry.get("factor")
    if factor is None:
        factor = setting(config, "max_position_embeddings") / original
    attention_factor = entry.get("attention_factor")
    if kind == "yarn":
        mscale, all_dim = entry.get("mscale") or None, entry.get("mscale_all_dim") or None
        if config.get("model_type") not in SCALES_SOFTMAX:
            if attention_factor is None and mscale and all_dim:
                attention_factor = growth(factor, mscale) / growth(factor, all_dim)
            mscale = all_dim = None
        return YaRN(
            factor,
            original,
            entry.get("beta_fast") or 32.0,
            entry.get("beta_slow") or 1.0,
            entry.get("truncate", True),
            attention_factor,
            mscale,
            all_dim,
        )
    short, long = tuple(setting(entry, "short_factor")), tuple(setting(entry, "long_factor"))
    return LongRoPE(short, long, original, factor, attention_factor)


def without_nulls(entry):
    return {key: value for key, value in entry.items() if value is not None}


def setting(entry, key):
    expect(key in entry, key, "a value in the config", "none")
    return entry[key]


# Rotation -------------------------------------------------------------------------------------------------


def apply_rope(x, positions, inv_freq, *, attention_factor=1.0, interleaved=False):
    expect(x.ndim == 4, "x", "4 axes", x.shape)
    batch, _, tokens, channels = x.shape
    fits = positions.shape in ((tokens,), (batch, tokens))
    expect(fits, "positions", f"shape ({tokens},) or ({batch}, {tokens})", positions.shape)
    check_inv_freq(inv_freq, channels)
    d = 2 * len(inv_freq)
    rotated = x.astype(WORK)
    for b, at in enumerate(np.broadcast_to(positions, (batch, tokens))):
        for i, f in enumerate(inv_freq.astype(WORK)):
            one, other = (2 * i, 2 * i + 1) if interleaved else (i, i + d // 2)
            angles = at.astype(WORK) * f  # (tokens,)
            cos, sin = (turn(angles) * WORK(attention_factor) for turn in (np.cos, np.sin))
            a, b_ = rotated[b, :, :, one].copy(), rotated[b, :, :, other].copy()  # (heads, tokens)
            rotated[b, :, :, one] = a * cos - b_ * sin
            rotated[b, :, :, other] = a * sin + b_ * cos
    result = rotated.astype(x.dtype)
    result[..., d:] = x[..., d:]  # bit for bit
    return result


def check_inv_freq(inv_freq, channels):
    fits = inv_freq.ndim == 1 and 2 * len(inv_freq) <= channels
    expect(fits, "inv_freq", f"1 axis of at most {channels // 2} numbers", inv_freq.shape)


def alibi_slopes(heads):
    expect(heads >= 1, "heads", "at least 1", heads)
    power = 2 ** floor(np.log2(heads))  # the largest power of two that is not above
    slopes = geometric(power) + geometric(2 * power)[::2]
    return np.array(slopes[:heads], np.float32)


def geometric(heads):
    return [2.0 ** (-8 * (h + 1) / heads) for h in range(heads)]


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
    expect(q_positions.ndim == 1, "q_positions", "1 axis", q_positions.shape)
    expect(kv_positions.ndim == 1, "kv_positions", "1 axis", kv_positions.shape)
    check_mask_options(causal, window, sink_tokens, chunk, prefix)
    check_segments(segments, len(q_positions), len(kv_positions))
    q, k = q_positions.astype(int)[:, None], kv_positions.astype(int)[None, :]
    visible = (k <= q) | (k < prefix) if causal else np.ones((len(q_positions), len(kv_positions)), bool)
    near = np.ones(visible.shape, bool)
    if window is not None:
        near &= k > q - window
    if chunk is not None:
        near &= k // chunk == q // chunk
    visible &= near | (k < sink_tokens)
    if segments is not None:
        of_queries, of_keys = segments
        visible &= of_queries[:, None] == of_keys[None, :]
    return visible & (q >= 0) & (k >= 0)


def check_mask_options(causal, window, sink_tokens, chunk, prefix):
    expect(window is None or window >= 1, "window", "at least 1", window)
    expect(window is None or causal, "window", "None without causal", window)
    expect(sink_tokens >= 0, "sink_tokens", "at least 0", sink_tokens)
    expect(chunk is None or chunk >= 1, "chunk", "at least 1", chunk)
    expect(prefix >= 0, "prefix", "at least 0", prefix)


def check_segments(segments, queries, keys):
    if segments is not None:
        shapes = tuple(each.shape for each in segments)
        expect(shapes == ((queries,), (keys,)), "segments", f"shapes ({queries},) and ({keys},)", shapes)


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
    (batch, heads, queries, width), keys = q.shape, k.shape[2]
    expect(block >= 1, "block", "at least 1", block)
    expect(softcap is None or softcap > 0, "softcap", "above 0", softcap)
    check_per_head(sink_logits, "sink_logits", heads)
    check_per_head(alibi_slopes, "alibi_slopes", heads)
    q_positions = np.arange(keys - queries, keys) if q_positions is None else q_positions
    kv_positions = np.arange(keys) if kv_positions is None else kv_positions
    expect(q_positions.shape == (queries,), "q_positions", f"shape ({queries},)", q_positions.shape)
    expect(kv_positions.shape == (keys,), "kv_positions", f"shape ({keys},)", kv_positions.shape)
    q_positions, kv_positions = q_positions.astype(int), kv_positions.astype(int)
    check_mask_options(causal, window, sink_tokens, chunk, prefix)
    check_segments(segments, queries, keys)

    state = nothing_seen(batch, heads, queries, width)
    for start in range(0, keys, block):
        part = slice(start, start + block)
        visible = attention_mask(
            q_positions,
            kv_positions[part],
            causal=causal,
            window=window,
            sink_tokens=sink_tokens,
            chunk=chunk,
            prefix=prefix,
            segments=None if segments is None else (segments[0], segments[1][part]),
        )
        distance = np.abs(q_positions[:, None] - kv_positions[None, part])
        bias = None if alibi_slopes is None else -alibi_slopes.astype(WORK)[:, None, None] * distance
        seen = dense_attention(q, k[:, :, part], v[:, :, part], visible, scale, softcap, bias)
        state = merge_two(state, seen)
    if sink_logits is not None:
        state = merge_two(state, only_sinks(state, sink_logits))
    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))


def dense_attention(q, k, v, visible, scale=None, softcap=None, bias=None):
    """visible: (queries, keys) bool; bias: (heads, queries, keys), or None."""
    batch, heads, queries, width = q.shape
    scale = 1 / sqrt(width) if scale is None else scale
    state = nothing_seen(batch, heads, queries, width)
    anyone_sees = visible.any(axis=0)[:, None]
    for b in range(batch):
        for h in range(heads):
            kv_head = h // (heads // k.shape[1])
            scores = q[b, h].astype(WORK) @ k[b, kv_head].astype(WORK).T * WORK(scale)  # (queries, keys)
            if softcap is not None:
                scores = WORK(softcap) * np.tanh(scores / WORK(softcap))
            if bias is not None:
                scores = scores + bias[h]
            scores = np.where(visible, scores, -np.inf)
            values = np.where(anyone_sees, v[b, kv_head].astype(WORK), 0)  # 0 · NaN would be NaN
            top = scores.max(axis=1, initial=-np.inf, keepdims=True)
            weights = np.exp(scores - np.where(np.isneginf(top), 0, top))
            total = weights.sum(axis=1, keepdims=True)
            seen = total[:, 0] > 0
            state.out[b, h, seen] = weights[seen] @ values / total[seen]
            state.lse[b, h, seen] = (top + np.log(total, where=total > 0, out=np.zeros_like(total)))[seen, 0]
    return state


def nothing_seen(batch, heads, queries, width):
    return AttentionState(
        np.zeros((batch, heads, queries, width), WORK), np.full((batch, heads, queries), -np.inf, WORK)
    )


def only_sinks(state, sink_logits):
    """As if each query had seen nothing but the sink, whose value is 0."""
    lse = np.broadcast_to(sink_logits.astype(WORK)[:, None], state.lse.shape)
    return AttentionState(np.zeros_like(state.out), lse)


def merge_states(states, *, sink_logits=None):
    expect(len(states) > 0, "states", "at least 1", 0)
    first = states[0]
    expect(first.out.ndim == 4, "states", "out with 4 axes", first.out.shape)
    for state in states:
        shapes = state.out.shape, state.lse.shape
        expected = first.out.shape, first.out.shape[:3]
        expect(shapes == expected, "states", f"shapes {expected}", shapes)
    check_per_head(sink_logits, "sink_logits", first.out.shape[1])
    merged = nothing_seen(*first.out.shape)
    for state in states:
        merged = merge_two(merged, state)
    if sink_logits is not None:
        merged = merge_two(merged, only_sinks(merged, sink_logits))
    return AttentionState(in_float32(merged.out, first.out), in_float32(merged.lse, first.lse))


def merge_two(a, b):
    lse_a, lse_b = a.lse.astype(WORK), b.lse.astype(WORK)
    top = np.maximum(lse_a, lse_b)
    top = np.where(np.isneginf(top), 0, top)
    weight_a, weight_b = np.exp(lse_a - top), np.exp(lse_b - top)
    total = weight_a + weight_b
    divisor = np.where(total > 0, total, 1)[..., None]
    parts = [
        np.where(np.isneginf(lse)[..., None], 0, out.astype(WORK)) * weight[..., None] / divisor
        for out, lse, weight in ((a.out, lse_a, weight_a), (b.out, lse_b, weight_b))
    ]
    lse = np.where(total > 0, top + np.log(np.where(total > 0, total, 1)), -np.inf)
    return AttentionState(parts[0] + parts[1], lse)


def check_attention(q, k, v):
    expect(q.ndim == 4, "q", "4 axes", q.shape)
    batch, heads, _, width = q.shape
    fits = k.ndim == 4 and k.shape[0] == batch and k.shape[3] == width
    expect(fits, "k", f"shape ({batch}, kv_heads, keys, {width})", k.shape)
    expect(k.shape[1] >= 1 and heads % k.shape[1] == 0, "k", f"kv_heads that divide {heads}", k.shape)
    expect(v.shape == k.shape, "v", f"shape {k.shape}", v.shape)
    expect(q.dtype == k.dtype == v.dtype, "k, v", f"dtype {q.dtype}", (k.dtype, v.dtype))


def check_per_head(values, argument, heads):
    expect(values is None or values.shape == (heads,), argument, f"shape ({heads},)", values)


def ring_attention(q, k, v, positions, *, collective, causal=True, scale=None):
    check_attention(q, k, v)
    (batch, heads, queries, width), kv_heads, keys = q.shape, k.shape[1], k.shape[2]
    expect(keys == queries, "k", f"{queries} tokens", keys)
    expect(positions.shape == (queries,), "positions", f"shape ({queries},)", positions.shape)
    positions = positions.astype(np.int32)
    here, ranks = collective.rank, collective.size
    lengths = collective.all_gather(np.array([queries], np.int32))[:, 0]

    after, before = (here + 1) % ranks, (here - 1) % ranks
    state = nothing_seen(batch, heads, queries, width)
    shard = k, v, positions
    for hop in range(ranks):
        keys, values, kv_positions = shard  # of rank here − hop
        visible = attention_mask(positions, kv_positions, causal=causal)
        state = merge_two(state, dense_attention(q, keys, values, visible, scale))
        if hop < ranks - 1:
            count = int(lengths[(here - hop - 1) % ranks])
            shapes = (batch, kv_heads, count, width), (batch, kv_heads, count, width), (count,)
            shard = tuple(
                passed_on(array, shape, collective, after, before)
                for array, shape in zip(shard, shapes, strict=True)
            )
    return state.out.astype(q.dtype)


def passed_on(array, shape, collective, after, before):
    """Gives the array to the next rank and takes the previous one's; what is empty is not sent."""
    if array.size:
        collective.send(array, after)
    if 0 in shape:
        return np.zeros(shape, array.dtype)
    return collective.recv(shape, array.dtype.name, before)


def whole_attention(q, k, v, positions, causal=True, scale=None):
    """What all ranks together compute."""
    visible = attention_mask(positions, positions, causal=causal)
    return dense_attention(q, k, v, visible, scale).out.astype(q.dtype)


# Caches ---------------------------------------------------------------------------------------------------


def check_cache(kv_heads, head_dim, dtype):
    expect(kv_heads >= 1, "kv_heads", "at least 1", kv_heads)
    expect(head_dim >= 1, "head_dim", "at least 1", head_dim)
    expect(dtype in DTYPES, "dtype", " or ".join(DTYPES), dtype)


def check_rows(keys, values, kv_heads, head_dim, dtype):
    """(m, kv_heads, head_dim) each, in the cache's dtype."""
    shape = (len(keys), kv_heads, head_dim)
    expect(keys.shape == shape, "keys", f"shape (m, {kv_heads}, {head_dim})", keys.shape)
    expect(values.shape == shape, "values", f"shape {shape}", values.shape)
    for name, rows in (("keys", keys), ("values", values)):
        expect(rows.dtype == dtype, name, f"dtype {np.dtype(dtype)}", rows.dtype)


def check_queries(queries, kv_heads, head_dim, dtype):
    fits = queries.ndim == 3 and queries.shape[2] == head_dim and queries.shape[1] >= 1
    expect(fits, "queries", f"shape (m, heads, {head_dim})", queries.shape)
    expect(queries.shape[1] % kv_heads == 0, "queries", f"a multiple of {kv_heads} heads", queries.shape)
    expect(queries.dtype == dtype, "queries", f"dtype {np.dtype(dtype)}", queries.dtype)


def attend_row(query, keys, values, scale):
    """One token's query (heads, head_dim) over keys and values (n, kv_heads, head_dim)."""
    q, k, v = query[None, :, None], keys.swapaxes(0, 1)[None], values.swapaxes(0, 1)[None]
    return dense_attention(q, k, v, np.ones((1, len(keys)), bool), scale).out[0, :, 0]


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
        expect(window >= 1, "window", "at least 1", window)
        expect(sink_tokens >= 0, "sink_tokens", "at least 0", sink_tokens)
        check_cache(kv_heads, head_dim, dtype)
        check_inv_freq(inv_freq, head_dim)
        expect(positions in ("cache", "absolute"), "positions", "cache or absolute", positions)
        self.window, self.sink_tokens = window, sink_tokens
        self.kv_heads, self.head_dim, self.dtype = kv_heads, head_dim, DTYPES[dtype]
        self.rotation = inv_freq, attention_factor, interleaved, positions
        self.keys = self.values = np.zeros((0, kv_heads, head_dim), self.dtype)  # as they came
        self.kept = []  # their positions in the sequence
        self.n = 0
        self.askable = 0  # tokens of the last append
        self.oldest = 0  # no sink before it is there any more

    def append(self, keys, values):
        check_rows(keys, values, self.kv_heads, self.head_dim, self.dtype)
        if len(keys) == 0:
            return
        self.oldest = max(self.oldest, self.n - self.window + 1)
        needed = [i for i, p in enumerate(self.kept) if p < self.sink_tokens or p >= self.oldest]
        self.keys = np.concatenate([self.keys[needed], keys])
        self.values = np.concatenate([self.values[needed], values])
        self.kept = [self.kept[i] for i in needed] + list(range(self.n, self.n + len(keys)))
        self.n += len(keys)
        self.askable = len(keys)

    def attend(self, queries, *, scale=None):
        check_queries(queries, self.kv_heads, self.head_dim, self.dtype)
        fits = len(queries) <= self.askable
        expect(fits, "queries", f"at most {self.askable} tokens", len(queries))
        result = np.zeros(queries.shape, WORK)
        for row, query in enumerate(queries):
            p = self.n - len(queries) + row
            seen = self.seen_by(p)
            at = [self.kept[i] for i in seen]
            result[row] = rolled_row(
                query, self.keys[seen], self.values[seen], at, p, self.rotation, scale, self.dtype
            )
        return result.astype(queries.dtype)

    def seen_by(self, p):
        """Which of the kept tokens a query at position p sees."""
        return [
            i for i, k in enumerate(self.kept) if k <= p and (k > p - self.window or k < self.sink_tokens)
        ]

    def truncate(self, length):
        expect(0 <= length <= self.n, "length", f"0 to {self.n}", length)
        if max(self.sink_tokens, length - self.window + 1) < min(self.oldest, length):
            raise CannotTruncate(f"length: expected at least {self.oldest + self.window - 1}, got {length}")
        left = [i for i, p in enumerate(self.kept) if p < length]
        self.keys, self.values = self.keys[left], self.values[left]
        self.kept = [self.kept[i] for i in left]
        self.askable = max(0, self.askable - (self.n - length))
        self.oldest = min(self.oldest, length)
        self.n = length

    def length(self):
        return self.n

    def positions(self):
        return [self.kept[i] for i in self.seen_by(self.n - 1)]


def rolled_row(query, keys, values, at, p, rotation, scale, dtype):
    """A query at position p over the keys that it sees, at the positions `at`."""
    inv_freq, attention_factor, interleaved, counted = rotation
    if counted == "cache":
        at, p = range(len(keys)), len(keys) - 1

    def turned(rows, positions):
        """(n, heads, head_dim)"""
        x = rows.astype(WORK).swapaxes(0, 1)[None]
        options = {"attention_factor": attention_factor, "interleaved": interleaved}
        return stored(apply_rope(x, np.array(positions), inv_freq, **options)[0].swapaxes(0, 1), dtype)

    return attend_row(turned(query[None], [p])[0], turned(keys, at), values, scale)


def rolling_attention(queries, keys, values, window, sink_tokens, rotation, scale=None):
    """What a `RollingKVCache` that was told all of this answers for its last tokens."""
    result = np.zeros(queries.shape, WORK)
    for row, query in enumerate(queries):
        p = len(keys) - len(queries) + row
        seen = [k for k in range(p + 1) if k > p - window or k < sink_tokens]
        result[row] = rolled_row(query, keys[seen], values[seen], seen, p, rotation, scale, queries.dtype)
    return result.astype(queries.dtype)


# Quantisation ---------------------------------------------------------------------------------------------


def quantize_kv(x, *, bits, group, axis):
    check_quantisation(bits, group, axis)
    expect(x.ndim == 3, "x", "3 axes", x.shape)
    expect(x.shape[axis] % group == 0, "group", f"a divisor of {x.shape[axis]}", group)
    rows = np.moveaxis(x.astype(WORK), axis, -1)
    groups = rows.reshape(*rows.shape[:-1], rows.shape[-1] // group, group)
    zero = groups.min(axis=-1)
    scale = (groups.max(axis=-1) - zero) / (2**bits - 1)
    divisor = np.where(scale > 0, scale, 1)
    codes = np.clip(np.rint((groups - zero[..., None]) / divisor[..., None]), 0, 2**bits - 1)
    codes, scale, zero = (np.moveaxis(each, -1, axis) for each in (codes.reshape(rows.shape), scale, zero))
    return Quantized(codes.astype(np.uint8), in_float32(scale, x), in_float32(zero, x), bits, group, axis)


def dequantize_kv(quantized):
    bits, group, axis = quantized.bits, quantized.group, quantized.axis
    check_quantisation(bits, group, axis)
    codes, scale, zero = quantized.codes, quantized.scale, quantized.zero
    expect(codes.ndim == 3, "codes", "3 axes", codes.shape)
    shape = list(codes.shape)
    shape[axis] //= group
    expect(codes.shape[axis] == shape[axis] * group, "codes", f"a multiple of {group}", codes.shape)
    expect(scale.shape == tuple(shape), "scale", f"shape {tuple(shape)}", scale.shape)
    expect(zero.shape == tuple(shape), "zero", f"shape {tuple(shape)}", zero.shape)
    expect((codes < 2**bits).all(), "codes", f"below {2**bits}", codes.max(initial=0))
    scale, zero = (np.repeat(each.astype(WORK), group, axis=axis) for each in (scale, zero))
    return in_float32(codes.astype(WORK) * scale + zero, quantized.scale)


def check_quantisation(bits, group, axis):
    expect(bits in (2, 4, 8), "bits", "2, 4 or 8", bits)
    expect(group >= 1, "group", "at least 1", group)
    expect(axis in (0, 2), "axis", "0 or 2", axis)


class QuantizedKVCache:
    def __init__(self, bits, group, residual, kv_heads, head_dim, *, dtype="float32"):
        check_cache(kv_heads, head_dim, dtype)
        check_quantisation(bits, group, 0)
        expect(head_dim % group == 0, "group", f"a divisor of {head_dim}", group)
        expect(residual >= 0, "residual", "at least 0", residual)
        self.bits, self.group, self.residual = bits, group, residual
        self.kv_heads, self.head_dim, self.dtype = kv_heads, head_dim, DTYPES[dtype]
        self.key_codes, self.value_codes = [], []  # one `Quantized` for each G tokens
        self.keys = self.values = np.zeros((0, kv_heads, head_dim), self.dtype)  # the newest, as they came

    def append(self, keys, values):
        check_rows(keys, values, self.kv_heads, self.head_dim, self.dtype)
        self.keys = np.concatenate([self.keys, keys])
        self.values = np.concatenate([self.values, values])
        while len(self.keys) >= self.residual + self.group:
            oldest = slice(0, self.group)
            self.key_codes.append(self.quantized(self.keys[oldest], 0))
            self.value_codes.append(self.quantized(self.values[oldest], 2))
            self.keys, self.values = self.keys[self.group :], self.values[self.group :]
        self.keys, self.values = self.keys.copy(), self.values.copy()  # views would hold the older rows

    def quantized(self, rows, axis):
        return packed(quantize_kv(rows, bits=self.bits, group=self.group, axis=axis))

    def gather(self):
        keys = [dequantize_kv(unpacked(each, self.head_dim)) for each in self.key_codes]
        values = [dequantize_kv(unpacked(each, self.head_dim)) for each in self.value_codes]
        dtype = self.keys.dtype
        return (
            np.concatenate([each.astype(dtype) for each in (*keys, self.keys)]),
            np.concatenate([each.astype(dtype) for each in (*values, self.values)]),
        )

    def attend(self, queries, *, scale=None):
        check_queries(queries, self.kv_heads, self.head_dim, self.dtype)
        fits = len(queries) <= self.length()
        expect(fits, "queries", f"at most {self.length()} tokens", len(queries))
        return attend_last(queries, *self.gather(), scale)

    def length(self):
        return len(self.key_codes) * self.group + len(self.keys)

    def nbytes(self):
        codes = [*self.key_codes, *self.value_codes]
        quantised = sum(each.codes.nbytes + each.scale.nbytes + each.zero.nbytes for each in codes)
        return quantised + self.keys.nbytes + self.values.nbytes


def attend_last(queries, keys, values, scale=None):
    """The last tokens' queries, each over the keys up to its own."""
    result = np.zeros(queries.shape, WORK)
    for row, query in enumerate(queries):
        end = len(keys) - len(queries) + row + 1
        result[row] = attend_row(query, keys[:end], values[:end], scale)
    return result.astype(queries.dtype)


def packed(quantized):
    """The same with 8 / bits codes in a byte, the first in its lowest bits."""
    per_byte = 8 // quantized.bits
    codes = quantized.codes.reshape(-1)
    codes = np.pad(codes, (0, -len(codes) % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * quantized.bits
    in_bytes = (codes << shifts).sum(axis=1, dtype=np.uint8)
    return Quantized(
        in_bytes, quantized.scale, quantized.zero, quantized.bits, quantized.group, quantized.axis
    )


def unpacked(quantized, head_dim):
    bits, scale, axis = quantized.bits, quantized.scale, quantized.axis
    shape = list(scale.shape)
    shape[axis] *= quantized.group
    shifts = np.arange(8 // bits, dtype=np.uint8) * bits
    codes = (quantized.codes[:, None] >> shifts) & (2**bits - 1)
    codes = codes.reshape(-1)[: np.prod(shape)].reshape(shape).astype(np.uint8)
    return Quantized(codes, scale, quantized.zero, bits, quantized.group, axis)


def quantized_rows(keys, values, bits, group, residual):
    """What a `QuantizedKVCache` that was told all of this gives back."""
    end = group * max(0, (len(keys) - residual) // group)
    options = {"bits": bits, "group": group}
    old_keys = dequantize_kv(quantize_kv(keys[:end], axis=0, **options)).astype(keys.dtype)
    old_values = dequantize_kv(quantize_kv(values[:end], axis=2, **options)).astype(values.dtype)
    return np.concatenate([old_keys, keys[end:]]), np.concatenate([old_values, values[end:]])


def quantized_attention(queries, keys, values, bits, group, residual, scale=None):
    return attend_last(queries, *quantized_rows(keys, values, bits, group, residual), scale)


# Selection ------------------------------------------------------------------------------------------------


def best(values, count):
    """The indices of the largest values, ascending; of equals the lower index is taken."""
    return np.sort(np.argsort(-values, kind="stable")[:count])


class HeavyHitterCache:
    def __init__(self, budget, recent, kv_heads, head_dim, *, dtype="float32"):
        check_cache(kv_heads, head_dim, dtype)
        expect(1 <= recent <= budget, "recent", f"1 to {budget}", recent)
        self.budget, self.recent = budget, recent
        self.kv_heads, self.head_dim, self.dtype = kv_heads, head_dim, DTYPES[dtype]
        self.heads = [nothing_kept(head_dim, self.dtype) for _ in range(kv_heads)]
        self.n = 0

    def step(self, queries, keys, values, *, scale=None):
        check_queries(queries, self.kv_heads, self.head_dim, self.dtype)
        expect(len(queries) >= 1, "queries", "at least 1 token", len(queries))
        check_rows(keys, values, self.kv_heads, self.head_dim, self.dtype)
        expect(len(keys) == len(queries), "keys", f"{len(queries)} tokens", len(keys))
        result, self.heads = heavy_hitter_step(
            self.heads, self.n, queries, keys, values, self.budget, self.recent, scale
        )
        self.n += len(keys)
        return result

    def length(self):
        return self.n

    def positions(self):
        return [list(at) for at, _, _, _ in self.heads]


def nothing_kept(head_dim, dtype):
    """Of one kv head: positions, keys, values, and the attention that each key got so far."""
    empty = np.zeros((0, head_dim), dtype)
    return [], empty, empty, np.zeros(0, WORK)


def heavy_hitter_step(kept, n, queries, keys, values, budget, recent, scale=None):
    """The output for m tokens at the positions n, n + 1, …, and what is kept after them."""
    result, kept_after = np.zeros(queries.shape, WORK), []
    m, heads, width = queries.shape
    scale = WORK(1 / sqrt(width) if scale is None else scale)
    group = heads // len(kept)
    for kv_head, (at, old_keys, old_values, scores) in enumerate(kept):
        at = [*at, *range(n, n + m)]
        k = np.concatenate([old_keys, keys[:, kv_head]])
        v = np.concatenate([old_values, values[:, kv_head]])
        scores = np.concatenate([scores, np.zeros(m, WORK)])
        for h in range(kv_head * group, (kv_head + 1) * group):
            for row in range(m):
                seen = len(at) - m + row + 1  # itself included
                products = k[:seen].astype(WORK) @ queries[row, h].astype(WORK) * scale
                weights = np.exp(products - products.max())
                weights = weights / weights.sum()
                result[row, h] = weights @ v[:seen].astype(WORK)
                scores[:seen] += weights
        stays = np.arange(len(at))
        if len(at) > budget:
            older = len(at) - recent
            stays = np.concatenate([best(scores[:older], budget - recent), stays[older:]])
        kept_after.append(([at[i] for i in stays], k[stays], v[stays], scores[stays]))
    return result.astype(queries.dtype), kept_after


def heavy_hitter_outputs(pieces, budget, recent, kv_heads, scale=None):
    """What a `HeavyHitterCache` answers to these steps, [(queries, keys, values), …]."""
    kept = [nothing_kept(pieces[0][1].shape[2], pieces[0][1].dtype) for _ in range(kv_heads)]
    n, outputs = 0, []
    for queries, keys, values in pieces:
        result, kept = heavy_hitter_step(kept, n, queries, keys, values, budget, recent, scale)
        n += len(keys)
        outputs.append(result)
    return outputs


def select_snapkv(queries, keys, budget, *, window, kernel=5, pooling="avg"):
    expect(keys.ndim == 3, "keys", "3 axes", keys.shape)
    n, kv_heads, width = keys.shape
    fits = queries.ndim == 3 and queries.shape[2] == width and queries.shape[1] % max(1, kv_heads) == 0
    expect(fits, "queries", f"shape (m, heads, {width}), a multiple of {kv_heads} heads", queries.shape)
    expect(len(queries) <= n, "queries", f"at most {n} tokens", len(queries))
    expect(1 <= window <= len(queries), "window", f"1 to {len(queries)}", window)
    expect(window < budget, "budget", f"above {window}", budget)
    expect(kernel >= 1 and kernel % 2 == 1, "kernel", "an odd number", kernel)
    expect(pooling in ("avg", "max"), "pooling", "avg or max", pooling)
    if n <= budget:
        return np.tile(np.arange(n, dtype=np.int32), (kv_heads, 1))
    votes = snapkv_votes(queries, keys, window, kernel, pooling)
    newest = np.arange(n - window, n)
    chosen = [np.concatenate([best(row, budget - window), newest]) for row in votes]
    return np.array(chosen, np.int32)


def snapkv_votes(queries, keys, window, kernel, pooling):
    """(kv_heads, n − window): how much the last queries looked at each earlier token, pooled."""
    (n, kv_heads, width), heads = keys.shape, queries.shape[1]
    votes = np.zeros((kv_heads, n - window), WORK)
    for h in range(heads):
        kv_head = h // (heads // kv_heads)
        for row in range(-window, 0):
            end = n + row + 1
            products = keys[:end, kv_head].astype(WORK) @ queries[row, h].astype(WORK) / WORK(sqrt(width))
            weights = np.exp(products - products.max())
            votes[kv_head] += (weights / weights.sum())[: n - window]
    return np.array([pooled(row, kernel, pooling) for row in votes], WORK)


def pooled(votes, kernel, pooling):
    """Each with its kernel // 2 neighbours on both sides; beyond the ends there is 0."""
    around = np.pad(votes, kernel // 2)
    windows = [around[i : i + kernel] for i in range(len(votes))]
    return np.array([w.sum() / kernel if pooling == "avg" else w.max() for w in windows], WORK)


class PageSelector:
    def __init__(self, page_size, kv_heads, head_dim):
        expect(page_size >= 1, "page_size", "at least 1", page_size)
        check_cache(kv_heads, head_dim, "float32")
        self.page_size, self.kv_heads, self.head_dim = page_size, kv_heads, head_dim
        self.keys = np.zeros((0, kv_heads, head_dim), WORK)

    def add(self, keys):
        shape = (len(keys), self.kv_heads, self.head_dim)
        expect(keys.shape == shape, "keys", f"shape (m, {self.kv_heads}, {self.head_dim})", keys.shape)
        self.keys = np.concatenate([self.keys, keys.astype(WORK)])

    def bounds(self, queries):
        self.check(queries)
        return page_bounds(queries, self.keys, self.page_size).astype(np.float32)

    def select(self, queries, pages):
        self.check(queries)
        expect(pages >= 1, "pages", "at least 1", pages)
        scores = page_scores(queries, self.keys, self.page_size)  # (kv_heads, all pages)
        if pages >= scores.shape[1]:
            return np.tile(np.arange(scores.shape[1], dtype=np.int32), (self.kv_heads, 1))
        newest = scores.shape[1] - 1
        return np.array([[*best(row[:newest], pages - 1), newest] for row in scores], np.int32)

    def check(self, queries):
        fits = queries.ndim == 2 and queries.shape[1] == self.head_dim
        fits = fits and len(queries) >= 1 and len(queries) % self.kv_heads == 0
        expect(
            fits, "queries", f"shape (heads, {self.head_dim}), a multiple of {self.kv_heads}", queries.shape
        )


def page_bounds(queries, keys, page_size):
    """(heads, pages): the largest product of a key between the page's least and largest channels."""
    heads, (n, kv_heads, _) = len(queries), keys.shape
    result = np.zeros((heads, ceil(n / page_size)), WORK)
    for h in range(heads):
        kv_head = h // (heads // kv_heads)
        query = queries[h].astype(WORK)
        for page in range(result.shape[1]):
            rows = keys[page * page_size : (page + 1) * page_size, kv_head].astype(WORK)
            result[h, page] = np.maximum(query * rows.min(axis=0), query * rows.max(axis=0)).sum()
    return in_float32(result, queries)


def page_scores(queries, keys, page_size):
    """(kv_heads, pages): the bounds of the query heads that read a kv head, added up."""
    bounds = page_bounds(queries, keys, page_size)
    heads, pages, kv_heads = len(queries), bounds.shape[1], keys.shape[1]
    return bounds.reshape(kv_heads, heads // kv_heads, pages).sum(axis=1)


# Prefill --------------------------------------------------------------------------------------------------


def chunked_prefill(model, tokens, chunk):
    expect(chunk >= 1, "chunk", "at least 1", chunk)
    expect(tokens.ndim == 1 and len(tokens) >= 1, "tokens", "1 axis, at least 1 token", tokens.shape)
    known = ((tokens >= 0) & (tokens < model.vocab_size)).all()
    expect(known, "tokens", f"ids from 0 to {model.vocab_size - 1}", tokens)
    before = model.length()
    after = before + len(tokens)
    if after > model.max_length:
        raise ContextTooLong(f"tokens: expected at most {model.max_length - before} more, got {len(tokens)}")
    in_pieces = len(tokens) > chunk
    if in_pieces and model.per_call:
        raise NotSupported(f"chunk: expected the prompt in one piece with {', '.join(model.per_call)}")
    switch = model.rope_changes_after
    if switch is not None and after > switch and (in_pieces or before > 0):
        raise NotSupported(f"chunk: expected one piece beyond {switch} tokens, where the rotation changes")
    try:
        for start in range(0, len(tokens), chunk):
            logits = model.forward(tokens[start : start + chunk])
    except BaseException:
        model.truncate(before)
        raise
    return logits[-1]
