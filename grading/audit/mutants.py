"""Generic mutants of the solution: an operator turned, a number off by one, a loop left out.

Known bugs are what we thought of; these are what nobody did. cosmic-ray makes them. Those that the suite
lets live and that nobody could tell from right code are listed in `tests/suite/unobservable.toml`, each with
the reason.
"""

import ast
import difflib
import hashlib
import shutil
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from grading.clone import ROOT

OPERATORS = (
    *(
        f"ReplaceBinaryOperator_{pair}"
        for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Div")
    ),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Mod_Mul", "Pow_Mul", "FloorDiv_Mul", "BitAnd_BitOr")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")),
    "ReplaceUnaryOperator_Delete_USub",
    "ReplaceUnaryOperator_Delete_Not",
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "NumberReplacer",
    "ZeroIterationForLoop",
)
UNOBSERVABLE = ROOT / "tests" / "suite" / "unobservable.toml"


@dataclass(frozen=True)
class Mutant:
    """file: below the clone. title: the file and the line, before and after."""

    file: str
    source: str
    title: str


@cache
def sample(topic: str, count: int, seed: int) -> list[Mutant]:
    """Different mutants of the topic's solution, drawn evenly from all there are.

    What is drawn hangs on a line's own text, so that a change elsewhere leaves the others drawn as they are.
    """
    drawn = sorted(place for path in _files(topic) for place in _places(path, seed))
    found: dict[str, Mutant] = {}
    for _, path, operator, occurrence in drawn:
        mutant = _mutant(path, operator, occurrence)
        if mutant is not None:
            found.setdefault(mutant.source, mutant)
        if len(found) == count:
            break
    return list(found.values())


@contextmanager
def written(mutant: Mutant) -> Iterator[Path]:
    """A copy of the solution with this mutant, that a sandboxed process can read."""
    with tempfile.TemporaryDirectory(prefix="week3-mutant-") as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "solution"
        shutil.copytree(ROOT / "solution", folder, ignore=shutil.ignore_patterns("__pycache__"))
        (Path(place) / mutant.file).write_text(mutant.source, encoding="utf-8")
        yield folder


def unobservable() -> dict[str, str]:
    """{title: why nobody could tell it from right code}."""
    listed = tomllib.loads(UNOBSERVABLE.read_text(encoding="utf-8"))
    return {each["mutant"]: each["reason"] for each in listed.get("mutants", [])}


def _files(topic: str) -> list[Path]:
    """What the contract's names are made of: the package's first file, and what it imports of the package.
    What else lies there, commands and drafters beyond the contract, other tests look after."""
    package = ROOT / "solution" / topic
    found, new = set[Path](), {package / "__init__.py"}
    while new:
        found |= new
        imported = (node for path in new for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {node.module for node in imported if isinstance(node, ast.ImportFrom) and node.level == 1}
        new = {package / f"{name}.py" for name in names if name} - found
    return sorted(found)


def _operator(name: str) -> Any:
    from cosmic_ray.plugins import get_operator

    return get_operator(f"core/{name}")()


def _places(path: Path, seed: int) -> Iterator[tuple[str, Path, str, int]]:
    """Each change that can be made in this file: its place among those drawn, and how to make it."""
    from cosmic_ray.ast import ast_nodes, get_ast

    source = path.read_text(encoding="utf-8")
    lines, nodes = source.splitlines(), list(ast_nodes(get_ast(source)))
    alike = Counter[str]()
    for name in OPERATORS:
        operator = _operator(name)
        positions = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, (line, _) in enumerate(positions):
            change = f"{seed} {path.relative_to(ROOT)} {name} {lines[line - 1].strip()}"
            alike[change] += 1
            rank = hashlib.sha256(f"{change} {alike[change]}".encode()).hexdigest()
            yield rank, path, name, occurrence


def _mutant(path: Path, operator: str, occurrence: int) -> Mutant | None:
    """None where the mutant is no change, or no Python."""
    from cosmic_ray.mutating import mutate_code

    source = path.read_text(encoding="utf-8")
    mutated = mutate_code(source, _operator(operator), occurrence)
    if mutated is None or mutated == source:
        return None
    try:
        compile(mutated, str(path), "exec")
    except SyntaxError:
        return None
    changed = [
        line
        for line in difflib.unified_diff(source.splitlines(), mutated.splitlines(), n=0, lineterm="")
        if line[0] in "+-" and line[:3] not in ("+++", "---")
    ]
    before, after = (line[1:].strip() for line in (changed[0], changed[-1]))
    file = str(path.relative_to(ROOT))
    return Mutant(file, mutated, f"{file}: `{before}` became `{after}`")
