"""Inputs for the tests of long context, built so that nothing can hide in them.

Batch, heads, kv heads, tokens, head dimension and blocks are pairwise distinct; one of the sizes has a kv
head for each head.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from grading.matching import assert_matches
from grading.truth import Expected, GroundTruth

reference = GroundTruth("long_context")

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

SEEDS = st.integers(0, 2**32 - 1)


def normal(rng, shape, dtype="float32", magnitude=1.0):
    return (magnitude * rng.standard_normal(shape)).astype(DTYPES[dtype])


# Dense batches


@dataclass(frozen=True)
class Size:
    batch: int
    heads: int
    kv_heads: int
    head_dim: int


GROUPED = Size(1, 6, 2, 5)
SIZES = st.sampled_from([GROUPED, Size(2, 4, 1, 7), Size(2, 3, 3, 5)])


MASKING = ("causal", "window", "sink_tokens", "chunk", "prefix", "segments")


@dataclass(frozen=True)
class Dense:
    """The arguments of `blockwise_attention`."""

    q: np.ndarray  # (batch, heads, queries, head_dim)
    k: np.ndarray  # (batch, kv_heads, keys, head_dim)
    v: np.ndarray
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, module):
        return module.blockwise_attention(self.q, self.k, self.v, **self.options)

    def with_options(self, **options):
        return replace(self, options={**self.options, **options})

    def visible(self):
        """(queries, keys) bool"""
        masking = {name: value for name, value in self.options.items() if name in MASKING}
        return reference.attention_mask(*self.positions(), **masking)

    def positions(self):
        """Of queries and of keys."""
        queries, keys = self.q.shape[2], self.k.shape[2]
        defaults = np.arange(keys - queries, keys), np.arange(keys)
        names = ("q_positions", "kv_positions")
        return tuple(self.options.get(name, at) for name, at in zip(names, defaults, strict=True))

    def truth(self):
        """The state of the queries that have an lse, by one softmax over all keys, and which they are."""
        sees = self.visible().any(axis=1) | ("sink_logits" in self.options)
        options = {"block": max(1, self.k.shape[2]), "q_positions": self.positions()[0][sees]}
        if "segments" in self.options:
            of_queries, of_keys = self.options["segments"]
            options["segments"] = of_queries[sees], of_keys
        return replace(self, q=self.q[:, :, sees]).with_options(**options).run(reference), sees

    def __repr__(self):
        given = {"q": self.q.shape, "k": self.k.shape, "dtype": self.q.dtype.name, **self.options}
        return f"Dense({', '.join(f'{name}={value}' for name, value in given.items())})"

    def _repr_pretty_(self, printer, cycle):
        printer.text(repr(self))  # what Hypothesis prints; it would spell the arrays out


def dense(seed, size, queries, keys, *, dtype="float32", magnitude=1.0, **options):
    """Normal queries, keys and values."""
    rng = np.random.default_rng(seed)
    q = normal(rng, (size.batch, size.heads, queries, size.head_dim), dtype, magnitude)
    k, v = (normal(rng, (size.batch, size.kv_heads, keys, size.head_dim), dtype, magnitude) for _ in range(2))
    return Dense(q, k, v, options)


# Comparing


def part(expected, rows):
    """Some of an expected array."""
    return Expected(expected.value[rows], expected.dtype, expected.allowed)


def assert_seen(actual, expected, sees, what):
    """The same `what`, out or lse, for the queries that have one."""
    __tracebackhide__ = True
    actual = getattr(actual, what)
    shape = (*expected.value.shape[:2], len(sees), *expected.value.shape[3:])
    assert actual.shape == shape, f"{what}: expected shape {shape}, got {actual.shape}"
    assert_matches(actual[:, :, sees], expected, what)


def check_out(impl, case):
    """Where a query sees nothing, LC-37 holds and no other requirement."""
    __tracebackhide__ = True
    expected, sees = case.truth()
    assert_seen(case.run(impl), expected.out, sees, "out")


def check_state(impl, case):
    """out and lse of every query."""
    __tracebackhide__ = True
    expected, sees = case.truth()
    actual = case.run(impl)
    assert_seen(actual, expected.out, sees, "out")
    assert_seen(actual, expected.lse, sees, "lse")
    assert_nothing(actual, ~sees)


def assert_nothing(actual, rows):
    """What these queries have that see nothing."""
    __tracebackhide__ = True
    out, lse = actual.out[:, :, rows], actual.lse[:, :, rows]
    assert (out == 0).all(), f"out where nothing is seen: expected 0, got {out}"
    assert np.isneginf(lse).all(), f"lse where nothing is seen: expected -inf, got {lse}"
