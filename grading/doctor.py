"""`week3 doctor`: what this machine offers for grading, what is missing, and what mends it."""

import os
import subprocess
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grading.clone import ROOT, UsageError, check_clone
from runtime import blas, environment
from runtime.environment import Fact
from runtime.sandbox import Unavailable, best_tier, why_not
from runtime.sandbox.values import TIER_NAMES

MEASURE = "from runtime import blas; blas.preload(); print(blas.measure_gflops(repeats=2))"
FAST_ENOUGH = 4  # times the BLAS that MLX's own wheel carries; the real gain is about 25


def doctor(console: Console) -> int:
    """Prints the table. 0 when this machine can grade, 1 when something essential is missing."""
    facts = [
        environment.python(),
        environment.packages(),
        environment.torch(),
        _clone(),
        environment.revision(ROOT),
        environment.compiler(),
        environment.graphics(),
    ]
    blas.preload()
    facts.append(environment.mlx())
    if not facts[-1].essential:
        facts.append(_blas())
    facts += _isolation()

    table = Table("", "found", "mend it by")
    for fact in facts:
        style = "red" if fact.essential else "yellow" if fact.mend else ""
        table.add_row(fact.name, Text(fact.found, style), Text(fact.mend, style))
    console.print(table)

    missing = [fact.name for fact in facts if fact.essential]
    console.print(f"Cannot grade yet: {', '.join(missing)}." if missing else "Ready to grade.")
    return 1 if missing else 0


def _clone() -> Fact:
    try:
        check_clone()
    except UsageError as error:
        return Fact("Clone", str(error), environment.INSTALL, essential=True)
    return Fact("Clone", str(ROOT))


def _blas() -> Fact:
    speed = blas.measure_gflops()
    found = f"{blas.in_use()}: {speed:.0f} GFLOP/s in float32"
    if not blas.preload().startswith("preloaded"):
        return Fact("BLAS", found)
    stock = _stock_gflops()
    found += f"; MLX's own: {stock:.0f}"
    too_slow = speed < FAST_ENOUGH * stock
    return Fact("BLAS", found, f"{blas.SWITCH}=stock week3 … (it is no faster here)" if too_slow else "")


def _stock_gflops() -> float:
    """In a process of its own: which BLAS MLX takes is settled when it is imported."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", MEASURE],
        env={**os.environ, blas.SWITCH: "stock"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def _isolation() -> list[Fact]:
    try:
        best = best_tier()
    except Unavailable as error:
        return [Fact("Isolation", "none", str(error), essential=True)]
    facts = [
        Fact("Isolation", best.name),
        Fact("… protects", "\n".join(best.protects)),
        Fact("… lacks", "\n".join(best.lacks)),
    ]
    better = TIER_NAMES[: TIER_NAMES.index(best.name)]
    return facts + [Fact(f"No {name}", "better isolation", why_not(name)) for name in better]
