"""Contract of retrieval-augmented generation: what a module `rag` must offer.

The rules are in `rag.md`; the ids in the docstrings (RAG-01 …) point there. Signatures and values only:
nothing here computes.

An `Array` is an array of the implementation's framework (MLX, PyTorch or NumPy). Vectors are float32, one a
row. Text positions are code points. Scores are Python floats, and larger is better. Ids of documents and
chunks are strings; where two things are equally good, the smaller id comes first, by code points.

Sources: BM25 after Robertson and Zaragoza 2009 and Kamphuis et al. 2020; reciprocal rank fusion, Cormack et
al. 2009; MMR, Carbonell and Goldstein 1998; RAG, Lewis et al. 2020 (arXiv 2005.11401); Lost in the Middle,
Liu et al. 2023 (arXiv 2307.03172); bm25s `bm25s/scoring.py`; pytrec_eval; llama-index-core.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "BM25",
    "TEMPLATE",
    "Answer",
    "Chunk",
    "Citation",
    "Document",
    "Embedder",
    "Hit",
    "Ingested",
    "PackedContext",
    "RagConfig",
    "RagPipeline",
    "Retrieved",
    "Storage",
    "VectorIndex",
    "average_precision",
    "citations",
    "evaluate",
    "load_index",
    "matches",
    "maximal_marginal_relevance",
    "ndcg_at_k",
    "pack_context",
    "precision_at_k",
    "rag_sequence_log_prob",
    "rag_token_log_prob",
    "recall_at_k",
    "reciprocal_rank",
    "reciprocal_rank_fusion",
    "score_fusion",
    "split",
]

Array = Any
Metadata = dict[str, Any]  # None, bool, int, float, str, or a list of these
Where = Mapping[str, Any]  # a condition on metadata: RAG-13 to RAG-15

TEMPLATE = """Answer the question from the passages, and cite each passage that you use by number, as in [1].
If they do not hold the answer, say that you do not know.

{context}
Question: {question}"""


# Values ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Document:
    """A text that can be found."""

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: text is document[start:end]. metadata: the document's. RAG-01 to RAG-05."""

    id: str
    doc_id: str
    start: int
    end: int
    text: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class Hit:
    """Something found."""

    id: str
    score: float


@dataclass(frozen=True)
class Storage:
    """Where an index is kept: files with flat names, as a disk has them. RAG-20 to RAG-23.

    read(name): the bytes of the file, None where there is none. names(): all files.
    write(name, data): the file now has these bytes and no others. After a crash before sync(name) has
        returned it holds any prefix of them, or is not there.
    sync(name): what was written under this name survives a crash from now on.
    rename(old, new): new is what old was, old is gone, in one step: after a crash either all of it happened
        or nothing, and all once it has returned. It makes no bytes durable that were not.
    remove(name): the file is gone. Any of these may raise OSError.
    """

    read: Callable[[str], bytes | None]
    names: Callable[[], list[str]]
    write: Callable[[str, bytes], None]
    sync: Callable[[str], None]
    rename: Callable[[str, str], None]
    remove: Callable[[str], None]


@dataclass(frozen=True)
class PackedContext:
    """text: the whole prompt. tokens: how many they are. chunks: those in it, in the order of the text; the
    number of chunks[i] is i + 1. spans[i]: (start, end) of its text within `text`, escaped as it stands
    there. RAG-28 to RAG-34.
    """

    text: str
    chunks: list[Chunk]
    spans: list[tuple[int, int]]
    tokens: int


@dataclass(frozen=True)
class Citation:
    """A number in brackets at answer[start:end]. chunk_id: None where no passage has it. RAG-35."""

    number: int
    chunk_id: str | None
    start: int
    end: int


@dataclass(frozen=True)
class Embedder:
    """Makes vectors of texts.

    embed(texts, kind): (n, dim) float32 for n ≥ 1 texts; kind is "passage" for what is searched, "query" for
    what it is searched with.
    """

    dim: int
    embed: Callable[[list[str], str], Array]


