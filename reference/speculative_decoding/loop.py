"""Draft, verify, keep: the loop that generates."""

import time

import numpy as np

from spec import ContextTooLong, NotSupported
from spec.speculative_decoding import Draft, Generation, TokenTree

from .basics import check_ids, expect
from .pace import Pace
from .sampling import check_sampling, process_logits
from .trees import verify_tree
from .verdicts import verify


def generate(
    target, drafter, prompt, *, max_tokens, gamma, sampling, seed, stop=(), adaptive=False, clock=None
):
    check_limits(target, max_tokens, gamma, sampling, stop)
    check_prompt(target, prompt)
    pace = Pace(gamma) if adaptive else None
    run = Run(target, drafter, prompt, max_tokens, gamma, sampling, stop, np.random.default_rng(seed))
    return run.to_its_end(pace, clock or time.perf_counter)


def generate_many(target, drafter, prompts, *, runs, max_tokens, gamma, sampling, seed, stop=()):
    check_limits(target, max_tokens, gamma, sampling, stop)
    expect(runs >= 0, "runs", "at least 0", runs)
    expect(target.length() == 0, "target", "an empty context", f"{target.length()} tokens")
    for prompt in prompts:
        check_prompt(target, prompt)
    rng, found = np.random.default_rng(seed), []
    for prompt in prompts:
        for _ in range(runs):
            run = Run(target, drafter, prompt, max_tokens, gamma, sampling, stop, rng)
            found.append(run.to_its_end(None, None))
            target.truncate(0)
    return found


