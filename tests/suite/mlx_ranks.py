"""Real processes on this machine, joined by MLX's ring back end."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

CLONE = Path(__file__).parents[2]
RANKS = 2
TRIES = 3  # another process may take a port between its choice and its use

# What the code of a rank begins with: the folder, the other arguments, and its end of the group.
START = """
import json, sys
from pathlib import Path

from runtime import blas

blas.preload()
import mlx.core as mx
import numpy as np

from solution.processes import mlx_collective

folder, given = Path(sys.argv[1]), json.loads(sys.argv[2])
collective = mlx_collective(mx.distributed.init(strict=True, backend="ring"))
here, there = collective.rank, 1 - collective.rank
arrays = {name: mx.array(array) for name, array in np.load(folder / "given.npz").items()}
"""

# And what it ends with: nobody leaves while another still sends.
END = """
collective.all_gather(mx.array(0))
"""


def run_ranks(code, folder, given):
    """Runs the code once a rank, at the same time. It finds `given`, and the arrays of given.npz."""
    for _ in range(TRIES):
        wrong = _run_once(START + code + END, folder, json.dumps(given))
        if not any(wrong):
            return
    pytest.fail("\n".join(f"rank {rank}: {said}" for rank, said in enumerate(wrong)), pytrace=False)


def _run_once(code, folder, given):
    """What went wrong on each rank, "" for nothing."""
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in _free_ports()]))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), given],
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


def _free_ports():
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in (one, other)]
