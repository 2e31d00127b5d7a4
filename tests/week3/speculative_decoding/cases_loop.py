"""A run of `generate` on a toy, and what its calls must look like."""

from grading.matching import assert_equal
from spec.speculative_decoding import Sampling

GREEDY = Sampling(temperature=0.0)
PROMPT = [3, 1, 4]
# Which places of the text the drafter gets wrong.
SOMETIMES = {
    "never": lambda place: False,
    "always": lambda place: True,
    "every third": lambda place: place % 3 == 0,
    "every fifth": lambda place: place % 5 == 4,
}


def run(impl, toy, proposes, *, count=10, gamma=4, sampling=GREEDY, prompt=PROMPT, seed=1, **options):
    limits = {"max_tokens": count, "gamma": gamma, "sampling": sampling, "seed": seed, **options}
    return impl.generate(toy.model, proposes, prompt, **limits)


def check_calls(toy, generation, prompt=PROMPT):
    """The target was called as SD-38 says. What was drafted is what was fed beyond prompt and output."""
    assert_equal(toy.wrongs, [], "wrong calls of the target")
    text = [*prompt, *generation.tokens]
    calls = steps_of(toy, prompt)
    assert_equal(len(calls), len(generation.proposed), "calls of the target, one a step")
    output, steps = 0, zip(calls, generation.proposed, generation.accepted, strict=True)
    for context, _, _ in toy.calls:
        assert_equal(context, text[: len(context)], "context of a call, a prefix of prompt and output")
    for (context, tokens, _), proposed, accepted in steps:
        known = text[: len(prompt) + output]
        assert_equal([*context, *tokens][: len(known)], known, "context and what is fed")
        assert_equal(len(context) + len(tokens) - len(known), proposed, "drafted tokens of a call")
        output += accepted + 1
    kept = toy.context
    assert_equal(kept, text[: len(kept)], "context at the end")
    assert len(kept) < len(text), "context at the end: expected that the last token is not in it"


def steps_of(toy, prompt=PROMPT):
    """The calls that are steps: a prompt may have been fed in pieces before."""
    return [call for call in toy.calls if len(call[0]) + len(call[1]) >= len(prompt)]


def prefix_of(text, context):
    assert_equal(context, text[: len(context)], "context, a prefix of prompt and output")
