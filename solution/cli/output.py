"""What the commands share: text on a terminal or a pipe, a bar, and how they end."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

FAILED, USAGE, INTERRUPTED, NOBODY_READS = 1, 2, 130, 141
# Characters that would steer a terminal.
STEERING = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")


def say(piece: str) -> None:
    shown = piece.translate(STEERING) if sys.stdout.isatty() else piece
    print(shown, end="", flush=True)


def shown(text: str) -> str:
    """What a model or a file wrote, for a terminal in any case."""
    return text.translate(STEERING)


def nothing(piece: str) -> None:
    pass


def let_go() -> None:
    """Writes no more to a pipe that nobody reads, also when Python flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def bar(name: str, *columns: "ProgressColumn") -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere. columns: beside the name and the bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    shown = (TextColumn("{task.description}", markup=False), BarColumn(), *columns)
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def models_needed() -> Iterator[None]:
    """Around imports of what an extra brings."""
    try:
        yield
    except ModuleNotFoundError as error:
        end(f"{error.name} is not installed. Models need it: pip install -e '.[models]'", USAGE)


def end(sentence: str, code: int) -> NoReturn:
    print(f"week3: {sentence}", file=sys.stderr)
    raise typer.Exit(code)
