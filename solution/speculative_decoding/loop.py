"""Draft, look, keep: the loop that generates."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from spec import ContextTooLong, NotSupported
from spec.model import Model
from spec.speculative_decoding import Draft, Drafter, Generation, Sampling, TokenTree

from .checks import check_ids, check_sampling, expect, on_host
from .pace import Pace
from .sampling import processed
from .trees import check_parents, path_and_token
from .verdicts import verdict

PIECE = 512  # tokens of a prompt at once; the last ones go with the first draft
NOTHING = Draft([])

Ids = Sequence[int]


@dataclass(frozen=True)
class Limits:
    """What holds for a whole generation."""

    max_tokens: int
    gamma: int
    sampling: Sampling
    stop: tuple[tuple[int, ...], ...]


def generate(
    target: Model,
    drafter: Drafter | None,
    prompt: Ids,
    *,
    max_tokens: int,
    gamma: int,
    sampling: Sampling,
    seed: int,
    stop: Sequence[Ids] = (),
    adaptive: bool = False,
    clock: Callable[[], float] | None = None,
) -> Generation:
    """Text with the target's distribution; at its end the context lacks the last token."""
    limits = _checked(target, Limits(max_tokens, gamma, sampling, tuple(map(tuple, stop))))
    _check_prompt(target, prompt)
    run = Run(target, drafter, prompt, limits, np.random.default_rng(seed))
    steps = run.at_pace(Pace(gamma), clock or time.perf_counter) if adaptive else run.at_full_length()
    return run.to_its_end(steps)


def stream(
    target: Model,
    drafter: Drafter | None,
    prompt: Ids,
    *,
    max_tokens: int,
    gamma: int,
    sampling: Sampling,
    seed: int,
) -> Iterator[int]:
    """The tokens of `generate` with `adaptive`, as steps bring them. Its errors come with the first token."""
    limits = _checked(target, Limits(max_tokens, gamma, sampling, ()))
    _check_prompt(target, prompt)
    run, told = Run(target, drafter, prompt, limits, np.random.default_rng(seed)), 0
    for _ in run.at_pace(Pace(gamma), time.perf_counter):
        yield from run.outputs[told:]
        told = len(run.outputs)


def generate_many(
    target: Model,
    drafter: Drafter | None,
    prompts: Sequence[Ids],
    *,
    runs: int,
    max_tokens: int,
    gamma: int,
    sampling: Sampling,
    seed: int,
    stop: Sequence[Ids] = (),
) -> list[Generation]:
    """Each prompt `runs` times, all out of one stream of random numbers."""
    limits = _checked(target, Limits(max_tokens, gamma, sampling, tuple(map(tuple, stop))))
    expect(runs >= 0, "runs", "at least 0", runs)
    expect(target.length() == 0, "target", "an empty context", f"{target.length()} tokens")
    for prompt in prompts:
        _check_prompt(target, prompt)
    rng, found = np.random.default_rng(seed), []
    for prompt in prompts:
        for _ in range(runs):
            run = Run(target, drafter, prompt, limits, rng)
            found.append(run.to_its_end(run.at_full_length()))
            target.truncate(0)
    return found


