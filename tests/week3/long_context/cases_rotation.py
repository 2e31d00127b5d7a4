"""Inputs and comparisons for the tests of rotary positions.

Batch, heads, tokens, pairs and channels are pairwise distinct. Frequencies are compared in octaves, so that
the slowest pair counts as much as the first.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from grading.matching import assert_matches
from grading.tolerance import allowance
from grading.trees import mapped
from grading.truth import HALF_A_UNIT, Expected, GroundTruth
from tests.week3.long_context.cases import normal

reference = GroundTruth("long_context")


# Rotation


@dataclass(frozen=True)
class Rotation:
    """The arguments of `apply_rope`."""

    x: np.ndarray  # (batch, heads, tokens, channels)
    positions: np.ndarray  # (tokens,) or (batch, tokens)
    inv_freq: np.ndarray  # (pairs,)
    attention_factor: float = 1.0
    interleaved: bool = False

    def run(self, module):
        return module.apply_rope(self.x, self.positions, self.inv_freq, **self.options())

    def options(self):
        """What is not as it is by default."""
        given = {each.name: (getattr(self, each.name), each.default) for each in fields(self)[3:]}
        return {name: value for name, (value, default) in given.items() if value != default}

    @property
    def d(self):
        """Channels that turn."""
        return 2 * len(self.inv_freq)

    def turning_alone(self):
        """The same without the channels that stay."""
        return replace(self, x=self.x[..., : self.d])

    def check(self, impl):
        assert_matches(self.run(impl), self.run(reference))


def rotation(seed, tokens=4, *, stay=0, dtype="float32", **options):
    """5 pairs of 2 batches of 3 heads, at frequencies in no order and positions up to 40.

    stay: channels beyond those that turn.
    """
    rng = np.random.default_rng(seed)
    x = normal(rng, (2, 3, tokens, 10 + stay), dtype)
    inv_freq = rng.uniform(0.1, 1.5, 5).astype(np.float32)
    positions = rng.integers(1, 40, tokens).astype(np.int32)
    return Rotation(x, positions, inv_freq, **options)


# Frequencies


def assert_frequencies(impl, config, seq_len=None):
    """What `rope_frequencies` gives is right: the frequencies and both factors."""
    __tracebackhide__ = True
    actual = impl.rope_frequencies(config, seq_len)
    expected = reference.exact.rope_frequencies(config, seq_len)
    plain = reference.plain.rope_frequencies(config, seq_len)
    raised = reference.exact.rope_frequencies(mapped(half_a_unit_up, config), seq_len)
    assert_octaves(actual.inv_freq, expected.inv_freq, (plain.inv_freq, raised.inv_freq), "inv_freq")
    assert_number(actual.attention_factor, expected.attention_factor, "attention_factor")
    assert_number(actual.softmax_scale, expected.softmax_scale, "softmax_scale")


def half_a_unit_up(setting):
    """What a config says, as float32 may hold it."""
    return setting * (1 + HALF_A_UNIT) if isinstance(setting, float) else setting


def assert_octaves(actual, truth, others, what):
    """Float32 numbers above 0, relative to their own size.

    others: the same worked out in float32 all along, and from numbers half a unit away.
    """
    __tracebackhide__ = True
    assert isinstance(actual, np.ndarray), f"{what}: expected an array, got {type(actual).__name__}"
    assert actual.dtype == np.float32, f"{what}: expected float32, got {actual.dtype}"
    exact, plain, raised = (octaves(each) for each in (truth, *others))
    single = np.dtype(np.float32)
    expected = Expected(exact, single, allowance(exact, plain.astype(single), [raised]))
    assert_matches(octaves(actual).astype(single), expected, f"log2 of {what}")


def octaves(frequencies):
    with np.errstate(all="ignore"):
        return np.log2(frequencies.astype(np.float64))


def assert_number(actual, expected, what):
    """A plain number, as float32 tells numbers apart."""
    __tracebackhide__ = True
    assert type(actual) in (int, float), f"{what}: expected a number, got {actual!r}"
    exact, plain = np.array(expected, np.float64), np.array(expected, np.float32)
    assert_matches(np.array(actual, np.float32), Expected(exact, plain.dtype, allowance(exact, plain)), what)
