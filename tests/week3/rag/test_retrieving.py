"""What a pipeline retrieves: by words, by vectors, by both, under conditions, and when something fails."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, check_refusals, passed_through, refused
from spec import InvalidArgument
from spec.rag import Embedder, Hit, RagConfig, Retrieved
from tests.week3.rag.cases import assert_score, words_scores
from tests.week3.rag.cases_numbers import TRUTH, assert_hits
from tests.week3.rag.cases_pipeline import (
    DIM,
    Caller,
    count_words,
    document,
    new_index,
    pipeline,
    texts,
    words,
)

FAILURE = OSError("the embedder fails")


def lines_of(*lines):
    """A document for each line, named by it: the order of ids is that of the lines."""
    return [document(line, line) for line in lines]


def hits_of(retrieved):
    """By the ids of documents, which have a chunk each."""
    pairs = zip(retrieved.chunks, retrieved.scores, strict=True)
    return [Hit(chunk.doc_id, score) for chunk, score in pairs]


def assert_retrieved(retrieved, lines, allowed, problems=()):
    """lines: {line: score}, best first."""
    assert_equal(texts(retrieved.chunks), list(lines), "texts found")
    for score, (line, expected) in zip(retrieved.scores, lines.items(), strict=True):
        assert_score(score, expected, allowed, f"score of {line!r}")
    assert_equal(retrieved.problems, list(problems), "problems")


# By words, by vectors, by both

WORDS = ["a one one @3", "b one two two @9", "c two @1", "d three three one @5", "e four @7"]


def by_words(question, lines=WORDS):
    """{line: score} of the lines that match, best first, and the allowance."""
    (scores,), allowed = words_scores({line: words(line) for line in lines}, [words(question)])
    hits = [line for line in lines if set(words(line)) & set(words(question))]
    return {line: scores[line] for line in sorted(hits, key=lambda line: (-scores[line], line))}, allowed


def first(k, ranking):
    return dict(list(ranking.items())[:k])


@requirement("RAG-39")
@pytest.mark.parametrize(("k", "candidates"), [(5, 50), (2, 50), (5, 2), (1, 1)])
def test_by_words(impl, k, candidates):
    made = pipeline(impl, Caller(), *lines_of(*WORDS), k=k, candidates=candidates)
    for question in ("one", "two, one one. ?1", "three four", "zero"):
        ranking, allowed = by_words(question)
        assert_retrieved(made.retrieve(question), first(min(k, candidates), ranking), allowed)


@requirement("RAG-39")
@pytest.mark.parametrize(("k", "candidates"), [(9, 50), (2, 50), (4, 3)])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_by_vectors(impl, metric, k, candidates):
    index = impl.VectorIndex(DIM, metric=metric)
    made = pipeline(
        impl, Caller(), *lines_of(*WORDS), index=index, retrieval="dense", k=k, candidates=candidates
    )
    for question, way in (("two ?1", 1), ("one ?-2", -2)):
        retrieved = made.retrieve(question)
        hits = index.search(np.float32([[way, 0]]), min(k, candidates))[0]
        assert_equal([chunk.id for chunk in retrieved.chunks], [hit.id for hit in hits], "chunks found")
        assert_equal(retrieved.scores, [hit.score for hit in hits], "scores, those of the index")
    assert_equal(
        texts(made.retrieve("two ?-1").chunks)[0], "c two @1", "the best text, nearest in every measure"
    )


def assert_fused(made, question, k, candidates, lines=WORDS):
    words_first, _ = by_words(question, lines)
    way = -1 if "?-1" in question else 1
    vectors_first = sorted(lines, key=lambda line: (-way * int(line.partition("@")[2]), line))
    fused = TRUTH.reciprocal_rank_fusion([list(words_first)[:candidates], vectors_first[:candidates]], k=10)
    assert_hits(hits_of(made.retrieve(question)), fused[:k], f"what {question!r} finds")


@requirement("RAG-39")
@pytest.mark.parametrize(("k", "candidates"), [(9, 50), (3, 50), (9, 2), (2, 1), (9, 3)])
def test_by_both(impl, k, candidates):
    made = pipeline(impl, Caller(), *lines_of(*WORDS), retrieval="hybrid", k=k, candidates=candidates)
    for question in ("one ?1", "two ?-1", "three four one ?-1", "zero ?1"):
        assert_fused(made, question, k, candidates)


TAILS = ["one", "one one", "two", "one two", "two two one", "three"]


@requirement("RAG-39")
@given(
    tails=st.lists(st.sampled_from(TAILS), min_size=1, max_size=6),
    numbers=st.permutations(range(1, 10)),
    question=st.sampled_from(["one ?1", "two ?-1", "one two ?1"]),
    k=st.integers(1, 7),
    candidates=st.integers(1, 7),
)
@example(tails=TAILS, numbers=list(range(1, 10)), question="one two ?1", k=6, candidates=3)
def test_by_both_of_any_lines(impl, tails, numbers, question, k, candidates):
    lines = [f"{name} {tail} @{number}" for name, tail, number in zip("abcdef", tails, numbers, strict=False)]
    scores, allowed = by_words(question, lines)
    ordered = list(scores.values())
    assume(
        all(
            one == other or one - other > 2 * allowed
            for one, other in zip(ordered, ordered[1:], strict=False)
        )
    )
    made = pipeline(impl, Caller(), *lines_of(*lines), retrieval="hybrid", k=k, candidates=candidates)
    assert_fused(made, question, k, candidates, lines)


# A reranker

RANKED = ["a one @5 !2", "b one @6 !-1", "c one @7 !0.5", "d one @8 !2", "e one @9 !0.5"]


def rank_of(line):
    return float(line.partition("!")[2])


@requirement("RAG-39")
@pytest.mark.parametrize(("retrieval", "before"), [("bm25", RANKED), ("dense", RANKED[::-1])])
@pytest.mark.parametrize(("k", "candidates"), [(9, 50), (2, 50), (9, 3), (1, 4)])
def test_a_reranker_looks_at_all_candidates(impl, retrieval, before, k, candidates):
    """Words find all of them alike, vectors in the order of their numbers."""
    caller = Caller()
    options = {"retrieval": retrieval, "rerank": caller.rerank, "k": k, "candidates": candidates}
    made = pipeline(impl, caller, *lines_of(*RANKED), **options)
    retrieved = made.retrieve("one ?1")
    ((question, reranked),) = caller.reranked
    seen = sorted(map(str.rstrip, reranked))
    assert_equal((question, seen), ("one ?1", sorted(before[:candidates])), "what was reranked")
    best = sorted(before[:candidates], key=lambda line: -rank_of(line))[:k]
    assert_retrieved(retrieved, {line: rank_of(line) for line in best}, 0.0)


@requirement("RAG-39")
def test_a_reranker_is_not_asked_about_nothing(impl):
    caller = Caller()
    made = pipeline(impl, caller, *lines_of(*RANKED), rerank=caller.rerank)
    assert_equal(made.retrieve("zero"), Retrieved([], [], []), "what is found")
    assert_equal(made.retrieve("one", where={"group": "staff"}), Retrieved([], [], []), "what is found")
    empty = pipeline(impl, caller, retrieval="hybrid", rerank=caller.rerank)
    assert_equal(empty.retrieve("one ?1"), Retrieved([], [], []), "what is found where nothing is")
    assert_equal(caller.reranked, [], "calls of the reranker")
    assert_equal(texts(made.retrieve("one").chunks)[0], RANKED[0], "the best text")


# The question


@requirement("RAG-40")
@pytest.mark.parametrize("retrieval", ["bm25", "dense", "hybrid"])
def test_the_question_is_a_query(impl, retrieval):
    """A pipeline may tokenise its chunks as late as for the first question, and not again."""
    caller = Caller()
    made = pipeline(impl, caller, *lines_of(*WORDS), retrieval=retrieval)
    made.retrieve("one ?1")
    caller.forget()
    questions = ["two. ?-1", " one  Two ?1 ", "two. ?-1"]
    best = [texts(made.retrieve(question).chunks)[:1] for question in questions]
    embedded = [] if retrieval == "bm25" else [([question], "query") for question in questions]
    assert_equal(caller.embedded, embedded, "calls of the embedder")
    assert_equal(
        sorted({*caller.tokenized} - {*questions}), [], "texts that were tokenised and are no questions"
    )
    assert all(best), f"texts found: expected one for each question, got {best}"
    if retrieval == "dense":
        assert_equal(best[0], [WORDS[2]], "the best text for the first question")


# Conditions

BOARD = [document(f"b{i}", f"neon neon @{20 - i}", group="board", year=i) for i in range(8)]
STAFF = [
    document(f"s{i}", line, group="staff") for i, line in enumerate(["neon a b @1", "neon c @3", "xenon @2"])
]
STAFF_BY_WORDS, STAFF_BY_VECTORS = ["s1", "s0"], ["s1", "s2", "s0"]


@requirement("RAG-41")
@pytest.mark.parametrize(("candidates", "k"), [(50, 5), (2, 5), (1, 1)])
@pytest.mark.parametrize("retrieval", ["bm25", "dense", "hybrid"])
def test_conditions_hold_before_anything_is_chosen(impl, retrieval, candidates, k):
    """All of the board's match better."""
    made = pipeline(impl, Caller(), *BOARD, *STAFF, retrieval=retrieval, candidates=candidates, k=k)
    rankings = [STAFF_BY_WORDS[:candidates], STAFF_BY_VECTORS[:candidates]]
    fused = [hit.id for hit in TRUTH.reciprocal_rank_fusion(rankings, k=10)]
    expected = {"bm25": rankings[0], "dense": rankings[1], "hybrid": fused}[retrieval][:k]
    for where in ({"group": "staff"}, {"group": {"$ne": "board"}}, {"$not": {"year": {"$gte": 0}}}):
        found_ids = [hit.id for hit in hits_of(made.retrieve("neon ?1", where=where))]
        assert_equal(found_ids, expected, f"documents found where {where}")
    assert_equal(
        [hit.id for hit in hits_of(made.retrieve("neon ?1"))][:1], ["b0"], "the best without a condition"
    )


