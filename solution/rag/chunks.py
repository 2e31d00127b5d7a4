"""Texts in pieces that overlap."""

from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from hashlib import sha256

from spec.rag import Chunk, Metadata

from .checks import expect


def split(
    text: str,
    *,
    doc_id: str,
    size: int,
    overlap: int,
    length: Callable[[str], int] | None = None,
    separators: Sequence[str] = (),
    metadata: Metadata | None = None,
) -> list[Chunk]:
    """With a `length` that is not monotone an end and a beginning are found that fit, not the first ones."""
    check_cutting(size, overlap, separators)
    length = length or len
    for point in sorted(set(text)):
        expect(length(point) <= size, "size", f"room for every code point, and so for {point!r}", size)
    chunks: list[Chunk] = []
    times: Counter[str] = Counter()
    start = end = 0
    while end < len(text):
        if chunks:
            start = _next_start(text, start, end, size, overlap, length, separators)
        end = _next_end(text, start, end, size, length, separators)
        piece = text[start:end]
        chunk_id = f"{doc_id}#{sha256(piece.encode()).hexdigest()[:16]}"
        repeated = f"-{times[chunk_id]}" if times[chunk_id] else ""
        times[chunk_id] += 1
        chunks.append(Chunk(chunk_id + repeated, doc_id, start, end, piece, deepcopy(metadata or {})))
    return chunks


def check_cutting(size: int, overlap: int, separators: Sequence[str]) -> None:
    expect(size >= 1, "size", "at least 1", size)
    expect(0 <= overlap < size, "overlap", f"0 to {size - 1}", overlap)
    expect(all(separators), "separators", "strings that are not empty", list(separators))


def _next_end(
    text: str,
    start: int,
    last_end: int,
    size: int,
    length: Callable[[str], int],
    separators: Sequence[str],
) -> int:
    """Where a chunk ends that begins at `start`, after one that ended at `last_end`."""

    def fits(end: int) -> bool:
        return length(text[start:end]) <= size

    most = _last(fits, last_end + 1, len(text))
    if most < len(text):
        for separator in separators:
            joint = _joint(text, separator, last_end, most)
            while joint and not fits(joint):  # where more counts less
                joint = _joint(text, separator, last_end, joint - 1)
            if joint:
                return joint
    return most


def _joint(text: str, separator: str, after: int, most: int) -> int:
    """The last joint of the separator that is more than `after` and at most `most`; 0 if none is."""
    found = text.rfind(separator, max(after + 1 - len(separator), 0), most)
    return found + len(separator) if found >= 0 else 0


def _next_start(
    text: str,
    start: int,
    end: int,
    size: int,
    overlap: int,
    length: Callable[[str], int],
    separators: Sequence[str],
) -> int:
    """Where the chunk after text[start:end] begins."""

    def repeats_too_much(at: int) -> bool:
        return length(text[at:end]) > overlap or length(text[at : end + 1]) > size

    first = start + 1
    if first < end and repeats_too_much(first):
        first = _last(repeats_too_much, first, end - 1) + 1
    joints = []
    for separator in separators:
        found = text.find(separator, max(first - len(separator), 0), end)
        if found >= 0:
            joints.append(found + len(separator))
    return min(joints, default=first)


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """From `low`, where it holds, on: where it holds and at the next does not, or `high`. In steps that grow,
    then by halves."""
    step = 1
    while low + step <= high and holds(low + step):
        low, step = low + step, 2 * step
    above = min(low + step, high + 1)  # there it does not hold
    while above - low > 1:
        middle = (low + above) // 2
        low, above = (middle, above) if holds(middle) else (low, middle)
    return low
