"""Vectors by their ids, searched exactly.

A search is two steps. The BLAS gives float32 products of all vectors, whose last bits depend on where a
vector lies and how many queries there are. Whoever may be among the k best within the bound of that error is
looked at again, alone and in float64: equal vectors have equal scores, and a query's are the same in any
batch.
"""

from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy

import mlx.core as mx
import numpy as np

from spec.rag import Hit, Metadata, Storage, Where

from .checks import checked_queries, checked_vectors, expect, expect_there
from .columns import Columns
from .conditions import compiled
from .keeping import keep, kept
from .ranking import contenders, hits

METRICS = ("cosine", "ip", "l2")
PRODUCTS = 1 << 23  # that are computed at once: 32 MB
PART = 4096  # vectors that are widened to float64 at once


class VectorIndex:
    """Within the error of float32 an index finds those that it looks at again. They are few, unless very many
    vectors are equal for a query: with "l2" also if all lie far from 0 and, a thousandth of that, together.
    """

    def __init__(self, dim: int, *, metric: str = "cosine") -> None:
        expect(dim >= 1, "dim", "at least 1", dim)
        expect(metric in METRICS, "metric", "cosine, ip or l2", metric)
        self.dim, self._metric = dim, metric
        self._columns = Columns(dim)
        self._squares = np.zeros(0)  # of lengths, (n,) float64
        self._ids: list[str] = []
        self._metadata: list[Metadata] = []
        self._numbers: dict[str, int] = {}  # of columns, by their ids
        self._factors: np.ndarray | None = None

    def add(self, ids: Sequence[str], vectors: mx.array, metadata: Sequence[Metadata] | None = None) -> None:
        rows, metadata = checked_vectors(ids, vectors, metadata, self.dim)
        squares = np.concatenate([np.zeros(0), *(_dot(part, part) for part in _parts(rows))])
        copies, new = [copied(each) for each in metadata], []
        for i, each in enumerate(ids):
            number = self._numbers.get(each)
            if number is None:
                new.append(i)
            else:
                self._columns.put(number, rows[i])
                self._squares[number], self._metadata[number] = squares[i], copies[i]
        self._numbers.update((ids[i], len(self._ids) + n) for n, i in enumerate(new))
        self._ids += [ids[i] for i in new]
        self._metadata += [copies[i] for i in new]
        self._squares = np.concatenate([self._squares, squares[new]])
        self._columns.append(rows if len(new) == len(ids) else rows[new])
        self._factors = None

    def remove(self, ids: Sequence[str]) -> None:
        expect_there(ids, self._numbers, "ids")
        for each in set(ids):
            number = self._numbers.pop(each)
            self._columns.drop(number)
            last, metadata = self._ids.pop(), self._metadata.pop()
            if last != each:
                self._ids[number], self._metadata[number], self._numbers[last] = last, metadata, number
            self._squares[number] = self._squares[len(self._ids)]
        self._squares = self._squares[: len(self._ids)]
        self._factors = None

    def set_metadata(self, ids: Sequence[str], metadata: Sequence[Metadata]) -> None:
        """In place of those of before; vectors stay. All of the ids are there."""
        for each, new in zip(ids, metadata, strict=True):
            self._metadata[self._numbers[each]] = copied(new)

    def ids(self) -> list[str]:
        return sorted(self._ids)

    def get(self, ids: Sequence[str]) -> list[Metadata]:
        expect_there(ids, self._numbers, "ids")
        return [copied(self._metadata[self._numbers[each]]) for each in ids]

    def search(
        self,
        queries: mx.array,
        k: int,
        *,
        where: Where | None = None,
        among: Collection[str] | None = None,
    ) -> list[list[Hit]]:
        """among: ids of the only ones that may be found."""
        rows = checked_queries(queries, k, self.dim)
        hidden = self._hidden({} if where is None else where, among)
        if not self._ids:
            return [[] for _ in rows]
        at_once = max(PRODUCTS // len(self._ids), 1)
        return [
            hits_of_one
            for first in range(0, len(rows), at_once)
            for hits_of_one in self._found(rows[first : first + at_once].astype(np.float64), k, hidden)
        ]

    def save(self, storage: Storage) -> None:
        content = {"dim": self.dim, "metric": self._metric, "ids": self._ids, "metadata": self._metadata}
        keep(storage, content, (rows.astype("<f4").tobytes() for rows in self._columns.rows()))

    # Searching ----------------------------------------------------------------------------------------------

    def _hidden(self, where: Where, among: Collection[str] | None) -> np.ndarray | None:
        """(n,) bool: what may not be found."""
        met = compiled(where)
        hidden = np.zeros(len(self._ids), bool)
        if where:
            hidden = ~np.fromiter(map(met, self._metadata), bool, len(self._ids))
        if among is not None:
            others = np.ones(len(self._ids), bool)
            others[[self._numbers[each] for each in among]] = False
            hidden |= others
        return hidden if where or among is not None else None

    def _found(self, queries: np.ndarray, k: int, hidden: np.ndarray | None) -> Iterator[list[Hit]]:
        """queries: (m, dim) float64"""
        longest = float(np.sqrt(self._squares.max()))
        lengths = np.sqrt(_dot(queries, queries))
        scales = np.maximum(lengths, longest) if self._metric == "l2" else lengths
        scales[scales == 0] = 1
        rows = self._columns.products((queries / scales[:, None]).astype(np.float32))
        # d products and as many sums have a relative error of at most d units of 2 ** -24 each; so have both
        # that are compared. 8 more are for what is rounded before and after, a quarter for second order.
        slack = 2.5 * (self.dim + 8) * 2.0**-24 * (1 if self._metric == "cosine" else longest)
        for query, scale, scores in zip(queries, scales, rows, strict=True):
            self._weigh(scores, scale)
            if hidden is not None:
                scores[hidden] = -np.inf
            found = contenders(scores, k, slack=slack).tolist()
            exact = [self._similarities(query, some) for some in _parts(found)]
            yield hits([self._ids[i] for i in found], [score for some in exact for score in some], k)

    def _weigh(self, products: np.ndarray, scale: float) -> None:
        """Makes of the products (n,) of a query divided by `scale` what is larger where the score is."""
        if self._factors is None:
            if self._metric == "cosine":
                lengths = np.sqrt(self._squares)
                factors = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
            else:
                factors = self._squares / 2
            self._factors = factors.astype(np.float32 if self._metric == "cosine" else np.float64)
        if self._metric == "cosine":
            products *= self._factors
        elif self._metric == "l2":
            products -= (self._factors / scale).astype(np.float32)

    def _similarities(self, query: np.ndarray, numbers: list[int]) -> list[float]:
        """Of the query (dim,) and each of these, each by itself: no other changes a bit of it."""
        rows = self._columns.take(numbers).astype(np.float64)  # (n, dim)
        if self._metric == "l2":
            return (0.0 - _dot(rows - query, rows - query)).tolist()
        products = _dot(rows, query)
        if self._metric == "ip":
            return products.tolist()
        # What is compared is the square: it is a fraction, and as rounded equal where two of them are.
        squares = self._squares[numbers] * _dot(query[None], query)
        shares = np.divide(products * np.abs(products), squares, out=np.zeros(len(rows)), where=squares > 0)
        return (np.sign(shares) * np.sqrt(np.minimum(np.abs(shares), 1))).tolist()


def load_index(storage: Storage) -> VectorIndex:
    content, data = kept(storage)
    index = VectorIndex(content["dim"], metric=content["metric"])
    rows = np.frombuffer(data, "<f4").reshape(-1, index.dim)
    index.add(content["ids"], rows, content["metadata"])
    return index


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) float64: inner products of rows (n, dim), in an order of sums that depends on dim alone."""
    return np.multiply(a, b, dtype=np.float64, order="C").sum(axis=1)


def _parts(rows):
    return (rows[first : first + PART] for first in range(0, len(rows), PART))


def copied(metadata: Metadata) -> Metadata:
    return {
        name: deepcopy(value) if isinstance(value, list | dict) else value for name, value in metadata.items()
    }
