"""FAISS and Chroma in the place of the index of the solution, and what makes vectors."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from solution.rag import RagPipeline, VectorIndex, embedders
from solution.rag.folder import folder
from solution.rag.stores import ChromaIndex, FaissIndex
from solution.rag.words import words
from spec import DamagedIndex, InvalidArgument, UnknownDocument
from spec.rag import Document, RagConfig
from tests.suite.real_models import fetched

DIM = 16
MAKERS = {
    "faiss, exact": lambda metric: FaissIndex(DIM, metric=metric),
    "faiss, IVF with all lists": lambda metric: FaissIndex(DIM, metric=metric, factory="IVF4,Flat", probes=4),
    "faiss, HNSW": lambda metric: FaissIndex(DIM, metric=metric, factory="HNSW32"),
    "chroma": lambda metric: ChromaIndex(DIM, metric=metric),
}
STORES = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def filled(index, *, seed=0, n=300):
    """With random vectors, of which a third went again and a tenth changed, and the truth about it."""
    rng = np.random.default_rng(seed)
    ids = [f"v{i}" for i in rng.permutation(n)]
    rows = mx.array(rng.standard_normal((n, DIM)).astype(np.float32))
    metadata = [{"n": i % 3, "tags": ["a", None]} if i % 4 else {} for i in range(n)]
    truth = VectorIndex(DIM, metric=index._metric)
    for each in (truth, index):
        each.add(ids, rows, metadata)
        each.remove(ids[: n // 3])
        each.add(ids[-n // 10 :], -rows[-n // 10 :], [{"changed": True}] * (n // 10))
        each.set_metadata(ids[n // 2 : n // 2 + 9], [{"n": 7}] * 9)
    return truth, index


def assert_same(index, truth, *, least=1.0):
    """Of the neighbours that the truth knows, at least so many are found, with their scores."""
    assert (index.ids(), index.get(truth.ids())) == (truth.ids(), truth.get(truth.ids()))
    queries = mx.array(np.random.default_rng(9).standard_normal((5, DIM)).astype(np.float32))
    hidden = {"$not": {"n": 0}}
    for options in ({}, {"where": {"n": {"$ne": 1}}}, {"where": hidden, "among": truth.ids()[::2]}):
        known, found = truth.search(queries, 8, **options), index.search(queries, 8, **options)
        for expected, actual in zip(known, found, strict=True):
            scores = {hit.id: hit.score for hit in expected}
            both = [hit for hit in actual if hit.id in scores]
            assert len(both) >= least * len(expected)
            assert np.allclose([hit.score for hit in both], [scores[hit.id] for hit in both], atol=1e-4)
            assert [hit.score for hit in actual] == sorted((hit.score for hit in actual), reverse=True)


@STORES
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_a_store_answers_as_the_index(make, metric):
    truth, index = filled(make(metric))
    assert_same(index, truth, least=1.0 if "HNSW" not in getattr(index, "_factory", "HNSW") else 0.8)
    everything = truth.ids()
    for each in (truth, index):
        each.remove(everything)
        assert each.search(mx.zeros((2, DIM)), 3) == [[], []]
    for each in (truth, index):
        each.add(everything[:50], mx.ones((50, DIM)))
    assert sorted(hit.id for hit in index.search(mx.ones((1, DIM)), 99)[0]) == everything[:50]


@STORES
def test_a_store_refuses_what_the_index_refuses(make):
    _, index = filled(make("cosine"))
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


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "HNSW32"])
def test_faiss_is_kept(tmp_path, factory):
    truth, index = filled(FaissIndex(DIM, metric="l2", factory=factory, probes=4))
    index.save(folder(tmp_path))
    assert_same(FaissIndex.load(folder(tmp_path)), truth, least=0.8 if "HNSW" in factory else 1.0)
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(DamagedIndex):
        FaissIndex.load(folder(tmp_path))


def test_chroma_keeps_its_folder(tmp_path):
    truth, _ = filled(ChromaIndex(DIM, metric="ip", folder=tmp_path))
    assert_same(ChromaIndex(DIM, metric="ip", folder=tmp_path), truth, least=0.8)
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
    assert np.allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 1, 0])
    assert (rows == np.array(made.embed(texts, "query"))).all()
    near = rows @ rows[0]
    assert near[1] > near[2] > abs(near[3])
    in_any_process = [33, 85]
    assert np.flatnonzero(np.array(made.embed(["a"], "query"))).tolist() == in_any_process


def test_an_encoder_has_what_its_model_wants_before_a_text(tmp_path):
    minilm = fetched("all-minilm-l6-v2")
    plain = embedders.encoder(minilm)
    assert plain.dim == 384
    expected = np.array(plain.embed(["query: which gas?", "text: Neon.", "Neon."], "query"))
    prompts = {"query": "query: ", "document": "text: "}
    path = shutil.copytree(minilm, tmp_path / "model")
    (path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    made = embedders.encoder(path)
    rows = [made.embed(["which gas?"], "query"), made.embed(["Neon."], "passage")]
    assert np.allclose(np.concatenate(rows), expected[:2], atol=1e-5)
    assert np.allclose(plain.embed(["Neon."], "passage"), expected[2:], atol=1e-5)
