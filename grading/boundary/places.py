"""Where in the submission an error was raised: a line for the card, and the traceback for pytest."""

import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from grading.boundary import loading
from grading.boundary.failures import BoundaryFailure

_TRACEBACK = 16_000  # characters of it that cross
_PLACE = 200  # characters of the line, which is the submission's own text
_HERE = Path(__file__).parent
_NOTE = "In the submission: "


@dataclass
class Frames:
    """last: where the last error was raised, to be looked at in a debugger."""

    last: TracebackType | None = None


def described(error: BaseException) -> str:
    """Beside the submission: the place in the first line, then the traceback from its first frame on."""
    if isinstance(error, BoundaryFailure):
        return ""  # our own words about a value
    frames = error.__traceback__
    while frames is not None and Path(frames.tb_frame.f_code.co_filename).parent == _HERE:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    return f"{_place(error)}\n{text[-_TRACEBACK:]}"


def add_note(error: Exception, called: str, described: str) -> None:
    """Beside the tests, where the text may be anything."""
    if described:
        place, _, text = described[: _PLACE + _TRACEBACK].partition("\n")
        error.add_note(f"{_NOTE}{called}, {place[:_PLACE]}\n{text}")


def called_at(error: BaseException) -> tuple[str, str]:
    """What was called and where the submission raised it, each "" if unknown: as `add_note` wrote them."""
    for note in getattr(error, "__notes__", []):
        if note.startswith(_NOTE):
            called, _, place = note.removeprefix(_NOTE).splitlines()[0].partition(", ")
            return called, place
    return "", ""


def _place(error: BaseException) -> str:
    """`paged_attention.py:41, in gather: k, v, x = found`; nothing outside of the submission's files."""
    if isinstance(error, SyntaxError) and (file := _below(error.filename or "")):
        return f"{file}:{error.lineno}: {(error.text or '').strip()}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if file := _below(frame.filename):
            return f"{file}:{frame.lineno}, in {frame.name}: {frame.line}"
    return ""


def _below(file: str) -> str:
    """The path inside the submission's folder."""
    for folder in loading.folders():
        if Path(file).is_relative_to(folder):
            return str(Path(file).relative_to(folder))
    return ""
