"""Vectors by their ids, searched exactly."""

import json
from copy import deepcopy

import numpy as np

from spec.rag import Hit

from .basics import WORK, best_first, expect, expect_there
from .conditions import check_where, holds
from .keeping import keep, kept


class VectorIndex:
    def __init__(self, dim, *, metric="cosine"):
        expect(dim >= 1, "dim", "at least 1", dim)
        expect(metric in ("cosine", "ip", "l2"), "metric", "cosine, ip or l2", metric)
        self.dim, self.metric = dim, metric
        self.vectors, self.metadata = {}, {}  # both by id

    def add(self, ids, vectors, metadata=None):
        metadata = [{} for _ in ids] if metadata is None else metadata
        expect(vectors.shape == (len(ids), self.dim), "vectors", f"shape {len(ids), self.dim}", vectors.shape)
        expect(len(metadata) == len(ids), "metadata", f"{len(ids)} of them", len(metadata))
        expect(len(set(ids)) == len(ids), "ids", "each id once", list(ids))
        expect(np.isfinite(vectors).all(), "vectors", "finite numbers", vectors)
        for i, each in enumerate(ids):
            self.vectors[each] = vectors[i].astype(WORK)
            self.metadata[each] = deepcopy(metadata[i])

    def remove(self, ids):
        expect_there(ids, self.vectors, "ids")
        for each in set(ids):
            del self.vectors[each], self.metadata[each]

    def ids(self):
        return sorted(self.vectors)

    def get(self, ids):
        expect_there(ids, self.vectors, "ids")
        return [deepcopy(self.metadata[each]) for each in ids]

    def search(self, queries, k, *, where=None):
        where = {} if where is None else where
        fits = queries.ndim == 2 and queries.shape[1] == self.dim
        expect(fits, "queries", f"shape (m, {self.dim})", queries.shape)
        expect(np.isfinite(queries).all(), "queries", "finite numbers", queries)
        expect(k >= 1, "k", "at least 1", k)
        check_where(where)
        chosen = [each for each in self.vectors if holds(self.metadata[each], where)]
        found = []
        for query in queries.astype(WORK):
            scores = [float(similarity(self.metric, query, self.vectors[each])) for each in chosen]
            found.append(best_first(map(Hit, chosen, scores))[:k])
        return found

    def save(self, storage):
        content = {
            "dim": self.dim,
            "metric": self.metric,
            "ids": list(self.vectors),
            "vectors": [vector.tolist() for vector in self.vectors.values()],
            "metadata": list(self.metadata.values()),
        }
        keep(storage, json.dumps(content).encode())


def load_index(storage):
    content = json.loads(kept(storage))
    index = VectorIndex(content["dim"], metric=content["metric"])
    vectors = np.array(content["vectors"], WORK).reshape(-1, index.dim)
    index.add(content["ids"], vectors, content["metadata"])
    return index


def similarity(metric, a, b):
    """Of two vectors (dim,); larger is nearer."""
    if metric == "cosine":
        return cosine(a, b)
    return a @ b if metric == "ip" else -((a - b) @ (a - b))


def cosine(a, b):
    return unit(a) @ unit(b)


def unit(vector):
    """The vector with length 1; one of length 0 stays."""
    length = np.sqrt(vector @ vector)
    return vector / length if length > 0 else vector