@requirement("RAG-41")
def test_words_are_worth_what_they_are_in_all_chunks(impl):
    made = pipeline(impl, Caller(), *BOARD, *STAFF)
    everything = {each.id: words(each.text) for each in (*BOARD, *STAFF)}
    (scores,), allowed = words_scores(everything, [["neon"]])
    found_hits = hits_of(made.retrieve("neon", where={"group": "staff"}))
    assert_equal([hit.id for hit in found_hits], STAFF_BY_WORDS, "documents found")
    for hit in found_hits:
        assert_score(hit.score, scores[hit.id], allowed, f"score of {hit.id!r}")


@requirement("RAG-41")
@pytest.mark.parametrize("retrieval", ["bm25", "dense", "hybrid"])
def test_what_may_not_be_seen_reaches_nobody(impl, retrieval):
    caller = Caller()
    made = pipeline(impl, caller, *BOARD, *STAFF, retrieval=retrieval)
    answer = made.answer("neon ?1", where={"group": "staff"})
    assert_equal({chunk.metadata["group"] for chunk in answer.chunks}, {"staff"}, "groups in the answer")
    (prompt,) = caller.prompts
    assert "neon neon" not in prompt, f"prompt: expected nothing of the board, got {prompt!r}"
    nobody = made.answer("neon ?1", where={"group": "nobody"})
    parts = nobody.text, nobody.chunks, nobody.citations
    assert_equal(parts, ("I do not know.", [], []), "answer for nobody")
    assert_equal(len(caller.prompts), 1, "calls of the generator")


