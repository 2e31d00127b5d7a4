"""A mixture-of-experts layer in MLX against what else one would run, on the same BLAS.

Every contender is given tokens and computes the whole layer, router included; they take turns (`races.py`).
Beside each stands the floor: the time that the weights of the chosen experts take to cross the memory bus
once, or that the multiplications take at the speed of a large matrix product, whichever is longer. Times are
printed, not asserted.

Top 2 of E experts, D wide, F inside, float32, except where it says otherwise.
"""

from runtime import blas

blas.preload()  # before MLX is imported

from collections.abc import Callable, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from functools import cache, partial  # noqa: E402
from types import SimpleNamespace  # noqa: E402
from typing import Any  # noqa: E402

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from solution.moe import moe_ffn, route  # noqa: E402
from spec.moe import ExpertWeights, QuantizedExpertWeights, QuantizedMatrix, RouterConfig  # noqa: E402
from tests.week3.races import (  # noqa: E402
    Row,
    above,
    agree,
    measure,
    product_speed,
    race,
    read_bandwidth,
    show,
)

SMALL = (8, 512, 1024)  # E, D, F
LARGE = (64, 512, 512)
GROUP_SIZE, BITS = 64, 4
# A single token is measured as one of 16, one after another, so that experts come from memory and not from
# the cache, as they do when a model generates: all its other layers lie between two visits.
IN_TURN = 16
ROUNDS = 10


# What is measured -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    router: mx.array  # (E, D)
    gate: mx.array  # (E, F, D)
    up: mx.array
    down: mx.array  # (E, D, F)
    config: RouterConfig

    @property
    def n_experts(self) -> int:
        return self.router.shape[0]

    @property
    def expert_size(self) -> int:
        """Weights of one expert."""
        return 3 * self.gate.shape[1] * self.gate.shape[2]


Contender = Callable[[Layer], Callable[[mx.array], Any]]  # (T, D) -> (T, D), of its framework


@cache
def layer(n_experts: int, width: int, inner: int, top_k: int = 2) -> Layer:
    rng = np.random.default_rng(0)
    shapes = [(n_experts, width), *[(n_experts, inner, width)] * 2, (n_experts, width, inner)]
    weights = [
        mx.array(rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))) for shape in shapes
    ]
    mx.eval(weights)
    return Layer(*weights, RouterConfig(top_k, normalize=True))


@cache
def batches(tokens: int, width: int) -> list[mx.array]:
    """What a contender is given in one turn, call by call."""
    rng = np.random.default_rng(1)
    calls = IN_TURN if tokens == 1 else 1
    xs = [mx.array(rng.standard_normal((tokens, width), np.float32)) for _ in range(calls)]
    mx.eval(xs)
    return xs


def solution(w: Layer) -> Callable[[mx.array], mx.array]:
    experts = ExpertWeights(w.gate, w.up, w.down)
    return lambda x: moe_ffn(x, w.router, experts, w.config).y


def topk(w: Layer, x: mx.array) -> tuple[mx.array, mx.array]:
    """Experts and weights as mlx-lm chooses them."""
    logits, k = x @ w.router.T, w.config.top_k
    ids = mx.argpartition(-logits, kth=k - 1, axis=-1)[:, :k]
    return ids, mx.softmax(mx.take_along_axis(logits, ids, axis=-1), axis=-1, precise=True)


def dense(w: Layer) -> Callable[[mx.array], mx.array]:
    """Every token through every expert, most of them times 0."""

    def run(x: mx.array) -> mx.array:
        ids, weights = topk(w, x)
        all_weights = mx.put_along_axis(mx.zeros((x.shape[0], w.n_experts)), ids, weights, axis=1)
        gate, up = x @ w.gate.swapaxes(1, 2), x @ w.up.swapaxes(1, 2)  # (E, T, F)
        out = (gate * mx.sigmoid(gate) * up) @ w.down.swapaxes(1, 2)  # (E, T, D)
        return (out * all_weights.T[:, :, None]).sum(axis=0)

    return run


