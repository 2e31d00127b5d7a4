"""Experts spread over two real processes, joined by MLX's ring back end on this machine."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grading.matching import assert_matches
from grading.truth import GroundTruth
from spec.moe import ExpertWeights, RouterConfig, SharedExpert

CLONE = Path(__file__).parents[2]
RANKS = 2
TRIES = 3  # another process may take a port between its choice and its use
SPLITS = [(9, 9), (13, 5), (18, 0), (0, 18), (0, 0)]  # tokens of each rank

RANK = """
import json, sys
from pathlib import Path

from runtime import blas

blas.preload()
import mlx.core as mx
import numpy as np

from solution.moe import expert_parallel_ffn
from solution.moe.processes import mlx_collective
from spec.moe import ExpertWeights, RouterConfig, SharedExpert

folder, splits = Path(sys.argv[1]), json.loads(sys.argv[2])
group = mx.distributed.init(strict=True, backend="ring")
collective = mlx_collective(group)
here, there = collective.rank, 1 - collective.rank

given = {name: mx.array(array) for name, array in np.load(folder / "given.npz").items()}
local = len(given["up"]) // collective.size
mine = slice(here * local, (here + 1) * local)
experts = ExpertWeights(given["gate"][mine], given["up"][mine], given["down"][mine])
shared = SharedExpert(given["shared_gate"], given["shared_up"], given["shared_down"])
for i, split in enumerate(splits):
    first = sum(split[:here])
    x = given["x"][first : first + split[here]]
    out = expert_parallel_ffn(
        x, given["router"], experts, RouterConfig(2, normalize=True), collective=collective, shared=shared
    )
    np.save(folder / f"y_{i}_{here}.npy", np.asarray(out.y))

much = (1 << 22,)  # 16 MiB: more than sockets hold, so each must receive while it sends
collective.send(mx.full(much, float(here)), there)
np.save(folder / f"much_{here}.npy", np.asarray(collective.recv(much, "float32", there))[:: 1 << 20])
collective.all_gather(mx.array(0))  # nobody leaves while another still sends
"""


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def free_ports():
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in (one, other)]


def run_ranks(folder):
    """What went wrong on each rank, "" for nothing."""
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports()]))
    command = [sys.executable, "-c", RANK, str(folder), json.dumps(SPLITS)]
    ranks = [
        subprocess.Popen(
            command,
            cwd=CLONE,
            env={**os.environ, "MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank), "MLX_ENABLE_TF32": "0"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    wrong = []
    for rank in ranks:
        try:
            said = rank.communicate(timeout=30)[1]
        except subprocess.TimeoutExpired:
            rank.kill()
            said = f"no end after 30 s\n{rank.communicate()[1]}"
        wrong.append(said if rank.returncode else "")
    return wrong


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
    for _ in range(TRIES):
        wrong = run_ranks(folder)
        if not any(wrong):
            return folder
    pytest.fail("\n".join(f"rank {rank}: {said}" for rank, said in enumerate(wrong)), pytrace=False)


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
