"""Texts in pieces that overlap."""

from collections import Counter
from copy import deepcopy
from hashlib import sha256

from spec.rag import Chunk

from .basics import expect


def split(text, *, doc_id, size, overlap, length=None, separators=(), metadata=None):
    length = len if length is None else length
    check_cutting(size, overlap, separators)
    for point in sorted(set(text)):
        expect(length(point) <= size, "size", f"room for every code point, and so for {point!r}", size)
    chunks, times, start, end = [], Counter(), 0, 0
    while end < len(text):
        if chunks:
            start = next_start(text, start, end, size, overlap, length, separators)
        end = next_end(text, start, end, size, length, separators)
        piece = text[start:end]
        chunk_id = f"{doc_id}#{sha256(piece.encode()).hexdigest()[:16]}"
        if times[piece]:
            chunk_id += f"-{times[piece]}"
        times[piece] += 1
        chunks.append(Chunk(chunk_id, doc_id, start, end, piece, deepcopy(metadata or {})))
    return chunks


def next_end(text, start, last_end, size, length, separators):
    """Where a chunk ends that begins at `start`, after one that ended at `last_end`."""
    most = last_end + 1  # so far it fits
    while most < len(text) and length(text[start : most + 1]) <= size:
        most += 1
    if most == len(text):
        return most
    for separator in separators:
        for end in range(most, last_end, -1):
            if text.endswith(separator, 0, end):
                return end
    return most


def next_start(text, start, end, size, overlap, length, separators):
    """Where the chunk after text[start:end] begins."""
    allowed = []
    for at in range(start + 1, end + 1):
        if length(text[at:end]) <= overlap and length(text[at : end + 1]) <= size:
            allowed.append(at)
    joints = [at for at in allowed if any(text.endswith(each, 0, at) for each in separators)]
    return joints[0] if joints else allowed[0]


def check_cutting(size, overlap, separators):
    expect(size >= 1, "size", "at least 1", size)
    expect(0 <= overlap < size, "overlap", f"0 to {size - 1}", overlap)
    expect(all(separators), "separators", "strings that are not empty", list(separators))
