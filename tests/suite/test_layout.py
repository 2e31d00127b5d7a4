"""The same shape for every topic, and no file that nobody can cross."""

import re
import subprocess
import sys

import pytest

from grading.boundary.loading import module_file
from grading.clone import ROOT
from grading.requirements import topics

SUITE = ROOT / "tests" / "week3"
LINES = 520
LONGER = {  # and why
    "spec/long_context.py": (580, "a contract is one file: most of it is docstrings"),
    "reference/moe.py": (750, "the ground truth of a topic in one file, in sections"),
    "reference/paged_attention.py": (740, "the ground truth of a topic in one file, in sections"),
    "solution/paged_attention/cache.py": (640, "one class, whose methods share one state"),
    "tests/alternatives/long_context.py": (980, "right code that nobody imports, in sections"),
    "tests/alternatives/rag.py": (780, "right code that nobody imports, in sections"),
    "tests/alternatives/moe.py": (680, "right code that nobody imports, in sections"),
    "tests/alternatives/speculative_decoding.py": (660, "right code that nobody imports, in sections"),
    "tests/alternatives/paged_attention.py": (780, "right code that nobody imports, in sections"),
    "tests/week3/long_context/bugs_blockwise.diff": (560, "a list"),
    "tests/week3/moe/bugs_layer.diff": (540, "a list"),
    "tests/suite/test_attacks.py": (560, "attacks and what each must not reach, one after another"),
    "tests/suite/test_cli.py": (640, "commands, one after another"),
}
FILES = sorted(
    path
    for place in ("spec", "reference", "solution", "grading", "runtime", "tests")
    for kind in ("*.py", "*.diff")
    for path in (ROOT / place).rglob(kind)
)


def collected(*options):
    """The tests that pytest would run."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}


@pytest.mark.parametrize("topic", topics())
def test_every_topic_has_the_same_shape(topic):
    assert (SUITE / f"bench_{topic}.py").is_file()
    assert (ROOT / "solution" / topic / "__init__.py").is_file()
    assert module_file(ROOT / "tests" / "alternatives", topic)
    names = {path.name for path in (SUITE / topic).iterdir() if path.is_file()}
    assert {"cases.py", "free_choices.py"} <= names
    known = r"(test_\w+|cases(_\w+)?|free_choices)\.py|bugs_\w+\.diff|witnesses\.json"
    assert not [name for name in names if not re.fullmatch(known, name)]
    assert {name for name in names if name.startswith("bugs_")} <= {
        f"bugs_{name[5:-3]}.diff" for name in names if name.startswith("test_")
    }


def test_files_can_be_crossed():
    lines = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in FILES
    }
    limits = {path: LONGER.get(path, (LINES, ""))[0] for path in lines}
    assert not {path: count for path, count in lines.items() if count > limits[path]}
    assert not [path for path in LONGER if lines.get(path, 0) <= LINES], "these need no exception any more"


def test_the_mark_selects_the_suite_and_nothing_else():
    """As `-k week3` does, but for tests of the suite that have the word in their names."""
    by_mark, by_name = collected("-m", "requirement"), collected("-k", "week3")
    assert by_mark == {file for file in by_name if file.startswith("tests/week3/")}
    assert len(by_mark) == 1 + len(list(SUITE.glob("*/test_*.py")))
