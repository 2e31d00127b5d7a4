"""The fast BLAS is fast, right, and can be switched off."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CLONE = Path(__file__).parents[2]

MEASURE = """
import json, os, sys
from runtime import blas

said = blas.preload()
import mlx.core as mx
import numpy as np

rng = np.random.default_rng(7)
a, b = (rng.standard_normal((96, 64), dtype=np.float32) for _ in range(2))
product = np.array(mx.array(a) @ mx.array(b).T)
print(json.dumps({
    "said": said, "again": blas.preload(), "in_use": blas.in_use(), "gflops": blas.measure_gflops(),
    "product": product.tolist(), "torch": "torch" in sys.modules, "tf32": os.environ.get("MLX_ENABLE_TF32"),
}))
"""


def measured(choice: str) -> dict[str, Any]:
    env = {**os.environ, "WEEK3_BLAS": choice}
    python = [sys.executable, "-B", "-c", MEASURE]
    done = subprocess.run(python, env=env, cwd=CLONE, capture_output=True, text=True, check=True, timeout=60)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def fast() -> dict[str, Any]:
    return measured("")


@pytest.fixture(scope="module")
def stock() -> dict[str, Any]:
    return measured("stock")


def test_the_preloaded_blas_is_at_least_four_times_as_fast(fast, stock):
    if fast["said"].startswith("nothing to preload"):
        assert fast["in_use"].startswith("MLX's own")
    else:
        assert fast["said"].startswith("preloaded")
        assert fast["in_use"] == "libtorch_cpu.so (fast)"
        assert fast["gflops"] >= 4 * stock["gflops"]


def test_only_linux_on_the_cpu_wheel_has_something_to_preload(fast):
    if sys.platform != "linux":
        assert fast["said"].startswith("nothing to preload")


def test_it_can_be_switched_off(stock):
    assert stock["in_use"].startswith("MLX's own")


def test_preloading_twice_is_preloading_once(fast):
    assert fast["again"] == fast["said"]


def test_pytorch_is_not_imported(fast):
    assert not fast["torch"]


def test_both_agree_within_the_error_of_float32(fast, stock):
    rng = np.random.default_rng(7)
    a, b = (rng.standard_normal((96, 64), dtype=np.float32).astype(np.float64) for _ in range(2))
    # A sum of n products in any order: n u |a| |b|, where u is half a unit in the last place of 1.
    allowed = 64 * np.finfo(np.float32).eps / 2 * (np.abs(a) @ np.abs(b).T)
    for one in (fast, stock):
        assert (np.abs(np.array(one["product"]) - a @ b.T) <= allowed).all()


def test_after_mlx_it_is_too_late_and_says_so():
    late = "import mlx.core; from runtime import blas; print(blas.preload())"
    python = [sys.executable, "-B", "-c", late]
    done = subprocess.run(python, cwd=CLONE, capture_output=True, text=True, check=True)
    assert "imported before" in done.stdout or sys.platform != "linux"


@pytest.mark.parametrize("choice", ["", "stock"])
def test_float32_is_float32_on_a_gpu_as_well(choice: str) -> None:
    """Whatever the BLAS: MLX reads the switch when it is imported."""
    assert measured(choice)["tf32"] == "0"


@pytest.mark.skipif(sys.platform != "linux", reason="MLX's own products on macOS know no OpenMP")
def test_threads_of_what_is_judged_wait_asleep():
    start = "from grading.boundary import frameworks; frameworks.start('mlx')"
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    env["OMP_DISPLAY_ENV"] = "verbose"  # it says what it took
    python = [sys.executable, "-B", "-c", start]
    done = subprocess.run(python, env=env, cwd=CLONE, capture_output=True, text=True, check=True)
    assert "GOMP_SPINCOUNT = '0'" in done.stderr
