"""What this machine offers, found by trying."""

import os
import shutil
import sys
from functools import cache

from runtime.sandbox.start import ON_LINUX, CannotStart, filters_calls, start
from runtime.sandbox.values import TIER_NAMES, Limits, Tier, TierName

NEEDED = ("numpy", "ml_dtypes", "mlx", "torch")  # by what runs in the sandbox, before any submission does
LOOK = """
import sys
from importlib.util import find_spec
missing = [name for name in sys.argv[1:] if find_spec(name) is None]
sys.exit(f"does not find {', '.join(missing)}" if missing else 0)
"""


class Unavailable(Exception):
    """This machine does not offer the tier that was asked for; says why and what mends it."""


def tiers() -> list[Tier]:
    """Every tier that works here, best first."""
    return [_tier(name) for name in TIER_NAMES if not why_not(name)]


def best_tier() -> Tier:
    for name in TIER_NAMES:
        if not why_not(name):
            return _tier(name)
    raise Unavailable(f"no tier works here; the weakest fails too: {why_not('process')}")


def demand(name: str) -> Tier:
    """The tier of this name, or Unavailable: what was asked for is never weakened."""
    known = next((tier for tier in TIER_NAMES if tier == name), None)
    if known is None:
        raise Unavailable(f"isolation is one of {', '.join(TIER_NAMES)}, not {name!r}")
    if reason := why_not(known):
        raise Unavailable(f"{name}: {reason}")
    return _tier(known)


@cache
def why_not(name: TierName) -> str:
    """Why this machine does not offer the tier, and the command that mends it; empty where it does."""
    if name != "process" and not ON_LINUX:
        return f"{sys.platform} has no {name}; grade on Linux for this tier"
    if name == "namespaces" and shutil.which("bwrap") is None:
        return "bubblewrap is not installed: apt-get install bubblewrap (or dnf, pacman, apk add)"
    if name == "landlock" and not filters_calls():
        return "system calls cannot be filtered here, and Landlock alone leaves network and signals open"
    said = _try(_tier(name))
    return f"{said}; {_remedy(name, said)}" if said else ""


def _try(tier: Tier) -> str:
    """Empty if Python starts in the tier and finds its packages, else what went wrong."""
    python = [sys.executable, "-I", "-B", "-c", LOOK, *NEEDED]
    try:
        child = start(python, tier=tier, read_only={}, env={}, limits=Limits(), channel=None)
    except (CannotStart, OSError, RuntimeError) as error:
        return str(error)
    with child:
        ended = child.exit_status(timeout=20)
        last_line = (child.output_tail().strip().splitlines() or [""])[-1]
        return "" if ended == "exited with code 0" else f"Python {ended}: {last_line}"


def _remedy(name: TierName, said: str) -> str:
    if "does not find" in said:  # packages of a user, or brought in by a .pth file
        return (
            "the sandbox sees this Python's own packages: python3 -m venv .venv && .venv/bin/pip install -e ."
        )
    if name == "namespaces" and "uid map" in said:  # Ubuntu from 23.10 on
        return "mend it by: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    if name == "namespaces" and "max_user_namespaces" in said:
        return "mend it by: sudo sysctl -w user.max_user_namespaces=10000"
    if name == "namespaces" and "Operation not permitted" in said:
        return (
            "mend it by: sudo sysctl -w kernel.unprivileged_userns_clone=1, or in a container: docker run"
            " --security-opt seccomp=unconfined --security-opt apparmor=unconfined --cap-add SYS_ADMIN"
        )
    if name == "landlock" and "Landlock" in said:
        return "it needs Linux 5.13 or later with `landlock` among the boot parameter lsm="
    if "Operation not permitted" in said:
        return "root lacks CAP_SETUID, CAP_SETGID or CAP_CHOWN to become another user: run as an ordinary one"
    return f"an ordinary user must be able to read {sys.base_prefix} and {sys.prefix}: chmod -R a+rX them"


# ---- What each promises. ----

TOGETHER = "a cap on the memory of all its processes together: each may take the limit"
OWN_FILES = "files: it reads Python, the system's libraries and what is given; it writes its temporary folder"


def _tier(name: TierName) -> Tier:
    if name == "namespaces":
        protects = [
            OWN_FILES,
            "network: none",
            "other processes: neither seen nor signalled",
            "memory of each process, number of processes, size of the temporary folder",
            "what it started ends with it",
        ]
        return Tier(name, tuple(protects), (TOGETHER,))
    if name == "landlock":
        protects = [
            OWN_FILES,
            "network: none",
            "other processes: not signalled",
            "memory of each process, number of processes",
            "what it started ends when it is closed",
        ]
        return Tier(name, tuple(protects), tuple(_lacks_beside()))
    protects = ["number of processes", "what it prints"]
    protects += ["memory of each process"] if ON_LINUX else []
    protects += ["network: none", "other processes: not signalled"] if filters_calls() else []
    return Tier(name, tuple(protects), (*_lacks_of_files(), *_lacks_beside()))


def _lacks_of_files() -> list[str]:
    reads = "files: it reads whatever this user can read, the reference and the solution included"
    if ON_LINUX and os.getuid() == 0:
        return [reads, "files: it writes into folders that are open to everyone, such as /tmp"]
    lacks = [reads, "files: it writes whatever this user can write"]
    if ON_LINUX:
        lacks += ["the grader's memory, open through /proc unless the kernel forbids it"]
    return lacks


def _lacks_beside() -> list[str]:
    lacks = [
        TOGETHER,
        "the size of the temporary folder as a whole",
        "hiding whether a path exists, and the shared memory of System V",
        "ending what it started when the grader itself is killed",
    ]
    if not filters_calls():
        lacks += [
            "network: it reaches whatever this machine can",
            "what leaves its process group outlives it",
        ]
    if not filters_calls() and not (ON_LINUX and os.getuid() == 0):
        lacks += ["signals: it can end the grader"]
    if not ON_LINUX:
        lacks += ["memory: this system does not bound it"]
    return lacks
