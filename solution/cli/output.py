"""What the commands share: text on a terminal or a pipe, and how they end."""

import os
import sys
from typing import NoReturn

import typer

FAILED, USAGE, INTERRUPTED, NOBODY_READS = 1, 2, 130, 141
# Characters that would steer a terminal.
STEERING = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")


def say(piece: str) -> None:
    shown = piece.translate(STEERING) if sys.stdout.isatty() else piece
    print(shown, end="", flush=True)


def nothing(piece: str) -> None:
    pass


def let_go() -> None:
    """Writes no more to a pipe that nobody reads, also when Python flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end(sentence: str, code: int) -> NoReturn:
    print(f"week3: {sentence}", file=sys.stderr)
    raise typer.Exit(code)
