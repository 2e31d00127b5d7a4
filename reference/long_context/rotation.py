"""Rotation of queries and keys by their positions."""

import numpy as np

from .basics import WORK, expect


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
