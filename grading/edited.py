"""The reference with edits: a module in memory, whether it is a file or a package of files."""

import ast
import difflib
import itertools
import sys
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from graphlib import TopologicalSorter
from os.path import commonprefix
from types import CodeType, ModuleType
from typing import Protocol

from grading.clone import ROOT

Sources = Mapping[str, str]  # path below reference/, "moe.py" or "long_context/masks.py" -> text
Place = tuple[
    str, int
]  # the file name of the code, as `file_name` gives it, and the first line of a function


class Edit(Protocol):
    """Hashable, so that each edited reference is made once."""

    def apply(self, sources: Sources) -> Sources:
        """The sources after the edit."""


@cache
def sources(topic: str) -> Sources:
    """All files of a topic's reference."""
    below = ROOT / "reference"
    package = sorted((below / topic).glob("*.py"))
    paths = package or [below / f"{topic}.py"]
    return {path.relative_to(below).as_posix(): path.read_text(encoding="utf-8") for path in paths}


@cache
def reference(topic: str, *edits: Edit) -> ModuleType:
    """The reference after these edits, as one module for all who ask."""
    return fresh_reference(topic, *edits)


def fresh_reference(topic: str, *edits: Edit) -> ModuleType:
    """The same as a module of its own: an edit may make it remember its calls."""
    edited = sources(topic)
    for edit in edits:
        edited = edit.apply(edited)
    name = f"_week3_reference_{topic}_{next(_count)}"
    modules = {path: ModuleType(_module_name(path, name)) for path in edited}
    for path in _dependencies_first(topic):
        module = modules[path]
        module.__package__ = name
        sys.modules[module.__name__] = module  # relative imports and dataclasses look there
        exec(_compiled(path, edited[path]), module.__dict__)  # our own source, with our own edits
    return sys.modules[name]


_count = itertools.count()


def _module_name(path: str, package: str) -> str:
    _, inside, part = path.removesuffix(".py").partition("/")
    return f"{package}.{part}" if inside and part != "__init__" else package


@cache
def _dependencies_first(topic: str) -> tuple[str, ...]:
    """The files in an order in which each finds what it imports of the others."""
    imports = {}
    for path, source in sources(topic).items():
        nodes = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom) and n.level == 1)
        imports[path] = [f"{topic}/{node.module}.py" for node in nodes]
    return tuple(TopologicalSorter(imports).static_order())


@lru_cache(64)  # the files that an edit leaves as they are, of all topics
def _compiled(path: str, source: str) -> CodeType:
    return compile(source, file_name(path), "exec")


def file_name(path: str) -> str:
    return f"<reference/{path}>"


def is_reference(code: CodeType) -> bool:
    return code.co_filename.startswith("<reference/")


def difference(topic: str, edit: Edit) -> str:
    """The edit as a unified diff of the reference."""
    before, after = sources(topic), edit.apply(sources(topic))
    lines: list[str] = []
    for path in before:
        texts = before[path].splitlines(), after[path].splitlines()
        lines += difflib.unified_diff(*texts, f"reference/{path}", "edited", lineterm="", n=2)
    return "\n".join(lines)


@cache
def edited_functions(topic: str, edit: Edit) -> frozenset[Place] | None:
    """The functions of the reference that an edit changes; None if it changes more."""
    before, after = sources(topic), edit.apply(sources(topic))
    found: set[Place] = set()
    for path in before:
        if before[path] is after[path]:
            continue
        functions = _functions(topic, path)
        for lines, inserted in _edited_lines(before[path].splitlines(), after[path].splitlines()):
            around = [{head for head, tail in functions if head <= line <= tail} for line in lines]
            outside = not any(around) if inserted else not all(around)
            if outside:
                return None
            found.update((file_name(path), head) for heads in around for head in heads)
    return frozenset(found)


def _edited_lines(before: list[str], after: list[str]) -> Iterator[tuple[range, bool]]:
    """The numbers of the lines that differ, or of both around what was inserted, and whether it was."""
    start = len(commonprefix([before, after]))  # the rest is short, and quickly compared
    end = len(commonprefix([before[start:][::-1], after[start:][::-1]]))
    rest = before[start : len(before) - end], after[start : len(after) - end]
    for kind, first, last, _, _ in difflib.SequenceMatcher(None, *rest, autojunk=False).get_opcodes():
        if kind == "insert":
            yield range(start + first, start + last + 2), True
        elif kind != "equal":
            yield range(start + first + 1, start + last + 1), False


@cache
def _functions(topic: str, path: str) -> list[tuple[int, int]]:
    """First and last line of each function of a file; the first is that of its first decorator."""
    nodes = (node for node in ast.walk(ast.parse(sources(topic)[path])) if isinstance(node, ast.FunctionDef))
    return [
        (min([node.lineno, *(each.lineno for each in node.decorator_list)]), node.end_lineno or node.lineno)
        for node in nodes
    ]
