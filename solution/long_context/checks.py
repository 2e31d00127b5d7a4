"""Errors as sentences, and the checks that several entry points share."""

from typing import Any

import mlx.core as mx

from spec import InvalidArgument


def expect(condition: bool, argument: str, expected: Any, got: Any) -> None:
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def check_attention(q: mx.array, k: mx.array, v: mx.array) -> None:
    """q: (batch, heads, queries, head_dim); k, v: (batch, kv_heads, keys, head_dim)."""
    expect(q.ndim == 4, "q", "4 axes", q.shape)
    batch, heads, _, width = q.shape
    fits = k.ndim == 4 and k.shape[0] == batch and k.shape[3] == width
    expect(fits, "k", f"shape ({batch}, kv_heads, keys, {width})", k.shape)
    divides = k.shape[1] >= 1 and heads % k.shape[1] == 0
    expect(divides, "k", f"kv_heads that divide {heads}", k.shape)
    expect(v.shape == k.shape, "v", f"shape {k.shape}", v.shape)
    expect(q.dtype == k.dtype == v.dtype, "k, v", f"dtype {q.dtype}", (k.dtype, v.dtype))


def check_per_head(values: mx.array | None, argument: str, heads: int) -> None:
    fits = values is None or values.shape == (heads,)
    expect(fits, argument, f"shape ({heads},)", None if values is None else values.shape)


def check_positions(positions: mx.array, argument: str, count: int) -> None:
    expect(positions.shape == (count,), argument, f"shape ({count},)", positions.shape)
