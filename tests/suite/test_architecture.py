"""Who may import whom: the arrows of the house."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from grading.clone import ROOT
from grading.requirements import topics

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


def reached(path):
    """The packages of others that a file imports, itself or by files of ours, sooner or later."""
    left, seen, packages = [path], set(), set()
    while left:
        path = left.pop()
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                names = [f"{path.parent.relative_to(ROOT)}/{node.module or each.name}" for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            else:
                names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            packages |= {name.split(".")[0] for name in names if "/" not in name}
            places = [ROOT / name.replace(".", "/") for name in names]
            files = [file for each in places for file in (each.with_suffix(".py"), each / "__init__.py")]
            left += [file for file in files if file.is_file() and file not in seen]
    return packages - {*OURS, *sys.stdlib_module_names}


@pytest.mark.parametrize("topic", topics())
def test_what_grades_the_solution_is_no_extra(topic):
    """README's second line installs no extras, and must give 100."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    there = {re.match(r"[\w.-]+", each)[0] for each in project["dependencies"]}
    brought_by = packages_distributions()
    for package in reached(ROOT / "solution" / topic / "__init__.py"):
        assert there & {*brought_by[package]}, f"{package} is in no base dependency"


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
