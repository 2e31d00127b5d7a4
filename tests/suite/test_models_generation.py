"""Tokens are drawn by the stated rule, and a context is what was given out of it."""

import numpy as np
import pytest

from spec import ContextTooLong, InvalidArgument
from spec.model import Model
from spec.speculative_decoding import Sampling
from tests.suite.outside import outside

VOCAB = 5


@pytest.fixture(scope="module")
def generate():
    return outside("solution.models").generate


def toy(weights=(0.1, 0.4, 0.2, 0.0, 0.3), max_length=100):
    """Always the same probabilities. It takes tokens alone, as small models do. Returns its context, too."""
    context = []

    def forward(tokens):
        context.extend(tokens.tolist())
        with np.errstate(divide="ignore"):
            rows = np.log(np.array([weights] * len(tokens), np.float32))
        return outside("mlx.core").array(rows)

    def truncate(length):
        del context[length:]

    return Model(VOCAB, max_length, forward, lambda: len(context), truncate), context


def test_without_limits_every_id_is_as_likely_as_the_model_says(generate):
    """Of n draws with chance p, a count is more than 5 deviations off once in two million times."""
    n = 4000
    model, _ = toy(max_length=n + 1)
    drawn = list(generate(model, [0], max_tokens=n, sampling=Sampling(temperature=1), seed=7))
    chances = np.array([0.1, 0.4, 0.2, 0.0, 0.3])
    counts = np.bincount(drawn, minlength=VOCAB)
    assert (np.abs(counts - n * chances) <= 5 * np.sqrt(n * chances * (1 - chances))).all()


def test_a_seed_gives_the_same_again_and_another_one_something_else(generate):
    def run(seed):
        return list(generate(toy()[0], [0], max_tokens=50, sampling=Sampling(1.0), seed=seed))

    assert run(1) == run(1) != run(2)


def test_greedy_takes_the_most_likely_and_of_equals_the_first(generate):
    assert list(generate(toy()[0], [0], max_tokens=3)) == [1, 1, 1]
    assert list(generate(toy((0.2, 0.3, 0.3, 0.0, 0.2))[0], [0], max_tokens=1)) == [1]


def test_generation_ends_before_a_stop_id(generate):
    model, context = toy()
    assert list(generate(model, [0, 2], max_tokens=9, stop_ids={1})) == []
    assert context == [0, 2]


def test_generation_ends_where_the_context_does(generate):
    model, context = toy(max_length=4)
    assert list(generate(model, [0, 2], max_tokens=9)) == [1, 1, 1]  # the last one needs no room
    assert context == [0, 2, 1, 1]
    with pytest.raises(ContextTooLong):
        next(generate(toy(max_length=1)[0], [0, 2], max_tokens=1))


def test_no_tokens_are_asked_for_and_none_are_computed(generate):
    model, context = toy()
    assert list(generate(model, [0, 2], max_tokens=0)) == []
    assert context == []


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_a_generator_that_is_closed_leaves_prompt_and_text(generate, taken):
    model, context = toy()
    tokens = generate(model, [0, 2], max_tokens=9)
    given = [next(tokens) for _ in range(taken)]
    tokens.close()
    assert context == [0, 2, *given[:-1]]


def test_a_prompt_comes_in_pieces(generate):
    model, context = toy()
    calls = []

    def forward(tokens):
        calls.append(len(tokens))
        return model.forward(tokens)

    pieces = Model(VOCAB, 100, forward, model.length, model.truncate)
    assert list(generate(pieces, [0] * 10, max_tokens=2, chunk=4)) == [1, 1]
    assert calls == [4, 4, 2, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature: expected at least 0, got -1"),
        ({"top_k": -1}, "top_k: expected at least 0, got -1"),
        ({"top_p": 0}, "top_p: expected above 0, at most 1, got 0"),
        ({"top_p": 1.1}, "top_p: expected above 0"),
        ({"min_p": 1.1}, "min_p: expected 0 to 1, got 1.1"),
    ],
)
def test_options_out_of_range_are_refused(generate, options, message):
    model, context = toy()
    with pytest.raises(InvalidArgument, match=message):
        next(generate(model, [0], max_tokens=1, sampling=Sampling(**options)))
    with pytest.raises(InvalidArgument, match="max_tokens: expected at least 0, got -1"):
        next(generate(model, [0], max_tokens=-1))
    assert context == []


@pytest.mark.parametrize(
    ("says", "calls"),
    [({}, [512, 88]), ({"rope_changes_after": 550}, [600]), ({"per_call": ("prompt compression",)}, [600])],
    ids=["nothing", "frequencies that change", "what is decided once a call"],
)
def test_what_needs_a_prompt_in_one_call_gets_it(says, calls):
    model, _ = toy(max_length=1000)
    seen = []

    def forward(tokens):
        seen.append(len(tokens))
        return model.forward(tokens)

    target = Model(VOCAB, 1000, forward, model.length, model.truncate, **says)
    options = {"max_tokens": 1, "gamma": 1, "sampling": Sampling(temperature=0.0), "seed": 0}
    outside("solution.speculative_decoding").generate(target, None, [0] * 600, **options)
    assert seen == calls
