"""Speculative decoding in PyTorch: right, and of another structure, so that the suite can be held to it.

What differs, all of it free by the contract:

- one sort of the logits, after which min-p, top-k and top-p each only say how long a prefix of it stays;
- all verdicts on chains are one of a batch, by a product along the row and a gather; no loop over tokens;
- float64 inside wherever something is compared or summed;
- n-grams grow from one token on, and lose occurrences on the way;
- `generate` walks through states, each a method that returns the next;
- uniforms are a hash of the seed and of what they are for: there is no generator whose state is shared;
- adaptive γ estimates rates and seconds, and takes the γ of the most tokens a second.
"""

import time
from collections import deque
from hashlib import shake_256
from itertools import accumulate, takewhile
from statistics import StatisticsError, linear_regression

import torch

from spec import ContextTooLong, InvalidArgument, NotSupported
from spec.speculative_decoding import Draft, Generation, TokenTree, Verdict


def require(condition, sentence):
    if not condition:
        raise InvalidArgument(sentence)


def require_shape(name, array, *shape):
    actual = tuple(array.shape)
    require(actual == shape, f"{name}: expected shape {shape}, got {actual}")


def require_ids(name, ids, vocab_size):
    wrong = [i for i in ids if not 0 <= i < vocab_size]
    require(not wrong, f"{name}: expected ids from 0 to {vocab_size - 1}, got {wrong[:1]}")


def require_uniforms(uniforms):
    inside = bool(((uniforms >= 0) & (uniforms < 1)).all())
    require(inside, f"uniforms: expected numbers in [0, 1), got {uniforms.tolist()}")


def require_least(least, **numbers):
    for name, number in numbers.items():
        require(number >= least, f"{name}: expected at least {least}, got {number}")


def ids_of(sequence):
    return [int(i) for i in sequence]


# From logits to a distribution ----------------------------------------------------------------------------


def process_logits(logits, sampling, prompt, outputs):
    require(logits.dim() == 2, f"logits: expected 2 axes, got {logits.dim()}")
    rows, vocab_size = logits.shape
    prompt, outputs = ids_of(prompt), [ids_of(output) for output in outputs]
    require(len(outputs) == rows, f"outputs: expected {rows}, one a row, got {len(outputs)}")
    check_sampling(sampling, vocab_size)
    require_ids("prompt", prompt, vocab_size)
    for output in outputs:
        require_ids("outputs", output, vocab_size)

    logits = changed(logits.double(), sampling, prompt, outputs)
    alive = bool((logits > -torch.inf).any(dim=1).all())
    require(alive, "logits: expected something to draw from in each row, got a row of −∞")
    if rows == 0:
        return logits.float()
    descending, ids = logits.sort(dim=1, descending=True, stable=True)  # of equals the lower id first
    weights = ((descending - descending[:, :1]) / (sampling.temperature or 1)).exp()
    weights *= torch.arange(vocab_size) < kept(weights, sampling)[:, None]
    probs = weights / weights.sum(dim=1, keepdim=True)
    return torch.zeros_like(probs).scatter_(1, ids, probs).float()


def changed(logits, sampling, prompt, outputs):
    """Logits after all that comes before the temperature, (R, V)."""
    s, vocab_size = sampling, logits.shape[1]
    early = torch.tensor([len(output) < s.min_tokens for output in outputs], dtype=torch.bool)
    ends = torch.zeros(vocab_size, dtype=torch.bool)
    ends[list(s.eos_ids)] = True
    logits = logits.masked_fill(early[:, None] & ends, -torch.inf)
    bias = torch.zeros(vocab_size, dtype=torch.float64)
    bias[list(s.bias)] = torch.tensor(list(s.bias.values()), dtype=torch.float64)
    logits = logits + bias

    times = torch.zeros(logits.shape, dtype=torch.float64)
    for row, output in zip(times, outputs, strict=True):
        row += torch.tensor(output, dtype=torch.long).bincount(minlength=vocab_size)
    there = times > 0
    anywhere = there | (torch.tensor(prompt, dtype=torch.long).bincount(minlength=vocab_size) > 0)
    repeated = torch.where(logits > 0, logits / s.repetition, logits * s.repetition)
    logits = torch.where(anywhere, repeated, logits)
    return torch.where(there, logits - s.presence - times * s.frequency, logits)


