"""Bytes that survive a crash, and tell when they were damaged."""

from hashlib import sha256

from spec import DamagedIndex, NothingSaved
from spec.rag import Storage

NAME = "index"
UNFINISHED = "index.new"  # nobody reads it, and the next one to be written takes its place
DIGEST = sha256().digest_size


def keep(storage: Storage, data: bytes) -> None:
    storage.write(UNFINISHED, sha256(data).digest() + data)
    storage.sync(UNFINISHED)
    storage.rename(UNFINISHED, NAME)


def kept(storage: Storage) -> memoryview:
    """Raises NothingSaved, DamagedIndex."""
    found = storage.read(NAME)
    if found is None:
        raise NothingSaved(f"storage: expected a file {NAME!r}, got {storage.names()}")
    data = memoryview(found)[DIGEST:]
    if sha256(data).digest() != found[:DIGEST]:
        raise DamagedIndex(f"storage: expected in {NAME!r} what was saved, got {len(found)} other bytes")
    return data
