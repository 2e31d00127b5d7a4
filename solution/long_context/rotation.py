"""Rotary positions: by how much a pair turns, and the turning. And the slopes of ALiBi, which needs none."""

from math import ceil, floor, log, pi, sqrt

import mlx.core as mx
import numpy as np

from spec.long_context import (
    NTK,
    DynamicNTK,
    Linear,
    Llama3,
    LongRoPE,
    RopeConfig,
    RopeFrequencies,
    YaRN,
)

from .checks import expect

# Frequencies ----------------------------------------------------------------------------------------------


def rope_frequencies(config: RopeConfig, seq_len: int | None = None) -> RopeFrequencies:
    """What `apply_rope` rotates by, for a context of `seq_len` tokens."""
    d = int(config.head_dim * config.rotary_fraction)
    _check_config(config, d)
    expect(seq_len is None or seq_len >= 1, "seq_len", "at least 1", seq_len)
    scaling = config.scaling
    attention_factor = softmax_scale = 1.0
    frequencies = _plain(d, config.base)
    if isinstance(scaling, Linear):
        frequencies = frequencies / scaling.factor
    elif isinstance(scaling, NTK):
        frequencies = _plain(d, config.base * scaling.factor ** (d / (d - 2)))
    elif isinstance(scaling, DynamicNTK):
        length = max(seq_len or 1, scaling.original_length)
        stretch = 1 + scaling.factor * (length / scaling.original_length - 1)  # exactly 1 up to there
        frequencies = _plain(d, config.base * stretch ** (d / (d - 2)))
    elif isinstance(scaling, YaRN):
        frequencies = _yarn(frequencies, config.base, scaling)
        attention_factor, softmax_scale = _yarn_factors(scaling)
    elif isinstance(scaling, Llama3):
        frequencies = _llama3(frequencies, scaling)
    elif isinstance(scaling, LongRoPE):
        is_long = seq_len is not None and seq_len > scaling.original_length
        frequencies = frequencies / np.array(scaling.long_factor if is_long else scaling.short_factor)
        attention_factor = _longrope_factor(scaling)
    return RopeFrequencies(mx.array(frequencies.astype(np.float32)), attention_factor, softmax_scale)


def _plain(d: int, base: float) -> np.ndarray:
    """(d/2,) float64: base^(−2i/d)."""
    return base ** (-np.arange(0, d, 2) / d)


