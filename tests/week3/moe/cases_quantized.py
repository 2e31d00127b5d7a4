"""Experts in MLX's affine quantisation, packed by hand."""

from dataclasses import fields

import numpy as np

from spec.moe import QuantizedExpertWeights, QuantizedMatrix

MATRICES = ("gate", "up", "down")


def quantized_matrix(matrix, bits, group_size):
    """Scale and bias from the smallest and largest value of a group."""
    count, rows, columns = matrix.shape
    groups = matrix.reshape(count, rows, -1, group_size)
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    scales = ((high - low) / (2**bits - 1)).astype(np.float32)
    biases = low.astype(np.float32)
    codes = np.rint((groups - biases[..., None]) / scales[..., None]).clip(0, 2**bits - 1)
    per_word = 32 // bits
    fields_ = codes.astype(np.uint32).reshape(count, rows, columns // per_word, per_word)
    shifts = bits * np.arange(per_word, dtype=np.uint32)
    return QuantizedMatrix(np.bitwise_or.reduce(fields_ << shifts, axis=-1), scales, biases)


def quantized(experts, bits, group_size):
    """`ExpertWeights` as `QuantizedExpertWeights`; what is no matrix stays."""
    values = {f.name: getattr(experts, f.name) for f in fields(experts)}
    for name in MATRICES:
        if values[name] is not None:
            values[name] = quantized_matrix(values[name], bits, group_size)
    return QuantizedExpertWeights(**values, bits=bits, group_size=group_size)
