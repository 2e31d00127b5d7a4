"""Rows through their experts' networks.

Experts with about the same number of rows go together, in one `gather_mm` a matrix: it reads each expert's
matrix where it lies, and none but theirs. In float32 inside, whatever the weights are stored in.
"""

import os
from dataclasses import dataclass
from math import e

import mlx.core as mx
import numpy as np

from spec.moe import ExpertWeights, QuantizedExpertWeights, QuantizedMatrix, SharedExpert

from .checks import Experts

# Rows that an expert is given when it has fewer: its last row over and over. On two cores, 32 products with
# a (1024, 512) matrix take 5.7 ms for 1 row, 2.1 for 2, 2.9 for 3, 2.7 for 4, 3.7 for 5, 4.7 for 6, 5.9 for
# 7, 5.2 for 8, 8 to 9 for 9 to 15 and 7.0 for 16: the BLAS shares no product of one row, and likes 16.
SIZES = (2, 4, 5, 6, 8, 16)
# Rows up to which the matrix is the left operand, (F × D)(D × rows), and a copy turns the result round: 2.1
# instead of 8.2 ms for 2 rows, 7.9 instead of 8.2 for 16; for 32 it is 11.3 both ways.
TURNED = 16
# Rows up to which a quantised matrix is multiplied as it is, 0.9 ns a weight and row; to expand it takes 1.7.
PACKED = 2
# Activations from which another thread gains more than the two evaluations that it takes: 4 ns each.
WORTH_A_THREAD = 1 << 18

# Each CPU stream has one thread. Thread-local: a stream may only be used on the thread that made it, and the
# caller may come from any.
STREAMS = [mx.new_thread_local_stream(mx.cpu) for _ in range(min(4, os.cpu_count() or 1) - 1)]


@dataclass(frozen=True)
class Part:
    """Experts that are given the same number of rows, and how their products are computed."""

    experts: mx.array  # (m,) ids
    rows: np.ndarray  # (m, size) which rows, an expert's last one repeated
    stream: mx.Stream
    turned: bool  # the matrix is the left operand
    packed: bool  # the matrix is multiplied as it is, quantised


def all_streams() -> list[mx.Stream]:
    """Every stream that this thread can compute on, its default stream first."""
    device = mx.default_device()
    return [mx.default_stream(device), *(STREAMS if device == mx.cpu else [])]


def through_experts(
    x: mx.array, source: np.ndarray, offsets: np.ndarray, experts: Experts, streams: list[mx.Stream]
) -> tuple[mx.array, np.ndarray]:
    """Row source[i] of x goes through expert e for offsets[e] <= i < offsets[e + 1].

    x: (n, D) float32, evaluated. Returns (rows, D) float32, and for each i which of these rows is its own.
    """
    parts = _parts(offsets, experts, streams)
    place, first = np.zeros(len(source), np.int64), 0
    for part in parts:
        place[part.rows] = first + np.arange(part.rows.size).reshape(part.rows.shape)
        first += part.rows.size
    out = _networks(parts, [mx.array(source[part.rows]) for part in parts], x, experts, streams)
    return (mx.concatenate(out) if out else mx.zeros((0, x.shape[1]))), place


def one_through_experts(x: mx.array, ids: np.ndarray, experts: Experts, streams: list[mx.Stream]) -> mx.array:
    """x: (1, D) float32, evaluated. Returns what each of these experts makes of it, (k, D) float32.

    As `through_experts`, without sorting or padding: every step of a model that generates is such a call.
    """
    out = []
    for part in _deal(ids, np.zeros((len(ids), 1), np.int64), experts, streams):
        out += _networks([part], [None], x, experts, streams)
        mx.async_eval(out)  # one stream begins while the next one's work is described
    return mx.concatenate(out)


def through_shared(x: mx.array, shared: SharedExpert, streams: list[mx.Stream]) -> mx.array:
    """(T, D) float32 through the expert that every token visits."""
    alone = ExpertWeights(shared.gate[None], shared.up[None], shared.down[None])
    tokens = x.shape[0]
    if tokens == 1:
        out = one_through_experts(x, np.array([0]), alone, streams)
    else:
        out, place = through_experts(x, np.arange(tokens), np.array([0, tokens]), alone, streams)
        out = out[mx.array(place)]
    if shared.gate_weight is None:
        return out
    return out * sigmoid(x @ shared.gate_weight.astype(mx.float32)[:, None])


# Which rows go together, and where they are computed ------------------------------------------------------


def _parts(offsets: np.ndarray, experts: Experts, streams: list[mx.Stream]) -> list[Part]:
    sizes = (1, *SIZES) if isinstance(experts, QuantizedExpertWeights) else SIZES
    in_place = _in_place(experts)
    counts = np.diff(offsets)
    used = np.flatnonzero(counts)
    size_of = np.array([next((size for size in sizes if size >= n), n) for n in counts[used].tolist()])
    parts: list[Part] = []
    for size in sorted(set(size_of.tolist())):
        ids = used[size_of == size]
        rows = offsets[ids][:, None] + np.minimum(np.arange(size), counts[ids][:, None] - 1)
        turn = 0 if in_place else len(parts) % len(streams)  # the BLAS's threads are enough: on one stream
        parts += _deal(ids, rows, experts, streams[turn:] + streams[:turn])
    return parts


