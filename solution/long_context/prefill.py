"""A prompt in pieces."""

import mlx.core as mx
import numpy as np

from spec import ContextTooLong, NotSupported
from spec.model import Model

from .checks import expect


def chunked_prefill(model: Model, tokens: mx.array, chunk: int) -> mx.array:
    """The logits after a prompt's last token, (V,), fed in pieces of `chunk` tokens."""
    expect(chunk >= 1, "chunk", "at least 1", chunk)
    expect(tokens.ndim == 1 and tokens.size >= 1, "tokens", "1 axis, at least 1 token", tokens.shape)
    ids = np.asarray(tokens)
    wrong = ids[(ids < 0) | (ids >= model.vocab_size)]
    expect(not wrong.size, "tokens", f"ids from 0 to {model.vocab_size - 1}", wrong)
    before = model.length()
    room = model.max_length - before
    if ids.size > room:
        raise ContextTooLong(f"tokens: expected at most {room} more, got {ids.size}")
    _check_one_piece(model, before, ids.size, chunk)
    try:
        for start in range(0, ids.size, chunk):
            last = model.forward(tokens[start : start + chunk])[-1]
        mx.eval(last)  # here, where an error that was waiting for it still finds the context's old length
    except BaseException:
        model.truncate(before)
        raise
    return last


def _check_one_piece(model: Model, before: int, count: int, chunk: int) -> None:
    """Refuses pieces that would silently give another result than the whole."""
    in_pieces = count > chunk
    if in_pieces and model.per_call:
        raise NotSupported(f"chunk: expected the prompt in one piece with {', '.join(model.per_call)}")
    switch = model.rope_changes_after
    if switch is not None and before + count > switch and (in_pieces or before > 0):
        raise NotSupported(f"chunk: expected one piece beyond {switch} tokens, where the rotation changes")
