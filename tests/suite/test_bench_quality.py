"""What the bench of quality measures is what it says, on a model small enough to check."""

from math import log

import numpy as np
import pytest

from grading.matching import assert_matches
from grading.tolerance import allowance
from grading.truth import Expected
from solution.models import load
from solution.rag import embedders
from solution.rag.judging import Judged, judge
from spec.long_context import YaRN
from tests.suite.outside import outside
from tests.suite.test_oracles_models import arrays, ids, rope, tiny_decoder, truth
from tests.week3 import bench_long_context_quality as bench
from tests.week3 import bench_rag

VOCAB, TRAINED = 37, 16


@pytest.fixture
def saved(tmp_path):
    config, model = tiny_decoder(outside("torch"), "Llama")
    model.save_pretrained(tmp_path)
    return config, arrays(model), load(tmp_path, dtype="float32")


def surprise(logits, tokens):
    """Minus the logarithm of the probability of each token but the first."""
    logits = logits[:-1].astype(np.float64)
    total = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)) + logits.max(axis=1)
    return total - logits[np.arange(len(logits)), tokens[1:]]


@pytest.mark.parametrize(
    ("way", "changes", "kept"),
    [
        (bench.Way("as trained"), {}, None),
        (
            bench.Way("YaRN", YaRN(4.0, TRAINED)),
            rope("yarn", factor=4.0, original_max_position_embeddings=TRAINED, rope_theta=10000.0),
            None,
        ),
        (bench.Way("sinks", None, {"cache": "rolling", "window": 5, "sinks": 2}), {}, (5, 2)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_loss_is_what_the_reference_finds(saved, monkeypatch, way, changes, kept):
    monkeypatch.setattr(bench, "PIECE", 4)
    config, weights, decoder = saved
    tokens = ids(13, 22, VOCAB)
    sides = [
        side.logits({**config, **changes}, weights, tokens, kept=kept) for side in (truth.exact, truth.plain)
    ]
    exact, plain = (surprise(logits, tokens) for logits in sides)
    allowed = allowance(exact, plain.astype(np.float32))
    found = bench.losses(decoder, way, tokens.tolist())
    assert_matches(found, Expected(exact, np.dtype(np.float32), allowed))


def test_what_was_measured_is_not_measured_again(monkeypatch, tmp_path):
    measured = []

    def losses(decoder, way, tokens):
        measured.append(way.name)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return np.full(len(tokens) - 1, log(len(measured)))

    monkeypatch.setattr(bench, "losses", losses)
    monkeypatch.setattr(bench, "read", lambda path: list(range(129)))
    monkeypatch.setattr(bench, "load", lambda *args, **options: None)
    kept = tmp_path / "below" / "kept.json"
    with pytest.raises(KeyboardInterrupt):
        bench.measure(tmp_path, kept, print)
    means = bench.measure(tmp_path, kept, print)
    names = [way.name for way in bench.WAYS]
    assert measured == [*names[:3], *names[2:]]
    assert [round(bench.perplexity(means[name], 64, 128)) for name in names] == [1, 2, *range(4, 10)]


def test_the_page_and_its_figure_are_written(monkeypatch, tmp_path):
    outside("matplotlib")
    steps = bench.TOKENS // bench.STEP
    means = {way.name: np.full(steps, log(8 + i)) for i, way in enumerate(bench.WAYS)}
    monkeypatch.setattr(bench, "measure", lambda *args: means)
    bench.report(tmp_path, tmp_path, tmp_path, print)
    page = (tmp_path / "long_context_quality.md").read_text(encoding="utf-8")
    assert "| YaRN | 11 | 11 | 11 | 11 | 11 | 11 |" in page
    assert "](long_context_quality.png)" in page
    assert (tmp_path / "long_context_quality.png").read_bytes().startswith(b"\x89PNG")


def test_retrieval_is_judged_by_libraries_as_by_the_solution():
    """One query meets no word, and nothing is relevant to it: where all are level, any order is right."""
    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "bcdfg" for b in "aeiou"]
    documents = {f"d{i}": " ".join(rng.choice(words, rng.integers(5, 30))) for i in range(120)}
    queries = {f"q{i}": " ".join(rng.choice(words, 4)) for i in range(20)} | {"unmet": "zz"}
    qrels = {each: {f"d{d}": int(rng.integers(0, 3)) for d in rng.choice(120, 40)} for each in queries}
    qrels["unmet"] = {"d0": 0}
    collection, embedder = Judged(documents, queries, qrels), bench_rag.remembering(embedders.hashing())
    ours = judge(collection, embedder, lambda done, total: None)
    for method, theirs in bench_rag.judged_by_libraries(collection, embedder).items():
        assert 0 < theirs < 1 and abs(ours[method]["nDCG@10"] - theirs) <= bench_rag.NEAR, method
