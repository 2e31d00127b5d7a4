"""Generic mutants of the solution: an operator turned, a number off by one, a loop left out.

Known bugs are what we thought of; these are what nobody did. cosmic-ray makes them. Those that the suite
lets live and that nobody could tell from right code are listed in `tests/suite/unobservable.toml`, each with
the reason.
"""

import ast
import difflib
import random
import shutil
import tempfile
import tomllib
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
    """Different mutants of the topic's solution, drawn evenly from all there are."""
    places = [
        (path, operator, occurrence)
        for path in _files(topic)
        for operator, times in _occurrences(path).items()
        for occurrence in range(times)
    ]
    random.Random(seed).shuffle(places)
    found: dict[str, Mutant] = {}
    for path, operator, occurrence in places:
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


@cache
def _occurrences(path: Path) -> dict[str, int]:
    from cosmic_ray.ast import ast_nodes, get_ast

    nodes = list(ast_nodes(get_ast(path.read_text(encoding="utf-8"))))
    operators = {name: _operator(name) for name in OPERATORS}
    return {
        name: sum(len(list(operator.mutation_positions(node))) for node in nodes)
        for name, operator in operators.items()
    }


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
