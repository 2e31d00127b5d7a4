"""Inputs for the tests of mixture of experts, built so that nothing can hide in them.

Experts, choices, tokens and widths are pairwise distinct. Scores that decide are clearly apart, since nearer
than rounding either decision is right; ties are tested with values that are equal in every dtype.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from grading.matching import assert_integers, assert_matches
from grading.truth import Expected
from spec.moe import ExpertWeights, MoEOutput, RouterConfig, Routing, SharedExpert

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

SEEDS = st.integers(0, 2**32 - 1)
ROUTED = 16  # columns that a router looks at: the order of a short sum hardly shows in its few results
CLEAR = 2**-12  # scores at least this far apart: thousands of times the rounding of float32


@dataclass(frozen=True)
class Size:
    experts: int
    width: int  # of the model, D
    inner: int  # of an expert, F


SIZES = st.sampled_from([Size(6, 5, 7), Size(8, 10, 4), Size(4, 3, 9)])


def normal(rng, shape, dtype="float32", magnitude=1.0):
    return (magnitude * rng.standard_normal(shape)).astype(DTYPES[dtype])


# Logits whose decisions are clear


def is_clear(row, config, bias=None, dtype="float32"):
    """Whether no decision hangs on rounding, to `dtype` too where the config lets logits be rounded to it."""
    row = row.astype(np.float64)
    if config.router_dtype == "activations" and dtype != "float32":
        steps = 4 * float(ml_dtypes.finfo(DTYPES[dtype]).eps) * np.abs(row).max()
        if not apart(np.sort(row)[::-1][: config.top_k + 1], steps):
            return False
    if config.scoring == "softmax":
        choice = np.exp(row - row.max())
        choice = choice / choice.sum()
    else:
        choice = row if config.scoring == "softmax_of_topk" else 1 / (1 + np.exp(-row))
    choice = choice if bias is None else choice + bias
    groups = choice.reshape(config.n_groups, -1)
    if config.n_groups > 1:
        best = np.sort(groups, axis=1)[:, -2:]
        scores = best[:, -1] if config.group_score == "max" else best.sum(axis=1)
        ranked = np.argsort(-scores)
        if not apart(scores[ranked[: config.top_groups + 1]]):
            return False
        groups = groups[ranked[: config.top_groups]]
    return apart(np.sort(groups.reshape(-1))[::-1][: config.top_k + 1])


def apart(descending, distance=CLEAR):
    return bool((-np.diff(descending) > distance).all())


def clear_logits(rng, tokens, n_experts, config, *, bias=None, dtype="float32", spread=3.0):
    """(tokens, n_experts) between −spread and spread."""
    rows = []
    while len(rows) < tokens:
        grid = rng.permutation(n_experts) + 0.4 * rng.random(n_experts)
        row = (spread * (2 * grid / n_experts - 1)).astype(DTYPES[dtype])
        if is_clear(row, config, bias, dtype):
            rows.append(row)
    return np.array(rows, DTYPES[dtype]).reshape(tokens, n_experts)


# Layers


@dataclass(frozen=True)
class Layer:
    """The arguments of `moe_ffn`."""

    x: np.ndarray
    router_weight: np.ndarray
    experts: Any
    config: RouterConfig
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, module):
        return module.moe_ffn(self.x, self.router_weight, self.experts, self.config, **self.options)

    def with_options(self, **options):
        return replace(self, options={**self.options, **options})

    def __repr__(self):
        shapes = f"tokens={len(self.x)}, experts={len(self.router_weight)}, width={self.x.shape[1]}"
        changed = [f for f in fields(self.config) if getattr(self.config, f.name) != f.default]
        config = ", ".join(f"{f.name}={getattr(self.config, f.name)!r}" for f in changed)
        return f"Layer({shapes}, dtype={self.x.dtype}, RouterConfig({config}), {', '.join(self.options)})"

    def _repr_pretty_(self, printer, cycle):
        printer.text(repr(self))  # what Hypothesis prints; it would spell the arrays out


def layer(
    seed,
    config,
    tokens,
    size,
    *,
    dtype="float32",
    weights=None,
    gate=True,
    activation="silu",
    biases=False,
    shared=None,
    router_bias=False,
    selection_bias=False,
    magnitude=1.0,
    positive=False,
    **limits,
):
    """Normal weights, and tokens whose routing is clear.

    dtype: of x. weights: the dtype of all else, if it is another. shared: None, "plain" or "gated".
    positive: nothing in x and in the experts' matrices is below 0.
    """
    weights = dtype if weights is None else weights
    rng = np.random.default_rng(seed)
    width, count = size.width, size.experts
    router_weight = normal(rng, (count, width), weights)
    router_weight[:, ROUTED:] = 0
    options = {}
    if router_bias:
        options["router_bias"] = normal(rng, (count,), weights)
    if selection_bias:
        options["selection_bias"] = normal(rng, (count,), magnitude=0.5)
    if shared is not None:
        options["shared"] = shared_expert(rng, width, weights, gated=shared == "gated")
    experts = expert_weights(rng, size, weights, gate=gate, biases=biases, magnitude=magnitude)
    experts = replace(experts, activation=activation, **limits)
    if positive:
        matrices = {name: getattr(experts, name) for name in ("gate", "up", "down")}
        experts = replace(experts, **{name: abs(matrix) for name, matrix in matrices.items()})
    x = clear_tokens(rng, tokens, router_weight, config, options, dtype, positive)
    return Layer(x, router_weight, experts, config, options)


def clear_tokens(rng, tokens, router_weight, config, options, dtype, positive=False):
    rows = []
    while len(rows) < tokens:
        row = normal(rng, router_weight.shape[1:], dtype)
        row = abs(row) if positive else row
        logits = router_weight.astype(np.float64) @ row.astype(np.float64)
        logits = logits + options.get("router_bias", np.zeros(1)).astype(np.float64)
        if is_clear(logits, config, options.get("selection_bias"), dtype):
            rows.append(row)
    return np.array(rows, DTYPES[dtype]).reshape(tokens, router_weight.shape[1])


def expert_weights(rng, size, dtype="float32", *, gate=True, biases=False, magnitude=1.0):
    count, width, inner = size.experts, size.width, size.inner

    def matrix(rows, columns):
        return normal(rng, (count, rows, columns), dtype, magnitude / np.sqrt(columns))

    return ExpertWeights(
        gate=matrix(inner, width) if gate else None,
        up=matrix(inner, width),
        down=matrix(width, inner),
        gate_bias=normal(rng, (count, inner), dtype) if gate and biases else None,
        up_bias=normal(rng, (count, inner), dtype) if biases else None,
        down_bias=normal(rng, (count, width), dtype) if biases else None,
    )


def shared_expert(rng, width, dtype="float32", *, gated=False):
    inner = width + 6
    return SharedExpert(
        gate=normal(rng, (inner, width), dtype, 0.5),
        up=normal(rng, (inner, width), dtype, 0.5),
        down=normal(rng, (width, inner), dtype, 0.5),
        gate_weight=normal(rng, (width,), dtype) if gated else None,
    )


@st.composite
def layers(draw, config=None, min_tokens=1, **options):
    config = draw(CONFIGS) if config is None else config
    tokens = draw(st.sampled_from([1, 2, 5]).filter(lambda n: n >= min_tokens))
    return layer(draw(SEEDS), config, tokens, draw(SIZES), **options)


GROUPED = RouterConfig(2, "sigmoid", True, n_groups=2, top_groups=1, scale=2.5)
CONFIGS = st.sampled_from([RouterConfig(2, normalize=True), RouterConfig(3), RouterConfig(1), GROUPED])


# Comparing


def part(expected, rows):
    """Some rows of an expected array."""
    return Expected(expected.value[rows], expected.dtype, expected.allowed)


def rows_of(output, rows):
    """These tokens' rows of a layer's output."""
    routing = Routing(output.routing.experts[rows], output.routing.weights[rows])
    return MoEOutput(output.y[rows], routing, output.logits[rows])


def by_id(ids, values):
    """Each row's values in the order of its ids."""
    if values.shape != ids.shape:
        return values  # its shape is what the comparison will tell
    return np.take_along_axis(values, np.argsort(ids, axis=-1, kind="stable"), axis=-1)


