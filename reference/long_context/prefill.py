"""A prompt in pieces."""

from spec import ContextTooLong, NotSupported

from .basics import expect


def chunked_prefill(model, tokens, chunk):
    expect(chunk >= 1, "chunk", "at least 1", chunk)
    expect(tokens.ndim == 1 and len(tokens) >= 1, "tokens", "1 axis, at least 1 token", tokens.shape)
    known = ((tokens >= 0) & (tokens < model.vocab_size)).all()
    expect(known, "tokens", f"ids from 0 to {model.vocab_size - 1}", tokens)
    before = model.length()
    after = before + len(tokens)
    if after > model.max_length:
        raise ContextTooLong(f"tokens: expected at most {model.max_length - before} more, got {len(tokens)}")
    in_pieces = len(tokens) > chunk
    if in_pieces and model.per_call:
        raise NotSupported(f"chunk: expected the prompt in one piece with {', '.join(model.per_call)}")
    switch = model.rope_changes_after
    if switch is not None and after > switch and (in_pieces or before > 0):
        raise NotSupported(f"chunk: expected one piece beyond {switch} tokens, where the rotation changes")
    try:
        for start in range(0, len(tokens), chunk):
            logits = model.forward(tokens[start : start + chunk])
    except BaseException:
        model.truncate(before)
        raise
    return logits[-1]
