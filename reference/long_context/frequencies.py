"""Frequencies of rotary embeddings, as published and stretched to longer contexts."""

from math import ceil, floor, log, pi, sqrt

import numpy as np

from spec.long_context import NTK, DynamicNTK, Linear, Llama3, LongRoPE, RopeFrequencies, YaRN

from .basics import WORK, expect


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
