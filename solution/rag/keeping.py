"""What survives a crash, and tells when it was damaged: values that JSON has, and bytes after them."""

import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from spec import DamagedIndex, NothingSaved
from spec.rag import Storage

NAME = "index"
UNFINISHED = "index.new"  # nobody reads it, and the next one to be written takes its place
DIGEST = sha256().digest_size
HEAD = 8  # bytes: how long the JSON is


def keep(storage: Storage, content: dict[str, Any], pieces: Iterable[bytes]) -> None:
    text = json.dumps(content).encode()
    data = b"".join([len(text).to_bytes(HEAD, "little"), text, *pieces])
    storage.write(UNFINISHED, sha256(data).digest() + data)
    storage.sync(UNFINISHED)
    storage.rename(UNFINISHED, NAME)


def kept(storage: Storage) -> tuple[dict[str, Any], memoryview]:
    """Raises NothingSaved, DamagedIndex."""
    found = storage.read(NAME)
    if found is None:
        raise NothingSaved(f"storage: expected a file {NAME!r}, got {storage.names()}")
    data = memoryview(found)[DIGEST:]
    if sha256(data).digest() != found[:DIGEST]:
        raise DamagedIndex(f"storage: expected in {NAME!r} what was saved, got {len(found)} other bytes")
    end = HEAD + int.from_bytes(data[:HEAD], "little")
    return json.loads(bytes(data[HEAD:end])), data[end:]