def assert_experts(actual, expected):
    """The same experts in each row, in any order: their order is a claim of its own, MOE-02."""
    expected = np.asarray(expected)
    assert_integers(by_id(actual, actual), by_id(expected, expected), "experts, by id")


def assert_routing(actual, expected, rows=slice(None)):
    """The same experts with the same weights, in any order."""
    ids, truth = expected.experts[rows], part(expected.weights, rows)
    assert_experts(actual.experts[rows], ids)
    weights = by_id(actual.experts[rows], actual.weights[rows])
    assert_matches(weights, replace(truth, value=by_id(ids, truth.value)), "weights, by the expert's id")


def assert_output(actual, expected, rows=slice(None)):
    """The same layer output, in these rows."""
    assert_matches(actual.logits[rows], part(expected.logits, rows), "logits")
    assert_routing(actual.routing, expected.routing, rows)
    assert_matches(actual.y[rows], part(expected.y, rows), "y")


def assert_dispatch(actual, expected):
    assert_integers(actual.order, expected.order, "order")
    assert_integers(actual.offsets, expected.offsets, "offsets")
    assert actual.kept.dtype == bool, f"kept: expected bool, got {actual.kept.dtype}"
    assert actual.kept.shape == expected.kept.shape, f"kept: expected shape {expected.kept.shape}"
    assert (actual.kept == expected.kept).all(), f"kept: expected {expected.kept}, got {actual.kept}"
