"""What the caller says and sees."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

TierName = Literal["namespaces", "landlock", "process"]
TIER_NAMES: tuple[TierName, ...] = get_args(TierName)  # best first

MIB = 1 << 20
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Limits:
    """What one child may use. The defaults fit MLX and PyTorch: 0.2 and 0.8 GiB of address space."""

    call_seconds: float = 20.0
    """How long one call may take. Kept for the caller, who knows what a call is."""
    memory_bytes: int = 4096 * MIB + 64 * MIB * CORES
    """Address space of each process: five times PyTorch at rest; for each core a stack and a BLAS buffer."""
    processes: int = 64 + 4 * CORES
    """Processes and threads together: each library that computes starts one thread per core."""
    output_bytes: int = 64 * 1024
    """How much of the end of its output is kept."""
    temporary_bytes: int = 256 * MIB
    """The private temporary folder where it is a tmpfs, and one written file everywhere."""


@dataclass(frozen=True)
class Tier:
    """One way to keep a child apart, with what it promises and what it cannot promise on this machine."""

    name: TierName
    protects: tuple[str, ...]
    lacks: tuple[str, ...]

    def path_inside(self, host: os.PathLike[str] | str, inside: str) -> str:
        """The path by which the child finds `read_only[host] = inside`.

        Only the namespaces tier has a file system of its own, where the file lies at `inside`. In the other
        tiers the child sees the host's paths, so whoever writes the child's arguments asks here."""
        return inside if self.name == "namespaces" else str(Path(host).absolute())
