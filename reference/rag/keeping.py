"""Bytes that survive a crash, and tell when they were damaged."""

from hashlib import sha256

from spec import DamagedIndex, NothingSaved

NAME = "index"
UNFINISHED = "index.new"  # nobody reads it
DIGEST = 32  # bytes of a SHA-256


def keep(storage, data):
    storage.write(UNFINISHED, sha256(data).digest() + data)
    storage.sync(UNFINISHED)
    storage.rename(UNFINISHED, NAME)


def kept(storage):
    found = storage.read(NAME)
    if found is None:
        raise NothingSaved(f"storage: expected a file {NAME!r}, got {storage.names()}")
    digest, data = found[:DIGEST], found[DIGEST:]
    if digest != sha256(data).digest():
        raise DamagedIndex(f"storage: expected in {NAME!r} what was saved, got {len(found)} other bytes")
    return data
