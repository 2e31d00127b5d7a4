"""Contenders that take turns within one process, and how their times are reported.

Best times are compared: neighbours on the machine only ever add time. A turn is two runs, of which the second
counts: a contender finds caches, heap and threads as it left them, and not as its rival did.
"""

from runtime import blas

blas.preload()  # before MLX is imported

import os  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from functools import cache  # noqa: E402
from typing import Any  # noqa: E402

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402

Run = Callable[[], Any]  # () -> an array or a list of arrays


@dataclass(frozen=True)
class Row:
    """One contender. `bar` is empty for those that others are measured against, `floor` if none is known."""

    name: str
    seconds: float
    ratio: float
    bar: str
    met: bool
    floor: str


def evaluate(result: Any) -> None:
    results = result if isinstance(result, list) else [result]
    mx.eval([each for each in results if isinstance(each, mx.array)])  # PyTorch has computed already


def agree(contenders: Sequence[Run]) -> None:
    """All give the same, up to what the order of sums explains."""
    first, *others = [np.asarray(contender()) for contender in contenders]
    for other in others:
        assert np.abs(first - other).max() <= 1e-5 * max(1, np.abs(first).max())


def race(contenders: Sequence[Run], rounds: int) -> list[float]:
    """Best seconds of each; all take their turn in every round."""
    best = [float("inf")] * len(contenders)
    for _ in range(rounds):
        for i, contender in enumerate(contenders):
            evaluate(contender())
            start = time.perf_counter()
            evaluate(contender())
            best[i] = min(best[i], time.perf_counter() - start)
    return best


@cache
def read_bandwidth() -> float:
    """Bytes a second that all cores together read from the host's memory."""
    workers = os.cpu_count() or 1
    parts = [np.ones(1 << 24, np.float32) for _ in range(workers)]  # 64 MiB each: no cache holds them
    best = float("inf")
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(10):
            start = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = min(best, time.perf_counter() - start)
    return workers * parts[0].nbytes / best


@cache
def product_speed() -> float:
    """Operations a second of a large matrix product."""
    return blas.measure_gflops(repeats=10) * 1e9


def above(seconds: float, floor: float) -> str:
    """How far a time is from the least possible."""
    return f"{floor * 1e3:.2f} ms, {seconds / floor:.1f} x"


def measure(benchmark: Any, group: str, run: Run) -> None:
    """One contender for pytest-benchmark."""
    benchmark.group = group
    benchmark.pedantic(lambda: evaluate(run()), rounds=7, warmup_rounds=1)


def show(benchmark: Any, capsys: Any, report: Callable[[], list[Row]]) -> None:
    """All contenders in turns: the ratios that count."""
    benchmark.group = "report"
    measured = benchmark.pedantic(report, rounds=1)
    with capsys.disabled():
        print(f"\nread bandwidth {read_bandwidth() / 1e9:.1f} GB/s, {blas.preload()}")
        for row in measured:
            bar = f"{row.bar}: {'met' if row.met else 'missed'}" if row.bar else ""
            floor = f"floor {row.floor}" if row.floor else ""
            print(f"{row.name:<64} {row.seconds * 1e3:9.3f} ms  {row.ratio:6.2f}  {floor:<28}  {bar}")
