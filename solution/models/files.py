"""Where the tensors of a file lie, read before anyone maps it: a file that was cut off is told by name."""

import json
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO

from spec import InvalidArgument

# Safetensors: 8 bytes for the length of a JSON header, which says where in the rest each tensor lies.


def check_safetensors(path: Path) -> None:
    """Raises InvalidArgument when the file ends before its tensors do."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(_read(file, 8, path), "little")
        if start > size:
            raise _cut_off(path, "its header", start, size)
        try:
            header = json.loads(file.read(start - 8))
        except ValueError as error:
            raise InvalidArgument(f"{path}: expected a safetensors file, got a header {error}") from None
    header.pop("__metadata__", None)
    _check_ends(path, ((name, start + entry["data_offsets"][1]) for name, entry in header.items()), size)


# GGUF: a header of keys and values, a list of tensors, then their data. Format: ggml's docs/gguf.md.

SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # type -> bytes
STRING, ARRAY = 8, 9
BLOCKS = {  # type of a tensor -> elements and bytes of a block
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    8: (32, 34),  # Q8_0
    30: (1, 2),  # BF16
}


def check_gguf(path: Path) -> None:
    """Raises InvalidArgument when the file ends before its tensors do, or is no GGUF file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = _read(file, 4, path)
        if magic != b"GGUF":
            raise InvalidArgument(f"{path}: expected a GGUF file, got one that begins with {magic!r}")
        _, tensors, settings = struct.unpack("<IQQ", _read(file, 20, path))
        alignment = 32
        for _ in range(settings):
            key = _string(file, path)
            value = _value(file, path, _integer(file, 4, path))
            if key == b"general.alignment":
                alignment = int.from_bytes(value, "little")
        entries = [_tensor(file, path) for _ in range(tensors)]
        start = -(-file.tell() // alignment) * alignment
    _check_ends(path, ((name, start + end) for name, end in entries), size)


def _tensor(file: BinaryIO, path: Path) -> tuple[str, int]:
    """Its name, and where it ends in the data."""
    name = _string(file, path).decode(errors="replace")
    shape = [_integer(file, 8, path) for _ in range(_integer(file, 4, path))]
    kind, offset = _integer(file, 4, path), _integer(file, 8, path)
    elements, of_block = BLOCKS.get(kind, (1, 0))  # of another kind only the beginning is known
    return name, offset + prod(shape) // elements * of_block


def _value(file: BinaryIO, path: Path, kind: int) -> bytes:
    if kind in SCALARS:
        return _read(file, SCALARS[kind], path)
    if kind == STRING:
        return _string(file, path)
    if kind != ARRAY:
        raise InvalidArgument(f"{path}: expected a GGUF file, got a value of type {kind}")
    of, count = _integer(file, 4, path), _integer(file, 8, path)
    if of in SCALARS:
        return _read(file, SCALARS[of] * count, path)
    for _ in range(count):
        _value(file, path, of)
    return b""


def _string(file: BinaryIO, path: Path) -> bytes:
    return _read(file, _integer(file, 8, path), path)


def _integer(file: BinaryIO, count: int, path: Path) -> int:
    return int.from_bytes(_read(file, count, path), "little")


def _read(file: BinaryIO, count: int, path: Path) -> bytes:
    found = file.read(count)
    if len(found) < count:
        size = path.stat().st_size
        raise _cut_off(path, "its header", size - len(found) + count, size)
    return found


def _check_ends(path: Path, ends: Iterator[tuple[str, int]], size: int) -> None:
    for name, end in sorted(ends, key=lambda entry: entry[1]):
        if end > size:
            raise _cut_off(path, name, end, size)


def _cut_off(path: Path, what: str, end: int, size: int) -> InvalidArgument:
    return InvalidArgument(f"{path}: {what}: expected a file of at least {end} bytes, got {size}")
