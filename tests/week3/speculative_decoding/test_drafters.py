"""`propose_ngram` and `ModelDrafter`: who proposes."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, check_refusals, passed_through
from grading.truth import GroundTruth
from spec.speculative_decoding import Sampling
from tests.week3.speculative_decoding.cases import SEEDS, TRUTH, assert_probs, f32
from tests.week3.speculative_decoding.cases_toys import VOCAB, Toy

reference = GroundTruth("speculative_decoding")

TEXTS = st.lists(st.integers(0, 2), max_size=12)
SAMPLED = Sampling(temperature=0.5, top_k=5, repetition=1.5, frequency=0.25)


def check_ngram(impl, tokens, min_n, max_n, gamma):
    expected = TRUTH.propose_ngram(tokens, min_n=min_n, max_n=max_n, gamma=gamma)
    found = impl.propose_ngram(tokens, min_n=min_n, max_n=max_n, gamma=gamma)
    assert_equal(list(found), expected, "proposed")


@requirement("SD-31")
@given(tokens=TEXTS, min_n=st.integers(1, 3), more=st.integers(0, 2), gamma=st.integers(1, 5))
@example(tokens=[1, 2, 3, 4, 2, 3], min_n=2, more=1, gamma=4)
@example(tokens=[1, 1, 1, 1], min_n=2, more=0, gamma=4)
@example(tokens=[0, 1, 0, 2, 1, 0, 0, 1, 0], min_n=1, more=2, gamma=2)
@example(tokens=[5, 1, 2, 6, 1, 2, 7, 1, 2], min_n=1, more=1, gamma=3)
@example(tokens=[3, 9, 8, 3, 1, 2, 3], min_n=1, more=2, gamma=2)
def test_what_followed_the_longest_suffix_at_first(impl, tokens, min_n, more, gamma):
    check_ngram(impl, tokens, min_n, min_n + more, gamma)


@requirement("SD-31")
@pytest.mark.parametrize(
    ("tokens", "min_n", "max_n", "gamma"),
    [
        ([1, 23, 5, 12, 3], 2, 2, 2),
        ([7, 8, 9, *range(10, 3000), 7, 8], 1, 3, 2),
        ([5, 300, 6, 44], 1, 1, 2),
        ([2, 1, 6, 1, 2], 2, 2, 2),
        ([], 1, 3, 4),
        ([5], 1, 3, 4),
        ([1, 2, 3], 1, 3, 4),
        ([5, 5], 1, 1, 3),
        ([1, 2, 1, 2], 3, 4, 3),
        ([1, 2, 1, 2], 2, 9, 3),
        ([1, 2, 1, 2, 1], 1, 3, 0),
        ([4, 4, 4], 2, 2, 9),
    ],
)
def test_ngrams_of_all_kinds(impl, tokens, min_n, max_n, gamma):
    check_ngram(impl, tokens, min_n, max_n, gamma)


def uniforms(seed, gamma):
    """In the middle of cells: draws from the toy's rows are hardly ever near a border."""
    return ((np.random.default_rng(seed).integers(0, 64, gamma) + 0.5) / 64).astype(np.float32)


def truth(toy, sampling, vocab, prompt, outputs, gamma, u):
    """The draft that the rule gives, from the toy's logits."""
    tokens, rows = [], []
    for i in range(gamma):
        row = toy.logits([*prompt, *outputs, *tokens])
        row = np.pad(row[:vocab], (0, max(vocab - len(row), 0)), constant_values=-np.inf)
        history = [*outputs, *tokens]
        rows.append(reference.process_logits(row[None], sampling, prompt, [history]))
        total = np.cumsum(rows[-1].value[0])
        edges = np.abs(total / total[-1] - u[i])
        if edges.min() < 1e-5:
            return None  # either token is right
        tokens.append(int(np.argmax(total > u[i] * total[-1])))
    return tokens, rows


def check(impl_drafter, toy, sampling, vocab, prompt, outputs, gamma, seed):
    u = uniforms(seed, gamma)
    expected = truth(toy, sampling, vocab, prompt, outputs, gamma, u)
    draft = impl_drafter.propose(prompt, outputs, gamma, u)
    if expected is None:
        return draft
    tokens, rows = expected
    assert_equal(list(draft.tokens), tokens, "drafted tokens")
    assert draft.parents is None, f"parents: expected None for a chain, got {draft.parents}"
    assert isinstance(draft.probs, np.ndarray), f"probs: expected an array, got {type(draft.probs).__name__}"
    assert_equal(draft.probs.shape, (gamma, vocab), "shape of probs")
    for i, row in enumerate(rows):
        assert_probs(draft.probs[i : i + 1], row, f"probs of token {i}")
    assert_equal(toy.wrongs, [], "wrong calls of the model")
    return draft


