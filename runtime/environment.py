"""What this machine brings to a grading: facts, each with what mends it where something is amiss."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

OLDEST, TOO_NEW = (3, 11), (3, 14)
INSTALL = "pip install -e ."
PACKAGES = (
    "numpy",
    "scipy",
    "ml_dtypes",
    "pytest",
    "pytest-benchmark",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "typer",
    "rich",
)


@dataclass(frozen=True)
class Fact:
    name: str
    found: str
    mend: str = ""
    """The command that mends it, or empty where nothing is amiss."""
    essential: bool = False
    """Whether grading cannot do without the mending."""


def python() -> Fact:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if OLDEST <= sys.version_info[:2] < TOO_NEW:
        return Fact("Python", found)
    newest = f"{TOO_NEW[0]}.{TOO_NEW[1] - 1}"
    return Fact("Python", found, f"python{newest} -m venv .venv && .venv/bin/{INSTALL}", essential=True)


def packages() -> Fact:
    missing = [package for package in PACKAGES if installed_version(package) is None]
    if missing:
        return Fact("Packages", f"missing: {', '.join(missing)}", INSTALL, essential=True)
    return Fact("Packages", f"all {len(PACKAGES)} installed")


def mlx() -> Fact:
    """Imports MLX: call `runtime.blas.preload()` before."""
    try:
        import mlx.core as mx
    except ImportError as error:
        return Fact("MLX", str(error), INSTALL, essential=True)
    return Fact("MLX", f"{installed_version('mlx')} on {mx.default_device()}")


def torch() -> Fact:
    """Read from the package's own record: importing PyTorch takes a second."""
    found = installed_version("torch")
    if found is None:
        return Fact("PyTorch", "not installed", INSTALL, essential=True)
    return Fact("PyTorch", f"{found}, {'CPU build' if _is_cpu_build(found) else 'GPU build'}")


def compiler() -> Fact:
    """mx.compile calls g++ on the CPU of Linux, and runs uncompiled without a word where there is none."""
    path = shutil.which("g++")
    needed = sys.platform == "linux" and path is None
    return Fact("Compiler", path or "no g++", "sudo apt-get install g++" if needed else "")


def revision(folder: Path) -> Fact:
    """The commit that `folder` stands at."""
    git = _git(folder)
    commit, changes = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain")
    if commit is None:
        return Fact("Commit", f"{folder} has no commit that git can name")
    return Fact("Commit", f"{commit}{' with local changes' if changes else ''}")


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _is_cpu_build(torch_version: str) -> bool:
    return sys.platform == "darwin" or torch_version.endswith("+cpu")


def _git(folder: Path) -> Callable[..., str | None]:
    """Runs git in the folder: what it says, or None where it fails or is not installed."""
    program = shutil.which("git")

    def run(*arguments: str) -> str | None:
        if program is None:
            return None
        done = subprocess.run([program, "-C", str(folder), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    return run