@requirement("RAG-41")
@pytest.mark.parametrize("retrieval", ["bm25", "dense", "hybrid"])
def test_what_may_not_be_seen_reaches_no_reranker(impl, retrieval):
    seen = []

    def rerank(question, texts):
        seen.extend(texts)
        return [1.0] * len(texts)

    made = pipeline(impl, Caller(), *BOARD, *STAFF, retrieval=retrieval, rerank=rerank)
    assert made.retrieve("neon ?1", where={"group": "staff"}).chunks, "chunks: expected some, got none"
    made.retrieve("neon ?1", where={"group": "nobody"})
    assert_equal([text for text in seen if "neon neon" in text], [], "texts of the board that were reranked")
    assert seen, "texts that were reranked: expected some, got none"


# What fails


def raises(question, texts):
    raise KeyError("the server of the reranker is down")


FAILING = {
    "raises": raises,
    "a score too few": lambda question, texts: [5.0] * (len(texts) - 1),
    "a score too many": lambda question, texts: [float(i) for i in range(len(texts) + 1)],
    "none": lambda question, texts: [],
    "nan": lambda question, texts: [float(i) for i in range(len(texts) - 1)] + [np.nan],
    "infinite": lambda question, texts: [np.inf] + [float(i) for i in range(len(texts) - 1)],
}


@requirement("RAG-44")
@pytest.mark.parametrize("how", sorted(FAILING))
def test_a_reranker_fails(impl, how):
    options = {"retrieval": "hybrid", "k": 3, "min_score": 1 / 100}
    plain = pipeline(impl, Caller(), *lines_of(*WORDS), **options).retrieve("one two ?1")
    assert_equal((len(plain.chunks), plain.problems), (3, []), "chunks and problems without a reranker")
    made = pipeline(impl, Caller(), *lines_of(*WORDS), rerank=FAILING[how], **options)
    retrieved = made.retrieve("one two ?1")
    assert_equal(retrieved, Retrieved(plain.chunks, plain.scores, ["rerank"]), "what is found")
    answer = made.answer("one two ?1")
    assert_equal(
        (answer.chunks, answer.problems), (plain.chunks, ["rerank"]), "chunks and problems of the answer"
    )
    options |= {"k": 9, "min_score": 1 / 10}
    made = pipeline(impl, Caller(), *lines_of(*WORDS), rerank=FAILING[how], **options)
    assert_equal(sorted(texts(made.retrieve("one two ?1").chunks)), WORDS[:4], "texts that both have found")