def kept(weights, sampling):
    """How many of a row's tokens stay, (R,). weights: (R, V), descending from 1."""
    s, vocab_size = sampling, weights.shape[1]
    most = (weights >= s.min_p).sum(dim=1)
    if s.temperature == 0:
        most = torch.ones_like(most)
    if s.top_k > 0:
        most = most.clamp(max=s.top_k)
    if s.top_p < 1:
        left = weights * (torch.arange(vocab_size) < most[:, None])
        before = left.cumsum(dim=1) - left
        most = torch.minimum(most, (before < s.top_p * left.sum(dim=1, keepdim=True)).sum(dim=1))
    return most


def check_sampling(sampling, vocab_size):
    s = sampling
    rules = [
        ("temperature", s.temperature >= 0, "at least 0"),
        ("top_k", s.top_k >= 0, "at least 0"),
        ("top_p", 0 < s.top_p <= 1, "above 0 and at most 1"),
        ("min_p", 0 <= s.min_p <= 1, "0 to 1"),
        ("repetition", s.repetition > 0, "above 0"),
        ("min_tokens", s.min_tokens >= 0, "at least 0"),
    ]
    for name, holds, expected in rules:
        require(holds, f"{name}: expected {expected}, got {getattr(s, name)}")
    require_ids("bias", s.bias, vocab_size)
    require_ids("eos_ids", s.eos_ids, vocab_size)


# Accepting and rejecting ----------------------------------------------------------------------------------


def acceptance_probability(p, q, tokens):
    check_pair(p, q)
    require_shape("tokens", tokens, len(p))
    require_ids("tokens", tokens.tolist(), p.shape[1])
    at = tokens.long()[:, None]
    p, q = p.double().gather(1, at)[:, 0], q.double().gather(1, at)[:, 0]
    return torch.where(q > p, p / q, (p > 0).double()).float()


def residual(p, q):
    check_pair(p, q)
    left = remainder(p.double(), q.double())
    return torch.where((p > q).any(dim=1, keepdim=True), left / left.sum(dim=1, keepdim=True), p).float()


def check_pair(p, q):
    require(p.dim() == 2, f"p: expected 2 axes, got {p.dim()}")
    require_shape("q", q, *p.shape)


def remainder(p, q):
    """max(p − q, 0), not divided by anything; p where it is 0 all along the last axis."""
    left = (p - q).clamp(min=0)
    return torch.where(left.any(dim=-1, keepdim=True), left, p)


def drawn(weights, uniforms):
    """The token of each row, (R,). weights: (R, V), of any sum. uniforms: (R,)."""
    reached = weights.double().cumsum(dim=1)
    first = (reached <= uniforms.double()[:, None] * reached[:, -1:]).sum(dim=1)
    last = weights.shape[1] - 1 - (weights > 0).flip(1).int().argmax(dim=1)
    return torch.minimum(first, last)


def verify(target_probs, draft_probs, draft_tokens, uniforms):
    check_verdict(target_probs, draft_probs, draft_tokens, uniforms, ())
    draft_probs = None if draft_probs is None else draft_probs[None]
    whole = torch.tensor([len(draft_tokens)])
    accepted, tokens = verdicts(target_probs[None], draft_probs, draft_tokens[None], whole, uniforms[None])
    return Verdict(int(accepted), int(tokens))


def verify_batch(target_probs, draft_probs, draft_tokens, draft_lens, uniforms):
    require(draft_tokens.dim() == 2, f"draft_tokens: expected 2 axes, got {draft_tokens.dim()}")
    rows, gamma = draft_tokens.shape
    require_shape("draft_lens", draft_lens, rows)
    fits = bool(((draft_lens >= 0) & (draft_lens <= gamma)).all())
    require(fits, f"draft_lens: expected 0 to {gamma}, got {draft_lens.tolist()}")
    check_verdict(target_probs, draft_probs, draft_tokens, uniforms, (rows,), draft_lens)
    accepted, final = verdicts(target_probs, draft_probs, draft_tokens, draft_lens.long(), uniforms)
    place = torch.arange(gamma + 1) - accepted[:, None]  # 0 at the final token
    drafted = torch.cat([draft_tokens.long(), draft_tokens.new_zeros(rows, 1).long()], dim=1)
    return torch.where(place < 0, drafted, torch.where(place == 0, final[:, None], -1))