def loop(w: Layer) -> Callable[[mx.array], mx.array]:
    """Expert after expert: its tokens gathered, three products, added where they belong."""

    def run(x: mx.array) -> mx.array:
        ids, weights = topk(w, x)
        chosen = np.asarray(ids)
        y = mx.zeros(x.shape)
        for e in np.unique(chosen).tolist():
            token, choice = (mx.array(where) for where in np.nonzero(chosen == e))
            rows = x[token]
            gate, up = rows @ w.gate[e].T, rows @ w.up[e].T
            out = (gate * mx.sigmoid(gate) * up) @ w.down[e].T
            y = y.at[token].add(out * weights[token, choice][:, None])
        return y

    return run


def switch_glu(w: Layer) -> Callable[[mx.array], mx.array]:
    """mlx-lm's Mixtral block, the router and SwitchGLU."""
    from mlx_lm.models.mixtral import MixtralSparseMoeBlock

    block = MixtralSparseMoeBlock(
        SimpleNamespace(
            hidden_size=w.gate.shape[2],
            intermediate_size=w.gate.shape[1],
            num_local_experts=w.n_experts,
            num_experts_per_tok=w.config.top_k,
        )
    )
    block.gate.weight = w.router
    block.switch_mlp.gate_proj.weight = w.gate
    block.switch_mlp.up_proj.weight = w.up
    block.switch_mlp.down_proj.weight = w.down
    return block