@requirement("SD-32")
@given(seed=SEEDS, gamma=st.sampled_from([0, 1, 3]), sampling=st.sampled_from([Sampling(), SAMPLED]))
@example(seed=1, gamma=3, sampling=Sampling())
@example(seed=2, gamma=3, sampling=Sampling(temperature=0.5, top_p=0.7))
@example(seed=3, gamma=3, sampling=Sampling(temperature=0.0))
def test_a_draft_and_what_it_was_drawn_from(impl, seed, gamma, sampling):
    toy = Toy(seed % 1000)
    drafter = impl.ModelDrafter(toy.model, sampling, vocab_size=VOCAB)
    check(drafter, toy, sampling, VOCAB, [3, 1], [4], gamma, seed)


@requirement("SD-32")
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.0, repetition=2.0),
        Sampling(temperature=0.0, frequency=0.75),
        Sampling(min_tokens=3, eos_ids=(0, 1)),
    ],
)
def test_a_draft_has_a_history(impl, sampling):
    toy = Toy(rows=[2.0, 1.5, 0.75, -1.0])
    drafter = impl.ModelDrafter(toy.model, sampling, vocab_size=4)
    check(drafter, toy, sampling, 4, [3], [3], 4, 5)


def fed(toy):
    return [tokens for _, tokens, _ in toy.calls]


@requirement("SD-33")
@pytest.mark.parametrize("accepted", [0, 1, 2, 3, 4])
def test_the_model_is_fed_what_is_new(impl, accepted):
    """The next call after `accepted` of four drafted tokens stayed and another one came."""
    toy = Toy(7)
    drafter = impl.ModelDrafter(toy.model, Sampling(), vocab_size=VOCAB)
    prompt, outputs = [1, 2, 3, 4, 5], [0]
    draft = check(drafter, toy, Sampling(), VOCAB, prompt, outputs, 4, 1)
    first = list(draft.tokens)
    assert_equal(fed(toy), [[*prompt, *outputs], *([x] for x in first[:3])], "tokens of each call")
    assert_equal(toy.context, [*prompt, *outputs, *first[:3]], "context")
    other = (first[accepted] + 1) % VOCAB if accepted < 4 else 6
    outputs = [*outputs, *first[:accepted], other]
    toy.calls.clear()
    second = list(check(drafter, toy, Sampling(), VOCAB, prompt, outputs, 4, 2).tokens)
    new = [first[3], other] if accepted == 4 else [other]
    assert_equal(fed(toy), [new, *([x] for x in second[:3])], "tokens of each call")
    assert_equal(toy.context, [*prompt, *outputs, *second[:3]], "context")


@requirement("SD-33")
@pytest.mark.parametrize("prompt", [[1, 2, 3], [1, 2], [1, 2, 9 % VOCAB, 3], [4]])
def test_another_text_keeps_what_is_common(impl, prompt):
    toy = Toy(7)
    drafter = impl.ModelDrafter(toy.model, Sampling(), vocab_size=VOCAB)
    check(drafter, toy, Sampling(), VOCAB, [1, 2, 3], [5, 6], 2, 1)
    before = list(toy.context)
    toy.calls.clear()
    check(drafter, toy, Sampling(), VOCAB, prompt, [], 2, 2)
    same = 0
    while same < min(len(prompt) - 1, len(before)) and prompt[same] == before[same]:
        same += 1
    assert_equal(fed(toy)[0], prompt[same:], "tokens of the first call")


@requirement("SD-33")
@pytest.mark.parametrize(("known", "drafted"), [(4, 3), (6, 1), (7, 0), (9, 0)])
def test_a_full_context_drafts_less(impl, known, drafted):
    toy = Toy(7, max_length=6)
    drafter = impl.ModelDrafter(toy.model, Sampling(), vocab_size=VOCAB)
    draft = drafter.propose([1, 2, 3], [4] * (known - 3), 5, uniforms(1, 5))
    assert_equal(len(draft.tokens), drafted, "drafted tokens: the last is not fed")
    assert_equal(toy.wrongs, [], "wrong calls of the model")