@dataclass(frozen=True)
class RagConfig:
    """How a pipeline cuts, retrieves and packs.

    size, overlap, separators: as in `split`, in code points.
    retrieval: "bm25", "dense" or "hybrid", both fused by their ranks. RAG-39.
    candidates: how many each of them may contribute. k: how many chunks are offered to `pack_context`.
    min_score: chunks that score less are not used; None for no limit.
    budget, reserved, order, template, special_tokens: as in `pack_context`.
    fallback: the answer where there is nothing to answer from. RAG-42.
    """

    size: int = 1000
    overlap: int = 100
    separators: tuple[str, ...] = ("\n\n", "\n", ". ", " ")
    retrieval: str = "hybrid"
    candidates: int = 50
    k: int = 5
    min_score: float | None = None
    budget: int = 2048
    reserved: int = 256
    order: str = "rank"
    template: str = TEMPLATE
    special_tokens: tuple[str, ...] = ()
    fallback: str = "I do not know."


@dataclass(frozen=True)
class Ingested:
    """Ids of documents, each list in the order in which they came: new ones, those whose text or metadata
    differ from before, and those that were there already."""

    added: list[str]
    changed: list[str]
    unchanged: list[str]


@dataclass(frozen=True)
class Retrieved:
    """chunks, best first, and the score of each. problems: the stages that failed and were done without:
    "embed", "rerank". RAG-44.
    """

    chunks: list[Chunk]
    scores: list[float]
    problems: list[str]


@dataclass(frozen=True)
class Answer:
    """text: the answer. chunks: the passages it had, in the order of the prompt. citations: the numbers in
    the text. timings: seconds of "embed", "search", "rerank", "pack", "generate". problems: see `Retrieved`.
    """

    text: str
    chunks: list[Chunk]
    citations: list[Citation]
    timings: dict[str, float]
    problems: list[str]


# Cutting --------------------------------------------------------------------------------------------------


def split(
    text: str,
    *,
    doc_id: str,
    size: int,
    overlap: int,
    length: Callable[[str], int] | None = None,
    separators: Sequence[str] = (),
    metadata: Metadata | None = None,
) -> list[Chunk]:
    """Cuts a text into chunks of at most `size`, each of which repeats at most `overlap` of the one before.
    RAG-01 to RAG-05.

    length: of a text, in the unit of size and overlap; None counts code points. separators: where to cut,
    the most wanted first.

    Raises InvalidArgument when size < 1, overlap is not in 0 … size − 1, a separator is empty, or a single
    code point is longer than size. RAG-55.
    """
    ...


# Finding by words -----------------------------------------------------------------------------------------


class BM25:
    """Ranks documents, lists of tokens, by the tokens of a query. RAG-06 to RAG-12."""

    def __init__(
        self,
        documents: Mapping[str, Sequence[str]],
        *,
        variant: str = "lucene",
        k1: float = 1.5,
        b: float = 0.75,
        delta: float | None = None,
        epsilon: float = 0.25,
    ) -> None:
        """variant: "lucene", "robertson", "atire", "bm25l", "bm25+" or "okapi". RAG-06 to RAG-08.

        delta: None is 0.5 for "bm25l" and 1 for "bm25+"; the others have none. epsilon: for "okapi".

        Raises InvalidArgument for another variant, k1, delta or epsilon < 0, b not in [0, 1]. RAG-56.
        """

    def scores(self, query: Sequence[str]) -> dict[str, float]:
        """The score of every document, 0.0 for one that has no token of the query. RAG-06 to RAG-09."""
        ...

    def search(self, query: Sequence[str], k: int) -> list[Hit]:
        """The k best of those documents that have a token of the query. RAG-10.

        Raises InvalidArgument when k < 1. RAG-56.
        """
        ...

    def add(self, documents: Mapping[str, Sequence[str]]) -> None:
        """Adds documents; one whose id is there already takes its place. RAG-11."""
        ...

    def remove(self, ids: Sequence[str]) -> None:
        """Raises UnknownDocument when an id is not there; then none is removed. RAG-11, RAG-56."""
        ...


# Finding by vectors ---------------------------------------------------------------------------------------


def matches(metadata: Metadata, where: Where) -> bool:
    """Whether metadata meet a condition. RAG-13 to RAG-15.

    Raises InvalidArgument for an operator that does not exist, or an operand it cannot have. RAG-57.
    """
    ...


