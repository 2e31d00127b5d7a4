"""Arithmetic and checks that all parts share."""

import numpy as np

from spec import InvalidArgument

WORK = np.float64  # all arithmetic; the suite also runs it with float32 here, to derive its tolerances


def expect(condition, argument, expected, got):
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def setting(config, key):
    expect(config.get(key) is not None, key, "a value in the config", "none")
    return config[key]


def tensor(weights, name):
    expect(name in weights, name, "a tensor", "none")
    return weights[name].astype(WORK)


def linear(weights, name, x):
    """(…, inputs) -> (…, outputs). The weight is (outputs, inputs); some have a bias, (outputs,)."""
    y = x @ tensor(weights, f"{name}.weight").T
    return y + tensor(weights, f"{name}.bias") if f"{name}.bias" in weights else y


def by_head(x, head_dim):
    """(tokens, heads · head_dim) -> (1, heads, tokens, head_dim), as attention takes it."""
    return x.reshape(len(x), -1, head_dim).swapaxes(0, 1)[None]


def in_rows(x):
    """What `by_head` undoes: (1, heads, tokens, head_dim) -> (tokens, heads · head_dim)."""
    return x[0].swapaxes(0, 1).reshape(x.shape[2], -1)
