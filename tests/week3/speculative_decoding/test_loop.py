"""`generate` and `generate_many`: draft, verify, keep."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal
from spec.speculative_decoding import Draft, Drafter, Generation, Sampling
from tests.week3.speculative_decoding.cases import TRUTH
from tests.week3.speculative_decoding.cases_loop import GREEDY, PROMPT, SOMETIMES, check_calls, run
from tests.week3.speculative_decoding.cases_toys import VOCAB, Toy, drafter, greedy, oracle, plain

GAMMAS = st.sampled_from([1, 2, 4])


@requirement("SD-36")
@given(
    seed=st.integers(0, 99),
    gamma=GAMMAS,
    wrong=st.sampled_from(sorted(SOMETIMES)),
    adaptive=st.booleans(),
    soft=st.booleans(),
)
@example(seed=1, gamma=4, wrong="every third", adaptive=False, soft=False)
@example(seed=2, gamma=4, wrong="never", adaptive=False, soft=True)
@example(seed=3, gamma=2, wrong="always", adaptive=False, soft=True)
@example(seed=4, gamma=4, wrong="every fifth", adaptive=True, soft=False)
def test_greedy_with_a_drafter_is_greedy_without(impl, seed, gamma, wrong, adaptive, soft):
    toy = Toy(seed)
    proposes = oracle(toy, GREEDY, len(PROMPT), SOMETIMES[wrong])
    if soft:
        proposes = softened(proposes)
    found = run(impl, toy, proposes, gamma=gamma, adaptive=adaptive)
    assert_equal(found.tokens, plain(toy, GREEDY, PROMPT, 10), "tokens")


@requirement("SD-36")
def test_a_clock_may_stand_still(impl):
    """Steps are shorter than what many a clock can tell."""
    toy = Toy(4)
    found = run(impl, toy, oracle(toy, GREEDY, len(PROMPT)), count=30, adaptive=True, clock=lambda: 0.0)
    assert_equal(found.tokens, plain(toy, GREEDY, PROMPT, 30), "tokens")
    check_calls(toy, found)


def softened(proposes):
    """The same tokens, said to be drawn from a distribution over all."""

    def propose(prompt, outputs, gamma, uniforms):
        tokens = list(proposes.propose(prompt, outputs, gamma, uniforms).tokens)
        probs = np.full((len(tokens), VOCAB), 0.5 / VOCAB, np.float32)
        probs[np.arange(len(tokens)), tokens] += 0.5
        return Draft(tokens, probs)

    return Drafter(propose)


@requirement("SD-37")
@pytest.mark.parametrize(("proposes", "gamma"), [(None, 4), (None, 0), ("one", 0)])
@pytest.mark.parametrize("adaptive", [False, True])
def test_no_drafter_is_plain_decoding(impl, proposes, gamma, adaptive):
    toy = Toy(5)
    proposes = None if proposes is None else oracle(toy, GREEDY, len(PROMPT))
    found = run(impl, toy, proposes, gamma=gamma, count=6, adaptive=adaptive)
    expected = Generation(plain(toy, GREEDY, PROMPT, 6), [0] * 6, [0] * 6, "length")
    assert_equal(found, expected, "generation")
    check_calls(toy, found)


@requirement("SD-38")
@given(
    seed=st.integers(0, 99), gamma=GAMMAS, wrong=st.sampled_from(sorted(SOMETIMES)), there=st.integers(0, 2)
)
@example(seed=1, gamma=4, wrong="every third", there=0)
@example(seed=2, gamma=4, wrong="never", there=2)
@example(seed=3, gamma=2, wrong="every fifth", there=1)
@example(seed=3, gamma=4, wrong="always", there=0)
def test_the_context_is_always_a_prefix(impl, seed, gamma, wrong, there):
    toy = Toy(seed, context=PROMPT[:there])
    found = run(impl, toy, oracle(toy, GREEDY, len(PROMPT), SOMETIMES[wrong]), gamma=gamma)
    check_calls(toy, found)
    assert_equal(found.tokens, plain(toy, GREEDY, PROMPT, 10), "tokens")


@requirement("SD-39")
@pytest.mark.parametrize(("gamma", "count"), [(3, 9), (4, 11), (1, 8), (4, 3), (2, 1)])
def test_a_drafter_that_is_right_saves_steps(impl, gamma, count):
    toy = Toy(6)
    found = run(impl, toy, oracle(toy, GREEDY, len(PROMPT)), gamma=gamma, count=count)
    check_calls(toy, found)
    most = 1 - (-(count - 1) // (gamma + 1))
    assert len(found.proposed) <= most, f"expected at most {most} steps, got {len(found.proposed)}"
    assert_equal(found.accepted, found.proposed, "accepted")
    assert_equal(sum(found.accepted) + len(found.accepted), count, "accepted and one a step")


@requirement("SD-39")
@pytest.mark.parametrize("wrong", sorted(SOMETIMES))
def test_each_step_adds_what_was_accepted_and_one(impl, wrong):
    toy = Toy(6)
    found = run(impl, toy, oracle(toy, GREEDY, len(PROMPT), SOMETIMES[wrong]), gamma=3, count=12)
    check_calls(toy, found)
    assert_equal(sum(found.accepted) + len(found.accepted), 12, "accepted and one a step")
    if wrong == "always":
        assert_equal(found.accepted, [0] * 12, "accepted")
        assert max(found.proposed) == 3, f"proposed: expected 3 where there is room, got {found.proposed}"


@requirement("SD-40")
@given(gamma=st.integers(1, 6), count=st.integers(1, 7), room=st.integers(1, 8))
@example(gamma=4, count=5, room=20)
@example(gamma=4, count=20, room=5)
@example(gamma=4, count=5, room=5)
@example(gamma=6, count=1, room=1)
@example(gamma=2, count=7, room=2)
def test_nothing_goes_beyond_the_budget(impl, gamma, count, room):
    toy = Toy(6, max_length=len(PROMPT) + room)
    found = run(impl, toy, oracle(toy, GREEDY, len(PROMPT)), gamma=gamma, count=count)
    check_calls(toy, found)
    assert_equal(found.tokens, plain(toy, GREEDY, PROMPT, min(count, room)), "tokens")
    assert_equal(found.finish_reason, "length", "finish_reason")


@requirement("SD-40")
def test_of_a_draft_that_is_too_long_the_first_are_used(impl):
    toy = Toy(6)
    right = plain(toy, GREEDY, PROMPT, 40)
    found = run(impl, toy, drafter(lambda tokens, gamma: right[len(tokens) - 3 :][:9]), gamma=4, count=12)
    check_calls(toy, found)
    assert_equal(found.tokens, right[:12], "tokens")
    assert max(found.proposed) == 4, f"proposed: expected at most 4 of 9, got {found.proposed}"
    asked = []
    found = run(
        impl, Toy(6), drafter(lambda tokens, gamma: asked.append(gamma) or right[len(tokens) - 3 :][:gamma]),
        gamma=4, count=4,
    )  # fmt: skip
    assert asked and max(asked) <= 3, f"gamma: expected at most 3 with 4 tokens to go, got {asked}"


@requirement("SD-41")
@given(end=st.integers(0, 9), gamma=GAMMAS, wrong=st.sampled_from(sorted(SOMETIMES)))
@example(end=2, gamma=4, wrong="never")
@example(end=0, gamma=4, wrong="never")
@example(end=5, gamma=4, wrong="every third")
@example(end=4, gamma=4, wrong="never")
@example(end=9, gamma=4, wrong="never")
def test_the_end_inside_a_step(impl, end, gamma, wrong):
    toy = Toy(8)
    text = plain(toy, GREEDY, PROMPT, 10)
    sampling = Sampling(temperature=0.0, eos_ids=((text[end] + 1) % VOCAB, text[end]))
    expected = [*text[: first(text, sampling.eos_ids)], text[first(text, sampling.eos_ids)]]
    found = run(
        impl, toy, oracle(toy, sampling, len(PROMPT), SOMETIMES[wrong]), gamma=gamma, sampling=sampling
    )
    assert_equal((found.tokens, found.finish_reason), (expected, "eos"), "tokens and finish_reason")
    check_calls(toy, found)
    given_ = sum(found.accepted) + len(found.accepted)
    assert given_ - len(expected) in (0, 1), f"accepted: expected those of the output, got {found.accepted}"


def first(text, ends):
    return next(i for i, token in enumerate(text) if token in ends)


@requirement("SD-41")
def test_an_accepted_end_is_counted_and_what_follows_is_not(impl):
    toy = Toy(8)
    text = plain(toy, GREEDY, PROMPT, 10)
    end = first(text[2:], set(text[2:]) - set(text[:2])) + 2
    sampling = Sampling(temperature=0.0, eos_ids=(text[end],))
    found = run(impl, toy, oracle(toy, GREEDY, len(PROMPT)), gamma=9, sampling=sampling)
    assert_equal(found.finish_reason, "eos", "finish_reason")
    assert_equal(found.accepted[-1], end + 1 - sum(n + 1 for n in found.accepted[:-1]), "accepted")


@requirement("SD-42")
@given(
    start=st.integers(0, 7), size=st.integers(1, 3), gamma=GAMMAS, wrong=st.sampled_from(sorted(SOMETIMES))
)
@example(start=3, size=2, gamma=4, wrong="never")
@example(start=4, size=3, gamma=4, wrong="never")
@example(start=0, size=1, gamma=2, wrong="never")
@example(start=7, size=3, gamma=1, wrong="always")
@example(start=3, size=3, gamma=4, wrong="every third")
def test_stop_sequences_may_cross_steps(impl, start, size, gamma, wrong):
    toy = Toy(9)
    text = plain(toy, GREEDY, PROMPT, 10)
    sequence = text[start : start + size]
    stop = [[VOCAB - 1] * 4, sequence]
    ends = [i for i in range(len(sequence), 11) if text[i - len(sequence) : i] == sequence]
    found = run(impl, toy, oracle(toy, GREEDY, len(PROMPT), SOMETIMES[wrong]), gamma=gamma, stop=stop)
    assert_equal((found.tokens, found.finish_reason), (text[: ends[0]], "stop"), "tokens and finish_reason")
    check_calls(toy, found)


@requirement("SD-42")
def test_the_prompt_takes_no_part_in_a_stop(impl):
    toy = Toy(9)
    text = plain(toy, GREEDY, PROMPT, 6)
    found = run(impl, toy, oracle(toy, GREEDY, len(PROMPT)), count=6, stop=[[PROMPT[-1], text[0]]])
    assert_equal((found.tokens, found.finish_reason), (text, "length"), "tokens and finish_reason")


@requirement("SD-42")
@pytest.mark.parametrize(
    ("eos", "stop", "count", "reason"),
    [(True, True, 10, "eos"), (False, True, 5, "stop"), (True, False, 5, "eos"), (False, False, 5, "length")],
)
def test_which_reason_goes_first(impl, eos, stop, count, reason):
    toy = Toy(16)
    text = plain(toy, GREEDY, PROMPT, 5)
    assert text[4] not in text[:4], "the design of this test"
    sampling = Sampling(temperature=0.0, eos_ids=(text[4],) if eos else ())
    stops = [text[3:5]] if stop else []
    found = run(impl, toy, oracle(toy, GREEDY, len(PROMPT)), count=count, sampling=sampling, stop=stops)
    assert_equal((found.tokens, found.finish_reason), (text, reason), "tokens and finish_reason")


@requirement("SD-42")
@pytest.mark.parametrize(
    ("eos_ids", "stop", "expected", "reason"),
    [
        ((1,), ((5, 6, 0),), [5, 6, 0], "stop"),
        ((6,), ((0,), (1, 2)), [5, 6], "eos"),
        ((), ((0, 1), (6,)), [5, 6], "stop"),
        ((), ((6, 0, 1), (3,)), [5, 6, 0, 1], "stop"),
    ],
)
@pytest.mark.parametrize("gamma", [1, 2, 9])
def test_what_comes_first_in_the_output_ends_it(impl, eos_ids, stop, expected, reason, gamma):
    toy = Toy(table=5 * np.roll(np.eye(VOCAB, dtype=np.float32), 1, axis=1))  # after t comes t + 1
    sampling = Sampling(temperature=0.0, eos_ids=eos_ids)
    proposes = oracle(toy, GREEDY, len(PROMPT))
    found = run(impl, toy, proposes, gamma=gamma, sampling=sampling, prompt=tuple(PROMPT), stop=stop)
    assert_equal((found.tokens, found.finish_reason), (expected, reason), "tokens and finish_reason")
    check_calls(toy, found)


PENALTIES = [
    Sampling(temperature=0.0, repetition=4.0),
    Sampling(temperature=0.0, frequency=1.0),
    Sampling(temperature=0.0, presence=1.5),
    Sampling(temperature=0.0, min_tokens=4, eos_ids=(0,)),
    Sampling(temperature=0.0, min_tokens=5, eos_ids=(0, 1), bias={3: 1.75}),
]


@requirement("SD-43")
@pytest.mark.parametrize("sampling", PENALTIES)
@pytest.mark.parametrize("gamma", [1, 3, 4])
@pytest.mark.parametrize("repeats", [True, False])
def test_rows_of_a_step_have_histories(impl, sampling, gamma, repeats):
    """The drafter repeats one token, or proposes what plain decoding gives."""
    toy = Toy(rows=[2.0, 1.75, 1.5, 0.5, -0.5], vocab=5)
    expected = plain(toy, sampling, PROMPT, 9)
    if any(token in sampling.eos_ids for token in expected):
        expected = expected[: first(expected, sampling.eos_ids) + 1]
    right = oracle(toy, sampling, len(PROMPT))
    proposes = drafter(lambda tokens, gamma: [0] * gamma) if repeats else right
    found = run(impl, toy, proposes, gamma=gamma, count=9, sampling=sampling)
    assert_equal(found.tokens, expected, "tokens")
    if not repeats:
        assert_equal(found.accepted[:-1], found.proposed[:-1], "accepted")


def bushy(toy, sampling, prompt_length, wrong):
    """A tree of two levels: beside the right token another one, and a child under each."""

    def propose(prompt, outputs, gamma, uniforms):
        right = greedy(toy, sampling, prompt, outputs)
        other = (right + 1) % toy.vocab
        after = greedy(toy, sampling, prompt, [*outputs, right])
        place = len(prompt) + len(outputs)
        tokens = [other, right, other, after] if not wrong(place) else [other, other, right, after]
        return Draft(tokens[:gamma], None, [-1, -1, 0, 1][:gamma])

    return Drafter(propose)


@requirement("SD-44")
@pytest.mark.parametrize("wrong", sorted(SOMETIMES))
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.0, repetition=2.0)])
@pytest.mark.parametrize("gamma", [4, 2])
def test_trees_in_the_loop(impl, wrong, sampling, gamma):
    toy = Toy(10, trees=True)
    found = run(
        impl, toy, bushy(toy, sampling, len(PROMPT), SOMETIMES[wrong]), gamma=gamma, sampling=sampling
    )
    assert_equal(found.tokens, plain(toy, sampling, PROMPT, 10), "tokens")
    check_calls(toy, found)
    if wrong == "never" and gamma == 4:
        assert 2 in found.accepted, f"accepted: expected paths of 2, got {found.accepted}"
    if wrong == "always":
        assert_equal(set(found.accepted), {0}, "accepted")


@requirement("SD-44")
def test_a_tree_may_have_been_drawn(impl):
    """Siblings without replacement, from a q that puts half on the right token; greedy all the same."""
    toy = Toy(10, trees=True)

    def propose(prompt, outputs, gamma, uniforms):
        right = greedy(toy, GREEDY, prompt, outputs)
        probs = np.full((3, VOCAB), 0.5 / VOCAB, np.float32)
        probs[0, right] += 0.5
        return Draft([(right + 2) % VOCAB, right][:gamma], probs[: gamma + 1], [-1, -1][:gamma])

    found = run(impl, toy, Drafter(propose), gamma=2)
    assert_equal(found.tokens, plain(toy, GREEDY, PROMPT, 10), "tokens")
    check_calls(toy, found)
    assert 1 in found.accepted, f"accepted: expected the second sibling, got {found.accepted}"


@requirement("SD-46")
def test_equal_calls_are_equal_and_seeds_are_not(impl):
    sampling = Sampling(temperature=2.0)

    def once(seed):
        toy = Toy(11)
        return run(impl, toy, oracle(toy, GREEDY, len(PROMPT)), sampling=sampling, seed=seed, count=12).tokens

    first_ = once(5)
    assert_equal(once(5), first_, "tokens of the same call again")
    assert_equal(once(0), once(0), "tokens of the same call again, with seed 0")
    others = {tuple(once(seed)) for seed in range(6)}
    assert len(others) > 3, f"tokens: expected different ones for 6 seeds, got {len(others)} kinds"


@requirement("SD-46")
@pytest.mark.parametrize("runs", [0, 1, 3])
def test_many_are_each_as_if_alone(impl, runs):
    toy = Toy(11)
    prompts = [[3, 1, 4], [2], [5, 6]]
    stop = [plain(toy, GREEDY, prompts[0], 4)[2:]]
    limits = {"max_tokens": 6, "gamma": 2, "sampling": GREEDY, "stop": stop}

    def propose(prompt, outputs, gamma, uniforms):
        return Draft([greedy(toy, GREEDY, prompt, outputs)][:gamma])

    found = impl.generate_many(toy.model, Drafter(propose), prompts, runs=runs, seed=3, **limits)
    assert_equal(len(found), 3 * runs, "generations")
    for i, each in enumerate(found):
        prompt = prompts[i // runs]
        alone = TRUTH.generate(Toy(11).model, Drafter(propose), prompt, seed=1, **limits)
        assert_equal(each.tokens, alone.tokens, f"tokens of generation {i}")
    assert_equal(toy.context, [], "context at the end")
    assert_equal(toy.wrongs, [], "wrong calls of the target")


@requirement("SD-46")
def test_equal_prompts_have_draws_of_their_own(impl):
    """Of 7¹² outputs two are the same once in 2 · 10⁹ runs."""
    toy = Toy(rows=[0.0] * VOCAB)
    limits = {"runs": 2, "max_tokens": 12, "gamma": 2, "sampling": Sampling()}

    def once(seed=0):
        found = impl.generate_many(toy.model, None, [[1], [1]], seed=seed, **limits)
        return [each.tokens for each in found]

    found = once()
    assert len({tuple(tokens) for tokens in found}) == 4, f"tokens: expected 4 different outputs, got {found}"
    assert_equal(once(), found, "tokens of the same call again")
    assert once(1) != found, f"tokens: expected others for another seed, got {found}"
