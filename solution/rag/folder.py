"""A folder on a disk as the `Storage` of an index."""

import os
from pathlib import Path

from spec.rag import Storage


def folder(path: Path) -> Storage:
    """The files of `path`, which is made when something is written. A rename is durable once it returned."""

    def read(name: str) -> bytes | None:
        try:
            return (path / name).read_bytes()
        except FileNotFoundError:
            return None

    def names() -> list[str]:
        return sorted(each.name for each in path.iterdir() if each.is_file()) if path.is_dir() else []

    def write(name: str, data: bytes) -> None:
        path.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)

    def sync(name: str) -> None:
        _flush(path / name)
        _flush(path)

    def rename(old: str, new: str) -> None:
        (path / old).replace(path / new)
        _flush(path)

    def remove(name: str) -> None:
        (path / name).unlink()
        _flush(path)

    return Storage(read, names, write, sync, rename, remove)


def _flush(path: Path) -> None:
    """What was written into a file, or into a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
