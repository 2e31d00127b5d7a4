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
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from runpy import run_path
from typing import Any

from grading.clone import ROOT
from grading.edited import Sources, sources


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

    def apply(self, sources: Sources) -> Sources:
        edited = dict(sources)
        for old, new in self.changes:
            counts = {path: source.count(old) for path, source in edited.items()}
            if sum(counts.values()) != 1:
                raise ValueError(
                    f"known bug {self.title!r}: {sum(counts.values())} matches of {old!r}, expected 1"
                )
            path = max(counts, key=counts.__getitem__)
            edited[path] = edited[path].replace(old, new)
        return edited


@dataclass(frozen=True)
class RemovedCheck:
    """The lines first … last of a file of the reference, a check of arguments, are left out."""

    function: str  # "PagedKVCache.append"
    check: str
    path: str
    first: int
    last: int

    @property
    def key(self) -> str:
        return f"{self.function} leaves out `{self.check}`"

    def apply(self, sources: Sources) -> Sources:
        lines = sources[self.path].splitlines()
        indent = lines[self.first - 1][: -len(lines[self.first - 1].lstrip())]
        left = [*lines[: self.first - 1], f"{indent}pass", *lines[self.last :]]
        return {**sources, self.path: "\n".join(left) + "\n"}


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
    maker: Callable[[], Any] = run_path(str(path))["FreeChoices"]
    return maker


@cache
def removed_checks(topic: str) -> tuple[RemovedCheck, ...]:
    """One for each `expect(…)` statement and each `if …: raise …` of the reference."""
    return tuple(
        check for path, source in sources(topic).items() for check in _checks(ast.parse(source), source, path)
    )


def _checks(tree: ast.AST, source: str, path: str, inside: str = "") -> Iterator[RemovedCheck]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt) and inside and _is_check(node):
            text = " ".join((ast.get_source_segment(source, node) or "").split())
            yield RemovedCheck(inside, text, path, node.lineno, node.end_lineno or 0)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if node.name != "expect":
                yield from _checks(node, source, path, f"{inside}.{node.name}".lstrip("."))
        else:
            yield from _checks(node, source, path, inside)


def _is_check(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return len(node.body) == 1 and isinstance(node.body[0], ast.Raise) and not node.orelse
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "expect"
