"""`generate` and `generate_many`: what they refuse, and what they leave behind when something fails."""

import numpy as np
import pytest

from grading.marks import requirement
from grading.matching import assert_equal, check_refusals, passed_through, refused
from spec import ContextTooLong, InvalidArgument, NotSupported
from spec.speculative_decoding import Draft, Drafter, Sampling
from tests.week3.speculative_decoding.cases_loop import (
    GREEDY,
    PROMPT,
    SOMETIMES,
    check_calls,
    prefix_of,
    run,
    steps_of,
)
from tests.week3.speculative_decoding.cases_toys import VOCAB, Toy, oracle, plain


def failing(toy, at):
    """A drafter that is right, until its call number `at`, where it fails."""
    right = oracle(toy, GREEDY, len(PROMPT), SOMETIMES["every third"])

    def propose(prompt, outputs, gamma, uniforms):
        toy.asked += 1
        if toy.asked == at:
            raise ValueError("the drafter fails")
        return right.propose(prompt, outputs, gamma, uniforms)

    return Drafter(propose)


@requirement("SD-47")
@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("who", ["drafter", "target"])
def test_after_an_error_the_context_is_a_prefix(impl, who, at):
    failure = ValueError("the drafter fails" if who == "drafter" else "the target fails")
    toy = Toy(13, fails_at=at if who == "target" else None, failure=failure)
    with passed_through(failure):
        run(impl, toy, failing(toy, at if who == "drafter" else None), count=20)
    prefix_of([*PROMPT, *plain(toy, GREEDY, PROMPT, 20)], toy.context)
    assert_equal(toy.wrongs, [], "wrong calls of the target")


@requirement("SD-47")
@pytest.mark.parametrize("at", [1, 2, 5])
def test_after_an_error_of_the_clock_the_context_is_a_prefix(impl, at):
    toy, calls = Toy(13), []

    def clock():
        calls.append(1)
        if len(calls) == at:
            raise ValueError("the clock fails")
        return float(len(calls))

    with passed_through(ValueError("the clock fails")):
        run(impl, toy, oracle(toy, GREEDY, 3, SOMETIMES["every third"]), count=20, adaptive=True, clock=clock)
    prefix_of([*PROMPT, *plain(toy, GREEDY, PROMPT, 20)], toy.context)


@requirement("SD-47")
@pytest.mark.parametrize("trees", [False, True])
def test_after_an_impossible_row_the_context_is_a_prefix(impl, trees):
    """Nothing is left to draw from at a row of the draft, which only the target's pass shows."""
    toy = Toy(14, trees=trees)
    text = plain(toy, GREEDY, PROMPT, 20)
    logits, broken = toy.logits, len(PROMPT) + 6

    def until_it_breaks(tokens):
        return logits(tokens) if len(tokens) < broken else np.full(VOCAB, -np.inf, np.float32)

    toy.logits = until_it_breaks

    def propose(prompt, outputs, gamma, uniforms):
        toy.asked = len(outputs)
        tokens = [*text, *text][len(outputs) :][:gamma]
        return Draft(tokens, None, list(range(-1, len(tokens) - 1)) if trees else None)

    with refused(InvalidArgument, "logits"):
        run(impl, toy, Drafter(propose), count=20)
    prefix_of([*PROMPT, *text], toy.context)
    most = len(PROMPT) + toy.asked
    assert len(toy.context) <= most, f"context: expected nothing of the last draft, got {toy.context}"
    assert_equal((toy.wrongs, toy.open), ([], None), "wrong calls of the target, open tree")


@requirement("SD-48")
@pytest.mark.parametrize("window", [4, 6, 8])
def test_a_context_that_cannot_go_back_gets_no_drafts(impl, window):
    toy = Toy(15, window=window)
    found = run(impl, toy, oracle(toy, GREEDY, len(PROMPT), SOMETIMES["every third"]), gamma=3)
    check_calls(toy, found)
    assert_equal(found.tokens, plain(toy, GREEDY, PROMPT, 10), "tokens")
    beyond = [len(context) + len(tokens) > window for context, tokens, _ in steps_of(toy)]
    drafted = [proposed for proposed, is_beyond in zip(found.proposed, beyond, strict=True) if is_beyond]
    assert not any(drafted), f"proposed: expected 0 beyond the window of {window}, got {found.proposed}"


@requirement("SD-48")
def test_a_context_that_can_go_back_gets_drafts(impl):
    toy = Toy(15, window=60)
    found = run(impl, toy, oracle(toy, GREEDY, len(PROMPT)), gamma=3)
    check_calls(toy, found)
    assert sum(found.proposed) >= 6, f"proposed: expected drafts, got {found.proposed}"


