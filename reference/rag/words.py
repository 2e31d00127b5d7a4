"""BM25: documents ranked by the words of a query. Kamphuis et al. 2020, table 1."""

from collections import Counter

import numpy as np

from spec.rag import Hit

from .basics import WORK, best_first, expect, expect_there

VARIANTS = ("lucene", "robertson", "atire", "bm25l", "bm25+", "okapi")


class BM25:
    def __init__(self, documents, *, variant="lucene", k1=1.5, b=0.75, delta=None, epsilon=0.25):
        expect(variant in VARIANTS, "variant", f"one of {', '.join(VARIANTS)}", variant)
        expect(k1 >= 0, "k1", "at least 0", k1)
        expect(0 <= b <= 1, "b", "0 to 1", b)
        expect(delta is None or delta >= 0, "delta", "at least 0", delta)
        expect(epsilon >= 0, "epsilon", "at least 0", epsilon)
        if delta is None:
            delta = 0.5 if variant == "bm25l" else 1
        self.variant, self.k1, self.b = variant, WORK(k1), WORK(b)
        self.delta, self.epsilon = WORK(delta), WORK(epsilon)
        self.counts = {}  # id -> Counter of its tokens
        self.add(documents)

    def add(self, documents):
        for each, tokens in documents.items():
            self.counts[each] = Counter(tokens)

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
        idf = self.idf()
        lengths = {each: counts.total() for each, counts in self.counts.items()}
        total = sum(lengths.values())
        scores = {}
        for each, counts in self.counts.items():
            score = WORK(0)
            for token in query:
                if token in counts:  # so there are tokens, and total is not 0
                    average = WORK(total) / len(self.counts)
                    norm = 1 - self.b + self.b * lengths[each] / average
                    score += idf[token] * self.factor(WORK(counts[token]), norm)
            scores[each] = float(score)
        return scores

    def factor(self, tf, norm):
        k1, delta = self.k1, self.delta
        if self.variant in ("lucene", "robertson"):
            return tf / (tf + k1 * norm)
        if self.variant == "bm25l":
            c = tf / norm
            return (k1 + 1) * (c + delta) / (k1 + c + delta)
        factor = (k1 + 1) * tf / (tf + k1 * norm)
        return factor + delta if self.variant == "bm25+" else factor

    def idf(self):
        """What each token of the corpus is worth."""
        n = WORK(len(self.counts))
        df = Counter(token for counts in self.counts.values() for token in counts)
        idf = {token: idf_of(self.variant, n, WORK(df[token])) for token in df}
        if self.variant == "okapi" and idf:
            floor = self.epsilon * (sum(idf.values()) / WORK(len(idf)))
            idf = {token: value if value >= 0 else floor for token, value in idf.items()}
        return idf


def idf_of(variant, n, df):
    """n documents, of which df have the token."""
    if variant == "lucene":
        return np.log(1 + (n - df + WORK(0.5)) / (df + WORK(0.5)))
    if variant == "atire":
        return np.log(n / df)
    if variant == "bm25l":
        return np.log((n + 1) / (df + WORK(0.5)))
    if variant == "bm25+":
        return np.log((n + 1) / df)
    return np.log((n - df + WORK(0.5)) / (df + WORK(0.5)))  # "robertson", and "okapi" before its floor
