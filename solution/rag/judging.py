"""How well a collection with judgements is searched: by words, by vectors, by both."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from spec.rag import Embedder

from .fusion import HYBRID, reciprocal_rank_fusion
from .measures import evaluate
from .vectors import VectorIndex
from .words import BM25, words

METRICS = {"nDCG@10": "ndcg@10", "Recall@100": "recall@100", "MRR@10": "mrr@10"}
FOUND = 100  # documents of each query
AT_ONCE = 256  # texts between two looks at the progress


class BadCollection(Exception):
    """The folder is none as BEIR has them; the message names file and line."""


@dataclass(frozen=True)
class Judged:
    """documents, queries: texts by id. qrels: query to document to grade, of the queries that were judged."""

    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def read_beir(path: Path) -> Judged:
    """corpus.jsonl and queries.jsonl with "_id", "text" and perhaps "title"; qrels/test.tsv with a head and
    query, document, grade. Raises BadCollection."""
    documents = {
        each["_id"]: f"{each['title']} {each['text']}".strip() for each in _lines(path / "corpus.jsonl")
    }
    queries = {each["_id"]: each["text"] for each in _lines(path / "queries.jsonl")}
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in _rows(path / "qrels" / "test.tsv"):
        qrels.setdefault(query, {})[document] = grade
    missing = sorted(set(qrels) - set(queries))
    if missing:
        raise BadCollection(f"{path}: qrels judge queries that are not there: {', '.join(missing[:3])}")
    return Judged(documents, {query: queries[query] for query in qrels}, qrels)


def judge(
    collection: Judged, embedder: Embedder, progress: Callable[[int, int], None]
) -> dict[str, dict[str, float]]:
    """For each method the measures, and the mean milliseconds of a query: embedding it, searching."""
    words_of = {id: words(text) for id, text in collection.documents.items()}
    bm25, index = BM25(words_of), VectorIndex(embedder.dim)
    ids = list(collection.documents)
    for first in range(0, len(ids), AT_ONCE):
        progress(first, len(ids))
        some = ids[first : first + AT_ONCE]
        index.add(some, embedder.embed([collection.documents[id] for id in some], "passage"))
    progress(len(ids), len(ids))
    runs: dict[str, dict[str, list[str]]] = {"BM25": {}, "dense": {}, "hybrid": {}}
    spent: dict[str, list[tuple[float, float]]] = {method: [] for method in runs}
    for query, text in collection.queries.items():
        begun = perf_counter()
        by_words = [hit.id for hit in bm25.search(words(text), FOUND)]
        searched = perf_counter()
        vector = np.array(embedder.embed([text], "query"))
        embedded = perf_counter()
        by_vectors = [hit.id for hit in index.search(vector, FOUND)[0]]
        found = perf_counter()
        both = [hit.id for hit in reciprocal_rank_fusion([by_words, by_vectors], k=HYBRID)][:FOUND]
        fused = perf_counter()
        for method, ranking in zip(runs, (by_words, by_vectors, both), strict=True):
            runs[method][query] = ranking
        spent["BM25"].append((0.0, searched - begun))
        spent["dense"].append((embedded - searched, found - embedded))
        spent["hybrid"].append((embedded - searched, fused - embedded + searched - begun))
    rows = {}
    for method, run in runs.items():
        measured = evaluate(run, collection.qrels, list(METRICS.values()))
        embedding, searching = np.mean(spent[method], axis=0) * 1000
        rows[method] = {shown: measured[name] for shown, name in METRICS.items()}
        rows[method] |= {"ms embed": float(embedding), "ms search": float(searching)}
    return rows


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                found = json.loads(line)
                yield {
                    "_id": str(found["_id"]),
                    "title": found.get("title") or "",
                    "text": str(found["text"]),
                }
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BadCollection(
                    f"{path}:{number}: expected an object with _id and text, got {error!r}"
                ) from None


def _rows(path: Path) -> Iterator[tuple[str, str, int]]:
    with _opened(path) as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            if number == 1:  # the head
                continue
            try:
                query, document, grade = row
                yield query, document, int(grade)
            except ValueError:
                raise BadCollection(
                    f"{path}:{number}: expected query, document and grade, got {row}"
                ) from None


def _opened(path: Path) -> Any:
    try:
        return path.open(encoding="utf-8")
    except OSError as error:
        raise BadCollection(f"{path}: {error.strerror}. BEIR's folders have it") from None
