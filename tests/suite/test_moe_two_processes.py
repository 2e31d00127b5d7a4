"""Experts spread over two real processes, joined by MLX's ring back end on this machine."""

import numpy as np
import pytest

from grading.matching import assert_matches
from grading.truth import GroundTruth
from spec.moe import ExpertWeights, RouterConfig, SharedExpert
from tests.suite.mlx_ranks import RANKS, run_ranks

SPLITS = [(9, 9), (13, 5), (18, 0), (0, 18), (0, 0)]  # tokens of each rank

RANK = """
from solution.moe import expert_parallel_ffn
from spec.moe import ExpertWeights, RouterConfig, SharedExpert

local = len(arrays["up"]) // collective.size
mine = slice(here * local, (here + 1) * local)
experts = ExpertWeights(arrays["gate"][mine], arrays["up"][mine], arrays["down"][mine])
shared = SharedExpert(arrays["shared_gate"], arrays["shared_up"], arrays["shared_down"])
config = RouterConfig(2, normalize=True)
for i, split in enumerate(given):
    first = sum(split[:here])
    x = arrays["x"][first : first + split[here]]
    out = expert_parallel_ffn(x, arrays["router"], experts, config, collective=collective, shared=shared)
    np.save(folder / f"y_{i}_{here}.npy", np.asarray(out.y))

much = (1 << 22,)  # 16 MiB: more than sockets hold, so each must receive while it sends
collective.send(mx.full(much, float(here)), there)
np.save(folder / f"much_{here}.npy", np.asarray(collective.recv(much, "float32", there))[:: 1 << 20])
"""


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def given():
    experts, width, inner, shared = 6, 5, 7, 3
    shapes = {
        "x": (18, width),
        "router": (experts, width),
        "gate": (experts, inner, width),
        "up": (experts, inner, width),
        "down": (experts, width, inner),
        "shared_gate": (shared, width),
        "shared_up": (shared, width),
        "shared_down": (width, shared),
    }
    return {name: normal([7, i], *shape) for i, (name, shape) in enumerate(shapes.items())}


@pytest.fixture(scope="module")
def results(given, tmp_path_factory):
    """The folder in which each rank has left what it computed."""
    folder = tmp_path_factory.mktemp("ranks")
    np.savez(folder / "given.npz", **given)
    run_ranks(RANK, folder, SPLITS)
    return folder


@pytest.mark.parametrize("i", range(len(SPLITS)), ids=str)
def test_two_processes_compute_what_one_does(given, results, i):
    x = given["x"][: sum(SPLITS[i])]
    expected = GroundTruth("moe").moe_ffn(
        x,
        given["router"],
        ExpertWeights(given["gate"], given["up"], given["down"]),
        RouterConfig(2, normalize=True),
        shared=SharedExpert(given["shared_gate"], given["shared_up"], given["shared_down"]),
    )
    parts = [np.load(results / f"y_{i}_{rank}.npy") for rank in range(RANKS)]
    assert [len(part) for part in parts] == list(SPLITS[i])
    assert_matches(np.concatenate(parts), expected.y)


def test_two_ranks_can_send_much_to_each_other_at_once(results):
    for rank in range(RANKS):
        assert (np.load(results / f"much_{rank}.npy") == 1 - rank).all()
