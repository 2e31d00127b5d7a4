"""Errors as sentences, and the way to the host."""

from collections.abc import Container, Iterable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from spec import InvalidArgument, UnknownDocument
from spec.rag import Metadata


def expect(condition: bool, argument: str, expected: Any, got: Any) -> None:
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def expect_there(ids: Iterable[str], there: Container[str], argument: str) -> None:
    unknown = [each for each in ids if each not in there]
    if unknown:
        raise UnknownDocument(f"{argument}: expected ids that are there, got {unknown}")


def on_host(values: mx.array | np.ndarray) -> np.ndarray:
    """Float32, in the memory of `values` where these are float32 already: only for reading."""
    return np.asarray(values.astype(mx.float32) if isinstance(values, mx.array) else values, np.float32)


def checked_vectors(
    ids: Sequence[str], vectors: mx.array, metadata: Sequence[Metadata] | None, dim: int
) -> tuple[np.ndarray, Sequence[Metadata]]:
    """What an index adds: vectors (n, dim) on the host, and metadata, {} for None."""
    shape = len(ids), dim
    expect(tuple(vectors.shape) == shape, "vectors", f"shape {shape}", tuple(vectors.shape))
    expect(len(set(ids)) == len(ids), "ids", "each id once", list(ids))
    metadata = [{} for _ in ids] if metadata is None else metadata
    expect(len(metadata) == len(ids), "metadata", f"{len(ids)} of them", len(metadata))
    return _finite(vectors, "vectors"), metadata


def checked_queries(queries: mx.array, k: int, dim: int) -> np.ndarray:
    """(m, dim) on the host"""
    shape = tuple(queries.shape)
    expect(len(shape) == 2 and shape[1] == dim, "queries", f"shape (m, {dim})", shape)
    expect(k >= 1, "k", "at least 1", k)
    return _finite(queries, "queries")


def _finite(values: mx.array, argument: str) -> np.ndarray:
    rows = on_host(values)
    expect(bool(np.isfinite(rows).all()), argument, "finite numbers", rows)
    return rows