def _yarn(frequencies: np.ndarray, base: float, scaling: YaRN) -> np.ndarray:
    d = 2 * len(frequencies)

    def turning(rotations: float) -> float:
        """The pair, as a real number, that turns so often within the original length."""
        return d * log(scaling.original_length / (rotations * 2 * pi)) / (2 * log(base))

    low, high = turning(scaling.beta_fast), turning(scaling.beta_slow)
    if scaling.truncate:
        low, high = floor(low), ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(d // 2) - low) / (high - low), 0, 1)
    return frequencies * (1 - ramp) + frequencies / scaling.factor * ramp


def _yarn_factors(scaling: YaRN) -> tuple[float, float]:
    """On cos and sin, and on the scale of the scores."""
    attention_factor, softmax_scale = yarn_growth(scaling.factor, 1), 1.0
    if scaling.mscale is not None and scaling.mscale_all_dim is not None:
        all_dim = yarn_growth(scaling.factor, scaling.mscale_all_dim)
        attention_factor = yarn_growth(scaling.factor, scaling.mscale) / all_dim
        softmax_scale = all_dim**2
    if scaling.attention_factor is not None:
        attention_factor = scaling.attention_factor
    return attention_factor, softmax_scale


def yarn_growth(factor: float, mscale: float) -> float:
    return 0.1 * mscale * log(factor) + 1


def _llama3(frequencies: np.ndarray, scaling: Llama3) -> np.ndarray:
    turns = scaling.original_length * frequencies / (2 * pi)  # within the original length
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def _longrope_factor(scaling: LongRoPE) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return sqrt(1 + log(scaling.factor) / log(scaling.original_length))


def _check_config(config: RopeConfig, d: int) -> None:
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
        _check_yarn(s)
    if isinstance(s, Llama3):
        low, high = s.low_freq_factor, s.high_freq_factor
        expect(low > 0, "low_freq_factor", "above 0", low)
        expect(high > low, "high_freq_factor", f"above {low}", high)
    if isinstance(s, LongRoPE):
        for name in ("short_factor", "long_factor"):
            divisors = getattr(s, name)
            fits = len(divisors) == d // 2 and all(divisor > 0 for divisor in divisors)
            expect(fits, name, f"{d // 2} numbers above 0", divisors)
    if isinstance(s, (YaRN, LongRoPE)):
        positive = s.attention_factor is None or s.attention_factor > 0
        expect(positive, "attention_factor", "above 0", s.attention_factor)


def _check_yarn(s: YaRN) -> None:
    expect(s.beta_slow > 0, "beta_slow", "above 0", s.beta_slow)
    expect(s.beta_fast >= s.beta_slow, "beta_fast", f"at least {s.beta_slow}", s.beta_fast)
    mscales = s.mscale, s.mscale_all_dim
    both = (s.mscale is None) == (s.mscale_all_dim is None)
    expect(both, "mscale", "both mscale and mscale_all_dim, or neither", mscales)
    positive = all(each is None or each > 0 for each in mscales)
    expect(positive, "mscale", "above 0", mscales)


# Turning --------------------------------------------------------------------------------------------------


def apply_rope(
    x: mx.array,
    positions: mx.array,
    inv_freq: mx.array,
    *,
    attention_factor: float = 1.0,
    interleaved: bool = False,
) -> mx.array:
    """x rotated by its positions, in the dtype of x.

    x: (batch, heads, tokens, head_dim); positions: (tokens,) or (batch, tokens); inv_freq: (d/2,).
    """
    expect(x.ndim == 4, "x", "4 axes", x.shape)
    batch, _, tokens, channels = x.shape
    fits = positions.shape in ((tokens,), (batch, tokens))
    expect(fits, "positions", f"shape ({tokens},) or ({batch}, {tokens})", positions.shape)
    check_inv_freq(inv_freq, channels)
    at = positions.astype(mx.float32)[..., None, :, None]  # (batch or nothing, 1, tokens, 1)
    angles = at * inv_freq.astype(mx.float32)
    rotated = turned(x, mx.cos(angles) * attention_factor, mx.sin(angles) * attention_factor, interleaved)
    mx.eval(rotated)
    return rotated


def turned(x: mx.array, cos: mx.array, sin: mx.array, interleaved: bool) -> mx.array:
    """x: (…, head_dim); cos, sin: (…, d/2) float32."""
    d = 2 * cos.shape[-1]
    turning = x[..., :d].astype(mx.float32)
    a, b = (turning[..., 0::2], turning[..., 1::2]) if interleaved else mx.split(turning, 2, axis=-1)
    pair = a * cos - b * sin, a * sin + b * cos
    both = mx.stack(pair, axis=-1).flatten(-2) if interleaved else mx.concatenate(pair, axis=-1)
    both = both.astype(x.dtype)
    return both if d == x.shape[-1] else mx.concatenate([both, x[..., d:]], axis=-1)


def check_inv_freq(inv_freq: mx.array, channels: int) -> None:
    fits = inv_freq.ndim == 1 and 2 * inv_freq.size <= channels
    expect(fits, "inv_freq", f"1 axis of at most {channels // 2} numbers", inv_freq.shape)


# Distance without turning ---------------------------------------------------------------------------------


def alibi_slopes(heads: int) -> mx.array:
    """(heads,) float32"""
    expect(heads >= 1, "heads", "at least 1", heads)
    power = 1 << (heads.bit_length() - 1)  # the largest power of two that is not above
    slopes = _geometric(power) + _geometric(2 * power)[::2]
    return mx.array(slopes[:heads])


def _geometric(heads: int) -> list[float]:
    return [2.0 ** (-8 * (h + 1) / heads) for h in range(heads)]
