"""Errors as sentences, and the way to the host."""

from collections.abc import Container, Iterable
from typing import Any

import mlx.core as mx
import numpy as np

from spec import InvalidArgument, UnknownDocument


def expect(condition: bool, argument: str, expected: Any, got: Any) -> None:
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def expect_there(ids: Iterable[str], there: Container[str], argument: str) -> None:
    unknown = [each for each in ids if each not in there]
    if unknown:
        raise UnknownDocument(f"{argument}: expected ids that are there, got {unknown}")


def expect_finite(values: np.ndarray, argument: str) -> None:
    expect(bool(np.isfinite(values).all()), argument, "finite numbers", values)


def on_host(values: mx.array | np.ndarray) -> np.ndarray:
    """Float32, in the memory of `values` where these are float32 already: only for reading."""
    return np.asarray(values.astype(mx.float32) if isinstance(values, mx.array) else values, np.float32)
