"""The clone that `week3` was installed from: the specification and the suite are read there, in place."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class UsageError(Exception):
    """What was asked for cannot be done; the message is a sentence that says why, and what can be."""


def check_clone() -> None:
    """Raises UsageError when this package is no part of a clone, as after a plain `pip install .`."""
    if not (ROOT / "tests" / "week3").is_dir() or not (ROOT / "spec" / "topics.py").is_file():
        raise UsageError(
            f"week3 works from a clone of its repository, and {ROOT} is none. "
            "Run `pip install -e .` in the clone: the -e keeps the package where the suite is."
        )
