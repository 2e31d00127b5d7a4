"""Token trees: what one pass tries after the last token of a context."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .checks import expect


@dataclass(frozen=True)
class Tree:
    """parents: of each node, −1 for the context's last token; depths: how many ancestors each has; sees:
    (nodes, nodes) bool, the ancestors of each and itself."""

    parents: tuple[int, ...]
    depths: tuple[int, ...]
    sees: np.ndarray

    @property
    def is_chain(self) -> bool:
        return self.parents == tuple(range(-1, len(self.parents) - 1))

    def check_path(self, path: Sequence[int]) -> None:
        """From a child of the context on, each the parent of the next."""
        above = -1
        for node in path:
            fits = 0 <= node < len(self.parents) and self.parents[node] == above
            expect(fits, "path", f"a child of node {above} each time", list(path))
            above = node


def tree(parents: Sequence[int], count: int) -> Tree:
    expect(len(parents) == count, "parents", f"one for each of {count} tokens", len(parents))
    depths: list[int] = []
    sees = np.eye(count, dtype=bool)
    for node, parent in enumerate(parents):
        expect(-1 <= parent < node, "parents", "−1 or an earlier token for each", list(parents))
        depths.append(0 if parent < 0 else depths[parent] + 1)
        if parent >= 0:
            sees[node] |= sees[parent]
    return Tree(tuple(parents), tuple(depths), sees)