@requirement("SD-33")
def test_without_tokens_to_draft_the_context_stays(impl):
    toy = Toy(7)
    drafter = impl.ModelDrafter(toy.model, Sampling(), vocab_size=VOCAB)
    check(drafter, toy, Sampling(), VOCAB, [1, 2, 3], [5, 6], 2, 1)
    before = list(toy.context)
    toy.calls.clear()
    check(drafter, toy, Sampling(), VOCAB, [1, 4], [], 0, 2)
    assert_equal((toy.calls, toy.context), ([], before), "calls of the model and its context")


@requirement("SD-34")
@pytest.mark.parametrize("vocab", [4, 9])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=3), Sampling(temperature=0.0)])
def test_two_vocabularies(impl, vocab, sampling):
    toy = Toy(11)
    drafter = impl.ModelDrafter(toy.model, sampling, vocab_size=vocab)
    for seed in range(4):
        toy.begin()
        drafter = impl.ModelDrafter(toy.model, sampling, vocab_size=vocab)
        check(drafter, toy, sampling, vocab, [3, 1], [2], 3, seed)


@requirement("SD-34")
@pytest.mark.parametrize("text", [([3, 8], [2]), ([3], [8])])
def test_a_text_that_the_model_cannot_read_gets_no_draft(impl, text):
    toy = Toy(11)
    drafter = impl.ModelDrafter(toy.model, Sampling(), vocab_size=9)
    draft = drafter.propose(*text, 2, uniforms(1, 2))
    assert_equal((list(draft.tokens), toy.calls), ([], []), "drafted tokens and calls of the model")
    check(drafter, toy, Sampling(), 9, [3, 1], [2], 2, 1)


@requirement("SD-35")
@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 5])
def test_after_an_error_the_drafter_is_usable(impl, fails_at):
    failure = ValueError("no memory")
    toy = Toy(7, fails_at=fails_at, failure=failure)
    drafter = impl.ModelDrafter(toy.model, Sampling(), vocab_size=VOCAB)
    texts = [([1, 2, 3], [4]), ([1, 2, 3], [4, 5, 6])]
    for prompt, outputs in texts:
        if len(toy.calls) < fails_at <= len(toy.calls) + 3:
            with passed_through(failure):
                drafter.propose(prompt, outputs, 3, uniforms(1, 3))
        check(drafter, toy, Sampling(), VOCAB, prompt, outputs, 3, 1)


@requirement("SD-55")
def test_bad_ngrams_are_refused(impl):
    valid = {"tokens": [1, 2, 1], "min_n": 1, "max_n": 2, "gamma": 3}
    assert_equal(list(impl.propose_ngram(**valid)), [2, 1], "proposed")
    wrong = [
        ("min_n", {"min_n": 0}),
        ("max_n/min_n", {"min_n": 3}),
        ("gamma", {"gamma": -1}),
    ]
    check_refusals(impl.propose_ngram, valid, wrong)


@requirement("SD-55")
def test_bad_arguments_of_a_drafter_are_refused(impl):
    model = Toy(7).model
    wrong = [("vocab_size", {"vocab_size": 0}), ("model", {"model": Toy(7, context=[1]).model})]
    valid = {"model": model, "sampling": Sampling(), "vocab_size": VOCAB}
    drafter = impl.ModelDrafter(**valid)
    check_refusals(impl.ModelDrafter, valid, wrong)
    valid = {"prompt": [1], "outputs": [2], "gamma": 2, "uniforms": f32(0.5, 0.25)}
    assert_equal(len(drafter.propose(**valid).tokens), 2, "drafted tokens")
    check_refusals(
        drafter.propose,
        valid,
        [
            ("prompt/outputs", {"prompt": [], "outputs": []}),
            ("prompt", {"prompt": [VOCAB]}),
            ("prompt", {"prompt": [-1]}),
            ("outputs", {"outputs": [VOCAB]}),
            ("outputs", {"outputs": [-1]}),
            ("gamma/uniforms", {"gamma": -1}),
            ("uniforms/gamma", {"uniforms": f32(0.5)}),
            ("uniforms/gamma", {"uniforms": f32(0.5, 0.25, 0.5)}),
            ("uniforms", {"uniforms": f32(0.5, 1.0)}),
            ("uniforms", {"uniforms": f32(-0.5, 0.5)}),
        ],
    )
