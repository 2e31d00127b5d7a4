"""A decoder with its context, as the contracts call a model; what it was told is all that it remembers."""

import numpy as np

from spec.long_context import DynamicNTK, LongRoPE
from spec.model import Model

from .basics import expect, setting
from .decoder import logits, rotation


def start(config, weights, *, kept=None):
    """The model with an empty context. Each call computes the whole context anew, for each node of a tree.

    kept: as in `logits`. Then a model that computes as it should has forgotten tokens; this one never has.
    """
    context = []
    nodes = []  # (token, parent) of a tree that waits for `accept`

    def rows_of(tokens):
        return logits(config, weights, tokens, kept=kept)

    def forward(tokens, *, last=None, parents=None):
        expect(not nodes, "tokens", "accept after a tree", "forward")
        expect(last is None or last >= 1, "last", "at least 1", last)
        tokens = [int(token) for token in tokens]
        if parents is None:
            rows = rows_of(context + tokens)[len(context) :]
            context.extend(tokens)
        else:
            check_tree(tokens, parents)
            tree = list(zip(tokens, parents, strict=True))
            rows = np.array([rows_of(context + branch(tree, i))[-1] for i in range(len(tree))])
            nodes.extend(tree)
        return rows[-last if last else 0 :].astype(np.float32)

    def accept(path):
        parent = -1
        for node in path:
            expect(0 <= node < len(nodes), "path", f"nodes of the tree, 0 to {len(nodes) - 1}", path)
            expect(nodes[node][1] == parent, "path", f"a child of {parent}", node)
            parent = node
        context.extend(nodes[node][0] for node in path)
        nodes.clear()

    def truncate(length):
        expect(0 <= length <= len(context), "length", f"0 to {len(context)}", length)
        del context[length:]

    def together(models, tokens, *, last=None):
        return [model.forward(each, last=last) for model, each in zip(models, tokens, strict=True)]

    return Model(
        vocab_size=len(weights["model.embed_tokens.weight"]),
        max_length=setting(config, "max_position_embeddings"),
        forward=forward,
        length=lambda: len(context),
        truncate=truncate,
        rope_changes_after=rope_changes_after(config),
        accept=accept,
        can_truncate=lambda length, appended=0: 0 <= length <= len(context) + appended,
        fresh=lambda: start(config, weights, kept=kept),
        together=together,
    )


def branch(tree, node):
    """The tokens from a child of the context down to this node."""
    token, parent = tree[node]
    return [*branch(tree, parent), token] if parent >= 0 else [token]


def check_tree(tokens, parents):
    expect(len(parents) == len(tokens), "parents", f"{len(tokens)} of them", len(parents))
    before = all(-1 <= parent < i for i, parent in enumerate(parents))
    expect(before, "parents", "of each token an earlier one, or -1", list(parents))


def rope_changes_after(config):
    scaling = rotation(config, 0).scaling
    return scaling.original_length if isinstance(scaling, (DynamicNTK, LongRoPE)) else None