def check_verdict(target_probs, draft_probs, draft_tokens, uniforms, batch, lens=None):
    """batch: () or (R,). What lies beyond lens is not looked at."""
    axes = len(batch) + 1
    require(draft_tokens.dim() == axes, f"draft_tokens: expected {axes} axes, got {draft_tokens.dim()}")
    require(
        target_probs.dim() == axes + 1, f"target_probs: expected {axes + 1} axes, got {target_probs.dim()}"
    )
    gamma, vocab_size = draft_tokens.shape[-1], target_probs.shape[-1]
    require_shape("draft_tokens", draft_tokens, *batch, gamma)
    require_shape("target_probs", target_probs, *batch, gamma + 1, vocab_size)
    if draft_probs is not None:
        require_shape("draft_probs", draft_probs, *batch, gamma, vocab_size)
    require_shape("uniforms", uniforms, *batch, gamma + 1)
    if lens is not None:
        place = torch.arange(gamma + 1)
        draft_tokens = draft_tokens[place[:-1] < lens[:, None]]
        uniforms = uniforms[place <= lens[:, None]]
    require_ids("draft_tokens", draft_tokens.flatten().tolist(), vocab_size)
    require_uniforms(uniforms)


def verdicts(target, draft, tokens, lens, uniforms):
    """How many of each row are accepted, and the token after them: (R,) both. Shapes as in `verify_batch`."""
    rows, gamma = tokens.shape
    live = torch.arange(gamma) < lens[:, None]  # (R, γ)
    ids = torch.where(live, tokens.long(), 0)
    if draft is None:
        draft = torch.nn.functional.one_hot(ids, target.shape[2])
    p = target[:, :gamma].double().gather(2, ids[..., None])[..., 0]
    q = draft.double().gather(2, ids[..., None])[..., 0]
    passed = live & (uniforms[:, :gamma].double() * q < p)
    accepted = passed.long().cumprod(dim=1).sum(dim=1)

    # After a rejection q is taken away from p; after none, nothing is.
    each = torch.arange(rows)
    q_rows = torch.cat([draft.double(), torch.zeros(rows, 1, target.shape[2])], dim=1)[each, accepted]
    q_rows = torch.where((accepted < lens)[:, None], q_rows, 0.0)
    weights = remainder(target[each, accepted].double(), q_rows)
    return accepted, drawn(weights, uniforms[each, lens])


def verify_block(target_probs, draft_probs, draft_tokens, uniforms):
    if draft_probs is None:
        return verify(target_probs, draft_probs, draft_tokens, uniforms)
    check_verdict(target_probs, draft_probs, draft_tokens, uniforms, ())
    gamma, vocab_size = len(draft_tokens), target_probs.shape[1]
    p, q, u = target_probs.double(), draft_probs.double(), uniforms.double()
    at = draft_tokens.long()[:, None]
    pairs = zip(p[:-1].gather(1, at)[:, 0].tolist(), q.gather(1, at)[:, 0].tolist(), strict=True)
    joint = torch.tensor(list(accumulate(pairs, joint_after, initial=1.0)), dtype=torch.float64)  # P₀ … P_γ

    # After the last token nothing was drafted: there q is 0, and what is left of the row is the row itself.
    q = torch.cat([q, q.new_zeros(1, vocab_size)])
    scaled = torch.cat([joint[:-1], joint.new_ones(1)])[:, None] * p
    left = (scaled - q).clamp(min=0)  # (γ + 1, V)
    mass = left.sum(dim=1)
    chance = torch.where(joint == 1, 1.0, mass / (mass + 1 - joint))
    chance[gamma] = joint[gamma]
    chance[0] = 1  # none accepted is what remains
    passed = torch.cat([torch.zeros(1), u[:-1]]) < chance
    accepted = int(passed.nonzero()[-1])
    weights = remainder(scaled[accepted], q[accepted])
    return Verdict(accepted, int(drawn(weights[None], u[-1:])))


