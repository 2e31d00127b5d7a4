"""Contract of speculative decoding: what a module `speculative_decoding` must offer.

The rules are in `speculative_decoding.md`; the ids in the docstrings (SD-01 …) point there. Signatures and
values only: nothing here computes.

Symbols used throughout: V is the vocabulary, γ (gamma) the number of drafted tokens, p what the target model
says about the next token, q the distribution that a drafted token was drawn from. An `Array` is an array of
the implementation's framework (MLX, PyTorch or NumPy). Probabilities are float32, one row a position.
Uniforms are float32 in [0, 1). A draw with a uniform u from weights w is the first id whose cumulative weight
exceeds u · (sum of w), ids ascending.

Sources: Leviathan et al. 2023 (arXiv 2211.17192); Chen et al. 2023 (2302.01318); Sun et al. 2024, block
verification (2403.10444); SpecInfer (2305.09781); Sequoia (2402.12374); vLLM
`v1/sample/rejection_sampler.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from spec.model import Model

__all__ = [
    "Draft",
    "Drafter",
    "Generation",
    "ModelDrafter",
    "Sampling",
    "TokenTree",
    "Verdict",
    "acceptance_probability",
    "best_gamma",
    "expected_tokens",
    "generate",
    "generate_many",
    "process_logits",
    "propose_ngram",
    "residual",
    "verify",
    "verify_batch",
    "verify_block",
    "verify_tree",
    "walltime_speedup",
]

Array = Any


@dataclass(frozen=True)
class Sampling:
    """How logits become the distribution that the next token is drawn from. SD-01 to SD-11.

    temperature: divides the logits; 0 takes the largest.
    top_k: only the k most probable; 0 is off.
    top_p: only the most probable that together reach top_p; 1 is off.
    min_p: only what is at least min_p times as probable as the most probable; 0 is off.
    repetition: pushes down what was in the prompt or the output; 1 is off.
    presence, frequency: subtracted for a token that is in the output, once, and once for each time; 0 is off.
    bias: added to the logits of these ids; −inf forbids one.
    min_tokens: below so many tokens of output none of `eos_ids` is possible.
    eos_ids: tokens that end a generation.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    bias: dict[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    eos_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What a step keeps: the first `accepted` drafted tokens, then `token`."""

    accepted: int
    token: int


@dataclass(frozen=True)
class TokenTree:
    """Drafted tokens of which several may follow the same one. SD-27.

    tokens: n ids. parents: n integers; parents[i] is the node that i follows, −1 for the context; always < i.
    replacement: whether siblings were drawn independently, so that one may stand there twice; else each was
        drawn from what its earlier siblings left.
    """

    tokens: Sequence[int]
    parents: Sequence[int]
    replacement: bool = False


@dataclass(frozen=True)
class Draft:
    """What a drafter proposes.

    tokens: n ids, n may be 0.
    probs: (n, V) for a chain: row i is what token i was drawn from. (n + 1, V) for a tree: row 0 is what the
        children of the context were drawn from, row i + 1 those of node i. None: no chance was involved.
    parents: of a tree, as in `TokenTree`; None for a chain.
    replacement: as in `TokenTree`.
    """

    tokens: Sequence[int]
    probs: Array | None = None
    parents: Sequence[int] | None = None
    replacement: bool = False


@dataclass(frozen=True)
class Drafter:
    """Whoever proposes, as `generate` calls it.

    propose(prompt, outputs, gamma, uniforms): a `Draft` of at most gamma tokens to follow prompt + outputs,
        both lists of ids. uniforms: (gamma,), for whoever draws. A drafter with a cache of its own finds out
        itself how much of it still holds.
    """

    propose: Callable[[list[int], list[int], int, Array], Draft]


@dataclass(frozen=True)
class Generation:
    """tokens: the output, without the prompt. finish_reason: "eos", "stop" or "length".

    proposed, accepted: for each step, how many tokens were drafted, and how many of these are in `tokens`.
    """

    tokens: list[int]
    proposed: list[int]
    accepted: list[int]
    finish_reason: str


# ---- From logits to a distribution. ----


def process_logits(
    logits: Array, sampling: Sampling, prompt: Sequence[int], outputs: Sequence[Sequence[int]]
) -> Array:
    """Probabilities of the next token, (R, V) float32, each row summing to 1. SD-01 to SD-11, SD-53.

    logits: (R, V), float32, float16 or bfloat16. outputs: R lists, what stands between the prompt and the
    token that row r is about.

    Raises InvalidArgument when logits have not two axes, outputs are not R many, an id of the prompt, of the
    outputs, of bias or of eos_ids is not in 0 … V − 1, nothing is left to draw from, or a field is out of its
    range: temperature, top_k, min_tokens < 0; top_p not in (0, 1]; min_p not in [0, 1]; repetition ≤ 0.
    """
    ...


# ---- Accepting and rejecting. ----


def acceptance_probability(p: Array, q: Array, tokens: Array) -> Array:
    """min(1, p / q) at each row's token, (n,) float32. p, q: (n, V); tokens: (n,) ids. SD-12, SD-54."""
    ...


def residual(p: Array, q: Array) -> Array:
    """What to draw from after a rejection, (n, V) float32: max(p − q, 0), each row divided by its sum; p
    where that is 0. p, q: (n, V). SD-13, SD-54.
    """
    ...


def verify(target_probs: Array, draft_probs: Array | None, draft_tokens: Array, uniforms: Array) -> Verdict:
    """Which drafted tokens of a chain stay, and the token after them. SD-14 to SD-20, SD-54.

    target_probs: (γ + 1, V), row i after i drafted tokens. draft_probs: (γ, V), or None where tokens were not
    drawn by chance. draft_tokens: (γ,). uniforms: (γ + 1,): uniforms[i] accepts token i iff u · q < p, the
    last one draws the final token. γ may be 0.

    Raises InvalidArgument when shapes do not fit, an id is not in 0 … V − 1 or a uniform is not in [0, 1).
    """
    ...


def verify_batch(
    target_probs: Array, draft_probs: Array | None, draft_tokens: Array, draft_lens: Array, uniforms: Array
) -> Array:
    """`verify` for R rows at once: (R, γ + 1) integers, each row's tokens from the left, then −1.
    SD-21 to SD-23, SD-54.

    target_probs: (R, γ + 1, V). draft_probs: (R, γ, V) or None. draft_tokens: (R, γ). uniforms: (R, γ + 1).
    draft_lens: (R,), between 0 and γ: row r is verify of its first draft_lens[r] tokens and draft_lens[r] + 1
    uniforms. What lies beyond is never looked at.
    """
    ...


def verify_block(
    target_probs: Array, draft_probs: Array | None, draft_tokens: Array, uniforms: Array
) -> Verdict:
    """As `verify`, but by block verification: never fewer tokens on average. SD-24 to SD-26, SD-54."""
    ...


def verify_tree(
    tree: TokenTree, target_probs: Array, draft_probs: Array | None, uniforms: Array
) -> tuple[list[int], int]:
    """The nodes that stay, from the root on, and the token after them. SD-27 to SD-30, SD-54.

    target_probs: (n + 1, V): row 0 after the context, row i + 1 after node i. draft_probs: (n + 1, V), the
    rows that their children were drawn from, or None. uniforms: (n + 1,): uniforms[i] decides on node i, the
    last one draws. Siblings are tried in the order of their indices.

    Raises InvalidArgument as `verify` does, and when parents[i] is not in −1 … i − 1.
    """
    ...


# ---- Proposing. ----


def propose_ngram(tokens: Sequence[int], *, min_n: int, max_n: int, gamma: int) -> list[int]:
    """What followed the last few tokens when they stood there before. SD-31, SD-55.

    Raises InvalidArgument unless 1 ≤ min_n ≤ max_n and gamma ≥ 0.
    """
    ...


class ModelDrafter:
    """Drafts with a small model, one token after another; `Drafter(it.propose)` goes into `generate`.
    SD-32 to SD-35, SD-55.
    """

    def __init__(self, model: Model, sampling: Sampling, *, vocab_size: int) -> None:
        """vocab_size: V of the target, which may differ from the model's; its context is empty. SD-32.

        Raises InvalidArgument when vocab_size < 1 or the context is not empty.
        """

    def propose(self, prompt: Sequence[int], outputs: Sequence[int], gamma: int, uniforms: Array) -> Draft:
        """A chain of gamma tokens after prompt + outputs, fewer where the model's context is full. SD-32.

        uniforms: (gamma,); uniforms[i] draws token i. Afterwards the context holds prompt + outputs and all
        drafted tokens but the last; with gamma = 0 it is left as it is.

        Raises InvalidArgument when prompt + outputs is empty, an id is not in 0 … V − 1, gamma < 0 or
        uniforms are not gamma many in [0, 1).
        """
        ...


# ---- The loop. ----


def generate(
    target: Model,
    drafter: Drafter | None,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    gamma: int,
    sampling: Sampling,
    seed: int,
    stop: Sequence[Sequence[int]] = (),
    adaptive: bool = False,
    clock: Callable[[], float] | None = None,
) -> Generation:
    """Generates with the target's distribution, faster where the drafter is right. SD-36 to SD-50, SD-56.

    target: its context holds the first target.length() tokens of the prompt, fewer than all. drafter: None is
    plain decoding. stop: sequences of ids, each of which ends the output when it stands at its end. adaptive:
    gamma is the most; each step drafts as many as pay. clock: seconds, for `adaptive`; None is the machine's.

    Raises InvalidArgument when the prompt is not longer than target.length(), an id of the prompt or of
    `stop` is not in 0 … V − 1, max_tokens < 1, gamma < 0, a stop sequence is empty, or process_logits would
    refuse `sampling`; ContextTooLong when the prompt has target.max_length tokens or more. For a malformed
    draft InvalidArgument, for a tree where target.accept is None NotSupported, before the target sees it.
    """
    ...


def generate_many(
    target: Model,
    drafter: Drafter | None,
    prompts: Sequence[Sequence[int]],
    *,
    runs: int,
    max_tokens: int,
    gamma: int,
    sampling: Sampling,
    seed: int,
    stop: Sequence[Sequence[int]] = (),
) -> list[Generation]:
    """Each prompt `runs` times, all runs independent: those of the first prompt first. SD-45, SD-46, SD-56.

    The target's context is empty before and after each. Raises what `generate` raises, and InvalidArgument
    when runs < 0 or the context is not empty.
    """
    ...


# ---- What it is worth. ----


def expected_tokens(alpha: float, gamma: int) -> float:
    """Tokens a step when each drafted token is accepted with probability alpha. SD-51, SD-57."""
    ...


def walltime_speedup(alpha: float, gamma: int, cost_ratio: float) -> float:
    """Plain time over speculative time; a drafted token costs cost_ratio target passes. SD-51, SD-57."""
    ...


def best_gamma(alpha: float, cost_ratio: float, max_gamma: int) -> int:
    """The γ in 0 … max_gamma of the largest speed-up, the smallest of equals. SD-52, SD-57."""
    ...
