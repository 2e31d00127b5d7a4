"""Reference counts of interchangeable blocks. Every operation costs O(1) per block it names."""

from collections import Counter
from collections.abc import Sequence

from spec import OutOfBlocks

from .checks import expect


class BlockAllocator:
    """A pool of interchangeable blocks with reference counts."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """All `num_blocks` blocks are free; their ids are 0 … num_blocks − 1."""
        expect(num_blocks >= 1, "num_blocks", "at least 1", num_blocks)
        expect(block_size >= 1, "block_size", "at least 1", block_size)
        self._refs = [0] * num_blocks
        self._free = list(range(num_blocks))[::-1]  # a stack: what was released last is warm in the caches

    def num_free(self) -> int:
        """Blocks with a reference count of 0."""
        return len(self._free)

    def allocate(self, n: int = 1) -> list[int]:
        """Takes n free blocks and gives each the reference count 1, or raises OutOfBlocks and takes none."""
        expect(n >= 0, "n", "at least 0", n)
        if n > len(self._free):
            raise OutOfBlocks(f"n: expected at most {len(self._free)} free blocks, got {n}")
        taken = [self._free.pop() for _ in range(n)]
        for block in taken:
            self._refs[block] = 1
        return taken

    def share(self, blocks: Sequence[int]) -> None:
        """Adds one reference for each entry of `blocks`, all of which must be allocated."""
        for block in blocks:
            expect(self.ref_count(block) > 0, "blocks", "allocated blocks", f"free block {block}")
        for block in blocks:
            self._refs[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Drops one reference for each entry of `blocks`; a block at 0 is free again."""
        for block, times in Counter(blocks).items():
            held = self.ref_count(block)
            expect(times <= held, "blocks", f"block {block} at most {held} times", times)
        for block in blocks:
            self._refs[block] -= 1
            if self._refs[block] == 0:
                self._free.append(block)

    def ref_count(self, block: int) -> int:
        """References to `block`, 0 when it is free."""
        expect(0 <= block < len(self._refs), "block", f"an id below {len(self._refs)}", block)
        return self._refs[block]
