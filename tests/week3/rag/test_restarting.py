"""Another pipeline goes on with an index that one has filled."""

import numpy as np
import pytest

from grading.marks import requirement
from grading.matching import assert_equal, refused
from grading.tolerance import allowance
from spec import UnknownDocument
from spec.rag import Document, Ingested
from tests.week3.rag.cases import Disk, assert_score
from tests.week3.rag.cases_pipeline import Caller, document, found, new_index, pipeline

COMMON = (
    "text",
    "doc_id",
    "id",
    "start",
    "end",
    "metadata",
    "chunk",
    "chunk_id",
    "document",
    "source",
    "vector",
)
ANY_NAMES = {name: i for i, name in enumerate(COMMON)} | {
    "text": "x",
    "tags": ["a", None, 1.5],
    "é": True,
    "": None,
}
DOCUMENTS = [
    document("d", "neon one @9", "argon two @8", "neon one @9", **ANY_NAMES),
    document("e#0", "neon three @7", group="staff"),
    Document("é", "neon four @6", {}),
]
BEFORE = [
    document("d", "new at first @3", "neon one @9", "argon two @8", text="y"),
    document("e#0", "neon three @7", group="board"),
    Document("é", "xenonfivesixten neon four @6", {}),  # what stays is at another place
    document("gone", "neon gone @2"),
]
HOW = pytest.mark.parametrize("saved", [False, True], ids=["the same index", "saved and loaded"])
SETTINGS = {"size": 16, "overlap": 5, "separators": (" ",), "k": 20}


def restarted(impl, saved, caller, **config):
    """The pipeline that filled an index, in two steps, then the index, and the next pipeline over it."""
    index = new_index(impl)
    first = pipeline(impl, Caller(), *BEFORE, index=index, **SETTINGS, **config)
    first.ingest(DOCUMENTS)
    first.remove(["gone"])
    if saved:
        storage = Disk().storage
        index.save(storage)
        index = impl.load_index(storage)
    return first, index, pipeline(impl, caller, index=index, **SETTINGS, **config)


def assert_same(retrieved, expected):
    """The same chunks, and scores that differ by no more than float32 rounds."""
    assert_equal(retrieved.chunks, expected.chunks, "chunks found")
    allowed = allowance(np.array(expected.scores), np.array(expected.scores, np.float32))
    for chunk, score, other in zip(retrieved.chunks, retrieved.scores, expected.scores, strict=True):
        assert_score(score, other, allowed, f"score of {chunk.text!r}")


@requirement("RAG-46")
@HOW
@pytest.mark.parametrize("retrieval", ["bm25", "dense", "hybrid"])
def test_the_next_pipeline_answers_as_the_one_before(impl, saved, retrieval):
    first, _, second = restarted(impl, saved, Caller(), retrieval=retrieval)
    assert_equal(second.documents(), ["d", "e#0", "é"], "documents")
    for where in (None, {"doc_id": 1}, {"text": "x"}, {"group": "staff"}, {"tags": {"$contains": 1.5}}):
        question = "neon two ?1"
        assert_same(second.retrieve(question, where=where), first.retrieve(question, where=where))
    assert_equal(first.retrieve("neon ?1", where={"doc_id": 1}).chunks[0].metadata, ANY_NAMES, "metadata")
    assert_equal(second.answer("neon two ?1"), first.answer("neon two ?1"), "answer")


@requirement("RAG-46")
@HOW
def test_the_next_pipeline_knows_what_is_unchanged(impl, saved):
    caller = Caller()
    _, index, second = restarted(impl, saved, caller)
    ids = index.ids()
    assert_equal(second.ingest(DOCUMENTS), Ingested([], [], ["d", "e#0", "é"]), "ingested again")
    assert_equal((caller.embedded, index.ids()), ([], ids), "calls of the embedder, ids in the index")


@requirement("RAG-46")
@HOW
def test_the_next_pipeline_changes_and_removes(impl, saved):
    caller = Caller()
    first, index, second = restarted(impl, saved, caller)
    other = [
        document("e#0", "neon three @7", group="board"),
        document("d", "neon anew @1"),
        document("f", "neon @2"),
    ]
    assert_equal(second.ingest(other), Ingested(["f"], ["e#0", "d"], []), "ingested")
    second.remove(["é"])
    assert_equal(second.documents(), ["d", "e#0", "f"], "documents")
    other_index = new_index(impl)
    anew = pipeline(impl, Caller(), *other, index=other_index, **SETTINGS)
    assert_same(second.retrieve("neon one four"), anew.retrieve("neon one four"))
    assert_equal(index.ids(), other_index.ids(), "ids in the index")
    with refused(UnknownDocument):
        second.remove(["é"])
    assert_equal(found(second, "argon"), [], "texts of the old")
