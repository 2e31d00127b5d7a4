"""Tools that can do no harm: arithmetic, the text files of one folder, and a collection that was taken in.

They write nothing, run nothing that they are given and reach nothing else, so they need no approval. Their
schemas are of the kind that `JsonConstraint` takes.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any

from spec import ToolFailure
from spec.agent import Tool, ToolContext

from .arithmetic import calculate
from .checks import expect
from .grammar import an_object

MOST_FILES, MOST_LINES = 500, 200  # that are shown at once
LONGEST_LINE, MOST_LINE = 1_000, 10**9  # characters; the number of a line
STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def calculator() -> Tool:
    return tool(
        "calculate",
        "Works out an arithmetic expression exactly, for example (17 + 23) * 2.5 ** 2. It knows + - * / // % "
        "**, parentheses, sqrt, abs and round.",
        lambda arguments, context: calculate(arguments["expression"]),
        expression=STRING,
    )


def folder_tools(folder: str | Path) -> list[Tool]:
    """`list_files` and `read_file`, of a folder and those in it. A link counts as what it leads to.

    Raises InvalidArgument when there is no such folder.
    """
    root = Path(folder).resolve()
    expect(root.is_dir(), "folder", "one that is there", root)
    return [
        tool("list_files", "Lists the files that can be read.", lambda arguments, context: _list(root)),
        tool(
            "read_file",
            f"Reads {MOST_LINES} lines of a text file, from this line on. The first line is 1.",
            lambda arguments, context: _read(root, arguments["path"], arguments["line"]),
            path=STRING,
            line=INTEGER,
        ),
    ]


def search(passages: Callable[[str], list[tuple[str, str]]]) -> Tool:
    """passages(query): place and text of each, best first. It is called in the thread of the agent."""

    def run(arguments: dict[str, Any], context: ToolContext) -> str:
        found = passages(arguments["query"])
        return "\n\n".join(f"{place}:\n{text}" for place, text in found) or "Nothing was found."

    about = "Searches a collection of texts, and shows the passages that fit a query best."
    return replace(tool("search", about, run, query=STRING), timeout=inf)


def tool(
    name: str, description: str, function: Callable[[dict[str, Any], ToolContext], str], **properties: Any
) -> Tool:
    """One that takes all of these properties, and may be called again."""
    return Tool(name, description, an_object(properties), function, idempotent=True)


def _list(root: Path) -> str:
    paths = sorted(path for path in root.rglob("*") if _is_readable(path, root))
    names = [path.relative_to(root).as_posix() for path in paths[:MOST_FILES]]
    more = [f"[and {len(paths) - MOST_FILES} more]"] if len(paths) > MOST_FILES else []
    return "\n".join([*names, *more]) or "There are none."


def _read(root: Path, name: str, line: int) -> str:
    """Lines as they are, longer ones in pieces. What is elsewhere is told like what is nowhere."""
    path = root / name
    if not _is_readable(path, root):
        raise ToolFailure(f"path: expected a file of list_files, got {name!r}")
    if not 1 <= line <= MOST_LINE:
        raise ToolFailure(f"line: expected 1 to {MOST_LINE}, got {line}")
    with path.resolve().open(encoding="utf-8", errors="replace") as file:
        pieces = iter(partial(file.readline, LONGEST_LINE), "")
        found = list(islice(pieces, line - 1, line + MOST_LINES))
    if not found and line > 1:
        raise ToolFailure(f"line: expected one that {name!r} has, got {line}")
    shown = "".join(found[:MOST_LINES])
    return f"{shown}[more from line {line + MOST_LINES} on]" if len(found) > MOST_LINES else shown


def _is_readable(path: Path, root: Path) -> bool:
    """Whether it is a file within the root, once links are followed, and nothing on the way is hidden."""
    try:
        real = path.resolve()
        inside = real.is_relative_to(root) and real.is_file()
    except (OSError, ValueError, RuntimeError):  # links in a circle, names that no file can have
        return False
    return inside and not any(part.startswith(".") for part in real.relative_to(root).parts)
