"""Tools of the user's own: a Python file that defines TOOLS."""

import sys
import traceback
from pathlib import Path
from types import ModuleType

from spec.agent import Tool

_NAME = "week3_own_tools"  # of the module that the file becomes


class BadTools(Exception):
    """The file brings no tools; the message is a sentence."""


def own_tools(path: Path) -> list[Tool]:
    """What TOOLS holds once the file has run. Raises BadTools."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise BadTools(f"{path}: {error.strerror}") from error
    module = ModuleType(_NAME)
    module.__file__ = str(path)
    sys.modules[_NAME] = module  # where dataclasses look for the names of their types
    try:
        exec(compile(source, path, "exec"), vars(module))
    except Exception as error:  # the user's code, which may raise anything
        raise BadTools(f"{path}{_line(error, path)}: {type(error).__name__}: {error}") from error
    found = vars(module).get("TOOLS")
    if not isinstance(found, list | tuple):
        got = "none" if found is None else type(found).__name__
        raise BadTools(f"{path}: expected TOOLS, a list of spec.agent.Tool, got {got}")
    for index, each in enumerate(found):
        if not isinstance(each, Tool):
            raise BadTools(f"{path}: TOOLS[{index}]: expected a spec.agent.Tool, got {type(each).__name__}")
    return list(found)


def _line(error: Exception, path: Path) -> str:
    """`:12`, the last one of the file that was under way."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == str(path)]
    return f":{lines[-1]}" if lines else ""
