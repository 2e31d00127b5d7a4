"""BM25: documents ranked by the words of a query. Kamphuis et al. 2020, table 1."""

from collections import Counter

import numpy as np

from spec.rag import Hit

from .basics import WORK, best_first, expect, expect_there

IDF = {  # of a token that df of n documents have
    "lucene": lambda n, df: np.log(1 + (n - df + 0.5) / (df + 0.5)),
    "robertson": lambda n, df: np.log((n - df + 0.5) / (df + 0.5)),
    "atire": lambda n, df: np.log(n / df),
    "bm25l": lambda n, df: np.log((n + 1) / (df + 0.5)),
    "bm25+": lambda n, df: np.log((n + 1) / df),
    "okapi": lambda n, df: np.log((n - df + 0.5) / (df + 0.5)),  # and then a floor
}


class BM25:
    def __init__(self, documents, *, variant="lucene", k1=1.5, b=0.75, delta=None, epsilon=0.25):
        expect(variant in IDF, "variant", f"one of {', '.join(IDF)}", variant)
        expect(k1 >= 0, "k1", "at least 0", k1)
        expect(0 <= b <= 1, "b", "0 to 1", b)
        expect(delta is None or delta >= 0, "delta", "at least 0", delta)
        expect(epsilon >= 0, "epsilon", "at least 0", epsilon)
        if delta is None:
            delta = 0.5 if variant == "bm25l" else 1
        self.variant, self.k1, self.b, self.delta, self.epsilon = variant, k1, b, delta, epsilon
        self.counts = {}  # id -> Counter of its tokens
        self.add(documents)

    def add(self, documents):
        self.counts.update((each, Counter(tokens)) for each, tokens in documents.items())

    def remove(self, ids):
        expect_there(ids, self.counts, "ids")
        for each in set(ids):
            del self.counts[each]

    def search(self, query, k):
        expect(k >= 1, "k", "at least 1", k)
        scores = self.scores(query)
        found = [each for each, counts in self.counts.items() if any(token in counts for token in query)]
        return best_first(Hit(each, scores[each]) for each in found)[:k]

    def scores(self, query):
        idf, scores = self.idf(), {}
        total = sum(counts.total() for counts in self.counts.values())
        for each, counts in self.counts.items():
            score = WORK(0)
            for token in query:
                if token in counts:  # so there are tokens, and total is not 0
                    average = WORK(total) / len(self.counts)
                    norm = 1 - self.b + self.b * counts.total() / average
                    score += idf[token] * self.factor(WORK(counts[token]), norm)
            scores[each] = float(score)
        return scores

    def idf(self):
        """What each token of the corpus is worth."""
        df = Counter(token for counts in self.counts.values() for token in counts)
        idf = {token: IDF[self.variant](WORK(len(self.counts)), WORK(df[token])) for token in df}
        if self.variant == "okapi":
            floor = self.epsilon * sum(idf.values()) / max(1, len(idf))
            idf = {token: value if value >= 0 else floor for token, value in idf.items()}
        return idf

    def factor(self, tf, norm):
        k1, delta = self.k1, self.delta
        if self.variant in ("lucene", "robertson"):
            return tf / (tf + k1 * norm)
        if self.variant == "bm25l":
            c = tf / norm
            return (k1 + 1) * (c + delta) / (k1 + c + delta)
        factor = (k1 + 1) * tf / (tf + k1 * norm)
        return factor + delta if self.variant == "bm25+" else factor
