"""FAISS and Chroma in the place of a `VectorIndex`: `pip install -e '.[stores]'`.

What a caller and `RagPipeline` see is the same, and so are conditions and errors: ids, metadata and `where`
stay here, in Python, since both libraries mean something else by them. What is promised less, each says.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import mlx.core as mx
import numpy as np

from spec.rag import Hit, Metadata, Storage, Where

from .checks import checked_queries, checked_vectors, expect, expect_there
from .conditions import compiled
from .keeping import keep, kept
from .ranking import hits
from .vectors import METRICS, copied


class FaissIndex:
    """Vectors in FAISS. factory: what its `index_factory` reads, such as "Flat", "IVF256,Flat" or "HNSW32".
    probes: how many lists of IVF a search reads, and how many candidates a search of HNSW keeps.

    It cannot promise that equal vectors have equal scores, since FAISS computes in float32, and batches in
    another order; so which of several equals are the last of the k is chance. All but "Flat" miss some
    neighbours, and with a condition may find fewer than k. One that has to be trained, IVF, is so on what is
    added first: add all of it, or enough to stand for it.

    FAISS does not take a vector out of every index. What was removed or replaced stays in it unseen, until
    half of all are; then it is built anew.
    """

    def __init__(self, dim: int, *, metric: str = "cosine", factory: str = "Flat", probes: int = 16) -> None:
        expect(dim >= 1, "dim", "at least 1", dim)
        expect(metric in METRICS, "metric", "cosine, ip or l2", metric)
        self.dim, self._metric, self._factory, self._probes = dim, metric, factory, probes
        self._numbers: dict[str, int] = {}  # of rows in FAISS, by ids
        self._ids: list[str] = []  # of each row, also of those that nobody sees any more
        self._metadata: dict[str, Metadata] = {}
        self._faiss = self._made()

    def add(self, ids: Sequence[str], vectors: mx.array, metadata: Sequence[Metadata] | None = None) -> None:
        rows, metadata = checked_vectors(ids, vectors, metadata, self.dim)
        if not ids:
            return
        rows = self._scaled(rows)
        if not self._faiss.is_trained:
            self._faiss.train(rows)
        self._faiss.add(rows)
        self._numbers.update(zip(ids, range(len(self._ids), len(self._ids) + len(ids)), strict=True))
        self._ids += ids
        self.set_metadata(ids, metadata)
        self._tidy()

    def remove(self, ids: Sequence[str]) -> None:
        expect_there(ids, self._numbers, "ids")
        for each in set(ids):
            del self._numbers[each], self._metadata[each]
        self._tidy()

    def set_metadata(self, ids: Sequence[str], metadata: Sequence[Metadata]) -> None:
        self._metadata.update(zip(ids, map(copied, metadata), strict=True))

    def ids(self) -> list[str]:
        return sorted(self._numbers)

    def get(self, ids: Sequence[str]) -> list[Metadata]:
        expect_there(ids, self._numbers, "ids")
        return [copied(self._metadata[each]) for each in ids]

    def search(
        self,
        queries: mx.array,
        k: int,
        *,
        where: Where | None = None,
        among: Collection[str] | None = None,
    ) -> list[list[Hit]]:
        rows = self._scaled(checked_queries(queries, k, self.dim))
        allowed = [self._numbers[each] for each in _allowed(self._metadata, where, among)]
        if not allowed or not len(rows):
            return [[] for _ in rows]
        scores, numbers = self._faiss.search(rows, min(k, len(allowed)), params=self._asked(allowed))
        scores = -scores if self._metric == "l2" else scores
        return [_found(self._ids, *each, k) for each in zip(numbers.tolist(), scores.tolist(), strict=True)]

    def save(self, storage: Storage) -> None:
        import faiss

        names = ("metric", "factory", "probes", "ids", "numbers", "metadata")
        content = {"dim": self.dim, **{name: getattr(self, f"_{name}") for name in names}}
        keep(storage, content, [faiss.serialize_index(self._faiss).tobytes()])

    @classmethod
    def load(cls, storage: Storage) -> "FaissIndex":
        """Raises NothingSaved, DamagedIndex."""
        import faiss

        content, data = kept(storage)
        options = {name: content[name] for name in ("metric", "factory", "probes")}
        index = cls(content["dim"], **options)
        index._ids, index._numbers = content["ids"], content["numbers"]
        index._metadata = content["metadata"]
        index._faiss = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        return index

    def _made(self) -> Any:
        import faiss

        metric = faiss.METRIC_L2 if self._metric == "l2" else faiss.METRIC_INNER_PRODUCT
        return faiss.index_factory(self.dim, self._factory, metric)

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        """(n, dim) float32, of length 1 for the cosine, but for those of length 0."""
        if self._metric != "cosine":
            return np.ascontiguousarray(rows)
        wide = rows.astype(np.float64)
        lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
        return (wide / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def _asked(self, allowed: Sequence[int]) -> Any:
        """Parameters of a search among these rows."""
        import faiss

        selector, index = None, faiss.downcast_index(self._faiss)
        if len(allowed) < index.ntotal:
            seen = np.zeros(index.ntotal, bool)
            seen[allowed] = True
            selector = faiss.IDSelectorBitmap(np.packbits(seen, bitorder="little"))
        if isinstance(index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(sel=selector, nprobe=self._probes)
        if isinstance(index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(sel=selector, efSearch=self._probes)
        return faiss.SearchParameters(sel=selector)

    def _tidy(self) -> None:
        import faiss

        if len(self._numbers) >= len(self._ids) // 2:
            return
        index = faiss.downcast_index(self._faiss)
        if isinstance(index, faiss.IndexIVF):
            index.make_direct_map()
        rows = [index.reconstruct(number) for number in self._numbers.values()]
        self._ids = list(self._numbers)
        self._numbers = {each: number for number, each in enumerate(self._ids)}
        self._faiss = self._made()
        if rows:
            if not self._faiss.is_trained:
                self._faiss.train(np.array(rows))
            self._faiss.add(np.array(rows))


class ChromaIndex:
    """Vectors in a collection of Chroma: in memory, or in a folder, where the next one finds them.

    It cannot promise what an approximate search cannot (HNSW): all of the k best. Scores are 1 − distance,
    for "cosine" and "ip", in float32, and so their last digits are lost near 0. There is no `save`: Chroma
    keeps its folder itself, each call by itself, and says nothing of crashes or of damage. Nobody else may
    write into it meanwhile: metadata are read once.

    Its `upsert` adds to the metadata of before instead of replacing them, its "$ne" holds where a field is
    missing, and it has no lists within lists; so all metadata of a vector are one text to it.
    """

    def __init__(self, dim: int, *, metric: str = "cosine", folder: Path | None = None) -> None:
        """Raises InvalidArgument where the folder has vectors of another dim or metric."""
        import chromadb

        expect(dim >= 1, "dim", "at least 1", dim)
        expect(metric in METRICS, "metric", "cosine, ip or l2", metric)
        self.dim, self._metric = dim, metric
        settings = chromadb.Settings(anonymized_telemetry=False)
        client, name = (
            chromadb.EphemeralClient(settings),
            f"week3-{uuid4()}",
        )  # all in memory share their names
        if folder is not None:
            client, name = chromadb.PersistentClient(str(folder), settings), "week3"
        self._at_once = client.get_max_batch_size()
        self._collection = client.get_or_create_collection(
            name,
            metadata={"dim": dim, "metric": metric},
            configuration={"hnsw": {"space": metric}},
            embedding_function=None,
        )
        there = self._collection.metadata
        expect(there["dim"] == dim, "dim", f"{there['dim']}, as in the folder", dim)
        expect(there["metric"] == metric, "metric", f"{there['metric']}, as in the folder", metric)
        found = self._collection.get(include=["metadatas"])
        texts = (each["metadata"] for each in found["metadatas"])
        self._metadata: dict[str, Metadata] = dict(zip(found["ids"], map(json.loads, texts), strict=True))

    def add(self, ids: Sequence[str], vectors: mx.array, metadata: Sequence[Metadata] | None = None) -> None:
        rows, metadata = checked_vectors(ids, vectors, metadata, self.dim)
        for part in self._parts(len(ids)):
            self._collection.upsert(
                ids=list(ids[part]), embeddings=rows[part], metadatas=_texts(metadata[part])
            )
        self._metadata.update(zip(ids, map(copied, metadata), strict=True))

    def remove(self, ids: Sequence[str]) -> None:
        expect_there(ids, self._metadata, "ids")
        gone = list(set(ids))
        for part in self._parts(len(gone)):
            self._collection.delete(ids=gone[part])
        for each in gone:
            del self._metadata[each]

    def set_metadata(self, ids: Sequence[str], metadata: Sequence[Metadata]) -> None:
        for part in self._parts(len(ids)):
            self._collection.update(ids=list(ids[part]), metadatas=_texts(metadata[part]))
        self._metadata.update(zip(ids, map(copied, metadata), strict=True))

    def ids(self) -> list[str]:
        return sorted(self._metadata)

    def get(self, ids: Sequence[str]) -> list[Metadata]:
        expect_there(ids, self._metadata, "ids")
        return [copied(self._metadata[each]) for each in ids]

    def search(
        self,
        queries: mx.array,
        k: int,
        *,
        where: Where | None = None,
        among: Collection[str] | None = None,
    ) -> list[list[Hit]]:
        rows = checked_queries(queries, k, self.dim)
        allowed = _allowed(self._metadata, where, among)
        if not allowed or not len(rows):
            return [[] for _ in rows]
        found = self._collection.query(
            query_embeddings=rows,
            n_results=min(k, len(allowed)),
            ids=None if len(allowed) == len(self._metadata) else allowed,
            include=["distances"],
        )
        most = 0.0 if self._metric == "l2" else 1.0
        return [
            hits(ids, [most - distance for distance in distances], k)
            for ids, distances in zip(found["ids"], found["distances"], strict=True)
        ]

    def _parts(self, count: int) -> Iterator[slice]:
        return (slice(first, first + self._at_once) for first in range(0, count, self._at_once))


def _allowed(metadata: dict[str, Metadata], where: Where | None, among: Collection[str] | None) -> list[str]:
    """Ids of those that may be found."""
    met = compiled({} if where is None else where)
    return [each for each in (metadata if among is None else among) if met(metadata[each])]


def _found(ids: Sequence[str], numbers: Sequence[int], scores: Sequence[float], k: int) -> list[Hit]:
    """Without what FAISS fills up with where it found fewer, the number −1."""
    there = [(ids[number], score) for number, score in zip(numbers, scores, strict=True) if number >= 0]
    return hits(*zip(*there, strict=True), k) if there else []


def _texts(metadata: Sequence[Metadata]) -> list[dict[str, str]]:
    return [{"metadata": json.dumps(each)} for each in metadata]
