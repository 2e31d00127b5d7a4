"""Documents in, answers with citations out.

In the index a chunk's metadata are the chunk itself, with its document's metadata inside: so names of the two
never meet, and another pipeline over the same index finds all of it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby
from math import isfinite
from threading import Lock
from time import perf_counter

import mlx.core as mx

from spec.rag import Answer, Chunk, Document, Embedder, Hit, Ingested, Metadata, RagConfig, Retrieved, Where

from .checks import expect, expect_there
from .chunks import check_cutting, split
from .conditions import compiled, equal
from .fusion import HYBRID, reciprocal_rank_fusion
from .packing import check_packing, citations, pack_context
from .vectors import VectorIndex
from .words import BM25

STAGES = ("embed", "search", "rerank", "pack", "generate")
CUTTING = ("size", "overlap", "separators")
PACKING = ("budget", "reserved", "order", "template", "special_tokens")
RECORD = {each.name for each in fields(Chunk)}


@dataclass(frozen=True)
class Held:
    """A document, and its chunks by their ids."""

    document: Document
    chunks: dict[str, Chunk]


class RagPipeline:
    """Who ingests or removes holds `_writer` from the first look to the change. What is searched is read and
    changed under `_state`, which nobody holds while a function of the caller's runs."""

    def __init__(
        self,
        index: VectorIndex,
        embedder: Embedder,
        generate: Callable[[str], Iterable[str]],
        *,
        config: RagConfig,
        tokenize: Callable[[str], list[str]],
        count_tokens: Callable[[str], int],
        rerank: Callable[[str, list[str]], list[float]] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._cutting = {name: getattr(config, name) for name in CUTTING}
        self._packing = {name: getattr(config, name) for name in PACKING}
        check_cutting(**self._cutting)
        check_packing(**self._packing)
        known = config.retrieval in ("bm25", "dense", "hybrid")
        expect(known, "retrieval", "bm25, dense or hybrid", config.retrieval)
        expect(config.candidates >= 1, "candidates", "at least 1", config.candidates)
        expect(config.k >= 1, "k", "at least 1", config.k)
        expect(index.dim == embedder.dim, "embedder", f"dim {index.dim}, that of the index", embedder.dim)
        self._index, self._embedder, self._generate, self._config = index, embedder, generate, config
        self._tokenize, self._count_tokens, self._rerank = tokenize, count_tokens, rerank
        self._clock = clock or perf_counter
        self._state, self._writer = Lock(), Lock()
        self._held = _documents_of(index)
        self._chunks = {name: chunk for held in self._held.values() for name, chunk in held.chunks.items()}
        self._words = BM25({name: tokenize(chunk.text) for name, chunk in self._chunks.items()})

    # Documents ----------------------------------------------------------------------------------------------

    def documents(self) -> list[str]:
        with self._state:
            return sorted(self._held)

    def ingest(self, documents: Sequence[Document]) -> Ingested:
        ids = [document.id for document in documents]
        expect(len(set(ids)) == len(ids), "documents", "each id once", ids)
        report = Ingested([], [], [])
        with self._writer:
            for document in documents:
                if document.id not in self._held:
                    report.added.append(document.id)
                elif _same(document, self._held[document.id].document):
                    report.unchanged.append(document.id)
                else:
                    report.changed.append(document.id)
            new = set(report.added + report.changed)
            self._replace(report.changed, [self._cut(each) for each in documents if each.id in new])
        return report

    def remove(self, doc_ids: Sequence[str]) -> None:
        with self._writer:
            expect_there(doc_ids, self._held, "doc_ids")
            self._replace(doc_ids, [])

    def _cut(self, document: Document) -> Held:
        document = deepcopy(document)
        options = {"doc_id": document.id, "metadata": document.metadata, **self._cutting}
        return Held(document, {chunk.id: chunk for chunk in split(document.text, **options)})

    def _replace(self, old: Collection[str], new: Sequence[Held]) -> None:
        """The documents with these ids go, and these come. What may fail comes before what changes."""
        chunks = {name: chunk for held in new for name, chunk in held.chunks.items()}
        before = {name for each in old for name in self._held[each].chunks}
        fresh = [name for name in chunks if name not in before]
        kept = [name for name in chunks if name in before]
        gone = [name for name in before if name not in chunks]
        texts = [chunks[name].text for name in fresh]
        read = self._words.read(dict(zip(fresh, map(self._tokenize, texts), strict=True)))
        vectors = self._embedder.embed(list(texts), "passage") if texts else None
        records = {name: asdict(chunk) for name, chunk in chunks.items()}
        with self._state:
            if fresh:  # first, since the index may refuse what the embedder made
                self._index.add(fresh, vectors, [records[name] for name in fresh])
                self._words.put(read)
            self._index.set_metadata(kept, [records[name] for name in kept])
            if gone:
                self._index.remove(gone)
                self._words.remove(gone)
            for name in gone:
                del self._chunks[name]
            for each in set(old):
                del self._held[each]
            self._chunks.update(chunks)
            self._held.update((held.document.id, held) for held in new)

    # Questions ----------------------------------------------------------------------------------------------

    def retrieve(self, question: str, *, where: Where | None = None) -> Retrieved:
        return self._retrieved(question, where, dict.fromkeys(STAGES, 0.0))

    def answer(
        self,
        question: str,
        *,
        where: Where | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        on_text = on_text or (lambda piece: None)
        timings = dict.fromkeys(STAGES, 0.0)
        found = self._retrieved(question, where, timings)
        passages, pieces = [], []
        if found.chunks:
            with self._timed(timings, "pack"):
                packed = pack_context(
                    found.chunks, question=question, count_tokens=self._count_tokens, **self._packing
                )
            passages = packed.chunks
        if not passages:
            on_text(self._config.fallback)
            return Answer(self._config.fallback, [], [], timings, found.problems)
        with self._timed(timings, "generate"):
            for piece in self._generate(packed.text):
                on_text(piece)
                pieces.append(piece)
        text = "".join(pieces)
        return Answer(text, passages, citations(text, passages), timings, found.problems)

    def _retrieved(self, question: str, where: Where | None, timings: dict[str, float]) -> Retrieved:
        met = compiled({} if where is None else where)
        problems: list[str] = []
        vector = self._embedded(question, timings, problems)
        with self._timed(timings, "search"):
            tokens = [] if self._config.retrieval == "dense" else self._tokenize(question)
            with self._state:
                among = self._meeting(met) if where else None
                hits = self._candidates(tokens, vector, among)
                chunks = {hit.id: self._chunks[hit.id] for hit in hits}
        hits = self._reranked(question, hits, chunks, timings, problems)
        least = self._config.min_score
        best = [hit for hit in hits if least is None or hit.score >= least][: self._config.k]
        copies = [replace(chunks[hit.id], metadata=deepcopy(chunks[hit.id].metadata)) for hit in best]
        return Retrieved(copies, [hit.score for hit in best], problems)

    def _meeting(self, met: Callable[[Metadata], bool]) -> list[str]:
        """Ids of the chunks of documents that meet a condition."""
        return [name for held in self._held.values() if met(held.document.metadata) for name in held.chunks]

    def _embedded(self, question: str, timings: dict[str, float], problems: list[str]) -> mx.array | None:
        """(1, dim), or None where it is not needed, or cannot be had and words will do."""
        if self._config.retrieval == "bm25":
            return None
        try:
            with self._timed(timings, "embed"):
                return self._embedder.embed([question], "query")
        except Exception:  # whatever it is: it is told
            if self._config.retrieval == "dense":
                raise
            problems.append("embed")
            return None

    def _candidates(
        self, tokens: Sequence[str], vector: mx.array | None, among: Collection[str] | None
    ) -> list[Hit]:
        retrieval, count = self._config.retrieval, self._config.candidates
        by_words = [] if retrieval == "dense" else self._words.search(tokens, count, among=among)
        by_vectors = [] if vector is None else self._index.search(vector, count, among=among)[0]
        if retrieval == "hybrid":
            rankings = [[hit.id for hit in hits] for hits in (by_words, by_vectors)]
            return reciprocal_rank_fusion(rankings, k=HYBRID)
        return by_words if retrieval == "bm25" else by_vectors

    def _reranked(
        self,
        question: str,
        hits: list[Hit],
        chunks: dict[str, Chunk],
        timings: dict[str, float],
        problems: list[str],
    ) -> list[Hit]:
        if self._rerank is None or not hits:
            return hits
        try:
            with self._timed(timings, "rerank"):
                scores = self._rerank(question, [chunks[hit.id].text for hit in hits])
            again = [Hit(hit.id, float(score)) for hit, score in zip(hits, scores, strict=True)]
            if all(isfinite(hit.score) for hit in again):
                return sorted(again, key=lambda hit: -hit.score)  # of equals the one that came first
        except Exception:  # whatever it is: it is told
            pass
        problems.append("rerank")
        return hits

    @contextmanager
    def _timed(self, timings: dict[str, float], stage: str) -> Iterator[None]:
        begun = self._clock()
        try:
            yield
        finally:
            timings[stage] = self._clock() - begun


def _same(a: Document, b: Document) -> bool:
    names = a.metadata.keys()
    metadata = names == b.metadata.keys() and all(equal(a.metadata[each], b.metadata[each]) for each in names)
    return metadata and a.text == b.text


def _documents_of(index: VectorIndex) -> dict[str, Held]:
    """By their ids: a text is what its chunks have after the end of the one before. Raises InvalidArgument
    where there is something that no pipeline has put there."""
    records = index.get(index.ids())
    foreign = [each for each in records if each.keys() != RECORD]
    expect(not foreign, "index", "what a pipeline filled, or nothing", foreign[:1])
    chunks = sorted((Chunk(**each) for each in records), key=lambda chunk: (chunk.doc_id, chunk.start))
    held: dict[str, Held] = {}
    for doc_id, group in groupby(chunks, key=lambda chunk: chunk.doc_id):
        some = list(group)
        ends = [0, *(chunk.end for chunk in some)]
        text = "".join(chunk.text[end - chunk.start :] for end, chunk in zip(ends, some, strict=False))
        held[doc_id] = Held(Document(doc_id, text, some[0].metadata), {chunk.id: chunk for chunk in some})
    return held