class Run:
    """One generation. Between two steps the context is a prefix of the text."""

    def __init__(
        self, target: Model, drafter: Drafter | None, prompt: Ids, limits: Limits, rng: np.random.Generator
    ) -> None:
        self.target, self.drafter, self.limits, self.rng = target, drafter, limits, rng
        self.prompt, self.outputs = list(prompt), []
        self.proposed: list[int] = []
        self.accepted: list[int] = []
        self.reason = ""  # why the output ended

    def to_its_end(self, steps: Iterator[None]) -> Generation:
        for _ in steps:
            pass
        return Generation(self.outputs, self.proposed, self.accepted, self.reason)

    def at_full_length(self) -> Iterator[None]:
        """Step by step."""
        self.read_prompt()
        while not self.reason:
            self.step(self.limits.gamma)
            yield

    def at_pace(self, pace: Pace, clock: Callable[[], float]) -> Iterator[None]:
        self.read_prompt()
        self.step(pace.gamma())  # reads a prompt as well: its time says nothing
        pace.judged(self.proposed[-1], self.accepted[-1])
        yield
        while not self.reason:
            begun = clock()
            self.step(pace.gamma())
            pace.ended(self.proposed[-1], self.accepted[-1], clock() - begun)
            yield

    def read_prompt(self) -> None:
        """All but the last few tokens, so that no pass is larger than a piece and no row is for nothing."""
        target, here = self.target, self.target.length()
        if target.per_call or target.rope_changes_after is not None:
            return
        few = {"last": 1} if target.accept is not None else {}
        while len(self.prompt) - here > PIECE:
            mx.eval(target.forward(_array(self.prompt[here : here + PIECE]), **few))
            here += PIECE

    def step(self, gamma: int) -> None:
        """One pass of the target."""
        lacking = (self.prompt + self.outputs)[self.target.length() :]
        draft = self.draft(gamma, len(lacking))
        rows = self.look(lacking, draft)
        kept: list[int] = []
        try:
            path, token = self.judge(rows, draft)
            new, reason = self.until_the_end([*(draft.tokens[i] for i in path), token])
            kept = path[: len(new) - 1]
        finally:  # before anything else can fail, the context is a prefix again
            self.keep(len(lacking), draft, kept)
        self.outputs += new
        self.proposed.append(len(draft.tokens))
        self.accepted.append(min(len(path), len(new)))
        self.reason = reason

    # Drafting ---------------------------------------------------------------------------------------------

    def draft(self, gamma: int, lacking: int) -> Draft:
        count, possible = len(self.prompt) + len(self.outputs), self.target.can_truncate
        more = min(self.limits.max_tokens - len(self.outputs), self.target.max_length - count)
        room = min(gamma, more - 1)  # one token follows
        if self.drafter is None or room <= 0:
            return NOTHING
        if possible is not None and not possible(count, lacking + room):
            return NOTHING
        uniforms = mx.array(self.rng.random(room, np.float32))
        draft = self.drafter.propose(list(self.prompt), list(self.outputs), room, uniforms)
        return _first(self.checked(draft), room)

    def checked(self, draft: Draft) -> Draft:
        is_tree, count, vocab_size = draft.parents is not None, len(draft.tokens), self.target.vocab_size
        if is_tree and self.target.accept is None:
            raise NotSupported("drafter: expected a chain for a target without accept, got a tree")
        check_ids(draft.tokens, vocab_size, "drafter")
        if draft.probs is not None:
            shape, got = (count + is_tree, vocab_size), tuple(draft.probs.shape)
            expect(got == shape, "drafter", f"probs of shape {shape}", got)
        if is_tree:
            check_parents(list(draft.parents), count, "drafter")
        return draft

    # Looking and judging ----------------------------------------------------------------------------------

    def look(self, lacking: list[int], draft: Draft) -> np.ndarray:
        """Logits of what follows the text and each drafted token, (n + 1, V)."""
        before, rows = len(lacking) - 1, len(draft.tokens) + 1
        options = {"last": rows} if before and self.target.accept is not None else {}
        if draft.parents is not None:
            tree = [before + 1 + parent for parent in draft.parents]  # −1: the last token of the text
            options["parents"] = [*range(-1, before), *tree]
        logits = self.target.forward(_array([*lacking, *draft.tokens]), **options)
        return on_host(logits)[-rows:]

    def judge(self, logits: np.ndarray, draft: Draft) -> tuple[list[int], int]:
        """The drafted tokens that stay, as indices, and the token after them."""
        p = processed(logits, self.limits.sampling, self.prompt, self.histories(draft))
        q = None if draft.probs is None else on_host(draft.probs)
        uniforms = self.rng.random(len(p), np.float32)
        if draft.parents is not None:
            tree = TokenTree(draft.tokens, draft.parents, draft.replacement)
            return path_and_token(tree, p, q, uniforms)
        found = verdict(p, q, np.array(draft.tokens, np.int64), uniforms)
        return list(range(found.accepted)), found.token

    def histories(self, draft: Draft) -> list[list[int]]:
        """The output before each row."""
        found = [self.outputs]
        for i, token in enumerate(draft.tokens):
            parent = i - 1 if draft.parents is None else draft.parents[i]
            found.append([*found[parent + 1], token])
        return found

    def until_the_end(self, new: list[int]) -> tuple[list[int], str]:
        """The tokens up to where the output ends, and why it does; all of them and "" where it goes on."""
        limits, outputs = self.limits, list(self.outputs)
        most = min(limits.max_tokens, self.target.max_length - len(self.prompt))
        for count, token in enumerate(new, start=1):
            outputs.append(token)
            if token in limits.sampling.eos_ids:
                return new[:count], "eos"
            if any(tuple(outputs[-len(ending) :]) == ending for ending in limits.stop):
                return new[:count], "stop"
            if len(outputs) == most:
                return new[:count], "length"
        return new, ""

    def keep(self, lacking: int, draft: Draft, path: list[int]) -> None:
        """Of the last pass the text and these drafted tokens."""
        if draft.parents is not None:
            self.target.accept([*range(lacking), *(lacking + node for node in path)])
        elif len(path) < len(draft.tokens):
            self.target.truncate(len(self.prompt) + len(self.outputs) + len(path))


def _array(ids: Ids) -> mx.array:
    return mx.array(ids, mx.int32)


def _first(draft: Draft, room: int) -> Draft:
    """Of a draft that was checked, no more tokens than there is room for; without any, no tree."""
    tokens = list(draft.tokens)[:room]
    if not tokens:
        return NOTHING
    parents = None if draft.parents is None else list(draft.parents)[:room]
    rows = len(tokens) + (parents is not None)
    probs = None if draft.probs is None else draft.probs[:rows]
    return Draft(tokens, probs, parents, draft.replacement)


# Checks ---------------------------------------------------------------------------------------------------


def _checked(target: Model, limits: Limits) -> Limits:
    expect(limits.max_tokens >= 1, "max_tokens", "at least 1", limits.max_tokens)
    expect(limits.gamma >= 0, "gamma", "at least 0", limits.gamma)
    check_sampling(limits.sampling, target.vocab_size)
    expect(all(limits.stop), "stop", "sequences of at least 1 token", limits.stop)
    for ending in limits.stop:
        check_ids(ending, target.vocab_size, "stop")
    return limits


def _check_prompt(target: Model, prompt: Ids) -> None:
    there = target.length()
    expect(len(prompt) > there, "prompt", f"more than the {there} tokens of the context", len(prompt))
    check_ids(prompt, target.vocab_size, "prompt")
    if len(prompt) >= target.max_length:
        raise ContextTooLong(f"prompt: expected fewer than {target.max_length} tokens, got {len(prompt)}")
