"""Retrieval against the libraries one would take: by words bm25s and rank_bm25, by vectors FAISS, and
transformers for the vectors of texts.

Words of 100,000 documents and of queries follow Zipf's law, so that a query has words that nearly all
documents have. What a library finds is checked to be what the solution finds. The embeddings need
all-MiniLM-L6-v2: week3 model fetch. With WEEK3_BEIR, a folder as BEIR has them, retrieval is judged as well,
and beside it what bm25s and FAISS find, by pytrec_eval.
"""

from runtime import blas

blas.preload()  # before MLX is imported

import os  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import cache, partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402

from solution.rag import BM25, VectorIndex, embedders  # noqa: E402
from solution.rag.fusion import HYBRID  # noqa: E402
from solution.rag.judging import FOUND, Judged, judge, read_beir  # noqa: E402
from solution.rag.words import words  # noqa: E402
from spec.rag import Embedder, Hit  # noqa: E402
from tests.week3 import bench_model_embeddings as embeddings  # noqa: E402
from tests.week3.races import Row, above, agree, measure, product_speed, race, read_bandwidth, show  # noqa: E402

DOCUMENTS, VOCABULARY, LENGTH = 100_000, 200_000, 60  # LENGTH: the median
QUERIES, FEW, TOKENS = 100, 5, 5  # FEW: for a library that takes a fifth of a second for each
VECTORS, DIM, BATCH = 100_000, 384, 64
K, ROUNDS = 10, 4
BEIR = "WEEK3_BEIR"
NEAR = 0.005  # nDCG@10: float32 and the order of ties change less


# By words -------------------------------------------------------------------------------------------------


@cache
def corpus() -> tuple[dict[str, list[str]], list[list[str]]]:
    """Documents by id, lengths log-normal, and queries."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, VOCABULARY + 1)
    shares /= shares.sum()
    words = np.array([f"w{i}" for i in range(VOCABULARY)], object)
    lengths = np.maximum(1, rng.lognormal(np.log(LENGTH), 0.5, DOCUMENTS).astype(int))
    tokens = words[rng.choice(VOCABULARY, lengths.sum(), p=shares)]
    pieces = np.split(tokens, np.cumsum(lengths)[:-1])
    queries = [words[rng.choice(VOCABULARY, TOKENS, p=shares)].tolist() for _ in range(QUERIES)]
    return {f"d{i:06d}": piece.tolist() for i, piece in enumerate(pieces)}, queries


def bm25s_index() -> Any:
    import bm25s

    made = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    made.index(list(corpus()[0].values()), show_progress=False)
    return made


def index_rows() -> list[Row]:
    documents, _ = corpus()
    theirs, mine = race([bm25s_index, lambda: BM25(documents)], rounds=2)
    return [
        Row("BM25, indexing: bm25s", theirs, 1.0, "", True, ""),
        bar("BM25, indexing: solution", mine, theirs, 1.0, "bm25s"),
    ]


def query_rows() -> list[Row]:
    """The ten best of each query; times are those of one query."""
    documents, queries = corpus()
    index, okapi, other = BM25(documents), BM25(documents, variant="okapi"), bm25s_index()

    def bm25s_all() -> np.ndarray:
        return other.retrieve(queries, k=K, show_progress=False, return_as="tuple").scores

    def mine(index: BM25 = index, queries: list[list[str]] = queries) -> np.ndarray:
        return scores_of([index.search(query, K) for query in queries])

    def after_a_change() -> np.ndarray:
        """Each time a document has come, and nothing that was computed before holds."""
        found = []
        for query in queries:
            index.add({"new": documents["d000000"]})
            found.append(index.search(query, K))
        index.remove(["new"])
        return scores_of(found)

    slow = rank_bm25_top()
    few = partial(mine, okapi, queries[:FEW])
    agree([bm25s_all, mine])
    agree([slow, few])
    fast, own, changed = (each / QUERIES for each in race([bm25s_all, mine, after_a_change], ROUNDS))
    slowest, fewest = (each / FEW for each in race([slow, few], rounds=2))
    return [
        Row("BM25, a query: bm25s", fast, 1.0, "", True, ""),
        bar("BM25, a query: solution", own, fast, 1.0, "bm25s"),
        Row("BM25, a query after a document came: solution", changed, fast / changed, "", True, ""),
        Row("BM25, a query: rank_bm25", slowest, 1.0, "", True, ""),
        bar("BM25, a query: solution, okapi", fewest, slowest, 300.0, "rank_bm25"),
    ]


def rank_bm25_top() -> Callable[[], np.ndarray]:
    import rank_bm25

    documents, queries = corpus()
    index = rank_bm25.BM25Okapi(list(documents.values()))

    def top() -> np.ndarray:
        found = []
        for query in queries[:FEW]:
            scores = index.get_scores(query)
            best = np.argpartition(-scores, K)[:K]  # faster than its own get_top_n, which sorts all
            found.append(np.sort(scores[best])[::-1])
        return np.array(found)

    return top


def scores_of(found: list[list[Hit]]) -> np.ndarray:
    return np.array([[hit.score for hit in hits] for hits in found])


# By vectors -----------------------------------------------------------------------------------------------


@cache
def vectors() -> tuple[np.ndarray, np.ndarray]:
    """(VECTORS, DIM) and (BATCH, DIM) float32, each of length 1."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((VECTORS + BATCH, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:VECTORS], rows[VECTORS:]


