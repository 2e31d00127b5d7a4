"""From experts to slots: what is sorted where, and who finds no place.

Slot t · k + j is the j-th choice of token t. Integers, on the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import mlx.core as mx
import numpy as np

from spec.moe import Dispatch, RouterConfig

from .checks import check_config, check_ids, check_priority, check_tokens, expect
from .router import TINY


@dataclass(frozen=True)
class Slots:
    """`Dispatch` in NumPy."""

    order: np.ndarray  # (kept slots,) by expert, then ascending
    offsets: np.ndarray  # (E + 1,)
    kept: np.ndarray  # (T, k)


def expert_capacity(tokens: int, n_experts: int, config: RouterConfig) -> int:
    """Slots that an expert takes: tokens · top_k · capacity_factor / n_experts, rounded, without error."""
    expect(tokens >= 0, "tokens", "at least 0", tokens)
    expect(n_experts >= 1, "n_experts", "at least 1", n_experts)
    check_config(config, n_experts)
    expect(config.capacity_factor is not None, "capacity_factor", "a number", None)
    share = Fraction(config.capacity_factor) * tokens * config.top_k / n_experts
    rounded = floor(share) if config.capacity_rounding == "floor" else ceil(share)
    return max(rounded, config.min_capacity)


def dispatch(
    experts: mx.array,
    n_experts: int,
    capacity: int | Sequence[int] | None = None,
    *,
    mask: mx.array | None = None,
    segments: mx.array | None = None,
    priority: str = "position",
) -> Dispatch:
    """Sorts slots by expert, and drops those for which there is no room.

    experts: (T, k) integers, distinct within a row; capacity: slots that an expert takes, one number or one a
    segment; mask: (T,) bool, False for padding, whose rows of `experts` may hold anything; segments: (T,).
    """
    expect(experts.ndim == 2, "experts", "2 axes", experts.shape)
    expect(n_experts >= 1, "n_experts", "at least 1", n_experts)
    tokens = experts.shape[0]
    check_tokens(tokens, mask, segments)
    ids = np.asarray(experts)
    counts = np.ones(tokens, bool) if mask is None else np.asarray(mask)
    check_ids(ids[counts], n_experts)
    segment = segments_of(tokens, segments, counts)
    room = _room(capacity, segment, counts, ids.size)
    check_priority(priority)
    slots = sorted_slots(ids, n_experts, counts, room, segment, priority)
    return Dispatch(
        mx.array(slots.order.astype(np.int32)), mx.array(slots.offsets.astype(np.int32)), mx.array(slots.kept)
    )


def segments_of(tokens: int, segments: mx.array | None, counts: np.ndarray) -> np.ndarray:
    """(T,) int64: the segment of each token that counts; 0 for padding, whose own may be anything."""
    if segments is None:
        return np.zeros(tokens, np.int64)
    segment = np.where(counts, np.asarray(segments).astype(np.int64), 0)
    expect((segment >= 0).all(), "segments", "at least 0", segment)
    return segment


def _room(
    capacity: int | Sequence[int] | None, segment: np.ndarray, counts: np.ndarray, slots: int
) -> np.ndarray | None:
    """(T,) how many slots an expert takes of each token's segment; None for all of them."""
    if capacity is None:
        return None
    if isinstance(capacity, int):
        expect(capacity >= 0, "capacity", "at least 0", capacity)
        return np.full(segment.shape, min(capacity, slots))
    last = int(segment[counts].max(initial=-1))
    expect(last < len(capacity), "capacity", f"one for each of {last + 1} segments", len(capacity))
    expect(all(room >= 0 for room in capacity), "capacity", "at least 0", capacity)
    rooms = [min(room, slots) for room in capacity] or [0]  # where nothing counts, there need be no segment
    return np.array(rooms)[segment]


def room_of_config(
    config: RouterConfig, n_experts: int, segment: np.ndarray, counts: np.ndarray
) -> np.ndarray | None:
    """(T,) as above, by the config's capacity_factor: each segment's from its own tokens that count."""
    if config.capacity_factor is None:
        return None
    _, index, tokens = np.unique(segment[counts], return_inverse=True, return_counts=True)
    capacities = np.array(
        [min(expert_capacity(n, n_experts, config), segment.size) for n in tokens.tolist()], np.int64
    )
    room = np.zeros(segment.shape, np.int64)
    room[counts] = capacities[index]
    return room


def sorted_slots(
    experts: np.ndarray,
    n_experts: int,
    counts: np.ndarray,
    room: np.ndarray | None,
    segment: np.ndarray,
    priority: str,
) -> Slots:
    """experts: (T, k); counts: (T,) bool, False for padding; room: (T,) places of each token's segment."""
    k = experts.shape[1]
    kept = np.repeat(counts[:, None], k, axis=1)
    if room is not None:
        kept &= _places(experts, n_experts, counts, segment, priority) < room[:, None]
    slots = np.flatnonzero(kept)
    chosen = experts.reshape(-1)[slots]
    order = slots[np.argsort(chosen, kind="stable")]
    offsets = np.zeros(n_experts + 1, np.int64)
    np.bincount(chosen, minlength=n_experts).cumsum(out=offsets[1:])
    return Slots(order, offsets, kept)


def _places(
    experts: np.ndarray, n_experts: int, counts: np.ndarray, segment: np.ndarray, priority: str
) -> np.ndarray:
    """(T, k) how many come before a slot at the same expert for the same segment; 0 for padding."""
    tokens, k = experts.shape
    turns = np.arange(tokens * k).reshape(tokens, k)[counts]
    turns = (turns.T if priority == "choice_then_position" else turns).reshape(-1)
    line = segment[turns // k] * n_experts + experts.reshape(-1)[turns]  # where each waits
    by_line = np.argsort(line, kind="stable")
    ahead = np.searchsorted(line[by_line], line[by_line])  # those in lines before one's own
    places = np.zeros(tokens * k, np.int64)
    places[turns[by_line]] = np.arange(len(turns)) - ahead
    return places.reshape(tokens, k)


def after_drop(weights: np.ndarray, kept: np.ndarray, config: RouterConfig) -> np.ndarray:
    """The weights, 0 for a dropped slot; those that remain divided by their sum if the config says so."""
    weights = np.where(kept, weights, np.float32(0))
    if config.renormalize_after_drop:
        weights = weights / (weights.sum(axis=1, keepdims=True) + TINY) * config.scale
    return weights
