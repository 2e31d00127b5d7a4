"""Which documents have a token, and how often.

Documents and tokens have numbers, in the order in which they came. What most documents have is laid out by
token; those that came since are looked through, and those that went are marked. Once either are many, all
of it is laid out anew, without those that went.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress, count

import numpy as np
from scipy.sparse import csr_matrix

LATE = 1 << 16  # tokens that are looked through in 10 µs; and a 32nd of all: in a third of what a query takes


@dataclass(frozen=True)
class Read:
    """Documents whose tokens are numbers. tokens: (sum(lengths),) int32, one document after another."""

    ids: list[str]
    lengths: np.ndarray
    tokens: np.ndarray


class Postings:
    """ids, lengths, there: of each number its document's id and tokens, and whether it is still there."""

    def __init__(self) -> None:
        self._vocabulary: dict[str, int] = defaultdict(count().__next__)
        self.numbers: dict[str, int] = {}  # of the documents that are there, by their ids
        self.ids: list[str] = []
        self.lengths = np.zeros(0, np.int64)
        self.there = np.zeros(0, bool)
        self._tokens = self._late = np.zeros(0, np.int32)  # of all documents, before and since `_lay_out`
        self._owners = np.zeros(0, np.int64)  # whose each of the late ones is
        self._lay_out()

    def read(self, documents: Mapping[str, Sequence[str]]) -> Read:
        """What `add` takes: nearly all of the work, and nothing of it is seen."""
        lengths = np.fromiter(map(len, documents.values()), np.int64, len(documents))
        tokens = map(self._vocabulary.__getitem__, chain.from_iterable(documents.values()))
        return Read(list(documents), lengths, np.fromiter(tokens, np.int32, int(lengths.sum())))

    def add(self, read: Read) -> None:
        """One whose id is there already takes its place."""
        self._mark(self.numbers.keys() & read.ids)
        first = len(self.ids)
        self.numbers.update(zip(read.ids, count(first)))
        self.ids += read.ids
        self.lengths = np.concatenate([self.lengths, read.lengths])
        self.there = np.concatenate([self.there, np.ones(len(read.ids), bool)])
        owners = np.repeat(np.arange(first, len(self.ids)), read.lengths)
        self._late = np.concatenate([self._late, read.tokens])
        self._owners = np.concatenate([self._owners, owners])
        self._tidy()

    def remove(self, ids: Iterable[str]) -> None:
        """All of them are there."""
        self._mark(set(ids))
        self._tidy()

    def of(self, token: str) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the documents that have the token, and how often each has it."""
        number = self._vocabulary.get(token, -1)
        documents, times = self._columns.indices[:0], self._columns.data[:0]
        if 0 <= number < len(self._columns.indptr) - 1:
            column = slice(*self._columns.indptr[number : number + 2])
            documents, times = self._columns.indices[column], self._columns.data[column]
        if len(self._late):
            more, more_times = np.unique(self._owners[self._late == number], return_counts=True)
            documents, times = np.concatenate([documents, more]), np.concatenate([times, more_times])
        if len(self.numbers) < len(self.ids):
            there = self.there[documents]
            documents, times = documents[there], times[there]
        return documents.astype(np.intp), times

    def frequencies(self) -> np.ndarray:
        """Of each token that a document has, how many have it."""
        columns, width = self._columns, len(self._vocabulary) + 1
        laid_out = np.repeat(np.arange(columns.shape[1]), np.diff(columns.indptr))
        late = np.unique(self._owners * width + self._late)  # each token of a document once
        found = np.bincount(
            np.concatenate([laid_out[self.there[columns.indices]], (late % width)[self.there[late // width]]])
        )
        return found[found > 0]

    def _mark(self, ids: Iterable[str]) -> None:
        """As gone."""
        gone = [self.numbers.pop(each) for each in ids]
        self.there[gone] = False

    def _tidy(self) -> None:
        if len(self._late) > max(LATE, len(self._tokens) // 32) or len(self.numbers) < len(self.ids) // 2:
            self._lay_out()

    def _lay_out(self) -> None:
        tokens = np.concatenate([self._tokens, self._late])
        if len(self.numbers) < len(self.ids):
            tokens = tokens[np.repeat(self.there, self.lengths)]
            self.ids = list(compress(self.ids, self.there))
            self.lengths = self.lengths[self.there]
            self.there = np.ones(len(self.ids), bool)
            self.numbers = dict(zip(self.ids, count()))
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        ones, shape = np.ones(len(tokens), np.int32), (len(self.ids), len(self._vocabulary))
        self._columns = csr_matrix((ones, tokens, starts), shape=shape).tocsc()
        self._columns.sum_duplicates()
        self._tokens, self._late, self._owners = tokens, self._late[:0], self._owners[:0]
