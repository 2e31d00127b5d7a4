"""Codes of a few bits for floats: how they are found, and how they share bytes."""

from math import prod

import mlx.core as mx


def coded(groups: mx.array, bits: int) -> tuple[mx.array, mx.array, mx.array]:
    """(…, group) float32 -> codes (…, group) uint8, scale (…), zero (…)."""
    zero, largest = groups.min(axis=-1), groups.max(axis=-1)
    scale = (largest - zero) / (2**bits - 1)
    divisor = mx.where(scale > 0, scale, 1)  # a constant group has codes of 0
    steps = mx.round((groups - zero[..., None]) / divisor[..., None])
    return mx.clip(steps, 0, 2**bits - 1).astype(mx.uint8), scale, zero


def packed(codes: mx.array, bits: int) -> mx.array:
    """(…, n) -> (…, ⌈n · bits / 8⌉). The codes in the lowest bits of all bytes come first, then the next."""
    if bits == 8:
        return codes
    per_byte = 8 // bits
    room = -codes.shape[-1] % per_byte
    codes = mx.concatenate([codes, mx.zeros((*codes.shape[:-1], room), mx.uint8)], axis=-1)
    layers = mx.unflatten(codes, -1, (per_byte, codes.shape[-1] // per_byte))
    return (layers << _shifts(bits)).sum(axis=-2).astype(mx.uint8)


def unpacked(in_bytes: mx.array, bits: int, shape: tuple[int, int]) -> mx.array:
    """(…, bytes) -> (…, *shape): as many codes as that, as float32."""
    if bits < 8:
        layers = (in_bytes[..., None, :] >> _shifts(bits)) & (2**bits - 1)
        in_bytes = layers.flatten(-2)[..., : prod(shape)]
    return mx.unflatten(in_bytes.astype(mx.float32), -1, shape)


def bytes_of(count: int, bits: int) -> int:
    """What so many codes take."""
    return -(-count * bits // 8)  # rounded up


def _shifts(bits: int) -> mx.array:
    return mx.arange(0, 8, bits).astype(mx.uint8)[:, None]
