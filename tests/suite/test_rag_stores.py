"""FAISS and Chroma in the place of the index of the solution, and what makes vectors."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from grading.matching import assert_identical
from grading.tolerance import allowance
from solution.rag import RagPipeline, embedders, matches
from solution.rag.folder import folder
from solution.rag.stores import ChromaIndex, FaissIndex
from solution.rag.words import words
from spec import DamagedIndex, InvalidArgument, UnknownDocument
from spec.rag import Document, RagConfig
from tests.suite.outside import normal
from tests.suite.real_models import fetched
from tests.week3.rag.cases import METRICS, assert_ranking, vector_scores

DIM = 16
N = 99  # fewer than an HNSW looks at here: then it finds all that an exact search finds
MAKERS = {
    "faiss, exact": lambda metric: FaissIndex(DIM, metric=metric),
    "faiss, IVF with all lists": lambda metric: FaissIndex(DIM, metric=metric, factory="IVF2,Flat", probes=2),
    "faiss, HNSW": lambda metric: FaissIndex(DIM, metric=metric, factory="HNSW32", probes=N),
    "chroma": lambda metric: ChromaIndex(DIM, metric=metric),
}
STORES = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def fill(index):
    """With random vectors, of which a third went again and a tenth changed.
    The vectors and the metadata that are left, by their ids."""
    rows, first = normal(0, N, DIM), [{"n": i % 3, "tags": ["a", None]} if i % 4 else {} for i in range(N)]
    ids = [f"v{i}" for i in np.random.default_rng(1).permutation(N)]
    gone, moved, told = ids[: N // 3], ids[-N // 10 :], ids[N // 2 : N // 2 + 9]
    index.add(ids, mx.array(rows), first)
    index.remove(gone)
    index.add(moved, mx.array(-rows[-N // 10 :]), [{"changed": True}] * len(moved))
    index.set_metadata(told, [{"n": 7}] * len(told))
    rows[-N // 10 :] *= -1
    vectors, metadata = dict(zip(ids, rows, strict=True)), dict(zip(ids, first, strict=True))
    metadata |= dict.fromkeys(moved, {"changed": True}) | dict.fromkeys(told, {"n": 7})
    for each in gone:
        del vectors[each], metadata[each]
    return vectors, metadata


def assert_answers(index, metric, vectors, metadata):
    there, queries = sorted(vectors), normal(9, 5, DIM)
    assert index.ids() == there
    assert index.get(there) == [metadata[each] for each in there]
    expected, allowed = vector_scores(metric, queries, vectors)
    for where, among in ((None, None), ({"n": {"$ne": 1}}, None), ({"$not": {"n": 0}}, there[::2])):
        seen = [each for each in among or there if where is None or matches(metadata[each], where)]
        found = index.search(mx.array(queries), 8, where=where, among=among)
        for hits, scores in zip(found, expected, strict=True):
            assert_ranking(hits, {each: scores[each] for each in seen}, allowed, 8)


@STORES
@pytest.mark.parametrize("metric", METRICS)
def test_a_store_answers_as_the_index(make, metric):
    index = make(metric)
    vectors, metadata = fill(index)
    assert_answers(index, metric, vectors, metadata)
    everything = sorted(vectors)
    index.remove(everything)
    assert index.search(mx.zeros((2, DIM)), 3) == [[], []]
    index.add(everything[:50], mx.ones((50, DIM)))
    assert sorted(hit.id for hit in index.search(mx.ones((1, DIM)), 99)[0]) == everything[:50]


@STORES
def test_a_store_refuses_what_the_index_refuses(make):
    index = make("cosine")
    fill(index)
    before = index.ids()
    for call in (
        lambda: index.add(["x", "x"], mx.zeros((2, DIM))),
        lambda: index.add(["x"], mx.zeros((1, DIM + 1))),
        lambda: index.add(["x"], mx.full((1, DIM), float("nan"))),
        lambda: index.search(mx.zeros((1, DIM)), 0),
        lambda: index.search(mx.zeros((1, DIM)), 1, where={"n": {"$gtt": 1}}),
    ):
        with pytest.raises(InvalidArgument):
            call()
    for call in (index.get, index.remove):
        with pytest.raises(UnknownDocument):
            call([before[0], "nobody"])
    assert index.ids() == before


@pytest.mark.parametrize("make", [lambda: FaissIndex(DIM), lambda: ChromaIndex(DIM)], ids=["faiss", "chroma"])
def test_a_pipeline_over_a_store(make):
    documents = [
        Document("car", "An automobile has four wheels.", {"lang": "en"}),
        Document("sun", "The sun is a star of eight planets.", {"lang": "en", "text": 1}),
        Document("gas", "Neon is a noble gas that glows.", {"lang": "de"}),
    ]
    index = make()

    def pipeline():
        return RagPipeline(
            index, embedders.hashing(DIM), lambda prompt: ["[1]"],
            config=RagConfig(retrieval="dense", k=2), tokenize=words, count_tokens=len,
        )  # fmt: skip

    made = pipeline()
    made.ingest([*documents[:2], Document("gas", "Argon is a noble gas.")])
    made.ingest(documents)
    for each in (made, pipeline()):
        assert each.documents() == ["car", "gas", "sun"]
        found = each.retrieve("Neon is a noble gas that glows.")
        assert (found.chunks[0].text, found.chunks[0].metadata) == (documents[2].text, {"lang": "de"})
        assert {chunk.doc_id for chunk in each.retrieve("gas", where={"lang": "en"}).chunks} == {"car", "sun"}


@pytest.mark.parametrize("factory", ["Flat", "IVF2,Flat", "HNSW32"])
def test_faiss_is_kept(tmp_path, factory):
    index = FaissIndex(DIM, metric="l2", factory=factory, probes=N)
    left = fill(index)
    index.save(folder(tmp_path))
    assert_answers(FaissIndex.load(folder(tmp_path)), "l2", *left)
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(DamagedIndex):
        FaissIndex.load(folder(tmp_path))


def test_chroma_keeps_its_folder(tmp_path):
    left = fill(ChromaIndex(DIM, metric="ip", folder=tmp_path))
    assert_answers(ChromaIndex(DIM, metric="ip", folder=tmp_path), "ip", *left)
    for options in ({"dim": DIM + 1, "metric": "ip"}, {"dim": DIM, "metric": "l2"}):
        with pytest.raises(InvalidArgument):
            ChromaIndex(**options, folder=tmp_path)


def test_collections_in_memory_are_apart():
    one, other = ChromaIndex(DIM), ChromaIndex(DIM)
    one.add(["a"], mx.ones((1, DIM)))
    assert (one.ids(), other.ids()) == (["a"], [])


# Embedders


def test_the_embedder_without_a_model():
    made = embedders.hashing(256)
    texts = ["Neon is a noble gas", "neon, a NOBLE gas.", "Noble gases such as neons", "Trains were late", ""]
    rows = np.array(made.embed(texts, "passage"))
    assert (rows.shape, rows.dtype, made.dim) == ((5, 256), np.float32, 256)
    lengths = np.array([1, 1, 1, 1, 0], np.float32)
    assert np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - lengths).max() <= allowance(
        lengths, lengths
    )
    assert (rows == np.array(made.embed(texts, "query"))).all()
    near = rows @ rows[0]
    assert near[1] > near[2] > abs(near[3])
    in_any_process = [33, 85]
    assert np.flatnonzero(np.array(made.embed(["a"], "query"))).tolist() == in_any_process


def test_an_encoder_has_what_its_model_wants_before_a_text(tmp_path):
    minilm = fetched("all-minilm-l6-v2")
    plain = embedders.encoder(minilm)
    assert plain.dim == 384
    prompts = {"query": "query: ", "document": "text: "}
    path = shutil.copytree(minilm, tmp_path / "model")
    (path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    made = embedders.encoder(path)
    for text, kind, whole in (
        ("which gas?", "query", "query: which gas?"),
        ("Neon.", "passage", "text: Neon."),
    ):
        assert_identical(np.array(made.embed([text], kind)), np.array(plain.embed([whole], kind)))
    assert_identical(np.array(plain.embed(["Neon."], "passage")), np.array(plain.embed(["Neon."], "query")))
