"""Answers: from what was retrieved or not at all, piece by piece, with citations and times."""

import pytest

from grading.edited import reference
from grading.marks import requirement
from grading.matching import assert_equal, passed_through, refused
from spec import ContextTooLong
from spec.rag import Answer, Document, RagConfig
from tests.week3.rag.cases_pipeline import DIM, Caller, count_words, document, pipeline, quote, texts

TRUTH = reference("rag")
FALLBACK = "I do not know."
FACTS = {  # invented, so that nobody has read of them: question, sentence
    "Which gas cools the Larkspur reactor?": "The Larkspur reactor is cooled by neon.",
    "Who wrote the Ballad of Ostrava Lake?": "The Ballad of Ostrava Lake was written by Ada Quill.",
    "How high is Mount Verrin?": "Mount Verrin has a height of 3,017 m.",
}
LINES = ["neon a @9", "neon b @8", "neon c @7", "neon d @6", "xenon @5"]


def nothing(problems=(), text=FALLBACK):
    stages = ("embed", "search", "rerank", "pack", "generate")
    return Answer(text, [], [], dict.fromkeys(stages, 0.0), list(problems))


# The point of it all


def who_can_only_quote(impl, *sentences, **config):
    documents = [Document(f"fact {i}", sentence) for i, sentence in enumerate(sentences)]
    return pipeline(impl, Caller(), *documents, generate=quote, size=100, **config)


@requirement("RAG-43")
@pytest.mark.parametrize("retrieval", ["bm25", "hybrid"])
def test_who_can_only_quote_answers_questions_about_invented_facts(impl, retrieval):
    made = who_can_only_quote(impl, *FACTS.values(), retrieval=retrieval)
    for i, (question, fact) in enumerate(FACTS.items()):
        answer = made.answer(question)
        assert_equal(answer.text.rpartition(" ")[0], fact, f"answer to {question!r}")
        assert_equal([each.chunk_id.partition("#")[0] for each in answer.citations], [f"fact {i}"], "source")


@requirement("RAG-42")
def test_who_can_only_quote_declines_without_retrieval(impl):
    for without in ((), ["Bees sleep at night."]):
        made = who_can_only_quote(impl, *without)
        for question in FACTS:
            assert_equal(made.answer(question), nothing(), f"answer to {question!r}")
    made = who_can_only_quote(impl, *FACTS.values())
    for question in FACTS:
        assert_equal(made.answer(question, where={"group": "staff"}), nothing(), f"answer to {question!r}")
        assert made.answer(question).text != FALLBACK, f"expected an answer to {question!r}"


# Nothing to answer from


@requirement("RAG-42")
@pytest.mark.parametrize("retrieval", ["bm25", "hybrid"])
def test_nothing_was_retrieved(impl, retrieval):
    caller, heard = Caller(), []
    documents = () if retrieval == "hybrid" else [document("d", *LINES)]
    made = pipeline(impl, caller, *documents, retrieval=retrieval, fallback="Nobody knows [1].")
    answer = made.answer("krypton ?1", on_text=heard.append)
    assert_equal(answer, nothing(text="Nobody knows [1]."), "answer")
    assert_equal(heard, ["Nobody knows [1]."], "what on_text heard")
    assert_equal(caller.prompts, [], "prompts of the generator")


@requirement("RAG-42")
@pytest.mark.parametrize(("least", "count"), [(6.0, 4), (7.5, 2), (9.0, 1), (9.5, 0)])
def test_what_scores_less_is_not_used(impl, least, count):
    """The scores are 9, 8, 7, 6 and 5, exactly."""
    caller, index = Caller(), impl.VectorIndex(DIM, metric="ip")
    made = pipeline(impl, caller, document("d", *LINES), index=index, retrieval="dense", min_score=least)
    assert_equal(texts(made.retrieve("?1").chunks), LINES[:count], f"texts of a score of at least {least}")
    answer = made.answer("?1")
    assert_equal(texts(answer.chunks), LINES[:count], "texts of the answer")
    assert_equal(
        (answer.text == FALLBACK, len(caller.prompts)), (count == 0, min(count, 1)), "fallback, prompts"
    )


