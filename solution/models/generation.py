"""Tokens out of a model, one after the other."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np

from solution.long_context import chunked_prefill
from solution.speculative_decoding import process_logits, verify
from spec.model import Model
from spec.speculative_decoding import Sampling

from .checks import expect

CHUNK = 512  # tokens of a prompt at once
GREEDY = Sampling(temperature=0.0)


def generate(
    model: Model,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
    seed: int = 0,
    chunk: int = CHUNK,
) -> Iterator[int]:
    """The tokens that follow `prompt`, which is appended to the model's context: drawn as by `verify` without
    a draft, from what `process_logits` makes of the model's logits.

    Ends after `max_tokens`, before an id of `stop_ids`, which is not given out, or when the context is full.
    One uniform number is drawn for each token. The last token given out is not in the context yet, so at each
    `yield` the context is prompt and text before it, and the generator can be closed.

    Raises, at the first token, InvalidArgument for an option out of range and what `chunked_prefill` raises.
    """
    process_logits(mx.zeros((0, model.vocab_size)), sampling, prompt, [])  # refuses before a model is called
    expect(max_tokens >= 0, "max_tokens", "at least 0", max_tokens)
    if max_tokens == 0:
        return
    # A model that offers `accept` also takes `last`.
    forward = model.forward if model.accept is None else partial(model.forward, last=1)
    uniforms = np.random.default_rng(seed)
    ids = mx.array(np.asarray(prompt, np.int32))
    logits = chunked_prefill(replace(model, forward=forward), ids, chunk)
    text: list[int] = []
    nothing = mx.zeros(0, mx.int32)
    for count in range(1, max_tokens + 1):
        probs = process_logits(logits[None], sampling, prompt, [text])
        token = verify(probs, None, nothing, mx.array(uniforms.random(1, np.float32))).token
        if token in stop_ids:
            return
        text.append(token)
        yield token
        if count == max_tokens or model.length() >= model.max_length:
            return
        logits = forward(mx.array([token]))[-1]