def _deal(ids: np.ndarray, rows: np.ndarray, experts: Experts, streams: list[mx.Stream]) -> list[Part]:
    """Experts of as many rows each, dealt to the streams."""
    size = rows.shape[1]
    in_place = _in_place(experts)
    packed = isinstance(experts, QuantizedExpertWeights) and size <= PACKED
    turned = not packed and 1 < size <= TURNED
    if in_place and size > 1:
        pieces = 1  # the BLAS has threads of its own
    elif in_place or packed:
        pieces = min(len(streams), len(ids))
    else:
        pieces = len(ids)  # copies in float32, one expert's at a time
    parts = []
    for i in range(pieces):
        mine = slice(len(ids) * i // pieces, len(ids) * (i + 1) // pieces)
        parts.append(Part(mx.array(ids[mine]), rows[mine], streams[i % len(streams)], turned, packed))
    return parts


def _in_place(experts: Experts) -> bool:
    """Whether the matrices can be multiplied where they lie: `gather_mm` takes float32 only on CPU."""
    matrices = (
        (experts.up, experts.down) if experts.gate is None else (experts.gate, experts.up, experts.down)
    )
    return isinstance(experts, ExpertWeights) and all(matrix.dtype == mx.float32 for matrix in matrices)


# Products and activations ---------------------------------------------------------------------------------


def _networks(
    parts: list[Part],
    rows: list[mx.array | None],
    x: mx.array,
    experts: Experts,
    streams: list[mx.Stream],
) -> list[mx.array]:
    """(m · size, D) of each part. rows: (m, size) which rows of x; None for the only one, for each expert."""
    inner = []
    for part, which in zip(parts, rows, strict=True):
        with mx.stream(part.stream):
            inner.append(_inner(x[None] if which is None else x[which], part, experts))
    hidden = _activate(inner, parts, experts, streams)
    out = []
    for part, each in zip(parts, hidden, strict=True):
        with mx.stream(part.stream):
            result = _product(each, part, experts, experts.down, experts.down_bias)
            out.append((result.swapaxes(1, 2) if part.turned else result).flatten(0, 1))
    return out


def _inner(rows: mx.array, part: Part, experts: Experts) -> list[mx.array]:
    """What is activated: up, or gate and up."""
    up = _product(rows, part, experts, experts.up, experts.up_bias)
    if experts.gate is None:
        return [up]
    return [_product(rows, part, experts, experts.gate, experts.gate_bias), up]


def _product(
    rows: mx.array,
    part: Part,
    experts: Experts,
    matrix: mx.array | QuantizedMatrix,
    bias: mx.array | None,
) -> mx.array:
    """rows: (m, size, columns), times the matrix of each of m experts, plus its bias: (m, size, its rows).

    Turned round, the last two axes change places.
    """
    which = part.experts
    if part.packed:
        packed, options = (matrix.codes, matrix.scales, matrix.biases), (experts.group_size, experts.bits)
        out = mx.gather_qmm(rows, *packed, None, which, True, *options)
    else:
        if isinstance(matrix, QuantizedMatrix) or matrix.dtype != mx.float32:
            matrix, which = _widened(matrix, which.item(), experts), None
        if part.turned:
            out = mx.gather_mm(matrix, rows.swapaxes(1, 2), which)
        else:
            out = mx.gather_mm(rows, matrix.swapaxes(1, 2), None, which)
    if bias is None:
        return out
    return out + mx.expand_dims(bias[part.experts].astype(mx.float32), 2 if part.turned else 1)


def _widened(matrix: mx.array | QuantizedMatrix, i: int, experts: Experts) -> mx.array:
    """Expert i's matrix in float32, (1, rows, columns)."""
    if isinstance(matrix, QuantizedMatrix):
        codes, scales, biases = (each[i : i + 1] for each in (matrix.codes, matrix.scales, matrix.biases))
        return mx.dequantize(codes, scales, biases, experts.group_size, experts.bits)
    return matrix[i : i + 1].astype(mx.float32)


def _activate(
    inner: list[list[mx.array]], parts: list[Part], experts: Experts, streams: list[mx.Stream]
) -> list[mx.array]:
    """(m, size, F) of each part, ready for the last product. Where they are many, on all streams."""
    many = sum(each[0].size for each in inner) >= WORTH_A_THREAD and _in_place(experts)
    if many:
        mx.eval(inner)  # a stream that waits for an array of another waits for all of that one's work
    else:
        streams = [part.stream for part in parts]
    hidden = []
    for i, (part, products) in enumerate(zip(parts, inner, strict=True)):
        with mx.stream(streams[i % len(streams)]):
            each = _activated(products, experts)
            hidden.append(mx.contiguous(each.swapaxes(1, 2)) if part.turned else each)
    if many:
        mx.eval(hidden)
    return hidden


def _activated(products: list[mx.array], experts: Experts) -> mx.array:
    gate, up = products[0], products[-1]
    if experts.activation == "swigluoai":
        gate, up = mx.minimum(gate, experts.limit), mx.clip(up, -experts.limit, experts.limit)
        return (up + 1) * gate * sigmoid(experts.alpha * gate)
    active = silu(gate) if experts.activation == "silu" else mx.maximum(gate, 0)
    return active if experts.gate is None else active * up


def silu(x: mx.array) -> mx.array:
    return x / (1 + mx.power(1 / e, x))


def sigmoid(x: mx.array) -> mx.array:
    """A third of the time of `mx.sigmoid` on MLX's CPU back end. Where e ** −x is inf, the result is 0."""
    return 1 / (1 + mx.power(1 / e, x))