def joint_after(joint, pair):
    """Pᵢ after Pᵢ₋₁ and the token's p and q. What the target cannot have said stays impossible."""
    p, q = pair
    if q == 0:
        return 1.0 if joint * p > 0 else 0.0
    return min(1.0, joint * p / q)


def verify_tree(tree, target_probs, draft_probs, uniforms):
    tokens, parents = ids_of(tree.tokens), ids_of(tree.parents)
    n, vocab_size = len(tokens), check_tree(tokens, parents, target_probs, draft_probs, uniforms)
    children = children_of(parents)
    certain = torch.eye(vocab_size, dtype=torch.float64) if draft_probs is None else None
    path, here, waiting = [], -1, iter(children[-1])
    p, q = target_probs[0].double(), None if certain is not None else draft_probs[0].double()
    while (child := next(waiting, None)) is not None:
        x = tokens[child]
        proposal = q if certain is None else certain[x]
        if float(uniforms[child].double() * proposal[x]) < float(p[x]):
            path.append(here := child)
            waiting = iter(children[here])
            p = target_probs[here + 1].double()
            q = None if certain is not None else draft_probs[here + 1].double()
            continue
        p = remainder(p, proposal)
        p = p / p.sum()
        if certain is None and not tree.replacement:
            q = q.index_fill(0, torch.tensor([x]), 0)
            q = q / q.sum() if q.any() else q
    return path, int(drawn(p[None], uniforms[n:]))


def children_of(parents):
    """The children of each node and of −1, in the order of their indices."""
    children = {node: [] for node in range(-1, len(parents))}
    for node, parent in enumerate(parents):
        children[parent].append(node)
    return children


def check_tree(tokens, parents, target_probs, draft_probs, uniforms):
    """V, if all fits."""
    n = len(tokens)
    require(len(parents) == n, f"parents: expected {n}, one a token, got {len(parents)}")
    require_parents("parents", parents)
    require(target_probs.dim() == 2, f"target_probs: expected 2 axes, got {target_probs.dim()}")
    vocab_size = target_probs.shape[1]
    require_shape("target_probs", target_probs, n + 1, vocab_size)
    if draft_probs is not None:
        require_shape("draft_probs", draft_probs, n + 1, vocab_size)
    require_shape("uniforms", uniforms, n + 1)
    require_ids("tokens", tokens, vocab_size)
    require_uniforms(uniforms)
    return vocab_size


def require_parents(name, parents):
    before = all(-1 <= parent < node for node, parent in enumerate(parents))
    require(before, f"{name}: expected parents from −1 to below their node, got {parents}")


# Proposing ------------------------------------------------------------------------------------------------


def propose_ngram(tokens, *, min_n, max_n, gamma):
    require_least(1, min_n=min_n)
    require_least(min_n, max_n=max_n)
    require_least(0, gamma=gamma)
    tokens = ids_of(tokens)
    ends, found = (
        range(1, len(tokens)),
        None,
    )  # where an occurrence of the last n tokens ends, and is followed
    for n in range(1, min(max_n, len(tokens)) + 1):
        ends = [end for end in ends if end >= n and tokens[end - n] == tokens[-n]]
        if not ends:
            break
        if n >= min_n:
            found = ends[0]
    return [] if found is None else tokens[found : found + gamma]


