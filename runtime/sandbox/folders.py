"""What a child must read for Python to run: the interpreter, its packages, the system's libraries."""

import sys
from collections.abc import Iterable
from pathlib import Path

CLONE = Path(__file__).resolve().parents[2]

# Libraries, compilers (mx.compile calls g++), the loader's lists; nothing of /etc that names users or keys.
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store")
LISTS = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime")
PROCESSOR = ("/proc/cpuinfo", "/sys/devices/system/cpu")  # PyTorch complains without


def python_folders() -> list[Path]:
    """The environment of the running interpreter, under every name by which its links reach it."""
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    named = {Path(prefix).absolute() for prefix in prefixes}
    linked_from = {folder.resolve() for folder in named}
    installed_at = Path(sys.executable).resolve().parent.parent
    return _outermost(named | linked_from | {installed_at})


def system_folders() -> list[Path]:
    return [Path(name) for name in SYSTEM + LISTS + PROCESSOR if Path(name).exists()]


def without_the_clone(folders: Iterable[Path]) -> list[Path]:
    """The same folders, those around the clone replaced by their other members: a clone below /usr is unseen.

    A folder inside the clone (a virtual environment) was named on purpose and stays."""
    seen: list[Path] = []
    for folder in folders:
        if folder == CLONE:
            raise RuntimeError(
                f"Python's folder {folder} holds the reference: use a clone (pip install -e .)"
            )
        if folder.is_symlink() or folder not in CLONE.parents:
            seen.append(folder)
        else:
            seen += without_the_clone(member for member in sorted(folder.iterdir()) if member != CLONE)
    return seen


def _outermost(folders: set[Path]) -> list[Path]:
    return sorted(folder for folder in folders if not folders & set(folder.parents))
