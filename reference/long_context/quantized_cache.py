"""A cache that keeps codes, and the newest tokens as they came."""

import numpy as np

from spec.long_context import Quantized

from .basics import DTYPES, expect
from .quantisation import check_quantisation, dequantize_kv, quantize_kv
from .rows import attend_last, check_cache, check_queries, check_rows


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