def pytorch(w: Layer) -> Callable[[mx.array], Any]:
    """PyTorch: expert after expert, as transformers does it, on the threads that PyTorch takes by itself."""
    import torch

    def shared(a: mx.array) -> Any:
        return torch.from_numpy(np.asarray(a))

    functional = torch.nn.functional
    router, gate, up, down = (shared(a) for a in (w.router, w.gate, w.up, w.down))

    @torch.inference_mode()
    def run(x: mx.array) -> Any:
        x = shared(x)
        scores = functional.softmax(functional.linear(x, router), dim=-1)
        weights, ids = scores.topk(w.config.top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        y = torch.zeros_like(x)
        for e in torch.bincount(ids.flatten(), minlength=w.n_experts).nonzero().flatten().tolist():
            token, choice = torch.where(ids == e)
            rows = x[token]
            hidden = functional.silu(functional.linear(rows, gate[e])) * functional.linear(rows, up[e])
            y.index_add_(0, token, functional.linear(hidden, down[e]) * weights[token, choice, None])
        return y

    return run


def quantized_solution(w: Layer) -> Callable[[mx.array], mx.array]:
    matrices = [QuantizedMatrix(*mx.quantize(a, GROUP_SIZE, BITS)) for a in (w.gate, w.up, w.down)]
    experts = QuantizedExpertWeights(*matrices, bits=BITS, group_size=GROUP_SIZE)
    return lambda x: moe_ffn(x, w.router, experts, w.config).y


def quantized_switch_glu(w: Layer) -> Callable[[mx.array], mx.array]:
    block = switch_glu(w)
    experts = block.switch_mlp
    for name in ("gate_proj", "up_proj", "down_proj"):
        setattr(experts, name, getattr(experts, name).to_quantized(GROUP_SIZE, BITS))
    return block


ALL: dict[str, Contender] = {
    "dense over all experts": dense,
    "loop over experts": loop,
    "SwitchGLU": switch_glu,
    "PyTorch loop": pytorch,
    "moe_ffn": solution,
}


# Taking turns ---------------------------------------------------------------------------------------------


def each(contender: Callable[[mx.array], Any], xs: list[mx.array]) -> list[Any]:
    return [contender(x) for x in xs]


def race_over(contenders: Sequence[Callable[[mx.array], Any]], xs: list[mx.array]) -> list[float]:
    """Best seconds a call of each, over all xs in turn; all give the same result."""
    for x in xs[:2]:
        agree([partial(contender, x) for contender in contenders])
    times = race([partial(each, contender, xs) for contender in contenders], ROUNDS)
    return [seconds / len(xs) for seconds in times]


def floor(w: Layer, xs: list[mx.array], bytes_a_weight: float = 4.0) -> float:
    """Seconds a call: the weights of the chosen experts read once, or the operations done."""
    seconds = 0.0
    for x in xs:
        chosen = np.unique(np.asarray(route(x @ w.router.T, w.config).experts))
        read = len(chosen) * w.expert_size * bytes_a_weight / read_bandwidth()
        operations = 2 * x.shape[0] * w.config.top_k * w.expert_size
        seconds += max(read, operations / product_speed())
    return seconds / len(xs)


def layer_rows(
    shape: tuple[int, int, int], tokens: int, contenders: dict[str, Contender], bars: dict[str, float]
) -> list[Row]:
    """All contenders, the solution last; then the solution against each rival that has a bar."""
    w, xs = layer(*shape), batches(tokens, shape[1])
    times = dict(zip(contenders, race_over([make(w) for make in contenders.values()], xs), strict=True))
    least = floor(w, xs)
    setting = f"{shape}, {tokens} token{'s' if tokens > 1 else ''}"
    own = times["moe_ffn"]
    rows = [Row(f"{setting}: {name}", s, s / own, "", True, above(s, least)) for name, s in times.items()]
    for rival, bar in bars.items():
        ratio = times[rival] / own
        name = f"{setting}: moe_ffn against {rival}"
        rows.append(Row(name, own, ratio, f"at least {bar} x faster", ratio >= bar, above(own, least)))
    return rows


def small_rows() -> list[Row]:
    return [
        *layer_rows(SMALL, 1, ALL, {"SwitchGLU": 1.0, "PyTorch loop": 1.1}),
        *layer_rows(SMALL, 128, ALL, {"SwitchGLU": 2.0, "PyTorch loop": 1.15}),
        *layer_rows(SMALL, 1024, ALL, {"SwitchGLU": 3.0, "PyTorch loop": 1.0}),
    ]


def large_rows() -> list[Row]:
    """Level with the better of the two is level with both."""
    return [
        row
        for tokens in (1, 128, 1024)
        for row in layer_rows(LARGE, tokens, ALL, {"SwitchGLU": 1.0, "PyTorch loop": 1.0})
    ]


def growth_rows() -> list[Row]:
    """The ratio is time over that of the first: experts cost nothing until a token chooses them."""
    settings = {
        f"{tokens} tokens, 2 of {n} experts": (layer(n, 512, 512), tokens)
        for tokens in (1, 1024)
        for n in (8, 16, 32, 64)
    }
    settings |= {f"128 tokens, {k} of 8 experts": (layer(*SMALL, k), 128) for k in (1, 2, 4, 8)}
    rows: list[Row] = []
    first: dict[int, float] = {}
    for name, (w, tokens) in settings.items():
        xs = batches(tokens, w.router.shape[1])
        (seconds,) = race_over([solution(w)], xs)
        first.setdefault(tokens, seconds)
        rows.append(Row(name, seconds, seconds / first[tokens], "", True, above(seconds, floor(w, xs))))
    return rows


def quantized_rows() -> list[Row]:
    rows = []
    w = layer(*SMALL)
    for tokens in (1, 16, 128):
        xs = batches(tokens, SMALL[1])
        theirs, own = race_over([quantized_switch_glu(w), quantized_solution(w)], xs)
        least = floor(w, xs, BITS / 8 + 2 * 4 / GROUP_SIZE)  # codes, and a scale and a bias for each group
        setting = f"{SMALL}, {BITS} bit, {tokens} token{'s' if tokens > 1 else ''}"
        rows.append(Row(f"{setting}: SwitchGLU", theirs, theirs / own, "", True, above(theirs, least)))
        met = theirs / own >= 1
        rows.append(
            Row(f"{setting}: moe_ffn", own, theirs / own, "at least 1.0 x faster", met, above(own, least))
        )
    return rows


def report() -> list[Row]:
    """Every bar, measured in this process."""
    return [*small_rows(), *large_rows(), *growth_rows(), *quantized_rows()]


# For pytest-benchmark -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 128, 1024])
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=str)
@pytest.mark.parametrize("contender", ALL.values(), ids=ALL)
def test_layer(benchmark, contender, shape, tokens):
    xs = batches(tokens, shape[1])
    measure(
        benchmark, f"{shape}, {tokens} tokens, {len(xs)} calls", partial(each, contender(layer(*shape)), xs)
    )


@pytest.mark.parametrize("tokens", [1, 16, 128])
@pytest.mark.parametrize("contender", [quantized_switch_glu, quantized_solution])
def test_quantized_layer(benchmark, contender, tokens):
    xs = batches(tokens, SMALL[1])
    measure(
        benchmark,
        f"{BITS} bit, {tokens} tokens, {len(xs)} calls",
        partial(each, contender(layer(*SMALL)), xs),
    )


def test_report(benchmark, capsys):
    show(benchmark, capsys, report)