class ModelDrafter:
    def __init__(self, model, sampling, *, vocab_size):
        require_least(1, vocab_size=vocab_size)
        require(model.length() == 0, f"model: expected an empty context, got {model.length()} tokens")
        check_sampling(sampling, vocab_size)
        self.model, self.sampling, self.vocab_size = model, sampling, vocab_size
        self.fed = []  # what the context holds, or more: its first model.length() tokens

    def propose(self, prompt, outputs, gamma, uniforms):
        prompt, outputs = ids_of(prompt), ids_of(outputs)
        require(prompt + outputs, "prompt: expected a token in prompt or outputs, got none")
        require_ids("prompt", prompt, self.vocab_size)
        require_ids("outputs", outputs, self.vocab_size)
        require_least(0, gamma=gamma)
        require_shape("uniforms", uniforms, gamma)
        require_uniforms(uniforms)
        known = max(prompt + outputs) < self.model.vocab_size
        room = self.model.max_length - len(prompt + outputs) + 1 if known else 0
        drafted, rows = [], [torch.zeros(0, self.vocab_size)]
        for i in range(min(gamma, max(0, room))):
            logits = self.logits_after(prompt + outputs + drafted)
            rows.append(process_logits(logits, self.sampling, prompt, [outputs + drafted]))
            drafted.append(int(drawn(rows[-1], uniforms[i : i + 1])))
        return Draft(drafted, torch.cat(rows))

    def logits_after(self, text):
        """(1, V) logits of what follows text, of which the model is fed what it lacks."""
        held = self.fed[: self.model.length()]
        shared = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(held, text[:-1], strict=False))
        )
        ask = self.model.can_truncate
        if len(held) > shared:
            if ask is not None and not ask(shared):
                shared = 0
            self.model.truncate(shared)
        self.fed = text  # before the call, which may fail halfway
        logits = self.model.forward(torch.tensor(text[shared:]))[-1:, : self.vocab_size].float()
        missing = logits.new_full((1, self.vocab_size - logits.shape[1]), -torch.inf)
        return torch.cat([logits, missing], dim=1)


# The loop -------------------------------------------------------------------------------------------------


def generate(
    target,
    drafter,
    prompt,
    *,
    max_tokens,
    gamma,
    sampling,
    seed,
    stop=(),
    adaptive=False,
    clock=None,
):
    prompt, stop = ids_of(prompt), [ids_of(ending) for ending in stop]
    check_loop(target, prompt, max_tokens, gamma, sampling, stop)
    pace = Pace(clock or time.perf_counter) if adaptive and drafter is not None and gamma > 0 else None
    return Run(target, drafter, prompt, max_tokens, gamma, sampling, f"{seed}", stop, pace).finish()


def generate_many(target, drafter, prompts, *, runs, max_tokens, gamma, sampling, seed, stop=()):
    prompts, stop = [ids_of(prompt) for prompt in prompts], [ids_of(ending) for ending in stop]
    require_least(0, runs=runs)
    require(target.length() == 0, f"target: expected an empty context, got {target.length()} tokens")
    for prompt in prompts:
        check_loop(target, prompt, max_tokens, gamma, sampling, stop)
    generations = []
    for number, prompt in enumerate(prompt for prompt in prompts for _ in range(runs)):
        label = f"{seed}/{number}"
        run = Run(target, drafter, prompt, max_tokens, gamma, sampling, label, stop, None)
        generations.append(run.finish())
        target.truncate(0)
    return generations


def check_loop(target, prompt, max_tokens, gamma, sampling, stop):
    held, vocab_size = target.length(), target.vocab_size
    require(len(prompt) > held, f"prompt: expected more than {held} tokens, got {len(prompt)}")
    require_ids("prompt", prompt, vocab_size)
    require_least(1, max_tokens=max_tokens)
    require_least(0, gamma=gamma)
    for ending in stop:
        require(ending, "stop: expected sequences of at least one id, got an empty one")
        require_ids("stop", ending, vocab_size)
    check_sampling(sampling, vocab_size)
    if len(prompt) >= target.max_length:
        sentence = f"prompt: expected at most {target.max_length - 1} tokens, got {len(prompt)}"
        raise ContextTooLong(sentence)


def uniforms_of(label, number):
    """(number,) float32 of 24 bits each, the same for the same label."""
    words = bytearray(shake_256(label.encode()).digest(4 * number))
    if number == 0:
        return torch.zeros(0)
    return (torch.frombuffer(words, dtype=torch.int32) & (2**24 - 1)).float() / 2**24


