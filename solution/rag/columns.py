"""Vectors as the columns of blocks."""

from collections.abc import Iterable, Iterator

import numpy as np

BLOCK = 1 << 14  # vectors: with a fourth the cost is the same on free cores, with a 16th half as much again


class Columns:
    """Vectors (dim,) float32, with numbers from 0 on.

    A block is (dim, BLOCK): the product of a few rows with it reads memory at its full speed, 1.5 times as
    fast as with a vector a row. What grows is never copied.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._blocks: list[np.ndarray] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, rows: np.ndarray) -> None:
        """rows: (n, dim)"""
        while len(rows):
            block, column = divmod(self._count, BLOCK)
            if block == len(self._blocks):
                self._blocks.append(np.zeros((self._dim, BLOCK), np.float32))
            some, rows = rows[: BLOCK - column], rows[BLOCK - column :]
            self._blocks[block][:, column : column + len(some)] = some.T
            self._count += len(some)

    def put(self, number: int, row: np.ndarray) -> None:
        self._blocks[number // BLOCK][:, number % BLOCK] = row

    def drop(self, number: int) -> None:
        """The last one takes its number."""
        self._count -= 1
        if number < self._count:
            self.put(number, self._blocks[self._count // BLOCK][:, self._count % BLOCK])
        self._blocks = self._blocks[: -(-self._count // BLOCK)]

    def take(self, numbers: Iterable[int]) -> np.ndarray:
        """(n, dim)"""
        rows = [self._blocks[number // BLOCK][:, number % BLOCK] for number in numbers]
        return np.array(rows, np.float32).reshape(-1, self._dim)

    def rows(self) -> Iterator[np.ndarray]:
        """All of them in order, in pieces (n, dim)."""
        for i, block in enumerate(self._blocks):
            yield np.ascontiguousarray(block[:, : self._count - i * BLOCK].T)

    def products(self, queries: np.ndarray) -> np.ndarray:
        """queries: (m, dim) float32. Their inner products with all, (m, n), in the arithmetic of the BLAS."""
        products = np.empty((len(queries), self._count), np.float32)
        for i, block in enumerate(self._blocks):
            part = products[:, i * BLOCK : (i + 1) * BLOCK]
            np.matmul(queries, block[:, : part.shape[1]], out=part)
        return products
