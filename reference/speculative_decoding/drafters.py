"""Who proposes: what was there before, or a small model."""

import numpy as np

from spec.speculative_decoding import Draft

from .basics import check_ids, check_uniforms, draw, expect
from .sampling import process_logits


def propose_ngram(tokens, *, min_n, max_n, gamma):
    expect(min_n >= 1, "min_n", "at least 1", min_n)
    expect(max_n >= min_n, "max_n", f"at least {min_n}", max_n)
    expect(gamma >= 0, "gamma", "at least 0", gamma)
    tokens = list(tokens)
    for n in range(min(max_n, len(tokens) - 1), min_n - 1, -1):
        for start in range(len(tokens) - n):
            if tokens[start : start + n] == tokens[-n:]:
                return tokens[start + n : start + n + gamma]
    return []


class ModelDrafter:
    def __init__(self, model, sampling, *, vocab_size):
        expect(vocab_size >= 1, "vocab_size", "at least 1", vocab_size)
        expect(model.length() == 0, "model", "an empty context", f"{model.length()} tokens")
        self.model = model
        self.sampling = sampling
        self.vocab_size = vocab_size
        self.fed = []

    def propose(self, prompt, outputs, gamma, uniforms):
        known = [*prompt, *outputs]
        expect(known, "prompt", "at least 1 token of prompt or outputs", "none")
        check_ids(prompt, self.vocab_size, "prompt")
        check_ids(outputs, self.vocab_size, "outputs")
        check_uniforms(uniforms, gamma)  # and gamma with it: there are not −1 of them
        tokens, probs = [], []
        gamma = min(gamma, self.model.max_length - len(known) + 1)
        if max(known) >= self.model.vocab_size:  # nothing that the model could read
            gamma = 0
        if gamma > 0:
            self.keep_common(known)
        for i in range(gamma):
            row = self.after([*known, *tokens])
            history = [*outputs, *tokens]
            probs.append(process_logits(row[None], self.sampling, prompt, [history])[0])
            tokens.append(draw(probs[-1], uniforms[i]))
        shape = (len(tokens), self.vocab_size)
        return Draft(tokens, np.array(probs, np.float32).reshape(shape))

    def keep_common(self, known):
        """Takes back what the model's context does not share with `known`, and at least the last token."""
        fed = self.fed[: self.model.length()]
        same = 0
        while same < min(len(fed), len(known) - 1) and fed[same] == known[same]:
            same += 1
        if same < self.model.length():
            self.model.truncate(same)
        self.fed = fed[:same]

    def after(self, tokens):
        """Logits of what follows `tokens`, for the target's vocabulary."""
        lacking = tokens[len(self.fed) :]
        self.fed = list(tokens)
        row = self.model.forward(np.array(lacking, np.int32))[-1]
        missing = max(self.vocab_size - len(row), 0)
        return np.pad(row[: self.vocab_size], (0, missing), constant_values=-np.inf)
