"""Drafts of a small model, one token after another."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from spec.model import Model
from spec.speculative_decoding import Draft, Sampling

from .checks import check_ids, check_uniforms, expect, on_host
from .sampling import processed
from .verdicts import draw


class ModelDrafter:
    """`Drafter(it.propose)` goes into `generate`. After an error, and after any other text, the next draft is
    what a new drafter's would be.
    """

    def __init__(self, model: Model, sampling: Sampling, *, vocab_size: int) -> None:
        expect(vocab_size >= 1, "vocab_size", "at least 1", vocab_size)
        expect(model.length() == 0, "model", "an empty context", f"{model.length()} tokens")
        self._model, self._sampling, self._vocab_size = model, sampling, vocab_size
        self._fed: list[int] = []  # begins with what is in the model's context

    def propose(self, prompt: Sequence[int], outputs: Sequence[int], gamma: int, uniforms: mx.array) -> Draft:
        """A chain of gamma tokens and what each was drawn from, (gamma, V); fewer where the context is full,
        none after an id that the model does not know.

        The last one is not in the model's context afterwards.
        """
        prompt, outputs, u = list(prompt), list(outputs), on_host(uniforms)
        expect(bool(prompt or outputs), "prompt", "at least 1 token of prompt or outputs", "none")
        check_ids(prompt, self._vocab_size, "prompt")
        check_ids(outputs, self._vocab_size, "outputs")
        expect(gamma >= 0, "gamma", "at least 0", gamma)
        check_uniforms(u, gamma)
        text = prompt + outputs
        count = max(0, min(gamma, self._model.max_length - len(text) + 1))
        if max(text) >= self._model.vocab_size:  # the model could not read it
            count = 0
        tokens: list[int] = []
        probs = np.zeros((count, self._vocab_size), np.float32)
        lacking = self._lacking(text) if count else []
        for i in range(count):
            logits = self._after(lacking)
            probs[i] = processed(logits, self._sampling, prompt, [outputs + tokens])[0]
            tokens.append(int(draw(probs[i : i + 1], u[i : i + 1])[0]))
            lacking = tokens[-1:]
        return Draft(tokens, mx.array(probs))

    def _lacking(self, text: list[int]) -> list[int]:
        """The end of `text` that the context has not, at least its last token; takes back what differs."""
        most = min(self._model.length(), len(self._fed), len(text) - 1)
        same = next((i for i in range(most) if self._fed[i] != text[i]), most)
        if same < self._model.length():
            self._model.truncate(same)
        self._fed = text[:same]
        return text[same:]

    def _after(self, tokens: list[int]) -> np.ndarray:
        """Logits of what follows, (1, V) for the target's vocabulary."""
        self._fed += tokens
        few = {"last": 1} if self._model.accept is not None else {}
        row = on_host(self._model.forward(mx.array(tokens, mx.int32), **few)[-1:])[:, : self._vocab_size]
        missing = self._vocab_size - row.shape[1]
        return np.pad(row, ((0, 0), (0, missing)), constant_values=-np.inf) if missing else row
