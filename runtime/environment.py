"""What this machine brings to a grading: facts, each with what mends it where something is amiss."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runtime import blas

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


def gpu() -> str:
    """This machine's GPU as its system shows it, or empty; asking a driver would take a second."""
    if sys.platform == "darwin":
        return "Apple GPU" if platform.machine() == "arm64" else ""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return "NVIDIA GPU"
    return "AMD GPU" if Path("/dev/kfd").exists() else ""


def gpu_in_grade(isolation: str) -> str:
    """What a grading does with the GPU, in a sentence; empty where there is none, or nothing to say."""
    found = gpu()
    if not found or sys.platform == "darwin":
        return ""  # on macOS no tier keeps it away, and memory.py sees what it takes
    if isolation == "in-process":
        return f"{found}: used as the submission likes; requirements on memory see the host's alone"
    return f"{found}: not used. The sandbox passes no device on, and bounds address space too low for CUDA"


def bench_device() -> tuple[str, ...]:
    """What a bench measures on. Imports MLX: call `runtime.blas.preload()` before."""
    import mlx.core as mx

    device = mx.default_device()
    lines = [f"MLX {installed_version('mlx')} on {device}, float32 without TF32; {blas.in_use()}"]
    if device.type == mx.gpu:
        lines.append(
            "Bars are for a CPU. PyTorch contenders run on the CPU, and floors are the host's memory"
        )
    elif gpu():
        lines.append(f"{gpu()}: not used, since this MLX has no back end for it")
    return tuple(lines)


def graphics() -> Fact:
    found = gpu()
    if not found:
        return Fact("GPU", "none found: all runs on the CPU")
    said = [gpu_in_grade("namespaces"), gpu_in_grade("in-process").replace(found, "with --in-process")]
    return Fact("GPU", "\n".join(line for line in said if line) or found)


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
