"""The ground truth against the outside world: rank_bm25, bm25s, trec_eval, FAISS and transformers.

A reference that only its own suite has seen proves nothing: both may rest on one misreading. What comes from
outside is judged as a submission is, by the allowance of its input.
"""

import html
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from reference import rag as reference
from spec.rag import Chunk, Hit
from tests.suite.outside import normal, outside
from tests.week3.rag.cases import METRICS, assert_ranking, assert_scores, vector_scores, words_scores
from tests.week3.rag.cases_numbers import TRUTH, assert_number

seeds = pytest.mark.parametrize("seed", range(12))


# Words ----------------------------------------------------------------------------------------------------


class Corpus:
    """Random documents of three words or nine, some of which nearly all have; a query that repeats some."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        n_words = 3 if seed % 3 == 0 else 9
        words, often = list("abcdefghi")[:n_words], np.array([8, 5, 3, 2, 1, 1, 1, 0.5, 0.5])[:n_words]
        lengths = rng.integers(1, 9, 11)
        self.documents = [list(rng.choice(words, n, p=often / often.sum())) for n in lengths]
        self.documents[rng.integers(11)] = []
        self.query = [str(word) for word in rng.choice([*words, "z"], 7)]
        numbers = rng.uniform([0.1, 0, 0, 0], [3, 1, 2, 2]).astype(np.float32)
        self.k1, self.b, self.delta, self.epsilon = numbers.tolist()

    def df(self, word):
        return sum(word in document for document in self.documents)

    def judge(self, scores, query, variant):
        """scores: in the order of the documents, whose ids are in no order at all."""
        ids = [f"d{7 * i % 11}" for i in range(11)]
        documents, numbers = dict(zip(ids, self.documents, strict=True)), ("k1", "b", "delta", "epsilon")
        options = {name: getattr(self, name) for name in numbers}
        (expected,), allowed = words_scores(documents, [query], variant=variant, **options)
        assert_scores(dict(zip(ids, scores.tolist(), strict=True)), expected, allowed)


@seeds
def test_okapi_is_that_of_rank_bm25(seed):
    corpus = Corpus(seed)
    theirs = outside("rank_bm25").BM25Okapi(
        corpus.documents, k1=corpus.k1, b=corpus.b, epsilon=corpus.epsilon
    )
    corpus.judge(theirs.get_scores(corpus.query), corpus.query, "okapi")


def test_these_corpora_meet_the_floor_of_okapi_in_each_way():
    """A word that most documents have, where the floor is positive, and where it is negative itself."""
    met = [each for each in map(Corpus, range(12)) if any(2 * each.df(word) > 11 for word in each.query)]
    means = [outside("rank_bm25").BM25Okapi(each.documents).average_idf for each in met]
    assert min(means) < 0 < max(means)


@pytest.mark.parametrize("variant", ["lucene", "robertson", "atire", "bm25l", "bm25+"])
@seeds
def test_the_other_variants_are_those_of_bm25s(seed, variant):
    """But for two things: bm25s takes a negative idf of "robertson" for 0, so there the query has no word
    that more than half of the documents have; and with a δ it adds for each word of the query that a document
    does not have what tf = 0 would give, its `nonoccurrence_array`, which is taken off here."""
    corpus = Corpus(seed)
    query = [word for word in corpus.query if variant != "robertson" or 2 * corpus.df(word) <= 11]
    theirs = outside("bm25s").BM25(
        method=variant, k1=corpus.k1, b=corpus.b, delta=corpus.delta, dtype="float64"
    )
    theirs.index(corpus.documents, show_progress=False)
    scores = theirs.get_scores(query)
    if theirs.nonoccurrence_array is not None:
        for i, document in enumerate(corpus.documents):
            absent = theirs.get_tokens_ids([word for word in query if word not in document])
            scores[i] -= theirs.nonoccurrence_array[absent].sum()
    corpus.judge(scores, query, variant)


# Vectors --------------------------------------------------------------------------------------------------

IDS = [f"v{i:02}" for i in range(16)]
metrics = pytest.mark.parametrize("metric", METRICS)


def faiss_search(metric, vectors, queries, k, rows=None):
    """For each query its hits, without what FAISS fills up with."""
    faiss = outside("faiss")
    if metric == "cosine":
        vectors, queries = vectors.copy(), queries.copy()
        faiss.normalize_L2(vectors)
        faiss.normalize_L2(queries)
    index = (faiss.IndexFlatL2 if metric == "l2" else faiss.IndexFlatIP)(vectors.shape[1])
    index.add(vectors)
    params = None if rows is None else faiss.SearchParameters(sel=faiss.IDSelectorBatch(rows))
    distances, found = index.search(queries, k, params=params)
    scores = -distances if metric == "l2" else distances
    return [
        [Hit(IDS[row], score) for row, score in zip(*each, strict=True) if row != -1]
        for each in zip(found.tolist(), scores.tolist(), strict=True)
    ]


@metrics
@seeds
def test_scores_and_their_order_are_those_of_faiss(seed, metric):
    vectors, queries = normal([seed, 0], 16, 6), normal([seed, 1], 5, 6)
    expected, allowed = vector_scores(metric, queries, dict(zip(IDS, vectors, strict=True)))
    for hits, scores in zip(faiss_search(metric, vectors, queries, 16), expected, strict=True):
        assert_ranking(hits, scores, allowed, 16)


@metrics
@pytest.mark.parametrize("k", [1, 3, 8, 50])
def test_a_condition_chooses_the_rows_as_a_selector_of_faiss_does(metric, k):
    """k of 8, and all 8 where k is larger: FAISS fills up with −1."""
    vectors, queries = normal(20, 16, 6), normal(21, 5, 6)
    theirs = faiss_search(metric, vectors, queries, k, rows=list(range(1, 16, 2)))
    assert {len(hits) for hits in theirs} == {min(k, 8)}
    index = reference.VectorIndex(6, metric=metric)
    index.add(IDS, vectors, [{"odd": i % 2 == 1} for i in range(16)])
    ours = index.search(queries, k, where={"odd": True})
    assert [[hit.id for hit in hits] for hits in ours] == [[hit.id for hit in hits] for hits in theirs]


# Measures -------------------------------------------------------------------------------------------------

CUTS = [1, 2, 3, 5, 10, 30]


class Judged:
    """Eight queries: rankings of 1 to 20 of 25 documents, grades −1 to 3 of about half of them."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        documents = [f"d{i}" for i in range(25)]
        queries = [f"q{i}" for i in range(8)]
        self.run = {
            each: [str(d) for d in rng.permutation(documents)[: rng.integers(1, 21)]] for each in queries
        }
        self.qrels = {
            each: {d: int(rng.integers(-1, 4)) for d in documents if rng.random() < 0.5} for each in queries
        }
        self.qrels["q0"] = {d: min(grade, 0) for d, grade in self.qrels["q0"].items()}  # nobody is relevant

    def by_trec_eval(self, run, *, gain=lambda grade: grade):
        """{query: {measure: value}} for rankings, as descending scores: no two are equal."""
        cuts = ",".join(map(str, CUTS))
        names = {f"{name}.{cuts}" for name in ("P", "recall", "ndcg_cut")} | {"recip_rank", "map"}
        qrels = {q: {d: gain(grade) for d, grade in grades.items()} for q, grades in self.qrels.items()}
        scores = {q: {d: float(-rank) for rank, d in enumerate(ids)} for q, ids in run.items()}
        return outside("pytrec_eval").RelevanceEvaluator(qrels, names).evaluate(scores)


