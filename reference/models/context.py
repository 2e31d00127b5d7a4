"""A decoder with its context, as the contracts call a model; what it was told is all that it remembers."""

import numpy as np

from spec.long_context import DynamicNTK, LongRoPE
from spec.model import Model

from .basics import expect, setting
from .decoder import logits, rotation


def start(config, weights):
    """The model with an empty context. Each call computes the whole context anew."""
    context = []

    def forward(tokens):
        context.extend(int(token) for token in tokens)
        return logits(config, weights, np.array(context))[len(context) - len(tokens) :].astype(np.float32)

    def truncate(length):
        expect(0 <= length <= len(context), "length", f"0 to {len(context)}", length)
        del context[length:]

    return Model(
        vocab_size=len(weights["model.embed_tokens.weight"]),
        max_length=setting(config, "max_position_embeddings"),
        forward=forward,
        length=lambda: len(context),
        truncate=truncate,
        rope_changes_after=rope_changes_after(config),
    )


def rope_changes_after(config):
    scaling = rotation(config, 0).scaling
    return scaling.original_length if isinstance(scaling, (DynamicNTK, LongRoPE)) else None