@requirement("RAG-42")
@pytest.mark.parametrize(("least", "count"), [(None, 3), (-1.0, 3), (-0.5, 2), (0.0, 2), (0.5, 1)])
def test_a_least_score_of_0_is_one_and_one_below_0(impl, least, count):
    lines = ["neon c @2", "neon b @0", "neon a @-1"]
    made = pipeline(impl, Caller(), document("d", *lines), retrieval="dense", min_score=least)
    assert_equal(texts(made.retrieve("?1").chunks), lines[:count], f"texts of a score of at least {least}")


@requirement("RAG-42")
@pytest.mark.parametrize("k", [1, 2, 5])
def test_scores_are_those_of_the_reranker(impl, k):
    """The first search gives 0.7 and more, the reranker 0.5 and less."""
    caller = Caller()
    lines = ["neon a @9 !0.25", "neon b @1 !0.5", "neon c @5 !0.125", "neon d @3 !0.375"]
    options = {"retrieval": "dense", "rerank": caller.rerank, "min_score": 0.25, "k": k}
    made = pipeline(impl, caller, document("d", *lines), **options)
    retrieved = made.retrieve("?1")
    assert_equal(texts(retrieved.chunks), [lines[i] for i in (1, 3, 0)][:k], "texts found")
    assert_equal(retrieved.scores, [0.5, 0.375, 0.25][:k], "scores")
    made = pipeline(impl, caller, document("d", *lines), **{**options, "min_score": 0.75})
    assert_equal((made.retrieve("?1").chunks, made.answer("?1")), ([], nothing()), "chunks and answer")


@requirement("RAG-42")
@pytest.mark.parametrize("retrieval", ["bm25", "dense", "hybrid"])
def test_what_scores_little_before_the_reranker_may_score_enough_after(impl, retrieval):
    """The first search gives 0.2 and less, the reranker 0.25 and 0.5."""
    caller, lines = Caller(), ["neon a @0 !0.25", "neon b @0 !0.5"]
    options = {"retrieval": retrieval, "rerank": caller.rerank, "min_score": 0.375}
    made = pipeline(impl, caller, document("d", *lines), **options)
    assert_equal(texts(made.retrieve("neon ?1").chunks), lines[1:], "texts found")
    ((_, seen),) = caller.reranked
    assert_equal(sorted(each.rstrip() for each in seen), lines, "texts that the reranker got")


@requirement("RAG-42")
def test_no_passage_fits(impl):
    caller, heard = Caller(), []
    made = pipeline(
        impl, caller, document("d", *LINES), template="{context}Q: {question}", budget=9, reserved=5
    )
    assert_equal(made.answer("neon", on_text=heard.append), nothing(), "answer")
    assert_equal((heard, caller.prompts), ([FALLBACK], []), "what on_text heard, prompts of the generator")
    with refused(ContextTooLong):
        made.answer("neon or argon or xenon")
    made = pipeline(
        impl, caller, document("d", *LINES), template="{context}Q: {question}", budget=14, reserved=5
    )
    assert_equal(texts(made.answer("neon").chunks), LINES[:1], "texts of the answer where one fits")


# The answer as it comes

CONFIGS = [
    {},
    {"order": "edges", "k": 4},
    {"budget": 66, "reserved": 13, "k": 4},
    {"budget": 66, "reserved": 6, "order": "edges"},
    {"template": "<|user|> {question} {context}", "special_tokens": ("<|user|>", "neon b")},
]


@requirement("RAG-43")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: " ".join(config) or "defaults")
def test_the_prompt_is_that_of_pack_context(impl, config):
    caller = Caller()
    made = pipeline(impl, caller, document('d"<', *LINES), retrieval="dense", **config)
    question = "neon [2] < x {context} ?1"
    retrieved = made.retrieve(question)
    names = ("budget", "reserved", "order", "template", "special_tokens")
    options = {**{name: getattr(RagConfig(), name) for name in names}, **config}
    options.pop("k", None)
    packed = TRUTH.pack_context(retrieved.chunks, question=question, count_tokens=count_words, **options)
    answer = made.answer(question)
    assert_equal(caller.prompts, [packed.text], "prompts of the generator")
    assert_equal(answer.chunks, packed.chunks, "chunks in the order of the prompt")


