"""The solution's decoder against the reference, which remembers nothing but tokens: whatever was done to a
context, it must answer as if the tokens it holds had been said at once."""

import numpy as np
import pytest

from grading.matching import assert_matches
from grading.tolerance import allowance
from grading.truth import Expected
from solution.models import load
from spec import CannotTruncate
from tests.suite.outside import outside
from tests.suite.test_oracles_models import arrays, ids, tiny_decoder, truth

CACHES = {  # options of the solution; what a token sees, of the reference; whether trees may branch
    "contiguous": ({"cache": "contiguous"}, None, True),
    "paged": ({"cache": "paged", "max_length": 64}, None, True),
    "rolling": ({"cache": "rolling", "window": 7, "sinks": 0}, (7, 0), False),
    "rolling with sinks": ({"cache": "rolling", "window": 5, "sinks": 3}, (5, 3), False),
}
TINY = [
    "Llama",
    "Llama, tied",
    "Llama, head_dim from the width",
    "Llama, one head a kv head",
    "Llama, linear",
    "Llama, dynamic",
    "Llama, yarn",
    "Llama 3",
    "Mistral",
    "Qwen3",
    "Qwen3, a window that is not in use",
    "Qwen3-MoE",
    "Qwen3-MoE, weights as they are",
    "Qwen3-MoE, some layers dense",
]
VOCAB = 37


@pytest.fixture(scope="module")
def torch():
    return outside("torch")


def saved(torch, name, folder, **changes):
    """(config, weights, folder) of a tiny decoder."""
    config, model = tiny_decoder(torch, name, **changes)
    model.save_pretrained(folder)
    return config, arrays(model), folder


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_model_gives_the_logits_of_the_reference(torch, tmp_path, name):
    config, weights, folder = saved(torch, name, tmp_path)
    tokens = ids(9, 13, VOCAB)
    logits = load(folder, dtype="float32").start(max_length=64).forward(tokens)
    assert_matches(np.array(logits), truth.logits(config, weights, tokens))


def test_fewer_bits_are_further_from_the_reference(torch, tmp_path):
    """A cache in codes cannot be told exactly: a code that rounding decides otherwise is a whole step off."""
    config, weights, folder = saved(torch, "Llama", tmp_path, head_dim=16)  # groups of 16
    tokens = ids(12, 24, VOCAB)
    expected = truth.logits(config, weights, tokens)
    decoder = load(folder, dtype="float32")
    int8, int4 = (
        np.abs(np.array(decoder.start(cache=cache).forward(tokens)) - expected.value).max()
        for cache in ("int8", "int4")
    )
    assert expected.allowed < int8 < int4 / 8 < int4 < np.abs(expected.value).max()


# The life of a context ------------------------------------------------------------------------------------


class Told:
    """A context of the solution, and of the reference in float64 and in float32, which are told the same."""

    def __init__(self, exact, plain, solution):
        self.exact, self.plain, self.solution = self.sides = exact, plain, solution

    def forward(self, tokens, **options):
        self.compare(*(side.forward(tokens, **options) for side in self.sides))

    def compare(self, exact, plain, found):
        expected = Expected(exact.astype(np.float64), plain.dtype, allowance(exact, plain))
        assert_matches(np.array(found), expected)
        assert self.solution.length() == self.exact.length()

    def accept(self, path):
        for side in self.sides:
            side.accept(path)

    def truncate(self, length):
        """If the cache can; if not it says so."""
        if self.solution.can_truncate(length):
            for side in self.sides:
                side.truncate(length)
        else:
            with pytest.raises(CannotTruncate):
                self.solution.truncate(length)


def a_tree(rng, branches):
    """(tokens, parents, a path down from the context)"""
    count = int(rng.integers(1, 7))
    parents = [int(rng.integers(-1, i)) if i and branches else i - 1 for i in range(count)]
    path, node = [], int(rng.integers(-1, count))
    while node >= 0:
        path, node = [node, *path], parents[node]
    return rng.integers(0, VOCAB, count), parents, path


@pytest.mark.parametrize("cache", CACHES)
def test_a_context_answers_as_if_its_tokens_had_been_said_at_once(torch, tmp_path, cache):
    options, kept, branches = CACHES[cache]
    config, weights, folder = saved(torch, "Qwen3-MoE", tmp_path)
    rng = np.random.default_rng(10)
    exact, plain = (side.start(config, weights, kept=kept) for side in (truth.exact, truth.plain))
    solution = load(folder, dtype="float32").start(**options)
    contexts = [Told(exact, plain, solution), Told(exact.fresh(), plain.fresh(), solution.fresh())]
    for turn in range(8):
        told = contexts[turn % 2]
        if told.solution.length() > 14 or rng.random() < 0.3:
            told.truncate(int(rng.integers(0, told.solution.length() + 1)))
        told.forward(rng.integers(0, VOCAB, rng.integers(1, 6)))
        told.forward(rng.integers(0, VOCAB, 4), last=int(rng.integers(1, 4)))
        tokens, parents, path = a_tree(rng, branches)
        told.forward(tokens, parents=parents)
        told.accept(path)
        more = [rng.integers(0, VOCAB, rng.integers(1, 4)) for _ in contexts]
        sides = zip(*(each.sides for each in contexts), strict=True)
        rows = [side[0].together(side, more) for side in sides]
        for each, *found in zip(contexts, *rows, strict=True):
            each.compare(*found)


@pytest.mark.parametrize("cache", [*CACHES, "paged with a window"])
def test_what_a_pass_leaves_to_be_taken_back_is_known_before_it(torch, tmp_path, cache):
    """Lengths on both sides of a block and of a window; a first context that has lost nothing yet and one
    that was taken back after it had."""
    name, options = "Llama", CACHES.get(cache, [None])[0]
    if options is None:  # its blocks hold 32 tokens
        name, options = "Mistral", {"cache": "paged", "max_length": 256}
    _, _, folder = saved(torch, name, tmp_path, max_position_embeddings=256)
    model, rng = (
        load(folder, dtype="float32").start(**{**options, "max_length": 256}),
        np.random.default_rng(4),
    )
    for count in [1, 5, 1, 3, 20, 2, 6, 1, 31, 1, 40, 7]:
        lengths = range(-1, model.length() + count + 2)
        before = [model.can_truncate(length, count) for length in lengths]
        model.forward(rng.integers(0, VOCAB, count))
        assert before == [model.can_truncate(length) for length in lengths], f"{count} tokens more"
        back = model.length() - count // 2
        if model.can_truncate(back):
            model.truncate(back)