@requirement("RAG-44")
def test_the_embedder_fails_for_a_question(impl):
    caller = Caller()
    made = pipeline(impl, caller, *lines_of(*WORDS), retrieval="hybrid")
    question = "one two fails ?1"
    ranking, allowed = by_words(question)
    expected = TRUTH.reciprocal_rank_fusion([list(ranking), []], k=10)
    for _ in range(2):
        retrieved = made.retrieve(question)
        assert_hits(hits_of(retrieved), expected)
        assert_equal(retrieved.problems, ["embed"], "problems")
    assert_equal(made.answer("fails zero").problems, ["embed"], "problems where nothing is found")
    assert_equal(made.retrieve("one two ?1").problems, [], "problems of the next question")


@requirement("RAG-44")
def test_both_fail(impl):
    made = pipeline(impl, Caller(), *lines_of(*WORDS), retrieval="hybrid", rerank=raises)
    retrieved = made.retrieve("one two fails ?1")
    ranking, _ = by_words("one two")
    assert_hits(hits_of(retrieved), TRUTH.reciprocal_rank_fusion([list(ranking), []], k=10))
    assert_equal(retrieved.problems, ["embed", "rerank"], "problems")
    assert_equal(made.answer("one two fails ?1").problems, ["embed", "rerank"], "problems of the answer")


@requirement("RAG-44")
def test_without_a_vector_there_is_no_dense_search(impl):
    made = pipeline(impl, Caller(), *lines_of(*WORDS), retrieval="dense")
    with passed_through(FAILURE):
        made.retrieve("one fails ?1")
    with passed_through(FAILURE):
        made.answer("one fails ?1")
    assert_equal(texts(made.retrieve("one ?1").chunks)[0], WORDS[1], "the best text for the next question")


# Refusals


@requirement("RAG-59")
def test_the_constructor_refuses(impl):
    caller = Caller()

    def make(embedder=caller.embedder, **config):
        return impl.RagPipeline(
            new_index(impl),
            embedder,
            caller.generate,
            config=RagConfig(**config),
            tokenize=caller.tokenize,
            count_tokens=count_words,
        )

    least = {"size": 1, "overlap": 0, "separators": (), "candidates": 1, "k": 1, "budget": 0, "reserved": 0}
    for valid in (
        {},
        least,
        {"retrieval": "dense", "reserved": 2048, "special_tokens": ("x",)},
    ):
        make(**valid).ingest([document("d", "neon")])
    caller.forget()
    check_refusals(
        make,
        {},
        [
            ("embedder/index/dim", {"embedder": Embedder(DIM + 1, caller.embed)}),
            ("size", {"size": 0, "overlap": 0}),
            ("overlap", {"overlap": -1}),
            ("overlap/size", {"size": 7, "overlap": 7}),
            ("separators", {"separators": ("a", "")}),
            ("retrieval", {"retrieval": "BM25"}),
            ("candidates", {"candidates": 0}),
            ("k", {"k": 0}),
            ("k", {"k": -1}),
            ("reserved", {"reserved": -1}),
            ("reserved/budget", {"budget": 100, "reserved": 101}),
            ("order", {"order": "best"}),
            ("template", {"template": "{context}"}),
            ("template", {"template": "{question}{context}{question}"}),
            ("special_tokens", {"special_tokens": ("",)}),
        ],
    )
    assert_equal((caller.embedded, caller.tokenized), ([], []), "calls of the embedder and the tokenizer")


@requirement("RAG-59")
@pytest.mark.parametrize("documents", [[], WORDS], ids=["nothing ingested", "five ingested"])
@pytest.mark.parametrize("retrieval", ["bm25", "hybrid"])
def test_a_question_with_a_wrong_condition_is_refused(impl, retrieval, documents):
    caller = Caller()
    made = pipeline(impl, caller, *lines_of(*documents), retrieval=retrieval)
    made.retrieve("zero ?1", where={"year": {"$gte": 2020}})
    caller.forget()
    for where in ({"year": {"$gtt": 2020}}, {"$or": {}}, {"$nor": []}, {"year": {"$in": 3}}):
        for ask in (made.retrieve, made.answer):
            with refused(InvalidArgument):
                ask("one ?1", where=where)
    called = caller.embedded, caller.tokenized, caller.prompts
    assert_equal(called, ([], [], []), "calls of the caller's functions")
