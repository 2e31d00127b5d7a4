"""What every command prints through: consoles, text that any encoding can show, progress."""

import codecs
import io
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from grading.clone import ROOT
from grading.report import TestResult

if TYPE_CHECKING:
    from rich.console import Console  # rich costs 0.1 s, which `week3 --help` does not have

    from grading.grade import Listener

# Characters that steer a terminal, or that XML and UTF-8 cannot carry: controls, text direction, surrogates.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_ASCII = dict(zip("█░·–—−«»“”‘’•×", '#.----""""\'\'*x', strict=True)) | {
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "∞": "inf",
}


def console(*, stderr: bool = False) -> "Console":
    """rich decides on colour: none where the output is no terminal or NO_COLOR is set."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def printable(text: str) -> str:
    """The text with what is unsafe to show as an escape: messages are written by submissions."""
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def pytest_command(path: str, id: str) -> str:
    """The tests of a requirement in a debugger, as they are started from here."""
    suite = "-k week3" if Path.cwd() == ROOT else shlex.quote(str(ROOT / "tests" / "week3"))
    return f"pytest {suite} --impl={shlex.quote(path)} --requirement {id}"


def write_any_text(*streams: Any) -> None:
    """Where the encoding lacks a character, its plain form is printed instead of a UnicodeEncodeError."""
    codecs.register_error("week3", _plain)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="week3")


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(_ASCII.get(c) or c.encode("unicode_escape").decode() for c in missing), error.end


@contextmanager
def progress(name: str, topic_of: Mapping[str, str], *, debugger: bool) -> "Iterator[Listener]":
    """A bar on a terminal, unless a debugger may want it; lines in the log of a CI run; nothing in a pipe."""
    shown = console(stderr=True)
    if shown.is_terminal and not debugger:
        with ProgressBar(shown, name) as bar:
            yield bar
    elif shown.is_terminal or os.environ.get("CI"):
        yield ProgressLines(shown, name, topic_of)
    else:
        yield Silent()


class Silent:
    def started(self, total: int) -> None:
        pass

    def finished(self, result: TestResult, requirement_id: str) -> None:
        pass


class ProgressBar:
    """On a terminal: one line that fills, and is gone afterwards."""

    def __init__(self, console: "Console", name: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task(name, total=None)
        self._name = name
        self._failed = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._progress.stop()

    def started(self, total: int) -> None:
        self._progress.update(self._task, total=total)

    def finished(self, result: TestResult, requirement_id: str) -> None:
        self._failed += result.failing and not result.missing
        failed = f", {self._failed} failed" if self._failed else ""
        self._progress.update(self._task, advance=1, description=self._name + failed)


class ProgressLines:
    """Elsewhere: a line as each topic begins, for the log of a CI run."""

    def __init__(self, console: "Console", name: str, topic_of: Mapping[str, str]) -> None:
        self._console = console
        self._name = name
        self._topic_of = topic_of
        self._begun: set[str] = set()

    def started(self, total: int) -> None:
        self._console.print(f"{self._name}: {total} tests", soft_wrap=True)

    def finished(self, result: TestResult, requirement_id: str) -> None:
        topic = self._topic_of[requirement_id]
        if topic not in self._begun:
            self._begun.add(topic)
            self._console.print(f"{self._name}: {topic}", soft_wrap=True)
