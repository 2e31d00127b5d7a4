"""Who may import whom: the arrows of the house."""

import ast

import pytest

from grading.clone import ROOT

ARROWS = {
    "spec": set(),
    "runtime": set(),
    "reference": {"spec", "runtime"},
    "solution": {"spec", "runtime"},
    "grading": {"spec", "reference", "runtime"},
    "tests/week3": {"spec", "reference", "runtime", "grading", "tests.week3"},
    "tests/alternatives": {"spec"},
}
OURS = ("spec", "runtime", "reference", "solution", "grading", "tests")
FILES = [
    pytest.param(path, place, id=str(path.relative_to(ROOT)))
    for place in ARROWS
    for path in sorted((ROOT / place).rglob("*.py"))
    # Benches measure the solution itself.
    if not path.name.startswith("bench_")
]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize(("path", "place"), FILES)
def test_imports_follow_the_arrows(path, place):
    allowed = {*ARROWS[place], place.replace("/", ".")}
    for name in imported(path):
        if name.split(".")[0] in OURS:
            assert any(name == a or name.startswith(f"{a}.") for a in allowed), (
                f"{place} must not import {name}"
            )


def test_heavy_packages_are_imported_lazily_by_the_command_line():
    import subprocess
    import sys

    heavy = "'mlx', 'torch', 'hypothesis', 'pytest', 'scipy'"
    code = f"import grading.cli, sys; print([m for m in ({heavy}) if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
