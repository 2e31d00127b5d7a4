"""SmolLM2: what the parts of the decoder give together, on a model that somebody trained."""

import numpy as np
import pytest

from tests.suite.outside import outside
from tests.suite.real_models import fetched

pytestmark = pytest.mark.xdist_group("real models")  # read and computed once

COUNT = 24  # tokens generated


@pytest.fixture(scope="module")
def mx():
    return outside("mlx.core")


@pytest.fixture(scope="module")
def models():
    return outside("solution.models")


@pytest.fixture(scope="module")
def decoder(models):
    return models.load(fetched("smollm2-135m-instruct"))


@pytest.fixture(scope="module")
def prompt():
    """A text that leaves the model little doubt: rivals are some 4 apart, an int8 cache is off by 0.1."""
    tokenizer = outside("solution.models.tokenizer").Tokenizer.open(fetched("smollm2-135m-instruct"))
    return tokenizer.encode(" ".join(f"{number}," for number in range(1, 24)))


@pytest.fixture(scope="module")
def greedy(models, decoder, prompt):
    """What a contiguous cache gives: tokens, and the logits of each, in one pass."""
    model = decoder.start()
    text = list(models.generate(model, prompt, max_tokens=COUNT))
    again = decoder.start()
    logits = np.asarray(again.forward(outside("mlx.core").array(prompt + text[:-1]), last=COUNT))
    return text, logits


@pytest.fixture(scope="module")
def in_float32(decoder, greedy):
    """How far two right contexts may be apart: each rounds its residual stream by half a unit in the last
    place in each of 16 operations of a layer, all in one direction, and logits are linear in it."""
    _, logits = greedy
    return 16 * decoder.config.layers * np.finfo(np.float32).eps * np.abs(logits).max()


def assert_greedy(text, logits, expected, error):
    """The same tokens, up to the first that two rivals nearer than twice the error could have been."""
    for i, (token, right) in enumerate(zip(text, expected, strict=True)):
        if token != right:
            second, best = np.sort(logits[i])[-2:]
            assert best - second <= 2 * error, f"token {i}: expected {right}, got {token}"
            return


@pytest.mark.parametrize("kind", ["paged", "rolling", "int8"])
def test_every_cache_gives_the_tokens_of_the_contiguous_one(
    mx, models, decoder, prompt, greedy, in_float32, kind
):
    expected, logits = greedy
    model = decoder.start(cache=kind)
    other = np.asarray(model.forward(mx.array(prompt + expected[:-1]), last=COUNT))
    error = np.abs(other - logits).max()
    assert kind == "int8" or error <= in_float32
    second, best = np.sort(logits)[:, -2:].T
    assert 2 * error < np.median(best - second)  # so that the rule below decides about most tokens
    text = list(models.generate(decoder.start(cache=kind), prompt, max_tokens=COUNT))
    assert_greedy(text, logits, expected, error)


def test_pieces_of_a_prompt_give_what_one_call_gives(models, decoder, prompt, greedy, in_float32):
    text = list(models.generate(decoder.start(), prompt, max_tokens=COUNT, chunk=30))
    assert_greedy(text, greedy[1], greedy[0], in_float32)


def test_together_gives_what_each_gives_alone(mx, decoder, prompt, greedy, in_float32):
    expected, logits = greedy
    contexts = [decoder.start() for _ in range(3)]
    contexts[0].together(contexts, [prompt, prompt + expected[:5], prompt + expected[:9]], last=1)
    rows = contexts[0].together(contexts, [expected[:1], expected[5:7], expected[9:10]])
    for got, right in zip(rows, (logits[1:2], logits[6:8], logits[10:11]), strict=True):
        assert np.abs(np.asarray(got) - right).max() <= in_float32


def test_an_accepted_path_is_the_context(mx, decoder, prompt, greedy, in_float32):
    expected, logits = greedy
    model = decoder.start()
    model.forward(mx.array(prompt))
    wrong = (expected[0] + 1) % 49152
    model.forward(mx.array([wrong, expected[0], expected[1]]), parents=[-1, -1, 1])
    model.accept([1, 2])
    assert np.abs(np.asarray(model.forward(mx.array(expected[2:3]))) - logits[3:4]).max() <= in_float32
