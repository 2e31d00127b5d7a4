"""Known bugs: edits of the reference source, each one defect that people really make.

They prove that the tests catch something, and they put a name to what a submission does wrong. Checks of
arguments need no list: `removed_checks` leaves out one after another. The others stand beside the tests,
those of `tests/week3/<topic>/test_<part>.py` in `bugs_<part>.diff`:

    @@ PA-03 @@

    stops at the first padding row
    Real rows may follow padding.
    -        if slot < 0:
    -            continue
    +        if slot < 0:
    +            break

A requirement stands above the bugs that its tests catch. The first line of a bug completes the sentence
"This is what happens when an implementation …", the second is the hint; then comes what occurs exactly once
in the reference, and what it became. Where nothing came instead, whole lines went. `· in no answer` behind
the first line says that no answer of a submission shows the bug, so that it cannot be named: only a
callback of the test sees it, only memory shows it, or it lies within the allowance.
"""

import ast
import difflib
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from os.path import commonprefix
from types import ModuleType
from typing import Any

from grading.clone import ROOT


@dataclass(frozen=True)
class Bug:
    requirement: str  # the id that its tests must defend
    title: str  # completes the sentence "This is what happens when an implementation …"
    hint: str
    changes: tuple[tuple[str, str], ...]  # (old, new); each old occurs exactly once in the reference
    seen_in_answers: bool = True

    @property
    def key(self) -> str:
        return f"{self.requirement} {self.title}"

    def apply(self, source: str) -> str:
        for old, new in self.changes:
            if source.count(old) != 1:
                raise ValueError(
                    f"known bug {self.title!r}: {source.count(old)} matches of {old!r}, expected 1"
                )
            source = source.replace(old, new)
        return source


@dataclass(frozen=True)
class RemovedCheck:
    """The lines first … last of the reference, a check of arguments, are left out."""

    function: str  # "PagedKVCache.append"
    check: str
    first: int
    last: int

    @property
    def key(self) -> str:
        return f"{self.function} leaves out `{self.check}`"

    def apply(self, source: str) -> str:
        lines = source.splitlines()
        indent = lines[self.first - 1][: -len(lines[self.first - 1].lstrip())]
        return "\n".join([*lines[: self.first - 1], f"{indent}pass", *lines[self.last :]]) + "\n"


@cache
def reference_source(topic: str) -> str:
    return (ROOT / "reference" / f"{topic}.py").read_text(encoding="utf-8")


@cache
def known_bugs(topic: str) -> tuple[Bug, ...]:
    """Those of `tests/week3/<topic>/bugs_*.diff`, one file after the other by name."""
    parts = sorted((ROOT / "tests" / "week3" / topic).glob("bugs_*.diff"))
    return tuple(bug for part in parts for bug in read_bugs(part.read_text(encoding="utf-8"), part.name))


_BUG = re.compile(
    r"(?P<title>[a-z].*?)(?P<hidden> · in no answer)?\n(?P<hint>[^-+\n].*)\n(?P<changes>-.*\n(?:[-+].*\n)*)"
)


def read_bugs(text: str, name: str) -> Iterator[Bug]:
    """The bugs of a `bugs_<part>.diff`. `name`: of the file, for errors."""
    requirement = ""
    for paragraph in re.split(r"\n\n+", text.strip("\n")):
        if heading := re.fullmatch(r"@@ ([A-Z]+-\d+) @@", paragraph):
            requirement = heading[1]
        elif requirement and (match := _BUG.fullmatch(f"{paragraph}\n")):
            changes = tuple(_changes(match["changes"]))
            yield Bug(requirement, match["title"], match["hint"], changes, not match["hidden"])
        else:
            raise ValueError(
                f"{name}: expected @@ requirement @@, or below one a title, a hint and lines with - and +, "
                f"got {paragraph!r}"
            )


def _changes(lines: str) -> Iterator[tuple[str, str]]:
    for old, new in re.findall(r"((?:-.*\n)+)((?:\+.*\n)*)", lines):
        before, after = (re.sub(r"^[-+]", "", part, flags=re.MULTILINE) for part in (old, new))
        yield (before[:-1], after[:-1]) if after else (before, "")


@cache
def free_choices(topic: str) -> Callable[[], Any]:
    """Makes what sees past the choices of an implementation: see `diagnosis.FreeChoices`."""
    path = ROOT / "tests" / "week3" / topic / "free_choices.py"
    maker: Callable[[], Any] = _run(path.read_text(encoding="utf-8"), f"choices_{topic}").FreeChoices
    return maker


@cache
def removed_checks(topic: str) -> tuple[RemovedCheck, ...]:
    """One for each `expect(…)` statement and each `if …: raise …` of the reference."""
    source = reference_source(topic)
    return tuple(_checks(ast.parse(source), source))


def _checks(tree: ast.AST, source: str, inside: str = "") -> Iterator[RemovedCheck]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt) and inside and _is_check(node):
            text = " ".join((ast.get_source_segment(source, node) or "").split())
            yield RemovedCheck(inside, text, node.lineno, node.end_lineno or 0)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if node.name != "expect":
                yield from _checks(node, source, f"{inside}.{node.name}".lstrip("."))
        else:
            yield from _checks(node, source, inside)


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