@requirement("SD-56")
def test_a_bad_start_is_refused(impl):
    toy = Toy(16, max_length=9, context=[3])
    valid = {"prompt": PROMPT, "max_tokens": 2, "gamma": 2, "sampling": GREEDY, "seed": 1, "stop": [[1]]}

    def call(**arguments):
        return impl.generate(toy.model, oracle(toy, GREEDY, len(PROMPT)), **arguments)

    assert len(call(**valid).tokens) in (1, 2)
    toy.begin()
    check_refusals(
        call,
        valid,
        [
            ("prompt/target", {"prompt": []}),
            ("prompt/target", {"prompt": [3]}),
            ("prompt", {"prompt": [3, VOCAB]}),
            ("prompt", {"prompt": [3, -1]}),
            ("max_tokens", {"max_tokens": 0}),
            ("gamma", {"gamma": -1}),
            ("stop", {"stop": [[]]}),
            ("stop", {"stop": [[VOCAB]]}),
            ("stop", {"stop": [[-1, 2]]}),
            ("temperature", {"sampling": Sampling(temperature=-1.0)}),
            ("eos_ids", {"sampling": Sampling(eos_ids=(VOCAB,))}),
            ("bias", {"sampling": Sampling(bias={VOCAB: 1.0})}),
            ("top_k", {"sampling": Sampling(top_k=-1)}),
            ("top_p", {"sampling": Sampling(top_p=0.0)}),
            ("min_p", {"sampling": Sampling(min_p=1.5)}),
            ("repetition", {"sampling": Sampling(repetition=0.0)}),
            ("min_tokens", {"sampling": Sampling(min_tokens=-1)}),
        ],
    )
    with refused(ContextTooLong):
        call(**{**valid, "prompt": [3, *range(7), 0]})
    assert_equal((toy.calls, toy.context), ([], [3]), "calls of the target and its context")


@requirement("SD-56")
def test_a_bad_start_of_many_is_refused(impl):
    toy = Toy(16, max_length=9)
    valid = {"prompts": [PROMPT], "runs": 1, "max_tokens": 2, "gamma": 2, "sampling": GREEDY, "seed": 1}

    def call(model=toy.model, **arguments):
        return impl.generate_many(model, None, **arguments)

    assert_equal(len(call(**valid)), 1, "generations")
    toy.begin()
    check_refusals(
        call,
        valid,
        [
            ("prompt", {"prompts": [PROMPT, []]}),
            ("prompt", {"prompts": [PROMPT, [VOCAB]]}),
            ("runs", {"runs": -1}),
            ("max_tokens", {"max_tokens": 0}),
            ("gamma", {"gamma": -1}),
            ("stop", {"stop": [[]]}),
            ("top_p", {"sampling": Sampling(top_p=0.0)}),
            ("target", {"model": Toy(16, context=[1]).model}),
        ],
    )
    with refused(ContextTooLong):
        call(**{**valid, "prompts": [PROMPT, [1] * 9]})
    assert_equal(toy.calls, [], "calls of the target")


ROWS = np.full((2, VOCAB), 1 / VOCAB, np.float32)
MALFORMED = {
    "an id too large": Draft([VOCAB, 0]),
    "a negative id": Draft([-1]),
    "an id too large beyond what is used": Draft([0, 1, VOCAB]),
    "a row too few": Draft([0, 1], ROWS[:1]),
    "a row too many": Draft([0], ROWS),
    "another vocabulary": Draft([0, 1], ROWS[:, :3]),
    "a row too few for a tree": Draft([0, 1], ROWS, [-1, -1]),
    "a parent behind its child": Draft([0, 1], None, [1, -1]),
    "too few parents": Draft([0, 1], None, [-1]),
    "a parent before the context": Draft([0, 1], None, [-1, -2]),
}


@requirement("SD-56")
@pytest.mark.parametrize("draft", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_draft_is_refused(impl, draft):
    toy = Toy(16, trees=True)
    fine = run(impl, toy, Drafter(lambda *_: Draft([0, 1], ROWS)), gamma=2, count=6)
    assert_equal(fine.tokens, plain(toy, GREEDY, PROMPT, 6), "tokens")
    toy.begin()
    with refused(InvalidArgument, "drafter"):
        run(impl, toy, Drafter(lambda *_: draft), gamma=2, count=6)
    prefix_of([*PROMPT, *plain(toy, GREEDY, PROMPT, 6)], toy.context)
    fed = [token for _, tokens, _ in toy.calls for token in tokens]
    assert_equal(fed, [*PROMPT, *plain(toy, GREEDY, PROMPT, 6)][: len(fed)], "tokens that the target was fed")


@requirement("SD-56")
def test_a_tree_needs_a_target_that_takes_it(impl):
    toy = Toy(16)
    with refused(NotSupported):
        run(impl, toy, Drafter(lambda *_: Draft([0, 1], None, [-1, -1])), gamma=2)
    prefix_of([*PROMPT, *plain(toy, GREEDY, PROMPT, 6)], toy.context)
