"""The pipeline with real models, on facts that no model can know: all of them were made up here."""

import warnings

import pytest

from runtime import blas

blas.preload()  # before MLX is imported

from solution.models import load  # noqa: E402
from solution.models.embedding import Encoder  # noqa: E402
from solution.models.tokenizer import Tokenizer  # noqa: E402
from solution.rag import RagPipeline, VectorIndex  # noqa: E402
from solution.rag.words import words  # noqa: E402
from solution.rag.writing import Writer  # noqa: E402
from spec.rag import Document, Embedder, RagConfig  # noqa: E402
from tests.suite.real_models import fetched  # noqa: E402

pytestmark = pytest.mark.xdist_group("real models")

NAMES = [
    "Larkspur",
    "Tavrin",
    "Oskelle",
    "Merrow",
    "Quillon",
    "Dunvar",
    "Ysolt",
    "Brannic",
    "Corvane",
    "Pellam",
]
KINDS = [  # what is said, what is asked, and the answers, one a name
    (
        "The {} reactor is cooled by liquid {}.",
        "What is the {} reactor cooled by?",
        [
            "neon",
            "argon",
            "xenon",
            "sodium",
            "helium",
            "nitrogen",
            "mercury",
            "bromine",
            "krypton",
            "gallium",
        ],
    ),
    (
        "The cargo ship {} carries {} to the north.",
        "What does the cargo ship {} carry?",
        ["tin", "salt", "wool", "copper", "timber", "barley", "coffee", "marble", "sugar", "rubber"],
    ),
    (
        "The bridge of {} was painted {} by the mayor.",
        "Which colour has the bridge of {}?",
        ["green", "yellow", "purple", "orange", "white", "black", "silver", "crimson", "turquoise", "brown"],
    ),
    (
        "The winter festival of {} honours the {}.",
        "Which animal does the winter festival of {} honour?",
        ["otter", "falcon", "badger", "salmon", "hedgehog", "wolf", "heron", "beaver", "lynx", "raven"],
    ),
    (
        "In the town of {} the post office opens at {} o'clock.",
        "When does the post office in the town of {} open?",
        ["seven", "eight", "nine", "ten", "eleven", "five", "six", "four", "three", "two"],
    ),
]
ASKED = [
    (f"kind{number}", asked.format(name), fact)
    for number, (_, asked, facts) in enumerate(KINDS)
    for name, fact in zip(NAMES, facts, strict=True)
]


@pytest.fixture(scope="module")
def made():
    """The pipeline, one chunk a fact, and what it was asked to write."""
    encoder = Encoder.open(fetched("all-minilm-l6-v2"))
    path = fetched("smollm2-135m-instruct")
    writer = Writer(load(path), Tokenizer.open(path), 16)
    prompts = []

    def generate(prompt):
        prompts.append(prompt)
        return writer.generate(prompt)

    pipeline = RagPipeline(
        VectorIndex(384),
        Embedder(384, lambda texts, kind: encoder.embed(texts)),
        generate,
        config=RagConfig(size=80, overlap=0, separators=("\n",), k=1, budget=2048, reserved=16),
        tokenize=words,
        count_tokens=writer.count_tokens,
    )
    pipeline.ingest(
        [
            Document(
                f"kind{number}",
                "".join(said.format(name, fact) + "\n" for name, fact in zip(NAMES, facts, strict=True)),
            )
            for number, (said, _, facts) in enumerate(KINDS)
        ]
    )
    return pipeline, prompts


def test_fifty_invented_facts_are_found_and_told(made):
    pipeline, _ = made
    first = shown = cited = told = 0
    for document, question, fact in ASKED:
        answer = pipeline.answer(question)
        right = [chunk.doc_id == document and fact in chunk.text for chunk in answer.chunks]
        first += right[0]
        shown += any(right)
        ids = {citation.chunk_id for citation in answer.citations}
        cited += any(
            chunk.id in ids for chunk, is_right in zip(answer.chunks, right, strict=True) if is_right
        )
        told += fact in answer.text.lower()
    report = f"of {len(ASKED)}: right chunk first {first}, in the prompt {shown}, cited {cited}, told {told}"
    warnings.warn(report, stacklevel=1)
    assert first >= 48 and shown == len(ASKED), report
    assert told >= 35, report


def test_without_a_passage_the_model_is_not_asked(made):
    pipeline, prompts = made
    before = len(prompts)
    answer = pipeline.answer("What is the Larkspur reactor cooled by?", where={"group": "board"})
    assert (answer.text, answer.chunks, len(prompts)) == ("I do not know.", [], before)
