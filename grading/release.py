"""The hand-out for learners: the tracked files of the clone, without the solution and what needs it."""

import ast
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from grading.clone import ROOT, UsageError
from grading.requirements import HANDOUT, by_id, topics

LEFT_OUT = (
    ".ci/",
    ".github/",
    "docs/audit.md",
    "docs/instructors.md",
    "grading/audit/",
    "solution/",
    "tests/alternatives/",
    "tests/suite/",
    "README.md",
)

LISTED = "# What this hand-out asks for. The other requirements are not graded here."

README = """\
# week3

Build the parts of an LLM server that make it fast, against a specification that tells you what is wrong.

Python 3.11 to 3.13, in an environment of its own:

    python -m venv .venv && . .venv/bin/activate
    pip install -e . && week3 new && week3 grade code/week3

On Linux without a GPU install PyTorch between the two lines, or pip fetches gigabytes for CUDA: pick "CPU" on
PyTorch's Get-started page and run the line it shows, with `torch==2.13.0` in place of `torch`.

The scorecard names the next function to write. For any requirement on it:

    week3 explain PA-01                                             what must hold; --hint helps
    pytest -k week3 --impl=code/week3 --requirement PA-01           its tests, with a debugger

`week3 list` shows the way: first a version that works, then what serving needs. `week3 doctor` says what this
machine lacks.

Read `spec/`: `<topic>.md` explains and numbers what must hold, `<topic>.py` is the contract. `reference/` is
the ground truth in plain NumPy: short, slow, and no answer to how it is done on MLX.
"""


def write_release(folder: Path, only: Sequence[str] = ()) -> int:
    """Fills `folder`, which must be empty or new, and returns how many files it holds.

    only: the ids that learners are asked for; all of them if it is empty.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder}: not an empty folder. Name one that is, or that does not exist yet")
    asked = list(only) or list(by_id())
    others = [topic for topic in topics() if not any(by_id()[id].topic == topic for id in asked)]
    texts = (text for topic in others for text in (f"docs/{topic}", f"spec/{topic}.md"))
    left_out = (*LEFT_OUT, *texts)
    files = [path for path in _tracked() if not path.startswith(left_out) and not _needs_solution(path)]
    for path in files:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)
    (folder / "README.md").write_text(README.replace("PA-01", asked[0]), encoding="utf-8")
    if only:
        (folder / HANDOUT.relative_to(ROOT)).write_text("\n".join([LISTED, *only]) + "\n", encoding="utf-8")
    return len(files) + 1 + bool(only)


def _tracked() -> list[str]:
    """What git tracks and the working tree holds."""
    try:
        listing = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True, text=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"{ROOT}: git does not list its files, so what belongs to it is unknown") from error
    return [path for path in listing.stdout.split("\0") if path and (ROOT / path).is_file()]


def _needs_solution(path: str) -> bool:
    """Whether it is a module that imports the solution, by whatever form of import."""
    if not path.endswith(".py"):
        return False
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.split(".")[0] == "solution" for name in names):
            return True
    return False
