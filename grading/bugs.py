"""Known bugs: edits of the reference source, each one defect that people really make.

`tests/known_bugs/<topic>.py` lists them. They prove that the tests catch something, and they put a name to
what a submission does wrong. Checks of arguments need no list: `removed_checks` leaves out one after another.
"""

import ast
import difflib
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from os.path import commonprefix
from types import ModuleType
from typing import Any

from grading.clone import ROOT


@dataclass(frozen=True)
class Bug:
    """`old`, which occurs exactly once in the reference, became `new`; so did the pairs of `also`."""

    requirement: str  # the id that its tests must defend
    title: str  # completes the sentence "This is what happens when an implementation …"
    old: str
    new: str
    hint: str = ""
    also: tuple[tuple[str, str], ...] = ()

    def apply(self, source: str) -> str:
        for old, new in ((self.old, self.new), *self.also):
            if source.count(old) != 1:
                raise ValueError(
                    f"known bug {self.title!r}: {source.count(old)} matches of {old!r}, expected 1"
                )
            source = source.replace(old, new)
        return source


@dataclass(frozen=True)
class RemovedCheck:
    """The lines first … last of the reference, a check of arguments, are left out."""

    title: str
    first: int
    last: int

    def apply(self, source: str) -> str:
        lines = source.splitlines()
        indent = lines[self.first - 1][: -len(lines[self.first - 1].lstrip())]
        return "\n".join([*lines[: self.first - 1], f"{indent}pass", *lines[self.last :]]) + "\n"


@cache
def reference_source(topic: str) -> str:
    return (ROOT / "reference" / f"{topic}.py").read_text(encoding="utf-8")


@cache
def _catalogue(topic: str) -> ModuleType:
    path = ROOT / "tests" / "known_bugs" / f"{topic}.py"
    return _run(path.read_text(encoding="utf-8"), f"known_bugs_{topic}")


def known_bugs(topic: str) -> tuple[Bug, ...]:
    """The bugs of `tests/known_bugs/<topic>.py`, in the order of that file."""
    return tuple(_catalogue(topic).BUGS)


def free_choices(topic: str) -> Callable[[], Any]:
    """Makes what sees past the choices of an implementation: see `diagnosis.FreeChoices`."""
    maker: Callable[[], Any] = _catalogue(topic).FreeChoices
    return maker


@cache
def removed_checks(topic: str) -> tuple[RemovedCheck, ...]:
    """One for each `expect(…)` statement and each `if …: raise …` of the reference."""
    source = reference_source(topic)
    found = []
    for function in (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)):
        for node in ast.walk(function):
            if function.name != "expect" and isinstance(node, ast.stmt) and _is_check(node):
                text = " ".join((ast.get_source_segment(source, node) or "").split())
                found.append(
                    RemovedCheck(f"{function.name}: leaves out `{text}`", node.lineno, node.end_lineno or 0)
                )
    return tuple(dict.fromkeys(found))


def _is_check(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return len(node.body) == 1 and isinstance(node.body[0], ast.Raise) and not node.orelse
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "expect"


@cache
def reference(topic: str, *edits: Bug | RemovedCheck) -> ModuleType:
    """The reference as a module, after these edits."""
    source = reference_source(topic)
    for edit in edits:
        source = edit.apply(source)
    return _run(source, f"reference_{topic}")


def difference(topic: str, bug: Bug) -> str:
    """The bug as a unified diff of the reference."""
    before = reference_source(topic)
    lines = difflib.unified_diff(
        before.splitlines(),
        bug.apply(before).splitlines(),
        f"reference/{topic}.py",
        bug.title,
        lineterm="",
        n=2,
    )
    return "\n".join(lines)


@cache
def _functions(topic: str) -> list[tuple[int, int]]:
    """First and last line of each function of the reference."""
    nodes = ast.walk(ast.parse(reference_source(topic)))
    return [(n.lineno, n.end_lineno or n.lineno) for n in nodes if isinstance(n, ast.FunctionDef)]


@cache
def edited_functions(topic: str, bug: Bug) -> frozenset[int] | None:
    """The functions of the reference that a bug changes, by their first line; None if it changes more."""
    source = reference_source(topic)
    before, after = source.splitlines(), bug.apply(source).splitlines()
    start = len(commonprefix([before, after]))  # the rest is short, and quickly compared
    end = len(commonprefix([before[start:][::-1], after[start:][::-1]]))
    rest = before[start : len(before) - end], after[start : len(after) - end]
    found: set[int] = set()
    for kind, first, last, _, _ in difflib.SequenceMatcher(None, *rest, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        first, last = start + first, start + last
        lines = range(first, last + 2) if kind == "insert" else range(first + 1, last + 1)
        around = [{head for head, tail in _functions(topic) if head <= line <= tail} for line in lines]
        outside = not any(around) if kind == "insert" else not all(around)
        if outside:
            return None
        found.update(*around)
    return frozenset(found)


_count = itertools.count()


def _run(source: str, name: str) -> ModuleType:
    """A module of its own for this source; registered, because dataclasses look their module up."""
    module = ModuleType(f"_week3_{name}_{next(_count)}")
    sys.modules[module.__name__] = module
    exec(compile(source, module.__name__, "exec"), module.__dict__)  # our own source, with our own edits
    return module