def dense_rows() -> list[Row]:
    import faiss

    rows, queries = vectors()
    flat = faiss.IndexFlatIP(DIM)
    flat.add(rows)
    index = VectorIndex(DIM)
    metadata = [{"group": i % 10} for i in range(VECTORS)]
    index.add([f"v{i:06d}" for i in range(VECTORS)], mx.array(rows), metadata)
    measured = []
    for name, count, least in (("one query", 1, 1.0), (f"{BATCH} queries", BATCH, 3.0)):
        asked, on_device = queries[:count], mx.array(queries[:count])

        def faiss_flat(asked: np.ndarray = asked) -> np.ndarray:
            return flat.search(asked, K)[0]

        def numpy_sorted(asked: np.ndarray = asked) -> np.ndarray:
            scores = asked @ rows.T
            best = np.argpartition(scores, -K, axis=1)[:, -K:]
            return np.sort(np.take_along_axis(scores, best, axis=1), axis=1)[:, ::-1]

        def mine(asked: mx.array = on_device, **options: Any) -> np.ndarray:
            return scores_of(index.search(asked, K, **options))

        tenth = partial(mine, where={"group": 3})
        contenders = [faiss_flat, numpy_sorted, mine]
        agree(contenders)
        theirs, sorted_, own, filtered = race([*contenders, tenth], ROUNDS)
        floor = max(rows.nbytes / read_bandwidth(), 2 * count * rows.size / product_speed())
        measured += [
            Row(f"exact top {K}, {name}: FAISS, flat", theirs, 1.0, "", True, ""),
            Row(f"exact top {K}, {name}: NumPy, argpartition", sorted_, theirs / sorted_, "", True, ""),
            bar(f"exact top {K}, {name}: solution", own, theirs, least, "FAISS", above(own, floor)),
            Row(f"exact top {K}, {name}, of a tenth: solution", filtered, theirs / filtered, "", True, ""),
        ]
    return measured


# Vectors of texts -----------------------------------------------------------------------------------------

SETTINGS = (("64 texts of 5 to 30 words", 64, 5, 30), ("256 texts of 5 to 30 words", 256, 5, 30))


def embedding_rows() -> list[Row]:
    """transformers twice: batches of 32 as the texts come, and of texts of like length."""
    made = embedders.encoder(embeddings.model_path())
    measured = []
    for name, count, shortest, longest in SETTINGS:
        texts = embeddings.made(count, shortest, longest)
        contenders = [
            partial(embeddings.theirs, texts, by_length=False),
            partial(embeddings.theirs, texts),
            partial(made.embed, texts, "passage"),
        ]
        agree(contenders)
        as_they_come, by_length, own = race(contenders, ROUNDS)
        ratio = as_they_come / by_length
        measured += [
            Row(f"embedding {name}: transformers, as they come", as_they_come, 1.0, "", True, ""),
            Row(f"embedding {name}: transformers, by length", by_length, ratio, "", True, ""),
            bar(f"embedding {name}: solution", own, as_they_come, 1.5, "transformers as they come"),
        ]
    return measured


# How good it is -------------------------------------------------------------------------------------------