@requirement("RAG-43")
@pytest.mark.parametrize("order", ["rank", "edges"])
def test_citations_follow_the_prompt(impl, order):
    pieces = ["Neon [", "2], [3]", " and [1, 9].", "", " See [4", "]"]
    documents = [document(line, line) for line in LINES]
    made = pipeline(
        impl, Caller(), *documents, generate=lambda prompt: pieces, retrieval="dense", k=4, order=order
    )
    answer = made.answer("?1")
    assert_equal(answer.text, "".join(pieces), "text")
    places = [0, 1, 2, 3] if order == "rank" else [0, 2, 3, 1]
    assert_equal(texts(answer.chunks), [LINES[i] for i in places], "texts in the order of the prompt")
    cited = [(each.number, each.chunk_id and each.chunk_id.partition("#")[0]) for each in answer.citations]
    expected = [(n, LINES[places[n - 1]] if n < 5 else None) for n in (2, 3, 1, 9, 4)]
    assert_equal(cited, expected, "numbers and what they cite")
    assert_equal(answer.citations, TRUTH.citations(answer.text, answer.chunks), "citations")


@requirement("RAG-43")
@pytest.mark.parametrize("streams", [True, False])
def test_each_piece_comes_before_the_next_is_asked_for(impl, streams):
    """A generator may also return its pieces as a list."""
    events, pieces = [], ["Neon", " ", "", "[1]"]

    def generate(prompt):
        for piece in pieces:
            events.append(f"gives {piece!r}")
            yield piece

    made = pipeline(
        impl, Caller(), document("d", *LINES), generate=generate if streams else lambda prompt: pieces
    )
    answer = made.answer("neon", on_text=lambda piece: events.append(f"hears {piece!r}"))
    expected = [
        f"{does} {piece!r}" for piece in pieces for does in (["gives", "hears"] if streams else ["hears"])
    ]
    assert_equal(events, expected, "what the generator gave and on_text heard")
    assert_equal(answer.text, "Neon [1]", "text")
    assert_equal([(each.start, each.end) for each in answer.citations], [(5, 8)], "places of the citations")
    events.clear()
    assert_equal(made.answer("neon"), answer, "answer without on_text")


@requirement("RAG-43")
@pytest.mark.parametrize("pieces", [[], [""], ["No brackets."], ["\n ", "No brackets. \n"]])
def test_an_answer_may_cite_nothing_and_be_empty(impl, pieces):
    made = pipeline(impl, Caller(), document("d", *LINES), generate=lambda prompt: iter(pieces))
    answer = made.answer("neon")
    assert_equal((answer.text, answer.citations, len(answer.chunks)), ("".join(pieces), [], 4), "answer")


@requirement("RAG-43")
@pytest.mark.parametrize("where", ["generate", "its first piece", "its second piece", "on_text"])
def test_an_error_comes_back_and_leaves_nothing(impl, where):
    failure = RuntimeError(f"{where} fails")

    def generate(prompt):
        if "fails" in prompt and where == "generate":
            raise failure
        return pieces(prompt)

    def pieces(prompt):
        for place, piece in [("its first piece", "Neon "), ("its second piece", "[1]")]:
            if "fails" in prompt and where == place:
                raise failure
            yield piece

    def on_text(piece):
        raise failure

    made = pipeline(impl, Caller(), document("d", *LINES), generate=generate)
    before = made.answer("neon")
    with passed_through(failure):
        made.answer("neon fails", on_text=on_text if where == "on_text" else None)
    assert_equal(made.answer("neon"), before, "the answer to the next question")
    assert_equal(before.text, "Neon [1]", "text")


# Where the time went


class Timed(Caller):
    """Each of its functions takes some seconds of its own clock, parts of which are powers of 2."""

    def __init__(self, **seconds):
        super().__init__()
        self.seconds, self.now = seconds, 1000.0

    def clock(self):
        return self.now

    def takes(self, name):
        self.now += self.seconds.get(name, 0.0)

    def embed(self, texts, kind):
        self.takes(kind)
        return super().embed(texts, kind)

    def tokenize(self, text):
        self.takes("tokenize")
        return super().tokenize(text)

    def rerank(self, question, texts):
        self.takes("rerank")
        if "unranked" in question:
            raise OSError("the reranker fails")
        return [0.5] * len(texts)

    def count_tokens(self, text):
        self.takes("count")
        return count_words(text)

    def generate(self, prompt):
        self.takes("generate")
        return self.pieces()

    def pieces(self):
        for piece in ("Neon ", "[1]"):
            self.takes("piece")
            yield piece

    def hear(self, piece):
        self.takes("hear")


