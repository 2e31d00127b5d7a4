"""Whether a question asks for a tool, and for which, where a model was never trained to say so by itself.

Two weak signs are added up, in natural logarithms. The model's own probability of beginning with a call, once
it was told of its tools. And, by Bayes' rule, how much likelier the question is among those that its tools
answer, each as often as the others, than among those that are answered in words: a weak model is better at
how probable a question is than at what follows from it («noisy channel», Min et al. 2021, arXiv 2108.04106).
"""

from collections.abc import Sequence
from math import log
from typing import Any

import mlx.core as mx
import numpy as np

from solution.models.generation import CHUNK
from solution.models.tokenizer import Tokenizer
from spec.model import Model

from .hermes import START

LEAST = -5.0  # of the sum; between those of questions for a calculator and others: docs/agent.md
HEARD = 64  # tokens of a question that are looked at

_IN_WORDS = "Questions that are answered in words, without any tool:\n-"
_BY_A_TOOL = "Questions that are answered with the tool {} ({}):\n-"


class Reader:
    """A context that keeps what the next text has in common with the last one."""

    def __init__(self, model: Model) -> None:
        self._model, self._ids = model, []

    def logits(self, ids: Sequence[int], last: int = 1) -> mx.array:
        """(last, V): what follows after each of the last tokens."""
        kept = 0
        most = min(len(ids) - last, len(self._ids))
        while kept < most and ids[kept] == self._ids[kept]:
            kept += 1
        self._model.truncate(kept)
        self._ids = list(ids[:kept])  # if the next line raises
        while len(ids) - kept > CHUNK + last:
            self._model.forward(mx.array(ids[kept : kept + CHUNK]), last=1)
            kept += CHUNK
        found = self._model.forward(mx.array(ids[kept:]), last=last)
        self._ids = list(ids)
        return found

    def log_probability(self, before: Sequence[int], ids: Sequence[int]) -> float:
        """Of these tokens, one after the other."""
        rows = self.logits([*before, *ids[:-1]], last=len(ids))
        chosen = mx.take_along_axis(rows, mx.array(ids)[:, None], axis=1)[:, 0]
        return float(mx.sum(chosen - mx.logsumexp(rows, axis=1)))


def tool_for(
    question: str,
    tools: Sequence[dict[str, Any]],
    tokenizer: Tokenizer,
    talk: Reader,
    prompt: Sequence[int],
    aside: Reader,
) -> str | None:
    """The name of the tool that the question asks for.

    talk, prompt: the conversation, up to where the model speaks. aside: a context for questions of our own.
    """
    asked = tokenizer.encode(f" {question.strip()}")[:HEARD]
    own = talk.log_probability(prompt, tokenizer.encode(START))
    in_words = aside.log_probability(tokenizer.encode(_IN_WORDS), asked)
    functions = [tool["function"] for tool in tools]
    texts = [_BY_A_TOOL.format(each["name"], each["description"]) for each in functions]
    by_tool = [aside.log_probability(tokenizer.encode(text), asked) for text in texts]
    likelier = float(np.logaddexp.reduce(by_tool)) - log(len(tools)) - in_words
    return functions[int(np.argmax(by_tool))]["name"] if own + likelier >= LEAST else None
