"""Documents in, answers with citations out."""

from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from math import isfinite
from threading import Lock
from time import perf_counter

from spec.rag import Answer, Chunk, Document, Hit, Ingested, Retrieved

from .basics import expect, expect_there
from .chunks import check_cutting, split
from .conditions import check_where, equal, holds
from .fusion import reciprocal_rank_fusion
from .packing import check_packing, citations, pack_context
from .words import BM25

ALL = 2**62  # more than there are
STAGES = ("embed", "search", "rerank", "pack", "generate")
CUTTING = ("size", "overlap", "separators")
PACKING = ("budget", "reserved", "order", "template", "special_tokens")


class RagPipeline:
    """`held`, `chunks`, `words` and `index` are read and changed under the lock `state`, where no function of
    the caller's is called. Who ingests or removes holds `writer` from the first look to the change."""

    def __init__(self, index, embedder, generate, *, config, tokenize, count_tokens, rerank=None, clock=None):
        self.cutting = {name: getattr(config, name) for name in CUTTING}
        self.packing = {name: getattr(config, name) for name in PACKING}
        check_cutting(**self.cutting)
        check_packing(**self.packing)
        known = config.retrieval in ("bm25", "dense", "hybrid")
        expect(known, "retrieval", "bm25, dense or hybrid", config.retrieval)
        expect(config.candidates >= 1, "candidates", "at least 1", config.candidates)
        expect(config.k >= 1, "k", "at least 1", config.k)
        expect(index.dim == embedder.dim, "embedder", f"dim {index.dim}, that of the index", embedder.dim)
        self.index, self.embedder, self.generate, self.config = index, embedder, generate, config
        self.tokenize, self.count_tokens, self.rerank = tokenize, count_tokens, rerank
        self.clock = clock or perf_counter
        self.state, self.writer = Lock(), Lock()
        self.chunks = {each: Chunk(**index.get([each])[0]) for each in index.ids()}  # by their ids
        self.held = documents_of(self.chunks.values())  # by their ids
        self.words = BM25({each: tokenize(chunk.text) for each, chunk in self.chunks.items()})

    # Documents ----------------------------------------------------------------------------------------------

    def documents(self):
        with self.state:
            return sorted(self.held)

    def ingest(self, documents):
        ids = [each.id for each in documents]
        expect(len(set(ids)) == len(ids), "documents", "each id once", ids)
        report = Ingested([], [], [])
        with self.writer:
            for each in documents:
                if each.id not in self.held:
                    report.added.append(each.id)
                elif same(each, self.held[each.id]):
                    report.unchanged.append(each.id)
                else:
                    report.changed.append(each.id)
            new = [deepcopy(each) for each in documents if each.id not in report.unchanged]
            self.replace(report.changed, new)
        return report

    def remove(self, doc_ids):
        with self.writer:
            expect_there(doc_ids, self.held, "doc_ids")
            self.replace(doc_ids, [])

    def replace(self, old, new):
        """The documents with these ids go, these documents come."""
        chunks = {}
        for document in new:
            pieces = split(document.text, doc_id=document.id, metadata=document.metadata, **self.cutting)
            chunks.update((chunk.id, chunk) for chunk in pieces)
        gone = [each for each in self.chunks if self.chunks[each].doc_id in old and each not in chunks]
        fresh = [each for each in chunks if each not in self.chunks]
        texts = [chunks[each].text for each in fresh]
        tokens = dict(zip(fresh, map(self.tokenize, texts), strict=True))
        vectors = self.embedder.embed(texts, "passage") if texts else None
        with self.state:
            if texts:  # first of all, since it may refuse what the embedder made
                self.index.add(fresh, vectors)
            self.index.metadata.update((each, asdict(chunk)) for each, chunk in chunks.items())
            self.index.remove(gone)
            self.words.add(tokens)
            self.words.remove(gone)
            self.chunks = {each: self.chunks[each] for each in self.chunks if each not in gone} | chunks
            self.held = {each: self.held[each] for each in self.held if each not in old}
            self.held.update((document.id, document) for document in new)

    # Questions ----------------------------------------------------------------------------------------------

    def answer(self, question, *, where=None, on_text=None):
        on_text = on_text or (lambda piece: None)
        timings = dict.fromkeys(STAGES, 0.0)
        found = self.found(question, where, timings)
        passages, text = [], ""
        if found.chunks:
            with self.timed(timings, "pack"):
                count = self.count_tokens
                packed = pack_context(found.chunks, question=question, count_tokens=count, **self.packing)
            passages = packed.chunks
        if not passages:
            on_text(self.config.fallback)
            return Answer(self.config.fallback, [], [], timings, found.problems)
        with self.timed(timings, "generate"):
            for piece in self.generate(packed.text):
                on_text(piece)
                text += piece
        return Answer(text, passages, citations(text, passages), timings, found.problems)

    def retrieve(self, question, *, where=None):
        return self.found(question, where, dict.fromkeys(STAGES, 0.0))

    def found(self, question, where, timings):
        where = {} if where is None else where
        check_where(where)
        problems = []
        vector = self.embedded(question, timings, problems)
        with self.timed(timings, "search"):
            tokens = [] if self.config.retrieval == "dense" else self.tokenize(question)
            with self.state:
                hits = self.candidates(tokens, vector, where)
                chunks = {hit.id: deepcopy(self.chunks[hit.id]) for hit in hits}
        hits = self.reranked(question, hits, chunks, timings, problems)
        least = self.config.min_score
        best = [hit for hit in hits if least is None or hit.score >= least][: self.config.k]
        return Retrieved([chunks[hit.id] for hit in best], [hit.score for hit in best], problems)

    def embedded(self, question, timings, problems):
        """(1, dim), or None where it is not needed, or cannot be had and words will do."""
        if self.config.retrieval == "bm25":
            return None
        try:
            with self.timed(timings, "embed"):
                return self.embedder.embed([question], "query")
        except Exception:  # whatever it is: it is told
            if self.config.retrieval == "dense":
                raise
            problems.append("embed")
            return None

    def candidates(self, tokens, vector, where):
        """Hits of chunks that meet the condition, best first."""

        def allowed(hits):
            met = [hit for hit in hits if holds(self.chunks[hit.id].metadata, where)]
            return met[: self.config.candidates]

        by_words = allowed(self.words.search(tokens, ALL))
        by_vectors = [] if vector is None else allowed(self.index.search(vector, ALL)[0])
        if self.config.retrieval == "hybrid":
            rankings = [[hit.id for hit in hits] for hits in (by_words, by_vectors)]
            return reciprocal_rank_fusion(rankings, k=10)
        return by_words if self.config.retrieval == "bm25" else by_vectors

    def reranked(self, question, hits, chunks, timings, problems):
        if self.rerank is None or not hits:
            return hits
        try:
            with self.timed(timings, "rerank"):
                scores = self.rerank(question, [chunks[hit.id].text for hit in hits])
            fit = len(scores) == len(hits) and all(map(isfinite, scores))
        except Exception:  # whatever it is: it is told
            fit = False
        if not fit:
            problems.append("rerank")
            return hits
        again = [Hit(hit.id, float(score)) for hit, score in zip(hits, scores, strict=True)]
        return sorted(again, key=lambda hit: -hit.score)  # of equals the one that came first

    @contextmanager
    def timed(self, timings, stage):
        begun = self.clock()
        try:
            yield
        finally:
            timings[stage] = self.clock() - begun


def same(a, b):
    names = a.metadata.keys()
    metadata = names == b.metadata.keys() and all(equal(a.metadata[each], b.metadata[each]) for each in names)
    return metadata and a.text == b.text


def documents_of(chunks):
    """By their ids: each text is what its chunks have after the end of the one before."""
    found = {}
    for chunk in sorted(chunks, key=lambda chunk: chunk.start):
        text = found[chunk.doc_id].text if chunk.doc_id in found else ""
        text += chunk.text[len(text) - chunk.start :]
        found[chunk.doc_id] = Document(chunk.doc_id, text, chunk.metadata)
    return found
