"""Asks the real models about facts that no model can know: all of them were made up here.

A program, `python -m tests.suite.invented_facts [PASSAGES]`: MLX must be imported after the fast BLAS. Prints
JSON. A fact is told if it is in the answer, and told alone if no other of its kind is.
"""

from runtime import blas

blas.preload()  # before MLX is imported

import json  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402

from runtime import downloads  # noqa: E402
from solution.models import load  # noqa: E402
from solution.models.tokenizer import Tokenizer  # noqa: E402
from solution.rag import RagPipeline, VectorIndex, embedders  # noqa: E402
from solution.rag.words import words  # noqa: E402
from solution.rag.writing import Writer  # noqa: E402
from spec.rag import Document, RagConfig  # noqa: E402

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


def main(passages: int) -> None:
    """One chunk is a fact; the model gets the best."""
    path = downloads.installed("smollm2-135m-instruct")
    writer = Writer(load(path), Tokenizer.open(path), 16)
    prompts: list[str] = []

    def generate(prompt):
        prompts.append(prompt)
        return writer.generate(prompt)

    pipeline = RagPipeline(
        VectorIndex(384),
        embedders.encoder(downloads.installed("all-minilm-l6-v2")),
        generate,
        config=RagConfig(size=80, overlap=0, separators=("\n",), k=passages, budget=2048, reserved=16),
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
    counts = {"asked": len(ASKED), "found": 0, "cited": 0, "told": 0, "told alone": 0}
    for document, question, fact in ASKED:
        answer = pipeline.answer(question)
        best, kind = answer.chunks[0], int(document.removeprefix("kind"))
        said = set(re.findall(r"\w+", answer.text.lower())).intersection(KINDS[kind][2])
        counts["found"] += best.doc_id == document and fact in best.text
        counts["cited"] += any(citation.chunk_id == best.id for citation in answer.citations)
        counts["told"] += fact in said
        counts["told alone"] += said == {fact}
    before = len(prompts)
    hidden = pipeline.answer(ASKED[0][1], where={"group": "board"})
    told_nothing = (hidden.text, hidden.chunks, len(prompts)) == ("I do not know.", [], before)
    print(json.dumps({**counts, "declines without a passage": told_nothing}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
