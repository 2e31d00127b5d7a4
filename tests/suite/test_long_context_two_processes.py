"""A ring of two real processes, joined by MLX's ring back end on this machine."""

import numpy as np
import pytest

from grading.matching import assert_matches
from grading.truth import GroundTruth
from tests.suite.mlx_ranks import RANKS, run_ranks

TOKENS = 18
SHARES = {  # which positions each rank has
    "contiguous": [range(9), range(9, 18)],
    "striped": [range(0, 18, 2), range(1, 18, 2)],
    "zigzag": [[*range(4), *range(13, 18)], range(4, 13)],
    "uneven": [range(13), range(13, 18)],
    "first alone": [range(18), []],
    "second alone": [[], range(18)],
    "none": [[], []],
}
CASES = [
    pytest.param(name, causal, id=f"{name}, {'causal' if causal else 'all'}")
    for name in SHARES
    for causal in (True, False)
]

RANK = """
from solution.long_context import ring_attention

for name, shares in given.items():
    mine = mx.array(shares[here], mx.int32)
    q, k, v = (arrays[each][:, :, mine] for each in "qkv")
    for causal in (True, False):
        out = ring_attention(q, k, v, mine, collective=collective, causal=causal)
        np.save(folder / f"{name}_{causal}_{here}.npy", np.asarray(out))

# 16 MiB each of keys and values: more than sockets hold, so each must receive while it sends.
much = mx.full((1, 1, 1 << 8, 1 << 14), float(here))
ids = mx.arange(much.shape[2])
out = ring_attention(mx.zeros(much.shape), much, much, ids, collective=collective, causal=False)
np.save(folder / f"much_{here}.npy", np.asarray(out[0, 0, :, 0]))
"""


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(7)
    heads = {"q": 6, "k": 2, "v": 2}
    return {name: rng.standard_normal((2, n, TOKENS, 5)).astype(np.float32) for name, n in heads.items()}


@pytest.fixture(scope="module")
def results(given, tmp_path_factory):
    """The folder in which each rank has left what it computed."""
    folder = tmp_path_factory.mktemp("ranks")
    np.savez(folder / "given.npz", **given)
    run_ranks(RANK, folder, {name: [list(each) for each in shares] for name, shares in SHARES.items()})
    return folder


@pytest.mark.parametrize(("name", "causal"), CASES)
def test_two_processes_attend_as_one_does(given, results, name, causal):
    order = np.concatenate([np.array(each, int) for each in SHARES[name]])
    q, k, v = (given[each][:, :, order] for each in "qkv")
    expected = GroundTruth("long_context").whole_attention(q, k, v, order, causal)
    parts = [np.load(results / f"{name}_{causal}_{rank}.npy") for rank in range(RANKS)]
    assert [part.shape[2] for part in parts] == [len(each) for each in SHARES[name]]
    assert_matches(np.concatenate(parts, axis=2), expected)


def test_shards_pass_each_other(results):
    """Keys of 0 and 1, values alike, queries of 0: the mean of all values."""
    for rank in range(RANKS):
        assert (np.load(results / f"much_{rank}.npy") == 0.5).all()