class Run:
    """One generation."""

    def __init__(self, target, drafter, prompt, max_tokens, gamma, sampling, stop, rng):
        self.target, self.drafter, self.prompt = target, drafter, list(prompt)
        self.max_tokens, self.gamma, self.sampling = max_tokens, gamma, sampling
        self.stop, self.rng = [list(sequence) for sequence in stop], rng
        self.outputs, self.proposed, self.accepted = [], [], []

    def to_its_end(self, pace, clock):
        reason = None
        while reason is None:
            begun = clock() if pace else None
            reason = self.step(pace.gamma() if pace else self.gamma)
            if pace and len(self.proposed) > 1:  # the first step reads the prompt as well
                pace.ended(self.proposed[-1], self.accepted[-1], clock() - begun)
        return Generation(self.outputs, self.proposed, self.accepted, reason)

    def step(self, gamma):
        """Why the output ends, or None."""
        lacking = [*self.prompt, *self.outputs][self.target.length() :]
        draft = self.draft(gamma)
        rows = self.forward(lacking, draft)
        kept = 0
        try:
            path, token = self.verdict(rows, draft)
            emitted, reason = self.until_the_end([*(draft.tokens[i] for i in path), token])
            kept = len(emitted) - 1
        finally:  # whatever happened: the context is a prefix again
            self.keep(lacking, draft, path[:kept] if kept else [])
        self.outputs += emitted
        self.proposed.append(len(draft.tokens))
        self.accepted.append(min(len(path), len(emitted)))
        return reason

    def draft(self, gamma):
        count = len(self.prompt) + len(self.outputs)
        room = min(gamma, self.max_tokens - len(self.outputs) - 1, self.target.max_length - count - 1)
        if self.drafter is None or room <= 0 or not self.can_take_back(count, room):
            return Draft([])
        uniforms = self.rng.random(room, np.float32)
        draft = self.drafter.propose(list(self.prompt), list(self.outputs), room, uniforms)
        self.check(draft)
        n = min(len(draft.tokens), room)
        rows = n if draft.parents is None else n + 1
        probs = None if draft.probs is None else draft.probs[:rows]
        parents = None if draft.parents is None else list(draft.parents)[:n]
        return Draft(list(draft.tokens)[:n], probs, parents, draft.replacement)

    def can_take_back(self, count, drafted):
        asked = self.target.can_truncate
        return asked is None or asked(count, count - self.target.length() + drafted)

    def forward(self, lacking, draft):
        """(n + 1, V): what follows the context, then each drafted token."""
        tokens = np.array([*lacking, *draft.tokens], np.int32)
        n = len(lacking)
        if draft.parents is None:
            return self.target.forward(tokens)[n - 1 :]
        chain = list(range(-1, n - 1))
        tree = [n + parent for parent in draft.parents]  # −1 is the last of the chain
        return self.target.forward(tokens, parents=np.array([*chain, *tree], np.int32))[n - 1 :]

    def verdict(self, rows, draft):
        """The drafted tokens that stay, as indices, and the token after them."""
        histories = [self.outputs, *(self.outputs + line for line in lines(draft))]
        probs = process_logits(rows, self.sampling, self.prompt, histories)
        n = len(draft.tokens)
        uniforms = self.rng.random(n + 1, np.float32)
        if draft.parents is not None:
            tree = TokenTree(draft.tokens, draft.parents, draft.replacement)
            return verify_tree(tree, probs, draft.probs, uniforms)
        found = verify(probs, draft.probs, np.array(draft.tokens, np.int32), uniforms)
        return list(range(found.accepted)), found.token

    def until_the_end(self, tokens):
        """The tokens up to where the output ends, and why it does; all of them and None if it goes on."""
        outputs = list(self.outputs)
        for i, token in enumerate(tokens, start=1):
            outputs.append(token)
            if token in self.sampling.eos_ids:
                return tokens[:i], "eos"
            if any(outputs[-len(sequence) :] == sequence for sequence in self.stop):
                return tokens[:i], "stop"
            if len(outputs) == self.max_tokens or len(self.prompt) + len(outputs) == self.target.max_length:
                return tokens[:i], "length"
        return tokens, None

    def keep(self, lacking, draft, path):
        """Of the last call what the context lacked, and these drafted tokens."""
        if draft.parents is not None:
            self.target.accept([*range(len(lacking)), *(len(lacking) + i for i in path)])
        elif len(path) < len(draft.tokens):
            self.target.truncate(len(self.prompt) + len(self.outputs) + len(path))

    def check(self, draft):
        if draft.parents is not None and self.target.accept is None:
            raise NotSupported("drafter: expected a chain for a target without accept, got a tree")
        n, vocabulary = len(draft.tokens), self.target.vocab_size
        check_ids(draft.tokens, vocabulary, "drafter")
        if draft.probs is not None:
            shape = (n if draft.parents is None else n + 1, vocabulary)
            expect(draft.probs.shape == shape, "drafter", f"probs of shape {shape}", draft.probs.shape)
        if draft.parents is not None:
            parents = list(draft.parents)
            fits = len(parents) == n and all(-1 <= parent < i for i, parent in enumerate(parents))
            expect(fits, "drafter", "a parent before each node", parents)


def lines(draft):
    """For each drafted token what leads to it, itself included."""
    found = []
    for i, token in enumerate(draft.tokens):
        parent = i - 1 if draft.parents is None else draft.parents[i]
        found.append([*(found[parent] if parent >= 0 else []), token])
    return found


# Checks ---------------------------------------------------------------------------------------------------


def check_limits(target, max_tokens, gamma, sampling, stop):
    expect(max_tokens >= 1, "max_tokens", "at least 1", max_tokens)
    expect(gamma >= 0, "gamma", "at least 0", gamma)
    check_sampling(sampling, target.vocab_size)
    expect(all(len(sequence) for sequence in stop), "stop", "sequences of at least 1 token", stop)
    for sequence in stop:
        check_ids(sequence, target.vocab_size, "stop")


def check_prompt(target, prompt):
    there = target.length()
    expect(len(prompt) > there, "prompt", f"more than the {there} tokens of the context", len(prompt))
    check_ids(prompt, target.vocab_size, "prompt")
    if len(prompt) >= target.max_length:
        raise ContextTooLong(f"prompt: expected fewer than {target.max_length} tokens, got {len(prompt)}")