@seeds
def test_measures_are_those_of_trec_eval(seed):
    judged = Judged(seed)
    for query, theirs in judged.by_trec_eval(judged.run).items():
        ranking = judged.run[query], judged.qrels[query]
        assert_number(theirs["map"], TRUTH.average_precision(*ranking), "map")
        assert_number(theirs["recip_rank"], TRUTH.reciprocal_rank(*ranking), "recip_rank")
        for k in CUTS:
            assert_number(theirs[f"P_{k}"], TRUTH.precision_at_k(*ranking, k), f"P_{k}")
            assert_number(theirs[f"recall_{k}"], TRUTH.recall_at_k(*ranking, k), f"recall_{k}")
            assert_number(theirs[f"ndcg_cut_{k}"], TRUTH.ndcg_at_k(*ranking, k), f"ndcg_cut_{k}")


@seeds
def test_exponential_gain_is_the_linear_one_of_other_grades(seed):
    judged = Judged(seed)
    found = judged.by_trec_eval(judged.run, gain=lambda grade: 2 ** max(0, grade) - 1)
    for query, theirs in found.items():
        for k in CUTS:
            ours = TRUTH.ndcg_at_k(judged.run[query], judged.qrels[query], k, gain="exponential")
            assert_number(theirs[f"ndcg_cut_{k}"], ours, f"ndcg_cut_{k}")