class Run:
    """One generation. Its states, `draft`, `read`, `judge` and `settle`, return the next, at last None."""

    def __init__(self, target, drafter, prompt, max_tokens, gamma, sampling, label, stop, pace):
        self.target, self.drafter, self.sampling = target, drafter, sampling
        self.prompt, self.output, self.label, self.stop = prompt, [], label, stop
        self.longest = min(max_tokens, target.max_length - len(prompt))  # of the output
        self.gamma = 0 if drafter is None else gamma
        self.pace = pace
        self.proposed, self.accepted, self.reason = [], [], None
        self.lacking = None  # how many tokens stood before the tree that waits for `accept`

    def finish(self):
        state = self.draft
        try:
            while state is not None:
                state = state()
        except BaseException:
            self.retreat()
            raise
        return Generation(self.output, self.proposed, self.accepted, self.reason)

    def retreat(self):
        """Takes back what was fed and not judged."""
        known = len(self.prompt) + len(self.output)
        if self.target.length() > known:
            if self.lacking is None:
                self.target.truncate(known)
            else:
                self.target.accept(list(range(self.lacking)))

    def uniforms(self, purpose, number):
        return uniforms_of(f"{self.label}/{len(self.proposed)}/{purpose}", number)

    def draft(self):
        most = min(self.gamma, self.longest - len(self.output) - 1)
        if most > 0 and self.pace is not None:
            most = self.pace.next(most)
        can_truncate = self.target.can_truncate
        if most > 0 and can_truncate is not None:
            known = len(self.prompt) + len(self.output)
            most = most if can_truncate(known, known - self.target.length() + most) else 0
        self.tokens, self.probs, self.parents, self.replacement = [], None, None, False
        if self.pace is not None:
            self.pace.begin(most)
        if most > 0:
            uniforms = self.uniforms("draft", most)
            self.take(self.drafter.propose(list(self.prompt), list(self.output), most, uniforms), most)
        if self.pace is not None:
            self.pace.drafted()
        return self.read

    def take(self, draft, most):
        """The first tokens of a draft that is in order."""
        tokens, vocab_size = ids_of(draft.tokens), self.target.vocab_size
        tree = draft.parents is not None
        if tree and self.target.accept is None:
            raise NotSupported("drafter: expected a chain, as target.accept is None, got parents")
        require_ids("drafter", tokens, vocab_size)
        if tree:
            parents = ids_of(draft.parents)
            require(
                len(parents) == len(tokens), f"drafter: expected {len(tokens)} parents, got {len(parents)}"
            )
            require_parents("drafter", parents)
            self.parents = parents[:most] or None
        if draft.probs is not None:
            require_shape("drafter", draft.probs, len(tokens) + tree, vocab_size)
            self.probs = draft.probs[: most + tree]
        self.tokens, self.replacement = tokens[:most], draft.replacement
        if not self.tokens:
            self.probs = None

    def read(self):
        """The target's pass. Its last rows, one more than drafted tokens, are those that matter."""
        text = self.prompt + self.output
        held = self.target.length()
        fed = torch.tensor(text[held:] + self.tokens)
        if self.parents is None:
            logits = self.target.forward(fed)
        else:
            self.lacking = len(text) - held
            chain = list(range(-1, self.lacking - 1))
            tree = [self.lacking + parent for parent in self.parents]  # −1 is the last of the chain
            logits = self.target.forward(fed, parents=chain + tree)
        self.logits = logits[len(fed) - len(self.tokens) - 1 :]
        return self.judge

    def judge(self):
        n = len(self.tokens)
        parents = range(-1, n - 1) if self.parents is None else self.parents
        histories = [self.output]
        for token, parent in zip(self.tokens, parents, strict=True):
            histories.append([*histories[parent + 1], token])
        p = process_logits(self.logits, self.sampling, self.prompt, histories)
        uniforms = self.uniforms("verdict", n + 1)
        if self.parents is None:
            verdict = verify(p, self.probs, torch.tensor(self.tokens, dtype=torch.long), uniforms)
            self.path, token = list(range(verdict.accepted)), verdict.token
        else:
            tree = TokenTree(self.tokens, self.parents, self.replacement)
            self.path, token = verify_tree(tree, p, self.probs, uniforms)
        self.new = [*(self.tokens[node] for node in self.path), token]
        return self.settle

    def settle(self):
        """Cuts what is new at its end, brings the context in line, and only then changes the output."""
        ends = (self.reason_at(length) for length in range(1, len(self.new) + 1))
        length, self.reason = next(
            ((i, reason) for i, reason in enumerate(ends, 1) if reason), (len(self.new), None)
        )
        stays = self.path[: length - 1]  # in the context, which lacks the last token
        if self.parents is not None:
            chain = list(range(self.lacking))
            self.target.accept(chain + [self.lacking + node for node in stays])
            self.lacking = None
        elif len(stays) < len(self.tokens):
            self.target.truncate(len(self.prompt) + len(self.output) + len(stays))
        self.output = self.output + self.new[:length]
        self.proposed.append(len(self.tokens))
        self.accepted.append(min(len(self.path), length))
        if self.pace is not None:
            self.pace.passed(len(self.tokens) + 1, len(self.path))
        return None if self.reason else self.draft

    def reason_at(self, length):
        """Why the output ends after so many of the new tokens, or None."""
        output = self.output + self.new[:length]
        if output[-1] in self.sampling.eos_ids:
            return "eos"
        if any(output[-len(ending) :] == ending for ending in self.stop):
            return "stop"
        return "length" if len(output) >= self.longest else None


