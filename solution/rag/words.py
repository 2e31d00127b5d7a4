"""BM25: documents ranked by the words of a query. Kamphuis et al. 2020, table 1.

What a token adds to each document is computed when a query first has it, and kept until documents change. A
query then adds up a few arrays: 2 ns for each document that has one of its tokens.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import compress
from math import fsum, log, log1p

import numpy as np

from spec.rag import Hit

from .checks import expect, expect_there
from .postings import Postings, Read
from .ranking import contenders, hits

VARIANTS = ("lucene", "robertson", "atire", "bm25l", "bm25+", "okapi")
WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Letters, digits and underscores, in small letters: a plain way to make tokens of a text."""
    return WORD.findall(text.lower())


class BM25:
    def __init__(
        self,
        documents: Mapping[str, Sequence[str]],
        *,
        variant: str = "lucene",
        k1: float = 1.5,
        b: float = 0.75,
        delta: float | None = None,
        epsilon: float = 0.25,
    ) -> None:
        expect(variant in VARIANTS, "variant", f"one of {', '.join(VARIANTS)}", variant)
        expect(k1 >= 0, "k1", "at least 0", k1)
        expect(0 <= b <= 1, "b", "0 to 1", b)
        expect(delta is None or delta >= 0, "delta", "at least 0", delta)
        expect(epsilon >= 0, "epsilon", "at least 0", epsilon)
        self._variant, self._k1, self._b, self._epsilon = variant, k1, b, epsilon
        self._delta = {"bm25l": 0.5, "bm25+": 1.0}.get(variant, 0.0) if delta is None else delta
        self._postings = Postings()
        self.add(documents)

    def scores(self, query: Sequence[str]) -> dict[str, float]:
        postings = self._postings
        summed, _ = self._summed(query)
        ids, values = compress(postings.ids, postings.there), summed[postings.there]
        return dict(zip(ids, values.tolist(), strict=True))

    def search(self, query: Sequence[str], k: int, *, among: Collection[str] | None = None) -> list[Hit]:
        """among: ids of the only documents that may be found; N, df and avgdl stay those of all."""
        expect(k >= 1, "k", "at least 1", k)
        summed, matched = self._summed(query)
        if among is not None:
            numbers = [self._postings.numbers[each] for each in among]
            allowed = np.zeros(len(summed), bool)
            allowed[numbers] = True
            matched = (summed > 0 if matched is None else matched) & allowed
        if matched is not None:
            summed = np.where(matched, summed, -np.inf)
        found = contenders(summed, k, above=0.0 if matched is None else -np.inf)
        return hits([self._postings.ids[i] for i in found], summed[found].tolist(), k)

    def add(self, documents: Mapping[str, Sequence[str]]) -> None:
        self.put(self.read(documents))

    def read(self, documents: Mapping[str, Sequence[str]]) -> Read:
        """`add` in two steps, of which this one is nearly all of the work, and changes no answer."""
        return self._postings.read(documents)

    def put(self, read: Read) -> None:
        self._postings.add(read)
        self._changed()

    def remove(self, ids: Sequence[str]) -> None:
        expect_there(ids, self._postings.numbers, "ids")
        self._postings.remove(ids)
        self._changed()

    def _changed(self) -> None:
        self._worth: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # of tokens, as far as they were asked for
        self._floor: float | None = None
        total, lengths = self._postings.lengths[self._postings.there].sum(), self._postings.lengths
        mean = max(total, 1) / max(len(self._postings.numbers), 1)  # without tokens nobody asks for norms
        self._norms = 1 - self._b + self._b * lengths / mean

    def _summed(self, query: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
        """The score of each number, and whether it has a token of the query, None where just those have that
        are more than 0."""
        worth = [(*self._worth_of(token), times) for token, times in Counter(query).items()]
        summed = np.zeros(len(self._postings.ids))
        for documents, added, times in worth:
            np.add.at(summed, documents, added if times == 1 else times * added)
        if all(len(added) == 0 or added[0] > 0 for _, added, _ in worth):  # of a token all have one sign
            return summed, None
        matched = np.zeros(len(summed), bool)
        for documents, _, _ in worth:
            matched[documents] = True
        return summed, matched

    def _worth_of(self, token: str) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the documents that have the token, and what it adds to each."""
        if token in self._worth:
            return self._worth[token]
        documents, times = self._postings.of(token)
        if not len(documents):
            return documents, np.zeros(0)
        factor = self._factor(times.astype(np.float64), self._norms[documents])
        self._worth[token] = documents, self._idf(len(documents)) * factor
        return self._worth[token]

    def _idf(self, df: int) -> float:
        n, variant = len(self._postings.numbers), self._variant
        if variant == "lucene":
            return log1p((n - df + 0.5) / (df + 0.5))
        if variant == "atire":
            return log(n / df)
        if variant == "bm25l":
            return log((n + 1) / (df + 0.5))
        if variant == "bm25+":
            return log((n + 1) / df)
        idf = _robertson(n, df)
        return self._least() if variant == "okapi" and idf < 0 else idf

    def _least(self) -> float:
        """In "okapi", of tokens that most documents have."""
        if self._floor is None:
            n = len(self._postings.numbers)
            df, tokens = np.unique(self._postings.frequencies(), return_counts=True)
            idfs = [t * _robertson(n, d) for d, t in zip(df.tolist(), tokens.tolist(), strict=True)]
            self._floor = self._epsilon * fsum(idfs) / int(tokens.sum())
        return self._floor

    def _factor(self, tf: np.ndarray, norm: np.ndarray) -> np.ndarray:
        k1, delta = self._k1, self._delta
        if self._variant in ("lucene", "robertson"):
            return tf / (tf + k1 * norm)
        if self._variant == "bm25l":
            c = tf / norm + delta
            return (k1 + 1) * c / (k1 + c)
        factor = (k1 + 1) * tf / (tf + k1 * norm)
        return factor + delta if self._variant == "bm25+" else factor


def _robertson(n: int, df: int) -> float:
    """As a difference: idfs whose sum is 0 have the sum 0."""
    return log(n - df + 0.5) - log(df + 0.5)