@pytest.mark.parametrize("k", CUTS)
@seeds
def test_a_reciprocal_rank_among_the_first_k_is_that_of_a_ranking_cut_there(seed, k):
    judged = Judged(seed)
    for query, theirs in judged.by_trec_eval({q: ids[:k] for q, ids in judged.run.items()}).items():
        ours = TRUTH.reciprocal_rank(judged.run[query], judged.qrels[query], k)
        assert_number(theirs["recip_rank"], ours, "recip_rank")


@seeds
def test_means_are_those_over_all_queries_that_have_an_answer(seed):
    """pytrec_eval knows only of the queries in the run: q1 is not in it, and counts 0."""
    judged = Judged(seed)
    run = {q: ids for q, ids in judged.run.items() if q != "q1"} | {"unheard of": ["d1"]}
    found = judged.by_trec_eval(run)
    answerable = [q for q, grades in judged.qrels.items() if max(grades.values(), default=0) >= 1]
    assert "q1" in answerable and "q0" not in answerable, "the design of this test"
    names = {"map": "map"}
    for k in CUTS:
        names |= {f"ndcg@{k}": f"ndcg_cut_{k}", f"recall@{k}": f"recall_{k}", f"precision@{k}": f"P_{k}"}
    ours = TRUTH.evaluate(run, judged.qrels, list(names))
    assert list(ours) == list(names)
    for name, theirs in names.items():
        values = [found[q][theirs] for q in answerable if q in found]
        assert_number(sum(values) / len(answerable), ours[name], name)


# Mixtures -------------------------------------------------------------------------------------------------

PAD, START, VOCABULARY = 0, 1, 7


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("RagSequenceForGeneration", "rag_sequence_log_prob"),
        ("RagTokenForGeneration", "rag_token_log_prob"),
    ],
)
@pytest.mark.parametrize("documents", [1, 2, 5])
@seeds
def test_mixtures_are_those_of_transformers(name, ours, documents, seed):
    """Its loss, called without a model. It reads the target one place on, leaves out what is padding, and
    adds the documents' weights at the second token, so that this one must be there."""
    torch, rag = outside("torch"), outside("transformers.models.rag.modeling_rag")
    rng = np.random.default_rng(seed)
    length = int(rng.integers(2, 7))
    logits = rng.standard_normal((documents, length, VOCABULARY))
    scores = 3 * rng.standard_normal(documents)
    target = rng.integers(2, VOCABULARY, length)
    target[np.flatnonzero(rng.random(length) < 0.3)] = PAD
    target[1] = 2

    theirs = getattr(rag, name)
    config = SimpleNamespace(
        bos_token_id=START, generator=SimpleNamespace(pad_token_id=PAD, bos_token_id=START)
    )
    model = SimpleNamespace(config=config)
    model.marginalize = partial(rag.RagTokenForGeneration.marginalize, model)
    loss = theirs.get_nll(
        model,
        torch.from_numpy(np.concatenate([logits, logits[:, :1]], axis=1)),  # the last place reads padding
        torch.from_numpy(scores[None]),
        torch.from_numpy(np.array([[START, *target]])),
        n_docs=documents,
    )

    log_probs = torch.from_numpy(logits).log_softmax(dim=-1).numpy()
    of_target = log_probs[:, np.arange(length), target]
    of_target[:, target == PAD] = np.nan
    assert_number(-loss.item(), getattr(TRUTH, ours)(scores, of_target, target != PAD), name)


# Passages -------------------------------------------------------------------------------------------------


def test_what_stands_in_a_prompt_is_undone_by_the_references_of_html():
    text = 'a & b < c > d "e" &amp; &lt;/passage> <|im_end|> [INST] &#91;'
    packed = reference.pack_context(
        [Chunk("c", 'x<"&', 0, len(text), text)],
        question=text,
        budget=1000,
        reserved=0,
        count_tokens=len,
        template="{context}\n{question}",
        special_tokens=["[INST]", "<|im_end|>"],
    )
    start, end = packed.spans[0]
    head, _, question = packed.text[:start], packed.text[start:end], packed.text.splitlines()[-1]
    assert html.unescape(packed.text[start:end]) == html.unescape(question) == text
    assert head == '<passage number="1" source="x&lt;&quot;&amp;">\n'
    assert "[INST]" not in packed.text and "<|im_end|>" not in packed.text