def quality_rows() -> list[Row]:
    """The ratio is nDCG@10, the time that of a query, its embedding included."""
    if BEIR not in os.environ:
        return []
    folder = Path(os.environ[BEIR])
    collection, embedder = read_beir(folder), remembering(embedders.encoder(embeddings.model_path()))
    judged = judge(collection, embedder, lambda done, total: None)
    libraries = judged_by_libraries(collection, embedder)
    rows = []
    for method, found in judged.items():
        ours, theirs = found["nDCG@10"], libraries[method]
        told = f"Recall@100 {found['Recall@100']:.4f}, MRR@10 {found['MRR@10']:.4f}, libraries {theirs:.4f}"
        seconds = (found["ms embed"] + found["ms search"]) / 1e3
        name, near = f"{folder.name}: {method}, nDCG@10 {ours:.4f}", abs(ours - theirs) <= NEAR
        rows.append(Row(name, seconds, ours, f"within {NEAR} of the libraries", near, told))
    gain = judged["hybrid"]["nDCG@10"] / max(judged["BM25"]["nDCG@10"], judged["dense"]["nDCG@10"])
    rows.append(Row(f"{folder.name}: hybrid over the better part", 0.0, gain, "more than 1 x", gain > 1, ""))
    return rows


def remembering(embedder: Embedder) -> Embedder:
    """Embeds no text twice: the libraries search the very vectors that the solution searched."""
    known: dict[tuple[str, str], np.ndarray] = {}

    def embed(texts: list[str], kind: str) -> mx.array:
        new = [text for text in dict.fromkeys(texts) if (text, kind) not in known]
        if new:
            rows = np.array(embedder.embed(new, kind))
            known.update(((text, kind), row) for text, row in zip(new, rows, strict=True))
        return mx.array(np.stack([known[text, kind] for text in texts]))

    return Embedder(embedder.dim, embed)


def judged_by_libraries(collection: Judged, embedder: Embedder) -> dict[str, float]:
    """nDCG@10 of the three methods: bm25s and FAISS rank, pytrec_eval judges."""
    import bm25s
    import faiss
    import pytrec_eval

    ids, k = list(collection.documents), min(FOUND, len(collection.documents))
    made = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    made.index([words(text) for text in collection.documents.values()], show_progress=False)
    asked = [words(text) for text in collection.queries.values()]
    numbers, scores = made.retrieve(asked, k=k, show_progress=False, return_as="tuple")
    by_words = [
        [ids[i] for i, score in zip(*each, strict=True) if score > 0]
        for each in zip(numbers.tolist(), scores.tolist(), strict=True)
    ]
    flat = faiss.IndexFlatIP(embedder.dim)
    flat.add(np.array(embedder.embed(list(collection.documents.values()), "passage")))
    _, numbers = flat.search(np.array(embedder.embed(list(collection.queries.values()), "query")), k)
    by_vectors = [[ids[i] for i in each] for each in numbers.tolist()]
    both = [fused(rankings) for rankings in zip(by_words, by_vectors, strict=True)]
    judge = pytrec_eval.RelevanceEvaluator(collection.qrels, {"ndcg_cut.10"})
    answerable = [query for query, grades in collection.qrels.items() if max(grades.values()) >= 1]
    means = {}
    for method, rankings in (("BM25", by_words), ("dense", by_vectors), ("hybrid", both)):
        run = {
            query: {each: -float(rank) for rank, each in enumerate(ranking)}
            for query, ranking in zip(collection.queries, rankings, strict=True)
        }
        values = judge.evaluate(run)
        means[method] = sum(values[query]["ndcg_cut_10"] for query in answerable) / len(answerable)
    return means


def fused(rankings: tuple[list[str], ...]) -> list[str]:
    """Reciprocal ranks added up, in floats as they come; of equal scores the smaller id comes first."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, each in enumerate(ranking, start=1):
            scores[each] = scores.get(each, 0.0) + 1 / (HYBRID + rank)
    return sorted(scores, key=lambda each: (-scores[each], each))[:FOUND]


def bar(name: str, mine: float, theirs: float, least: float, whom: str, floor: str = "") -> Row:
    ratio = theirs / mine
    return Row(name, mine, ratio, f"at least {least:g} x {whom}", ratio >= least, floor)


def report() -> list[Row]:
    """Every bar, measured in this process."""
    return [*index_rows(), *query_rows(), *dense_rows(), *embedding_rows(), *quality_rows()]


# For pytest-benchmark -------------------------------------------------------------------------------------


def test_search_by_words(benchmark):
    documents, queries = corpus()
    index = BM25(documents)
    measure(benchmark, "search by words", lambda: [index.search(query, K) for query in queries])


def test_search_by_vectors(benchmark):
    rows, queries = vectors()
    index = VectorIndex(DIM)
    index.add([f"v{i}" for i in range(VECTORS)], mx.array(rows))
    measure(benchmark, "search by vectors", lambda: index.search(mx.array(queries), K))


def test_report(benchmark, capsys):
    show(benchmark, capsys, report)
