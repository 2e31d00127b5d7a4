"""Codes of a few bits for groups of numbers."""

import numpy as np

from spec.long_context import Quantized

from .basics import WORK, expect, in_float32


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
