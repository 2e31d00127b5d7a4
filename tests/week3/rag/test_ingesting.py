"""Documents go into a pipeline, change and go: all of it or none, and nothing is embedded twice."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.edited import reference
from grading.marks import requirement
from grading.matching import assert_equal, passed_through, refused
from spec import InvalidArgument, UnknownDocument
from spec.rag import Document, Ingested
from tests.week3.rag.cases import assert_score, words_scores
from tests.week3.rag.cases_pipeline import Caller, document, found, new_index, pipeline, texts, words

TRUTH = reference("rag")
FAILURE = OSError("the embedder fails")


def chunks_of(*documents, size=20, overlap=0, separators=()):
    """All of them, as `split` cuts."""
    options = {"size": size, "overlap": overlap, "separators": separators}
    pieces = [TRUTH.split(each.text, doc_id=each.id, metadata=each.metadata, **options) for each in documents]
    return [chunk for some in pieces for chunk in some]


def ids_of(*documents):
    return sorted(chunk.id for chunk in chunks_of(*documents))


def by_id(chunks):
    return sorted(chunks, key=lambda chunk: chunk.id)


# What is ingested is found


@requirement("RAG-36")
@pytest.mark.parametrize(
    ("size", "overlap", "separators"),
    [(10, 0, ()), (10, 3, ()), (12, 4, (". ", " ")), (12, 0, (" ",)), (100, 50, ())],
)
@pytest.mark.parametrize("retrieval", ["dense", "hybrid"])
def test_what_is_ingested_is_found(impl, retrieval, size, overlap, separators):
    documents = [
        Document("d", "one two. three fo. five s", {"year": 2024, "groups": ["a"]}),
        Document("e#0", "One. two, and three. "),
    ]
    caller, index = Caller(), new_index(impl)
    made = pipeline(
        impl,
        caller,
        index=index,
        size=size,
        overlap=overlap,
        separators=separators,
        retrieval=retrieval,
        k=50,
    )
    assert_equal(made.ingest(documents), Ingested(["d", "e#0"], [], []), "ingested")
    expected = chunks_of(*documents, size=size, overlap=overlap, separators=separators)
    assert_equal(index.ids(), sorted(chunk.id for chunk in expected), "ids in the index")
    assert_equal({kind for _, kind in caller.embedded}, {"passage"}, "what texts were embedded as")
    embedded = {text for texts, _ in caller.embedded for text in texts}
    assert_equal(embedded, {chunk.text for chunk in expected}, "texts that were embedded")
    assert_equal(by_id(made.retrieve("one ?1").chunks), by_id(expected), "chunks that are found")
    hits = index.search(np.ones((1, 2), np.float32), 50)[0]
    assert_equal(len(hits), len(expected), "vectors in the index")


@requirement("RAG-36")
def test_each_chunk_has_its_own_vector_and_words(impl):
    lines = [f"Word{i} same @{number}" for i, number in enumerate([3, 9, 1, 7, 5, 8])]
    documents = [document("b", *lines[:2]), document("a", *lines[2:5]), document("c", lines[5])]
    made = pipeline(impl, Caller(), *documents, retrieval="dense", k=9)
    best = [lines[i] for i in (1, 5, 3, 4, 0, 2)]
    assert_equal(found(made, "any ?1"), best, "texts by the number after @")
    assert_equal(found(made, "any ?-1"), best[::-1], "texts by the number after @, the other way")
    made = pipeline(impl, Caller(), *documents)
    for i, line in enumerate(lines):
        assert_equal(found(made, f"Word{i}"), [line], f"texts with the word Word{i}")


# Ingesting again


@requirement("RAG-37")
@pytest.mark.parametrize("retrieval", ["bm25", "dense", "hybrid"])
def test_of_a_changed_document_nothing_old_is_found(impl, retrieval):
    old, new = (
        document("d", "neon at 10 @9", "same @3", "neon old @8"),
        document("d", "neon at 12 @2", "same @3"),
    )
    other = document("d2", "neon other @1")
    index = new_index(impl)
    made = pipeline(impl, Caller(), old, other, index=index, retrieval=retrieval)
    assert_equal(made.ingest([new]), Ingested([], ["d"], []), "ingested")
    assert_equal(index.ids(), ids_of(new, other), "ids in the index")
    expected = (
        ["neon at 12 @2", "neon other @1"]
        if retrieval == "bm25"
        else ["neon at 12 @2", "neon other @1", "same @3"]
    )
    assert_equal(sorted(found(made, "neon old at 10 ?1")), expected, "texts found")
    assert_equal(made.documents(), ["d", "d2"], "documents")


@requirement("RAG-37")
def test_what_is_ingested_again_is_unchanged(impl):
    documents = [
        document("d10", "neon @1", "xenon @2", year=2024, tags=["a", None]),
        document("B", "argon @3"),
    ]
    index = new_index(impl)
    made = pipeline(impl, Caller(), *documents, index=index)
    before = made.retrieve("neon argon"), index.ids()
    assert_equal(made.ingest(documents), Ingested([], [], ["d10", "B"]), "ingested again")
    assert_equal(
        (made.retrieve("neon argon"), index.ids()), before, "what is found, and the ids in the index"
    )
    again = [
        document("d9", "new"),
        documents[1],
        document("a", "new"),
        document("d10", "neon @1", "xenon @2"),
    ]
    assert_equal(made.ingest(again), Ingested(["d9", "a"], ["d10"], ["B"]), "ingested, in order")
    assert_equal(made.documents(), ["B", "a", "d10", "d9"], "documents")
    assert_equal(made.ingest([]), Ingested([], [], []), "nothing ingested")


@requirement("RAG-37")
@pytest.mark.parametrize("retrieval", ["bm25", "dense"])
def test_metadata_that_changed_hold_for_chunks_that_stay(impl, retrieval):
    caller = Caller()
    made = pipeline(impl, caller, document("d", "neon @1", group="staff"), retrieval=retrieval)
    assert_equal(made.ingest([document("d", "neon @1", group="board")]), Ingested([], ["d"], []), "ingested")
    assert_equal(made.retrieve("neon ?1", where={"group": "staff"}).chunks, [], "chunks of the old group")
    (chunk,) = made.retrieve("neon ?1", where={"group": "board"}).chunks
    assert_equal(chunk.metadata, {"group": "board"}, "metadata")
    assert_equal(
        made.ingest([document("d", "neon @1")]), Ingested([], ["d"], []), "ingested without metadata"
    )
    assert_equal(made.retrieve("neon ?1").chunks[0].metadata, {}, "metadata")


@requirement("RAG-37")
def test_what_looks_alike_has_changed(impl):
    made = pipeline(impl, Caller(), Document("d", "neon", {"public": 1, "tags": [0]}))
    for text, metadata in [
        ("neon", {"public": True, "tags": [0]}),
        ("neon", {"public": True, "tags": [False]}),
        ("neon\n", {"public": True, "tags": [False]}),
        ("Neon\n", {"public": True, "tags": [False]}),
        ("Neon\n", {"public": True, "tags": [False], "owner": None}),
    ]:
        assert_equal(made.ingest([Document("d", text, metadata)]), Ingested([], ["d"], []), "ingested")
        (chunk,) = made.retrieve("neon Neon", where={"public": True}).chunks
        assert_equal((chunk.text, chunk.metadata), (text, metadata), "text and metadata")


@requirement("RAG-37")
def test_what_is_removed_is_gone(impl):
    """Ids of others begin with the id of what is removed."""
    documents = [document(each, f"neon {each}") for each in ("d", "d2", "d#1", "D", "x")]
    index = new_index(impl)
    made = pipeline(impl, Caller(), *documents, index=index, retrieval="hybrid", k=9)
    made.remove(["d", "x", "d"])
    assert_equal(made.documents(), ["D", "d#1", "d2"], "documents")
    assert_equal(sorted(found(made, "neon ?1")), ["neon D", "neon d#1", "neon d2"], "texts found")
    assert_equal(index.ids(), ids_of(*documents[1:4]), "ids in the index")
    made.remove([])
    assert_equal(made.ingest([documents[0]]), Ingested(["d"], [], []), "ingested after it was removed")
    assert_equal(made.documents(), ["D", "d", "d#1", "d2"], "documents")


@requirement("RAG-37")
def test_an_empty_document_is_one(impl):
    index = new_index(impl)
    made = pipeline(impl, Caller(), Document("e", ""), document("d", "neon"), index=index)
    assert_equal((made.documents(), len(index.ids())), (["d", "e"], 1), "documents and chunks")
    assert_equal(made.ingest([Document("e", "")]), Ingested([], [], ["e"]), "ingested again")
    assert_equal(made.ingest([Document("d", "")]), Ingested([], ["d"], []), "ingested without its text")
    assert_equal((index.ids(), found(made, "neon")), ([], []), "ids in the index, texts found")
    made.remove(["e"])
    assert_equal(made.documents(), ["d"], "documents")


LINES = ["neon gas @4", "neon neon @3", "argon gas @2", "xenon @1"]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["d", "d1", "e"]),
        st.none() | st.lists(st.sampled_from(LINES), max_size=3),
        st.booleans(),
    ),
    min_size=2,
    max_size=5,
)


@requirement("RAG-37")
@given(steps=STEPS)
@example(steps=[("d", LINES[:2], True), ("d", LINES[1:3], True), ("e", LINES[:1], False), ("d", [], True)])
@example(
    steps=[
        ("d", [LINES[0]] * 3, True),
        ("d", [LINES[0]] * 2, False),
        ("d1", LINES[:3], True),
        ("d", None, True),
    ]
)
def test_the_pipeline_is_as_one_made_anew(impl, steps):
    """Each step changes a document, or removes it."""
    there, index = {}, new_index(impl)
    made = pipeline(impl, Caller(), index=index, k=20)
    for doc_id, lines, public in steps:
        if lines is None:
            if doc_id in there:
                made.remove([doc_id])
                del there[doc_id]
            continue
        changed = document(doc_id, *lines, public=public)
        is_new, same = doc_id not in there, there.get(doc_id) == changed
        there[doc_id] = changed
        report = made.ingest([changed])
        expected = [[doc_id] if each else [] for each in (is_new, not is_new and not same, same)]
        assert_equal(report, Ingested(*expected), "ingested")
        assert_equal(made.documents(), sorted(there), "documents")
    assert_equal(index.ids(), ids_of(*there.values()), "ids in the index")
    tokens = {chunk.id: words(chunk.text) for chunk in chunks_of(*there.values())}
    for question in ("neon", "gas neon"):
        (scores,), allowed = words_scores(tokens, [words(question)])
        anew, retrieved = pipeline(TRUTH, Caller(), *there.values(), k=20), made.retrieve(question)
        assert_equal(retrieved.chunks, anew.retrieve(question).chunks, f"chunks found by {question!r}")
        for chunk, score in zip(retrieved.chunks, retrieved.scores, strict=True):
            assert_score(score, scores[chunk.id], allowed, f"score of {chunk.text!r}")


# All of it or none


@requirement("RAG-38")
@pytest.mark.parametrize("retrieval", ["bm25", "dense"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_where_the_embedder_raises_nothing_was_ingested(impl, at, retrieval):
    old = [document("a", "neon a @5"), document("b", "neon b @4", group="staff")]
    new = [
        document("c", "neon c @9"),
        document("a", "neon anew @8"),
        document("b", "neon b @4", group="board"),
    ]
    caller, index = Caller(), new_index(impl)
    made = pipeline(impl, caller, *old, index=index, retrieval=retrieval)
    before = made.retrieve("neon a ?1"), made.documents(), index.ids()
    with passed_through(FAILURE):
        made.ingest([*new[:at], document("f", "it fails @7"), *new[at:]])
    after = made.retrieve("neon a ?1"), made.documents(), index.ids()
    assert_equal(after, before, "what is found, documents and ids in the index")
    assert_equal(made.ingest(new), Ingested(["c"], ["a", "b"], []), "ingested at last")
    assert_equal(index.ids(), ids_of(*new), "ids in the index")


@requirement("RAG-38")
def test_where_the_tokenizer_raises_nothing_was_ingested(impl):
    """Who tokenises later has ingested all."""

    class Fails(Caller):
        def tokenize(self, text):
            if "broken" in text:
                raise ValueError("the tokenizer fails")
            return super().tokenize(text)

    old, new = document("a", "neon a @5"), [document("a", "neon anew @9"), document("b", "broken @8")]
    index = new_index(impl)
    made = pipeline(impl, Fails(), old, index=index, retrieval="dense")
    with suppress(ValueError):
        made.ingest(new)
    seen = made.documents(), index.ids(), found(made, "?1")
    nothing = ["a"], ids_of(old), ["neon a @5"]
    everything = ["a", "b"], ids_of(*new), ["neon anew @9", "broken @8"]
    assert seen in (nothing, everything), f"documents, ids and texts: expected {nothing}, got {seen}"


@requirement("RAG-38")
@pytest.mark.parametrize("retrieval", ["bm25", "dense"])
def test_where_vectors_do_not_fit_nothing_was_ingested(impl, retrieval):
    class Misfits(Caller):
        def embed(self, texts, kind):
            rows = super().embed(texts, kind)
            return np.ones((len(rows), 3), np.float32) if "neon anew @9" in texts[0] else rows

    index = new_index(impl)
    made = pipeline(impl, Misfits(), document("a", "neon a @5"), index=index, retrieval=retrieval)
    before = made.retrieve("neon anew ?1"), made.documents(), index.ids()
    with suppress(InvalidArgument):
        made.ingest([document("a", "neon anew @9")])
    after = made.retrieve("neon anew ?1"), made.documents(), index.ids()
    assert_equal(after, before, "what is found, documents and ids in the index")


@requirement("RAG-38")
def test_where_remove_raises_nothing_was_removed(impl):
    documents = [document("a", "neon a"), document("b", "neon b")]
    index = new_index(impl)
    made = pipeline(impl, Caller(), *documents, index=index)
    for unknown in (["a", "c"], ["c", "a"], ["a#1"], [""]):
        with refused(UnknownDocument):
            made.remove(unknown)
    assert_equal((made.documents(), index.ids()), (["a", "b"], ids_of(*documents)), "documents and ids")
    assert_equal(found(made, "neon"), ["neon a", "neon b"], "texts found")


@requirement("RAG-38")
@pytest.mark.parametrize("retrieval", ["bm25", "dense"])
def test_only_what_is_new_is_embedded(impl, retrieval):
    """Two lines stay, one of them at another place."""
    caller, index = Caller(), new_index(impl)
    old, kept = document("d", "neon one @1", "neon two @2", "three @3", year=1), document("e", "neon e @5")
    made = pipeline(impl, caller, old, kept, index=index, retrieval=retrieval)
    new = document("d", "four @4", "neon one @1", "neon two @2", "neon five @7", year=2)
    added = document("f", "six @6")
    made.ingest([added, new, kept])
    assert_equal(caller.passages(), ["four @4", "neon five @7", "six @6"], "texts that were embedded")
    assert_equal(index.ids(), ids_of(new, kept, added), "ids in the index")
    given = [chunk for chunk in chunks_of(new, kept, added) if retrieval == "dense" or "neon" in chunk.text]
    chunks = made.retrieve("neon ?1").chunks
    expected = [chunk for chunk in given if chunk.id in {each.id for each in chunks}]
    assert_equal(len(chunks), min(5, len(given)), "number of chunks found")
    assert_equal(by_id(chunks), by_id(expected), "chunks with their places and metadata of now")


@requirement("RAG-38")
def test_where_nothing_is_new_the_embedder_is_not_called(impl):
    caller = Caller()
    made = pipeline(impl, caller, document("d", "neon", "argon", year=1), document("e", "xenon"))
    made.ingest([document("d", "neon", "argon", year=1)])
    made.ingest([document("d", "argon", "neon", year=2), document("e", "xenon")])
    made.ingest([document("d", "neon"), Document("empty", ""), document("e")])
    made.ingest([])
    made.remove(["d"])
    assert_equal(caller.embedded, [], "calls of the embedder")


# Refusals


@requirement("RAG-59")
def test_ingest_and_remove_refuse(impl):
    caller, index = Caller(), new_index(impl)
    made = pipeline(impl, caller, document("a", "neon a"), index=index)
    assert_equal(made.ingest([document("b", "neon b")]), Ingested(["b"], [], []), "ingested")
    caller.forget()
    twice = [document("c", "neon c"), document("a", "changed"), document("c", "neon c")]
    for documents in (twice, [document("a", "neon a")] * 2):
        with refused(InvalidArgument, "documents", "id"):
            made.ingest(documents)
    with refused(UnknownDocument):
        made.remove(["c"])
    assert_equal((caller.embedded, caller.tokenized), ([], []), "calls of the embedder and the tokenizer")
    assert_equal((made.documents(), len(index.ids())), (["a", "b"], 2), "documents and chunks")
    assert_equal(texts(made.retrieve("neon").chunks), ["neon a", "neon b"], "texts found")
