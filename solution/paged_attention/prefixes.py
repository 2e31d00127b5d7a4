"""What published blocks hold: prefixes of token ids, one object for each.

A prefix is its parent, the tokens of its last block, and what keeps tenants apart. Equal prefixes are the
same object while anything needs it (a block, a longer prefix, a sequence), so comparing a parent by identity
compares everything before the block: a colliding hash is harmless, and nothing keeps the tokens of a whole
prompt once for every block.
"""

import hashlib
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from spec.paged_attention import BlockHash


@dataclass(eq=False)  # equal is identical
class Prefix:
    parent: "Prefix | None"
    hash: bytes
    blocks: dict[int, None] = field(default_factory=dict)  # that hold its last block, in order of publication


class PrefixIndex:
    """Finds the one Prefix object of a chain of blocks."""

    def __init__(self, block_hash: BlockHash | None) -> None:
        self._block_hash = block_hash or _sha256
        # (parent, hash, tokens, salt, adapter) -> Prefix. Weak: a prefix that nothing needs is forgotten.
        self._known: WeakValueDictionary[tuple, Prefix] = WeakValueDictionary()

    def find(self, parent: Prefix | None, tokens: tuple[int, ...], salt: str | None, adapter: str | None):
        """The prefix that extends `parent` by the block `tokens`, or None when it is not known."""
        return self._known.get(self._key(parent, tokens, salt, adapter))

    def intern(self, parent: Prefix | None, tokens: tuple[int, ...], salt: str | None, adapter: str | None):
        """The prefix that extends `parent` by the block `tokens`, made known if it is new."""
        key = self._key(parent, tokens, salt, adapter)
        prefix = self._known.get(key)
        if prefix is None:
            prefix = self._known[key] = Prefix(parent, key[1])
        return prefix

    def _key(self, parent: Prefix | None, tokens: tuple[int, ...], salt: str | None, adapter: str | None):
        extras = [] if adapter is None else [("adapter", adapter)]
        if salt is not None and parent is None:  # the chain carries it on from the first block
            extras.append(("salt", salt))
        parent_hash = None if parent is None else parent.hash
        return parent, self._block_hash(parent_hash, tokens, tuple(extras)), tokens, salt, adapter


def _sha256(parent: bytes | None, tokens: tuple[int, ...], extras: tuple[tuple[str, str], ...]) -> bytes:
    return hashlib.sha256(repr((parent, tokens, extras)).encode("utf-8", "surrogatepass")).digest()
