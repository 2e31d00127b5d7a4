"""Questions while documents come, and documents while questions are answered."""

import threading

import pytest

from grading.marks import requirement
from grading.matching import assert_equal
from tests.week3.rag.cases_pipeline import Caller, document, found, pipeline, texts

OLD = [document("d", "neon at 10 @5", "neon stays @4", gas=True), document("e", "argon old @3", gas=True)]
NEW = [document("d", "neon at 12 @9", "neon stays @4", gas=True), document("e", "argon new @7", gas=True)]
WAIT = 5.0  # seconds for calls that take milliseconds, unless they wait for the one that is going on


class Interrupted(Caller):
    """`meanwhile` runs the first time it is called for this: "passage", "query", "rerank" or "generate"."""

    def __init__(self, when):
        super().__init__()
        self.when, self.meanwhile, self.threads = when, None, []
        self.waited = False

    def at(self, what):
        if what == self.when and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()

    def embed(self, texts, kind):
        self.at(kind)
        return super().embed(texts, kind)

    def rerank(self, question, texts):
        self.at("rerank")
        return [float(len(texts) - i) for i in range(len(texts))]

    def generate(self, prompt):
        for piece in super().generate(prompt):
            self.at("generate")
            yield piece

    def does_not_wait(self, call):
        """From another thread the call ends while this one is where it is."""
        thread = threading.Thread(target=call, daemon=True)
        self.threads.append(thread)
        thread.start()
        thread.join(WAIT)
        self.waited |= thread.is_alive()
        assert not self.waited, "said in `interrupted`, since a pipeline may go on when a function has failed"

    def interrupted(self, call, meanwhile):
        """What a call returns in which `meanwhile` runs."""
        self.meanwhile = meanwhile
        try:
            answer = call()
        finally:
            for thread in self.threads:
                thread.join()
            assert not self.waited, (
                f"expected that another call does not wait for the {self.when}, but it did"
            )
        assert self.meanwhile is None, f"expected a call for the {self.when}, got none"
        return answer


@requirement("RAG-47")
@pytest.mark.parametrize("retrieval", ["bm25", "dense", "hybrid"])
def test_questions_do_not_wait_for_the_embedder(impl, retrieval):
    caller = Interrupted("passage")
    made = pipeline(impl, caller, *OLD, retrieval=retrieval, k=9)
    expected, answer = made.retrieve("neon argon ?1"), made.answer("neon argon ?1")

    def meanwhile():
        caller.does_not_wait(lambda: (made.retrieve("neon argon ?1"), made.answer("neon argon ?1")))
        assert_equal(made.retrieve("neon argon ?1"), expected, "what is found while documents are embedded")
        assert_equal(made.answer("neon argon ?1"), answer, "the answer while documents are embedded")

    caller.interrupted(lambda: made.ingest([*NEW, document("f", "neon f @6")]), meanwhile)
    fresh = ["argon new @7", "neon at 12 @9", "neon f @6", "neon stays @4"]
    assert_equal(sorted(found(made, "neon argon ?1")), fresh, "texts found afterwards")


@requirement("RAG-47")
@pytest.mark.parametrize("when", ["query", "rerank"])
def test_no_document_is_seen_half(impl, when):
    """All of them are replaced while a question is with one of the caller's functions."""
    caller = Interrupted(when)
    options = {"rerank": caller.rerank} if when == "rerank" else {}
    made = pipeline(impl, caller, *OLD, retrieval="hybrid", k=9, **options)

    def meanwhile():
        caller.does_not_wait(lambda: made.ingest([document("x", "xenon")]))
        made.ingest(NEW)

    answer = caller.interrupted(lambda: made.retrieve("neon argon ?1", where={"gas": True}), meanwhile)
    seen = set(texts(answer.chunks))
    for old, new in (
        ({"neon at 10 @5", "neon stays @4"}, {"neon at 12 @9", "neon stays @4"}),
        ({"argon old @3"}, {"argon new @7"}),
    ):
        assert seen & (old | new) in (old, new), f"texts: expected {old} or {new}, got {seen}"


@requirement("RAG-47")
def test_documents_come_while_an_answer_is_generated(impl):
    caller = Interrupted("generate")
    made = pipeline(impl, caller, *OLD)
    expected = made.answer("neon")

    def meanwhile():
        caller.does_not_wait(lambda: made.ingest([document("x", "xenon")]))
        made.ingest(NEW)

    assert_equal(caller.interrupted(lambda: made.answer("neon"), meanwhile), expected, "answer")
    assert_equal(sorted(found(made, "neon")), ["neon at 12 @9", "neon stays @4"], "texts found afterwards")
