"""Errors as sentences, the checks that several entry points share, and the way to the host."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import mlx.core as mx
import numpy as np

from spec import InvalidArgument
from spec.speculative_decoding import Sampling


def expect(condition: bool, argument: str, expected: Any, got: Any) -> None:
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def on_host(values: mx.array) -> np.ndarray:
    """Float32, in the memory of `values` where these are float32 already: only for reading."""
    return np.asarray(values.astype(mx.float32))


def check_ids(ids: Iterable[int], vocab_size: int, argument: str) -> None:
    ids = list(ids)
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        outside = [each for each in ids if not 0 <= each < vocab_size]
        expect(False, argument, f"ids from 0 to {vocab_size - 1}", outside)


def check_histories(outputs: Iterable[Iterable[int]], vocab_size: int) -> None:
    check_ids(chain.from_iterable(outputs), vocab_size, "outputs")


def check_uniforms(uniforms: np.ndarray, count: int) -> None:
    expect(uniforms.shape == (count,), "uniforms", f"shape ({count},)", uniforms.shape)
    inside = bool(((uniforms >= 0) & (uniforms < 1)).all())
    expect(inside, "uniforms", "numbers in [0, 1)", uniforms)


def check_sampling(sampling: Sampling, vocab_size: int) -> None:
    s = sampling
    expect(s.temperature >= 0, "temperature", "at least 0", s.temperature)
    expect(s.top_k >= 0, "top_k", "at least 0", s.top_k)
    expect(0 < s.top_p <= 1, "top_p", "above 0, at most 1", s.top_p)
    expect(0 <= s.min_p <= 1, "min_p", "0 to 1", s.min_p)
    expect(s.repetition > 0, "repetition", "above 0", s.repetition)
    expect(s.min_tokens >= 0, "min_tokens", "at least 0", s.min_tokens)
    check_ids(s.bias, vocab_size, "bias")
    check_ids(s.eos_ids, vocab_size, "eos_ids")