class VectorIndex:
    """Vectors by their ids, searched exactly. RAG-16 to RAG-23."""

    def __init__(self, dim: int, *, metric: str = "cosine") -> None:
        """metric: "cosine", "ip" (inner product) or "l2" (minus the squared distance). RAG-16.

        Raises InvalidArgument when dim < 1, or for another metric. RAG-57.
        """

    def add(self, ids: Sequence[str], vectors: Array, metadata: Sequence[Metadata] | None = None) -> None:
        """Adds vectors (n, dim); one whose id is there already takes its place. metadata: n, None is {}.

        Raises InvalidArgument when shapes do not fit, an id comes twice, or a number is not finite. RAG-57.
        """
        ...

    def remove(self, ids: Sequence[str]) -> None:
        """Raises UnknownDocument when an id is not there; then none is removed. RAG-19, RAG-57."""
        ...

    def ids(self) -> list[str]:
        """All ids, ascending. RAG-19."""
        ...

    def get(self, ids: Sequence[str]) -> list[Metadata]:
        """The metadata of each. Raises UnknownDocument when an id is not there. RAG-19, RAG-57."""
        ...

    def search(self, queries: Array, k: int, *, where: Where | None = None) -> list[list[Hit]]:
        """For each of the queries (m, dim) the k best of those that meet `where`. RAG-17, RAG-18.

        Raises InvalidArgument when k < 1, shapes do not fit, or a number is not finite; and what `matches`
        raises. RAG-57.
        """
        ...

    def save(self, storage: Storage) -> None:
        """Keeps all of it in `storage`, in place of what was kept there before. RAG-20 to RAG-22.

        What `storage` raises comes back to the caller.
        """
        ...


def load_index(storage: Storage) -> VectorIndex:
    """The index that was saved last. RAG-20 to RAG-23.

    Raises NothingSaved where there is none, DamagedIndex where its bytes are not those that were saved.
    """
    ...


# Putting rankings together --------------------------------------------------------------------------------


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[str]], *, k: float = 60, weights: Sequence[float] | None = None
) -> list[Hit]:
    """One ranking of several, by ranks alone. RAG-24, RAG-25.

    weights: one a ranking, 1 if None. Raises InvalidArgument when k < 0, weights are not as many as rankings,
    or one is negative or not finite. RAG-58.
    """
    ...


def score_fusion(rankings: Sequence[Sequence[Hit]], *, weights: Sequence[float] | None = None) -> list[Hit]:
    """One ranking of several, by scores brought to 0 … 1. RAG-26. Raises as `reciprocal_rank_fusion`, and
    InvalidArgument for a score that is not finite. RAG-58."""
    ...


def maximal_marginal_relevance(query: Array, candidates: Array, k: int, lam: float) -> list[int]:
    """Rows of `candidates`, (n, dim), that answer the query (dim,) and do not repeat each other. RAG-27.

    lam: 1 looks at the query alone. Raises InvalidArgument when shapes do not fit, k < 1, or lam is not in
    [0, 1]. RAG-58.
    """
    ...


# Bringing passages into the prompt ------------------------------------------------------------------------


def pack_context(
    chunks: Sequence[Chunk],
    *,
    question: str,
    budget: int,
    reserved: int,
    count_tokens: Callable[[str], int],
    order: str = "rank",
    template: str = TEMPLATE,
    special_tokens: Sequence[str] = (),
) -> PackedContext:
    """A prompt with as many of the chunks, best first, as fit. RAG-28 to RAG-34.

    budget: tokens the model's context has; reserved: those kept free for the answer. count_tokens: of a text.
    order: "rank", or "edges", the best at both ends. template: has "{context}" and "{question}" once each.

    Raises InvalidArgument when reserved is not in 0 … budget, for another order, for a template that has not
    each of the two once, or an empty special token (RAG-58); ContextTooLong when not even the question fits.
    """
    ...


def citations(answer: str, chunks: Sequence[Chunk]) -> list[Citation]:
    """The numbers in brackets of an answer, in its order; number i + 1 is chunks[i]. RAG-35."""
    ...


# The pipeline ---------------------------------------------------------------------------------------------


