"""Inputs for the tests of caches, of quantisation and of selection, built so that nothing can hide in them.

Heads, key heads, channels, windows and groups are pairwise distinct. What decides, a code or a key that is
kept, is clearly apart from what nearly was decided instead.
"""

from dataclasses import dataclass
from itertools import count

import numpy as np
from hypothesis import settings

from grading.matching import assert_equal, assert_identical, assert_matches
from grading.truth import GroundTruth
from tests.week3.long_context.cases import DTYPES, normal

reference = GroundTruth("long_context")

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 8
CLEAR = 2**-12  # of the largest score: thousands of times the rounding of float32

few = settings(max_examples=settings().max_examples // 3)  # what attention must give takes long to find out


# Tokens


@dataclass(frozen=True)
class Tokens:
    """Some tokens of a sequence."""

    queries: np.ndarray  # (tokens, heads, head_dim)
    keys: np.ndarray  # (tokens, kv_heads, head_dim)
    values: np.ndarray

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, part):
        return Tokens(self.queries[part], self.keys[part], self.values[part])

    def __add__(self, other):
        pairs = zip(self, other, strict=True)
        return Tokens(*(np.concatenate(pair) for pair in pairs))

    def __iter__(self):
        return iter((self.queries, self.keys, self.values))

    def last(self, m):
        return self[len(self) - m :]

    def pieces(self, sizes):
        """The tokens, so many at a time."""
        ends = np.cumsum(sizes)
        return [self[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def tokens(seed, count, dtype="float32", *, heads=HEADS, magnitude=1.0):
    rng = np.random.default_rng(seed)
    shape = (count, KV_HEADS, HEAD_DIM)
    queries = normal(rng, (count, heads, HEAD_DIM), dtype, magnitude)
    return Tokens(queries, normal(rng, shape, dtype), normal(rng, shape, dtype))


def appended(cache, told, sizes):
    """The cache, after it was told so many tokens at a time."""
    for piece in told.pieces(sizes):
        cache.append(piece.keys, piece.values)
    return cache


# Rolling caches

INV_FREQ = np.array([1.0, 0.3, 0.1], np.float32)  # 6 of the 8 channels turn


@dataclass(frozen=True)
class Rolling:
    """How a `RollingKVCache` is made."""

    window: int
    sink_tokens: int
    positions: str = "cache"
    interleaved: bool = False
    attention_factor: float = 1.0
    dtype: str = "float32"

    def empty(self, impl):
        return impl.RollingKVCache(
            self.window,
            self.sink_tokens,
            KV_HEADS,
            HEAD_DIM,
            inv_freq=INV_FREQ,
            attention_factor=self.attention_factor,
            interleaved=self.interleaved,
            positions=self.positions,
            dtype=self.dtype,
        )

    def seen(self, p):
        """The tokens that a query at p sees."""
        return [k for k in range(p + 1) if k < self.sink_tokens or k > p - self.window]

    def attention(self, told, m, scale=None):
        """What the last m tokens read of all that was told."""
        rotation = INV_FREQ, self.attention_factor, self.interleaved, self.positions
        queries, keys, values = told
        return reference.rolling_attention(
            queries[len(told) - m :], keys, values, self.window, self.sink_tokens, rotation, scale
        )

    def check(self, cache, told, m, scale=None):
        actual = cache.attend(told.last(m).queries, scale=scale)
        assert_matches(
            actual, self.attention(told, m, scale), f"output of the last {m} of {len(told)} tokens"
        )


# Quantisation


def clear_groups(rng, groups, size, bits, dtype="float32"):
    """(groups, size): no value is near the middle between two codes."""
    low, width = 2 * rng.standard_normal((groups, 1)), rng.uniform(0.5, 2, (groups, 1))
    places = rng.random((groups, size))
    places[:, :2] = [0, 1]  # the ends of the range stay
    places = rng.permuted(places, axis=1)
    x = (low + width * places).astype(DTYPES[dtype])
    while (unclear := near_the_middle(x, bits)).any():
        x = np.where(unclear, (low + width * rng.random(x.shape)).astype(DTYPES[dtype]), x)
    return x


def near_the_middle(groups, bits):
    values = groups.astype(np.float64)
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    steps = (values - low) / (high - low) * (2**bits - 1)
    return np.abs(steps - np.rint(steps)) > 0.35


def clear_rows(seed, shape, *, bits, group, axis, dtype="float32"):
    """(tokens, kv_heads, head_dim), the codes of its groups clear; the last group of tokens may be cut."""
    rng = np.random.default_rng(seed)
    whole = list(shape)
    whole[axis] = -(-shape[axis] // group) * group
    moved = [*(size for i, size in enumerate(whole) if i != axis), whole[axis]]
    x = clear_groups(rng, int(np.prod(whole)) // group, group, bits, dtype).reshape(moved)
    return np.moveaxis(x, -1, axis)[: shape[0]]


@dataclass(frozen=True)
class Coded:
    """How a `QuantizedKVCache` is made."""

    bits: int
    group: int
    residual: int
    dtype: str = "float32"

    def empty(self, impl):
        return impl.QuantizedKVCache(
            self.bits, self.group, self.residual, KV_HEADS, HEAD_DIM, dtype=self.dtype
        )

    def tokens(self, seed, count, heads=HEADS):
        """Queries are normal; groups of keys lie along the tokens, those of values along the channels."""
        told = tokens(seed, count, self.dtype, heads=heads)
        options = {"bits": self.bits, "group": self.group, "dtype": self.dtype}
        keys, values = (
            clear_rows([*np.atleast_1d(seed), axis], told.keys.shape, axis=axis, **options) for axis in (0, 2)
        )
        return Tokens(told.queries, keys, values)

    def quantised(self, n):
        """How many of n tokens are."""
        return self.group * max(0, (n - self.residual) // self.group)

    def check(self, cache, told):
        """What the cache holds: old tokens as codes, the others bit for bit."""
        assert_equal(cache.length(), len(told), "length()")
        expected = reference.quantized_rows(
            told.keys, told.values, bits=self.bits, group=self.group, residual=self.residual
        )
        end = self.quantised(len(told))
        held = zip(("keys", "values"), cache.gather(), expected, (told.keys, told.values), strict=True)
        for name, actual, rows, as_told in held:
            assert_matches(actual, rows, f"{name} of {len(told)} tokens")
            assert_identical(actual[end:], as_told[end:], f"{name} that are not quantised")

    def attention(self, told, m, scale=None):
        options = self.bits, self.group, self.residual
        return reference.quantized_attention(told.last(m).queries, told.keys, told.values, *options, scale)


# Choices


def is_clear(scores, chosen):
    """Whether rounding changes nothing about which scores are the largest. Equal ones stay equal."""
    if not 0 < chosen < len(scores):
        return True
    first_left_out = np.sort(scores)[::-1][chosen]
    apart = np.abs(scores - first_left_out)
    return bool(((apart == 0) | (apart > CLEAR * np.abs(scores).max())).all())


def positions_after(steps, budget, recent, scale=None):
    """For each step what a `HeavyHitterCache` keeps, a list for each kv head; None if that is not clear."""
    step = reference.exact.heavy_hitter_step
    kept = [reference.exact.nothing_kept(HEAD_DIM, steps[0].keys.dtype) for _ in range(KV_HEADS)]
    n, positions = 0, []
    for piece in steps:
        _, everything = step(kept, n, *piece, n + len(piece), recent, scale)  # a budget for all of them
        if not all(
            is_clear(s[: len(s) - recent], budget - recent) for _, _, _, s in everything if len(s) > budget
        ):
            return None
        _, kept = step(kept, n, *piece, budget, recent, scale)
        n += len(piece)
        positions.append([[int(p) for p in at] for at, _, _, _ in kept])
    return positions


def clear_steps(seed, sizes, budget, recent, dtype="float32", *, heads=HEADS, scale=None):
    """Steps of so many tokens whose choices are clear, and what is kept after each."""
    drawn = (tokens([seed, i], sum(sizes), dtype, heads=heads, magnitude=2.0).pieces(sizes) for i in count())
    kept = ((steps, positions_after(steps, budget, recent, scale)) for steps in drawn)
    return next((steps, positions) for steps, positions in kept if positions is not None)


def clear_prompt(seed, n, m, budget, dtype="float32", *, window, kernel, pooling, heads=HEADS):
    """The last m queries and all keys of a prompt whose votes are clear."""

    def clear(told):
        votes = reference.exact.snapkv_votes(told.last(m).queries, told.keys, window, kernel, pooling)
        return all(is_clear(row, budget - window) for row in votes)

    drawn = (tokens([seed, i], n, dtype, heads=heads, magnitude=2.0) for i in count())
    told = next(filter(clear, drawn))
    return told.last(m).queries, told.keys


def clear_pages(seed, n, page_size, pages, dtype="float32", *, heads=HEADS):
    """Queries (heads, head_dim) and keys whose best pages are clear."""

    def clear(told):
        scores = reference.exact.page_scores(told.queries[0], told.keys, page_size)
        return all(is_clear(row[:-1], pages - 1) for row in scores)

    told = next(filter(clear, (tokens([seed, i], n, dtype, heads=heads) for i in count())))
    return told.queries[0], told.keys
