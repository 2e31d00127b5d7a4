"""Tokens are drawn by the stated rule, and a context is what was given out of it."""

import numpy as np
import pytest

from spec import ContextTooLong, InvalidArgument
from spec.model import Model
from tests.suite.outside import outside

VOCAB = 5


@pytest.fixture(scope="module")
def generate():
    return outside("solution.models").generate


@pytest.fixture(scope="module")
def sampling():
    return outside("solution.models.sampling")


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


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 0), (0.09, 0), (0.11, 1), (0.49, 1), (0.51, 2)])
def test_a_draw_is_the_first_id_whose_cumulative_probability_exceeds_the_number(sampling, uniform, expected):
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    assert sampling.draw(logits, sampling.Sampling(temperature=1), uniform) == expected


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 1), (0.5, 3)])
def test_a_number_that_is_met_exactly_is_not_exceeded(sampling, uniform, expected):
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)
    assert sampling.draw(logits, sampling.Sampling(temperature=1), uniform) == expected


def test_the_largest_number_draws_the_last_id_that_is_possible(sampling):
    logits = np.array([0.0, 0.0, -np.inf, 0.0, -np.inf], np.float32)
    assert sampling.draw(logits, sampling.Sampling(temperature=1), np.nextafter(1, 0)) == 3
    assert sampling.draw(logits, sampling.Sampling(temperature=1), 0.0) == 0


def by_definition(logits, temperature, top_k, top_p, min_p):
    """Ids that may be drawn: filter after filter on a sorted list."""
    chances = np.exp(logits.astype(np.float64) / temperature)
    ids = sorted(range(len(chances)), key=lambda i: (-chances[i], i))[:top_k]
    kept, reached, total = [], 0.0, chances[ids].sum()
    for i in ids:
        if reached >= top_p * total:
            break
        kept.append(i)
        reached += chances[i]
    return sorted(i for i in kept if chances[i] >= min_p * chances[kept].max())


@pytest.mark.parametrize("top_k", [1, 3, 40, 1000])
@pytest.mark.parametrize("top_p", [0.05, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.1, 1.0])
def test_each_limit_keeps_what_its_definition_keeps(sampling, top_k, top_p, min_p):
    for seed in range(5):
        logits = np.random.default_rng(seed).standard_normal(60).astype(np.float32).round(1)  # with ties
        options = sampling.Sampling(0.7, top_k, top_p, min_p)
        ids, weights = sampling.candidates(logits, options)
        assert ids.tolist() == by_definition(logits, 0.7, top_k, top_p, min_p)
        chances = np.exp(logits[ids].astype(np.float64) / 0.7)
        np.testing.assert_allclose(weights / weights.sum(), chances / chances.sum(), rtol=1e-12)


def test_without_limits_every_id_is_as_likely_as_the_model_says(generate, sampling):
    """Of n draws with chance p, a count is more than 5 deviations off once in two million times."""
    n = 4000
    model, _ = toy(max_length=n + 1)
    drawn = list(generate(model, [0], max_tokens=n, sampling=sampling.Sampling(temperature=1), seed=7))
    chances = np.array([0.1, 0.4, 0.2, 0.0, 0.3])
    counts = np.bincount(drawn, minlength=VOCAB)
    assert (np.abs(counts - n * chances) <= 5 * np.sqrt(n * chances * (1 - chances))).all()


def test_a_seed_gives_the_same_again_and_another_one_something_else(generate, sampling):
    def run(seed):
        return list(generate(toy()[0], [0], max_tokens=50, sampling=sampling.Sampling(1.0), seed=seed))

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
        ({"top_k": 0}, "top_k: expected at least 1, got 0"),
        ({"top_p": 0}, "top_p: expected above 0, at most 1, got 0"),
        ({"top_p": 1.1}, "top_p: expected above 0"),
        ({"min_p": 1.1}, "min_p: expected 0 to 1, got 1.1"),
    ],
)
def test_options_out_of_range_are_refused(generate, sampling, options, message):
    model, context = toy()
    with pytest.raises(InvalidArgument, match=message):
        next(generate(model, [0], max_tokens=1, sampling=sampling.Sampling(**options)))
    with pytest.raises(InvalidArgument, match="max_tokens: expected at least 0, got -1"):
        next(generate(model, [0], max_tokens=-1))
    assert context == []
