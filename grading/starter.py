"""Writes a starter: one module of stubs per topic, with the signatures and docstrings of its contract."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from grading.clone import UsageError
from grading.contract import contract
from grading.requirements import requirements, topics

SETTINGS = """\
# The framework of the arrays your functions take and return: "mlx", "torch" or "numpy".
framework = "mlx"
"""


def write_starter(folder: Path) -> list[Path]:
    """Writes the stubs and week3.toml; raises UsageError, with nothing written, if one of them exists."""
    files = {folder / f"{topic}.py": stub(topic) for topic in topics()}
    files[folder / "week3.toml"] = SETTINGS
    taken = [path for path in files if path.exists() or path.with_suffix("").exists()]
    if taken:
        names = ", ".join(str(path) for path in taken)
        raise UsageError(f"{names}: there already, and left alone. Name another folder: week3 new DIR")
    _write_all(files)
    return list(files)


def stub(topic: str) -> str:
    """The source of a module that offers the whole contract and implements nothing."""
    module = importlib.import_module(f"spec.{topic}")
    written = sorted((getattr(module, name) for name in contract(topic).names), key=_place)
    sources = [_without_behaviour(inspect.getsource(thing)) for thing in written]
    body = "\n\n\n".join(sources)
    title = topic.replace("_", " ").capitalize()
    first = requirements(topic)[0].id
    return (
        f'"""{title}, for you to write.\n\n'
        f"What must hold is in spec/{topic}.md, the symbols of the docstrings are in spec/{topic}.py.\n"
        f"One requirement: week3 explain {first}. Keep names, parameters and their order.\n"
        f'"""\n\n'
        f"{_imports(topic, module, body)}\n\n\n{body}\n"
    )


def _write_all(files: dict[Path, str]) -> None:
    written: list[Path] = []
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
    except OSError as error:
        for half in written:
            half.unlink()
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error


def _place(thing: object) -> tuple[str, int]:
    """Where a contract's function or class stands: the stubs follow the order of the text."""
    assert inspect.isfunction(thing) or inspect.isclass(thing)
    return inspect.getsourcefile(thing) or "", inspect.getsourcelines(thing)[1]


def _without_behaviour(source: str) -> str:
    """The source with each function body, its docstring apart, replaced by `raise NotImplementedError`."""
    lines = source.rstrip().splitlines()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for function in sorted(functions, key=lambda node: node.lineno, reverse=True):
        first, *rest = function.body
        keep = first if ast.get_docstring(function) is not None else None
        start = keep.end_lineno if keep else first.lineno - 1
        end = rest[-1].end_lineno if rest else first.end_lineno
        lines[start:end] = [" " * first.col_offset + "raise NotImplementedError"]
    return "\n".join(lines)


def _imports(topic: str, module: ModuleType, body: str) -> str:
    """Imports of all that the stubs mention, in code or docstring, and of the contract's other values."""
    mentioned = set(re.findall(r"\b[A-Za-z_]\w*\b", body))
    used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    shared = set(importlib.import_module("spec").__all__) & mentioned
    of_topic = (set(module.__all__) | _assigned(module) & used) - set(contract(topic).names) - shared
    standard = [
        _from_import(node.module or "", names)
        for node in _tree(module).body
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("spec")
        if (names := {alias.name for alias in node.names} & used)
    ]
    own = [
        _from_import(source, names)
        for source, names in (("spec", shared), (f"spec.{topic}", of_topic - {"Array"}))
        if names
    ]
    groups = ["\n".join(standard), "import mlx.core as mx", "\n".join(own)]
    groups += ["Array = mx.array"] if "Array" in of_topic else []
    return "\n\n".join(group for group in groups if group)


def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _assigned(module: ModuleType) -> set[str]:
    """Names that the contract's module gives to types, such as `SequenceId`."""
    targets = (node.targets[0] for node in _tree(module).body if isinstance(node, ast.Assign))
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _from_import(module: str, names: Iterable[str]) -> str:
    # The order of linters: constants, classes, functions.
    names = sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 100:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"