class Pace:
    """How many tokens to draft, from how many were accepted and from what drafting and passes cost."""

    MEMORY = 0.8  # of a step, in the next
    PATIENCE = 8  # steps without a draft until one token is tried; doubled each time

    def __init__(self, clock):
        self.clock = clock
        self.hits, self.misses = 4.0, 1.0  # hopeful at first
        self.draft_seconds = 0.0  # a token
        self.passes = deque(maxlen=32)  # (tokens, seconds)
        self.idle, self.patience = 0, self.PATIENCE

    def next(self, most):
        if not self.passes:
            return most
        sizes, seconds = zip(*self.passes, strict=True)
        try:
            slope, base = linear_regression(sizes, seconds)
        except StatisticsError:  # one size only
            slope, base = 0.0, sum(seconds) / len(seconds)
        slope = max(0.0, slope)
        alpha = self.hits / (self.hits + self.misses)

        def tokens_a_second(gamma):
            cost = base + slope * (gamma + 1) + gamma * self.draft_seconds
            return expected_tokens(alpha, gamma) / max(cost, 1e-9)

        best = max(range(most + 1), key=tokens_a_second)
        self.idle = 0 if best > 0 else self.idle + 1
        if self.idle < self.patience:
            return best
        self.idle, self.patience = 0, 2 * self.patience
        return 1

    def begin(self, asked):
        self.asked, self.began = asked, self.clock()

    def drafted(self):
        self.read_from = self.clock()
        if self.asked > 0:
            self.draft_seconds = (self.read_from - self.began) / self.asked

    def passed(self, tokens, accepted):
        self.passes.append((tokens, self.clock() - self.read_from))
        if self.asked > 0:
            self.hits = self.MEMORY * self.hits + accepted
            self.misses = self.MEMORY * self.misses + (accepted < self.asked)
            if accepted == self.asked:
                self.patience = self.PATIENCE


# What it is worth -----------------------------------------------------------------------------------------


def expected_tokens(alpha, gamma):
    check_rate(alpha)
    require_least(0, gamma=gamma)
    return float(sum(alpha**i for i in range(gamma + 1)))


def walltime_speedup(alpha, gamma, cost_ratio):
    require_least(0, cost_ratio=cost_ratio)
    return expected_tokens(alpha, gamma) / (gamma * cost_ratio + 1)


def best_gamma(alpha, cost_ratio, max_gamma):
    check_rate(alpha)
    require_least(0, cost_ratio=cost_ratio)
    require_least(0, max_gamma=max_gamma)
    tokens = accumulate(alpha**i for i in range(max_gamma + 1))
    speedups = [expected / (gamma * cost_ratio + 1) for gamma, expected in enumerate(tokens)]
    return speedups.index(max(speedups))


def check_rate(alpha):
    require(0 <= alpha <= 1, f"alpha: expected 0 to 1, got {alpha}")