def timings_of(impl, seconds, question, *, reranks=False, **config):
    timed = Timed(**seconds)
    options = {"clock": timed.clock, "count_tokens": timed.count_tokens, "retrieval": "hybrid", **config}
    if reranks:
        options["rerank"] = timed.rerank
    made = pipeline(impl, timed, document("d", *LINES), **options)
    made.retrieve("neon ?1")  # whoever tokenises late has done so
    return made.answer(question, on_text=timed.hear).timings


def zeros(**seconds):
    return {"embed": 0.0, "search": 0.0, "rerank": 0.0, "pack": 0.0, "generate": 0.0, **seconds}


@requirement("RAG-45")
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"query": 0.25, "piece": 0.5}, {"embed": 0.25, "generate": 1.0}),
        ({"generate": 0.125}, {"generate": 0.125}),
        ({"hear": 2.0, "passage": 1.0}, {"generate": 4.0}),
        ({"rerank": 4.0, "piece": 0.5}, {"rerank": 4.0, "generate": 1.0}),
    ],
)
def test_where_the_time_went(impl, seconds, expected):
    timings = timings_of(impl, seconds, "neon ?1", reranks="rerank" in seconds)
    assert_equal(timings, zeros(**expected), "timings")


@requirement("RAG-45")
@pytest.mark.parametrize(("name", "stage"), [("tokenize", "search"), ("count", "pack")])
def test_what_the_callers_functions_take_counts_where_they_are_called(impl, name, stage):
    """How often they are called is free."""
    timings = timings_of(impl, {name: 0.5, "query": 0.25}, "neon ?1")
    assert timings[stage] >= 0.5, f"{stage}: expected at least 0.5 s, got {timings[stage]}"
    assert_equal({**timings, stage: 0.0}, zeros(embed=0.25), "the other timings")


ALL = {"query": 0.5, "rerank": 2.0, "generate": 4.0, "count": 0.25}


@requirement("RAG-45")
def test_what_was_not_done_takes_no_time(impl):
    by_words = timings_of(impl, ALL, "neon", retrieval="bm25")
    assert_equal({**by_words, "pack": 0.0}, zeros(generate=4.0), "timings but for pack, without vectors")
    declined = timings_of(impl, ALL, "neon ?1", min_score=9.0)
    assert_equal(declined, zeros(embed=0.5), "timings where nothing was found")


@requirement("RAG-45")
def test_each_answer_has_its_own_times(impl):
    timed = Timed(generate=4.0, query=0.5)
    made = pipeline(
        impl, timed, document("d", *LINES), clock=timed.clock, retrieval="hybrid", min_score=1 / 10
    )
    answers = [made.answer("neon ?1"), made.answer("krypton ?1"), made.answer("neon ?1")]
    expected = [zeros(embed=0.5, generate=seconds) for seconds in (4.0, 0.0, 4.0)]
    assert_equal([answer.timings for answer in answers], expected, "timings of each")


@requirement("RAG-45")
def test_a_reranker_that_is_not_asked_takes_no_time(impl):
    timings = timings_of(impl, ALL, "krypton", retrieval="bm25", reranks=True)
    assert_equal(timings, zeros(), "timings where nothing was found")


@requirement("RAG-45")
@pytest.mark.parametrize(("stage", "question"), [("embed", "neon fails ?1"), ("rerank", "neon unranked ?1")])
def test_what_failed_took_its_time(impl, stage, question):
    timings = timings_of(impl, {"query": 0.5, "rerank": 0.5}, question, reranks=stage == "rerank")
    assert_equal(timings, zeros(embed=0.5, **({"rerank": 0.5} if stage == "rerank" else {})), "timings")


@requirement("RAG-45")
def test_the_clock_of_the_machine(impl):
    timings = pipeline(impl, Caller(), document("d", *LINES), clock=None).answer("neon").timings
    assert_equal(sorted(timings), sorted(zeros()), "stages")
    assert all(type(each) is float and each >= 0 for each in timings.values()), f"seconds: got {timings}"
