"""FAISS and Chroma in the place of a `VectorIndex`: `pip install -e '.[stores]'`.

What a caller and `RagPipeline` see is the same, and so are conditions and errors: ids, metadata and `where`
stay here, in Python, since both libraries mean something else by them. What is promised less, each says.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
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


class Store(ABC):
    """Ids and metadata of vectors that a library keeps."""

    def __init__(self, dim: int, metric: str) -> None:
        expect(dim >= 1, "dim", "at least 1", dim)
        expect(metric in METRICS, "metric", "cosine, ip or l2", metric)
        self.dim, self._metric = dim, metric
        self._metadata: dict[str, Metadata] = {}

    def add(self, ids: Sequence[str], vectors: mx.array, metadata: Sequence[Metadata] | None = None) -> None:
        rows, metadata = checked_vectors(ids, vectors, metadata, self.dim)
        if ids:
            self._put(ids, rows, metadata)
            self._know(ids, metadata)

    def remove(self, ids: Sequence[str]) -> None:
        expect_there(ids, self._metadata, "ids")
        gone = list(set(ids))
        self._drop(gone)
        for each in gone:
            del self._metadata[each]

    def set_metadata(self, ids: Sequence[str], metadata: Sequence[Metadata]) -> None:
        """In place of those of before; vectors stay. All of the ids are there."""
        self._know(ids, metadata)

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
        """among: ids of the only ones that may be found."""
        rows = checked_queries(queries, k, self.dim)
        met = compiled({} if where is None else where)
        seen = [each for each in (self._metadata if among is None else among) if met(self._metadata[each])]
        if not seen or not len(rows):
            return [[] for _ in rows]
        return [hits(*found, k) for found in self._nearest(rows, min(k, len(seen)), seen)]

    def _know(self, ids: Sequence[str], metadata: Sequence[Metadata]) -> None:
        self._metadata.update(zip(ids, map(copied, metadata), strict=True))

    @abstractmethod
    def _put(self, ids: Sequence[str], rows: np.ndarray, metadata: Sequence[Metadata]) -> None:
        """rows: (n, dim), in place of those that these ids had; n is at least 1."""

    @abstractmethod
    def _drop(self, ids: Sequence[str]) -> None: ...

    @abstractmethod
    def _nearest(
        self, queries: np.ndarray, k: int, seen: Sequence[str]
    ) -> Iterable[tuple[Sequence[str], Sequence[float]]]:
        """For each of the queries (m, dim) ids and scores of k of those that are seen, or of fewer."""


class FaissIndex(Store):
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
        super().__init__(dim, metric)
        self._factory, self._probes = factory, probes
        self._numbers: dict[str, int] = {}  # of rows in FAISS, by ids
        self._ids: list[str] = []  # of each row, also of those that nobody sees any more
        self._faiss = self._made()

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

    def _put(self, ids: Sequence[str], rows: np.ndarray, metadata: Sequence[Metadata]) -> None:
        self._append(self._scaled(rows))
        self._numbers.update(zip(ids, range(len(self._ids), len(self._ids) + len(ids)), strict=True))
        self._ids += ids
        self._tidy()

    def _drop(self, ids: Sequence[str]) -> None:
        for each in ids:
            del self._numbers[each]
        self._tidy()

    def _nearest(
        self, queries: np.ndarray, k: int, seen: Sequence[str]
    ) -> Iterator[tuple[list[str], list[float]]]:
        parameters = self._asked([self._numbers[each] for each in seen])
        scores, numbers = self._faiss.search(self._scaled(queries), k, params=parameters)
        scores = -scores if self._metric == "l2" else scores
        for some, row in zip(scores, numbers, strict=True):
            found = row >= 0  # where it found fewer, FAISS fills up with -1
            yield [self._ids[number] for number in row[found]], some[found].tolist()

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

    def _append(self, rows: np.ndarray) -> None:
        if not self._faiss.is_trained:
            self._faiss.train(rows)
        self._faiss.add(rows)

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
            self._append(np.array(rows))


class ChromaIndex(Store):
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

        super().__init__(dim, metric)
        settings = chromadb.Settings(anonymized_telemetry=False)
        if folder is None:  # all in memory share their names
            client, name = chromadb.EphemeralClient(settings), f"week3-{uuid4()}"
        else:
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
        self._know(found["ids"], [json.loads(each["metadata"]) for each in found["metadatas"]])

    def set_metadata(self, ids: Sequence[str], metadata: Sequence[Metadata]) -> None:
        for part in self._parts(len(ids)):
            self._collection.update(ids=list(ids[part]), metadatas=_texts(metadata[part]))
        super().set_metadata(ids, metadata)

    def _put(self, ids: Sequence[str], rows: np.ndarray, metadata: Sequence[Metadata]) -> None:
        for part in self._parts(len(ids)):
            texts = _texts(metadata[part])
            self._collection.upsert(ids=list(ids[part]), embeddings=rows[part], metadatas=texts)

    def _drop(self, ids: Sequence[str]) -> None:
        for part in self._parts(len(ids)):
            self._collection.delete(ids=list(ids[part]))

    def _nearest(
        self, queries: np.ndarray, k: int, seen: Sequence[str]
    ) -> Iterator[tuple[list[str], list[float]]]:
        found = self._collection.query(
            query_embeddings=queries,
            n_results=k,
            ids=None if len(seen) == len(self._metadata) else list(seen),
            include=["distances"],
        )
        most = 0.0 if self._metric == "l2" else 1.0
        for ids, distances in zip(found["ids"], found["distances"], strict=True):
            yield ids, [most - distance for distance in distances]

    def _parts(self, count: int) -> Iterator[slice]:
        return (slice(first, first + self._at_once) for first in range(0, count, self._at_once))


def _texts(metadata: Sequence[Metadata]) -> list[dict[str, str]]:
    return [{"metadata": json.dumps(each)} for each in metadata]
