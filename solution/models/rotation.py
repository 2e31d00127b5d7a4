"""Rotary positions as products of complex numbers.

The channels of a head are laid out so that those which turn together are neighbours: read as one complex
number, a pair turns by a multiplication, one operation where cos, sin, halves and signs would take ten.
Scores do not change when the channels of queries and keys are permuted alike.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from solution.long_context import rope_frequencies
from spec.long_context import RopeConfig, RopeFrequencies


class Rotation:
    """By how much the pairs of a head turn at each position."""

    def __init__(self, config: RopeConfig, changes_after: int | None) -> None:
        self._config, self._changes_after = config, changes_after
        self.usual = rope_frequencies(config)
        self._table = mx.zeros((0, config.head_dim // 2), mx.complex64)

    def at(self, positions: Sequence[int] | range, length: int) -> mx.array:
        """(tokens, 1, head_dim/2) complex64, for a context of `length` tokens with them."""
        if self._changes_after is not None and length > self._changes_after:
            return mx.array(self._turns(np.asarray(positions), rope_frequencies(self._config, length)))[
                :, None
            ]
        if length > len(self._table):
            self._table = mx.array(self._turns(np.arange(max(256, 2 * length)), self.usual))
            mx.eval(self._table)
        if isinstance(positions, range):
            return self._table[positions.start : positions.stop, None]
        return self._table[mx.array(positions), None]

    def _turns(self, positions: np.ndarray, frequencies: RopeFrequencies) -> np.ndarray:
        """(positions, head_dim/2) complex64; channels that do not rotate turn by nothing."""
        inv_freq = np.asarray(frequencies.inv_freq, np.float64)
        turns = np.ones((len(positions), self._config.head_dim // 2), np.complex64)
        angles = positions[:, None] * inv_freq
        turns[:, : inv_freq.size] = np.exp(1j * angles) * frequencies.attention_factor
        return turns


def turned(x: mx.array, turns: mx.array) -> mx.array:
    """x: (tokens, heads, head_dim), neighbours turning together."""
    rotated = (x.astype(mx.float32).view(mx.complex64) * turns).view(mx.float32)
    return rotated.astype(x.dtype)


def pairs_together(heads: mx.array, rotated: int) -> mx.array:
    """(heads, head_dim, …) whose channels i and i + rotated/2 turn together -> neighbours instead."""
    halves = mx.unflatten(heads[:, :rotated], 1, (2, rotated // 2)).swapaxes(1, 2).flatten(1, 2)
    return mx.concatenate([halves, heads[:, rotated:]], axis=1) if rotated < heads.shape[1] else halves
