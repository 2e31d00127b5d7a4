"""Speculative decoding of SmolLM2: with every drafter and every cache the greedy text of plain decoding."""

import numpy as np
import pytest

from solution.models import load
from solution.models.tokenizer import Tokenizer
from solution.speculative_decoding import drafters, generate
from spec.speculative_decoding import Draft, Drafter, Sampling
from tests.suite.real_models import fetched

GREEDY = Sampling(temperature=0.0)
TOKENS, GAMMA = 6, 4
# Logits of this model are around 15, and passes over one token and over several add 576 · 30 products in
# another order: 4 · 2⁻²⁴ · √(576 · 30) · 15 is the gap below which rounding may choose.
ROUNDING = 5e-4
PROMPTS = [
    "1, 2, 3, 1, 2, 3, 1, 2,",
    "The cat sat on the mat. The cat sat on",
    "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n    return",
    "Paris is the capital of France. Berlin is the capital of",
    "red green blue red green blue red",
    "To be, or not to be, that is the",
    "Once upon a time there was",
    "The quick brown fox jumps over",
    "Water boils at",
    "Roses are red, violets are",
    "x = 1\ny = 2\nz = 3\nx =",
    "A, B, C, D, E,",
    "January, February, March,",
    "The opposite of hot is",
    "import numpy as np\nimport",
    "Dear Sir or Madam,",
    "Two plus two is",
    "<p>one</p><p>two</p><p>",
    "In the beginning",
    "yes no yes no yes no",
]
CACHES = {
    "contiguous": {"cache": "contiguous"},
    "paged": {"cache": "paged", "max_length": 128},
    "rolling": {"cache": "rolling", "window": 64, "sinks": 4},
    "int8": {"cache": "int8"},
}


@pytest.fixture(scope="module")
def decoder():
    return load(fetched("smollm2-135m-instruct"), dtype="float32")


@pytest.fixture(scope="module")
def prompts():
    tokenizer = Tokenizer.open(fetched("smollm2-135m-instruct"))
    return [tokenizer.encode(text) for text in PROMPTS]


@pytest.fixture(scope="module")
def plain(decoder, prompts):
    """What plain decoding writes, by cache, made when it is first asked for."""
    found = {}

    def of(cache, index):
        if (cache, index) not in found:
            found[cache, index] = written(decoder.start(**CACHES[cache]), None, prompts[index])
        return found[cache, index]

    return of


def written(model, drafter, prompt):
    options = {"max_tokens": TOKENS, "gamma": GAMMA, "sampling": GREEDY, "seed": 0}
    return generate(model, drafter, prompt, **options)


def assert_same(decoder, cache, prompt, found, expected):
    """Up to the first token where the two best logits are as near as rounding is."""
    both = zip(found.tokens, expected.tokens, strict=True)
    differs = next((i for i, (one, other) in enumerate(both) if one != other), None)
    if differs is not None:
        row = decoder.start(**CACHES[cache]).forward([*prompt, *expected.tokens[:differs]], last=1)
        one, other = np.array(row)[0, [found.tokens[differs], expected.tokens[differs]]]
        assert abs(one - other) <= ROUNDING, f"token {differs}: {found.tokens} instead of {expected.tokens}"


def half_right(expected, prompt):
    """Two of three tokens are what plain decoding writes."""

    def propose(_, outputs, gamma, uniforms):
        rest = expected.tokens[len(outputs) :][:gamma]
        return Draft([token if (len(outputs) + i) % 3 < 2 else token ^ 1 for i, token in enumerate(rest)])

    return Drafter(propose)


@pytest.mark.parametrize("index", range(len(PROMPTS)))
def test_a_draft_that_is_partly_right_changes_nothing(decoder, prompts, plain, index):
    """Each cache with five of the prompts."""
    cache = list(CACHES)[index % len(CACHES)]
    prompt, expected = prompts[index], plain(cache, index)
    found = written(decoder.start(**CACHES[cache]), half_right(expected, prompt), prompt)
    assert_same(decoder, cache, prompt, found, expected)
    assert 0 < sum(found.accepted) < sum(found.proposed)


EVERY_THIRD = [  # n-grams cost nothing, a tree and half of the layers take passes of their own
    *(("n-grams", index) for index in range(len(PROMPTS))),
    *((name, index) for name in ("a tree of n-grams", "half of the layers") for index in range(0, 20, 3)),
]


@pytest.mark.parametrize(("name", "index"), EVERY_THIRD)
def test_no_drafter_changes_the_text(decoder, prompts, plain, name, index):
    makers = {
        "n-grams": drafters.ngrams,
        "a tree of n-grams": lambda: drafters.ngram_tree(2),
        "half of the layers": lambda: drafters.skipping(
            decoder, drafters.every_other(decoder.config.layers), GREEDY
        ),
    }
    prompt, expected = prompts[index], plain("contiguous", index)
    found = written(decoder.start(), makers[name](), prompt)
    assert_same(decoder, "contiguous", prompt, found, expected)


def test_all_layers_are_the_model_itself(decoder, prompts):
    drafter = drafters.skipping(decoder, range(decoder.config.layers), GREEDY)
    found = written(decoder.start(), drafter, prompts[0])
    assert found.accepted == found.proposed == [4, 0]
