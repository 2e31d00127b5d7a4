"""Paged attention in MLX; the rules are in spec/paged_attention.md.

`kernels.py` computes attention where the blocks lie, `pages.py` turns positions into addresses and checks
what comes from outside, `allocator.py` counts references, `prefixes.py` knows what published blocks hold,
and `cache.py` puts the sequences together.
"""

from .allocator import BlockAllocator
from .cache import PagedKVCache
from .pages import fragmentation, paged_attention, slot_mapping, to_csr, write_slots

__all__ = [
    "BlockAllocator",
    "PagedKVCache",
    "fragmentation",
    "paged_attention",
    "slot_mapping",
    "to_csr",
    "write_slots",
]
