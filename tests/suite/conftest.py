"""What several files of these tests use."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from grading import cli


@dataclass(frozen=True)
class Ran:
    """A command: its exit code, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def week3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["week3", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        out, err = capsys.readouterr()
        return Ran(int(exit.value.code or 0), out, err)

    return run