class RagPipeline:
    """Documents in, answers with citations out. RAG-36 to RAG-47."""

    def __init__(
        self,
        index: VectorIndex,
        embedder: Embedder,
        generate: Callable[[str], Iterable[str]],
        *,
        config: RagConfig,
        tokenize: Callable[[str], list[str]],
        count_tokens: Callable[[str], int],
        rerank: Callable[[str, list[str]], list[float]] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """index: empty, or what another pipeline of the same implementation filled. RAG-46.

        generate(prompt): the answer in pieces. tokenize: the words of a text, for BM25, of documents and
        questions alike. rerank(question, texts): a score for each. clock: seconds; None is the machine's.

        Raises InvalidArgument when index and embedder differ in dim, for a field of `config` that `split` or
        `pack_context` would refuse, another retrieval, or candidates or k < 1. RAG-59.
        """

    def ingest(self, documents: Sequence[Document]) -> Ingested:
        """Makes documents findable; one whose id is there already takes its place. All, or where it raises,
        none of them. RAG-36 to RAG-38.

        Raises InvalidArgument when an id comes twice (RAG-59), and what the embedder raises.
        """
        ...

    def remove(self, doc_ids: Sequence[str]) -> None:
        """Raises UnknownDocument when an id is not there; then none is removed. RAG-37, RAG-59."""
        ...

    def documents(self) -> list[str]:
        """The ids of all documents, ascending. RAG-37."""
        ...

    def retrieve(self, question: str, *, where: Where | None = None) -> Retrieved:
        """The best `config.k` chunks. RAG-39 to RAG-41, RAG-44."""
        ...

    def answer(
        self,
        question: str,
        *,
        where: Where | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Retrieves, packs and generates. on_text: called with each piece as it comes. RAG-42 to RAG-45.

        Raises what `generate` and `on_text` raise, and ContextTooLong when not even the question fits.
        """
        ...


# How good it is -------------------------------------------------------------------------------------------


def recall_at_k(ranked_ids: Sequence[str], qrels: Mapping[str, int], k: int) -> float:
    """Of the relevant documents the part that is among the first k. qrels: id to grade, relevant from 1 on.
    RAG-48, RAG-51. Raises InvalidArgument when k < 1; so do the others. RAG-60.
    """
    ...


def precision_at_k(ranked_ids: Sequence[str], qrels: Mapping[str, int], k: int) -> float:
    """Of the first k places the part that holds a relevant document. RAG-48, RAG-51."""
    ...


def reciprocal_rank(ranked_ids: Sequence[str], qrels: Mapping[str, int], k: int | None = None) -> float:
    """1 / the rank of the first relevant document; 0 if it is not there, or not among the first k. RAG-49."""
    ...


def average_precision(ranked_ids: Sequence[str], qrels: Mapping[str, int]) -> float:
    """The mean, over all relevant documents, of the precision where each was found. RAG-49."""
    ...


def ndcg_at_k(ranked_ids: Sequence[str], qrels: Mapping[str, int], k: int, *, gain: str = "linear") -> float:
    """Discounted gain of the first k, divided by the most there could be. gain: "linear", the grade, or
    "exponential", 2^grade − 1. RAG-50, RAG-51. Raises InvalidArgument for another gain. RAG-60.
    """
    ...


def evaluate(
    run: Mapping[str, Sequence[str]], qrels: Mapping[str, Mapping[str, int]], metrics: Sequence[str]
) -> dict[str, float]:
    """Means over queries. run: query to ranked ids. metrics: "ndcg@10", "recall@100", "precision@5",
    "mrr@10", "map", any k. RAG-52. Raises InvalidArgument for any other name. RAG-60.
    """
    ...


# Answers as mixtures over documents -----------------------------------------------------------------------


def rag_sequence_log_prob(doc_scores: Array, token_log_probs: Array, mask: Array) -> float:
    """ln p(answer) where one document serves the whole answer. RAG-53.

    doc_scores: (Z,) inner products of question and document. token_log_probs: (Z, L), of each token of the
    answer given document z. mask: (L,) bool, which tokens there are. Raises InvalidArgument when shapes do
    not fit or Z = 0. RAG-60.
    """
    ...


def rag_token_log_prob(doc_scores: Array, token_log_probs: Array, mask: Array) -> float:
    """ln p(answer) where each token may come of another document. RAG-54, RAG-60."""
    ...
