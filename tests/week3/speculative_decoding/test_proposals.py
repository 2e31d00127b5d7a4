"""`generate`: what a drafter is given, and what it may give."""

import numpy as np
import pytest

from grading.marks import requirement
from grading.matching import assert_equal
from spec.speculative_decoding import Draft, Drafter, Sampling
from tests.week3.speculative_decoding.cases import f32, one_hot
from tests.week3.speculative_decoding.cases_loop import GREEDY, PROMPT, check_calls, run
from tests.week3.speculative_decoding.cases_toys import VOCAB, Toy, plain


@requirement("SD-45")
def test_a_drafter_is_given_the_text_and_a_uniform_for_each_token(impl):
    toy, given_ = Toy(6), []
    text = plain(toy, GREEDY, PROMPT, 12)

    def propose(prompt, outputs, gamma, uniforms):
        given_.append((list(prompt), list(outputs), gamma, uniforms))
        return Draft(text[len(outputs) :][:gamma])

    run(impl, toy, Drafter(propose), gamma=3, count=12)
    assert given_, "proposals: expected that the drafter was asked"
    for prompt, outputs, gamma, uniforms in given_:
        assert_equal((prompt, outputs), (PROMPT, text[: len(outputs)]), "prompt and outputs")
        assert_equal(uniforms.shape, (gamma,), "shape of uniforms")
        assert ((uniforms >= 0) & (uniforms < 1)).all(), f"uniforms: expected [0, 1), got {uniforms}"


@requirement("SD-39")
@pytest.mark.parametrize("kind", ["chain", "drawn chain", "tree"])
def test_a_draft_may_be_empty(impl, kind):
    """As n-grams are, where nothing repeats; later ones are not."""
    toy = Toy(6, trees=kind == "tree")
    text = plain(toy, GREEDY, PROMPT, 12)

    def propose(prompt, outputs, gamma, uniforms):
        tokens = text[len(outputs) :][: min(gamma, 2)] if len(outputs) >= 4 else []
        probs = one_hot(VOCAB, *tokens) if kind == "drawn chain" else None
        return Draft(tokens, probs, list(range(-1, len(tokens) - 1)) if kind == "tree" else None)

    found = run(impl, toy, Drafter(propose), gamma=3, count=12)
    assert_equal(found.tokens, text, "tokens")
    check_calls(toy, found)
    assert_equal(toy.open, None, "open tree")
    assert_equal((found.proposed[:4], max(found.proposed)), ([0] * 4, 2), "proposed: first four, most")


@requirement("SD-40")
@pytest.mark.parametrize("kind", ["drawn chain", "tree", "drawn tree"])
def test_what_belongs_to_a_draft_is_cut_with_it(impl, kind):
    toy = Toy(6, trees="tree" in kind)
    text = plain(toy, GREEDY, PROMPT, 40)

    def propose(prompt, outputs, gamma, uniforms):
        first, *rest = text[len(outputs) :][:8]
        tokens, parents = [first, *rest], None
        if "tree" in kind:  # another token beside the first
            tokens, parents = [first, (first + 1) % VOCAB, *rest], [-1, -1, 0, 2, 3, 4, 5, 6, 7]
        rows = len(tokens) + ("tree" in kind)
        probs = np.full((rows, VOCAB), 1 / VOCAB, np.float32) if "drawn" in kind else None
        return Draft(tokens, probs, parents)

    found = run(impl, toy, Drafter(propose), gamma=3, count=12)
    assert_equal(found.tokens, text[:12], "tokens")
    check_calls(toy, found)
    most = (3, 2 if "tree" in kind else 3)
    assert_equal((max(found.proposed), max(found.accepted)), most, "most proposed and accepted")


@requirement("SD-44")
def test_the_end_inside_a_tree(impl):
    toy = Toy(8, trees=True)
    text = plain(toy, GREEDY, PROMPT, 10)
    end = next(i for i in range(2, 9) if text[i] not in text[:i])

    def propose(prompt, outputs, gamma, uniforms):
        tokens = text[len(outputs) :][:gamma]
        return Draft(tokens, None, list(range(-1, len(tokens) - 1)))

    sampling = Sampling(temperature=0.0, eos_ids=(text[end],))
    found = run(impl, toy, Drafter(propose), gamma=9, sampling=sampling)
    assert_equal((found.tokens, found.finish_reason), (text[: end + 1], "eos"), "tokens and finish_reason")
    check_calls(toy, found)


@requirement("SD-44")
@pytest.mark.parametrize("replacement", [True, False])
def test_siblings_are_verified_as_they_were_drawn(impl, replacement):
    """Of siblings 2, 1 the first is rejected. Then p is (2/3, 1/3, 0), and q of 1 is 0.25 with replacement:
    accepted for certain. Without it is 1: accepted in a third, 30 times in a row once in 10¹⁴.
    """
    toy = Toy(rows=[0.0, 0.0, -np.inf], vocab=3, trees=True)
    probs = f32(*[[0, 0.25, 0.75]] * 3)

    def propose(prompt, outputs, gamma, uniforms):
        return Draft([2, 1][:gamma], probs[: min(gamma, 2) + 1], [-1, -1][:gamma], replacement)

    found = run(impl, toy, Drafter(propose), prompt=[0], gamma=2, count=60, sampling=Sampling())
    pairs = zip(found.proposed, found.accepted, strict=True)
    accepted = [n for proposed, n in pairs if proposed == 2]
    assert len(accepted) >= 25, f"proposed: expected pairs of siblings, got {found.proposed}"
    if replacement:
        assert_equal(set(accepted), {1}, "accepted of each pair")
    else:
        assert 0 in accepted, f"accepted: expected that some pairs were rejected, got {accepted}"
