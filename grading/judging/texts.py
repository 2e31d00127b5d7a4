"""What a failure is called: a few lines, with the smallest input that shows it."""

import re
from collections.abc import Iterable

from grading.boundary.failures import BoundaryFailure, SubmissionError
from grading.boundary.places import called_at

OUR_NOTES = ("Failing test case", "Falsifying example", "You can reproduce")  # the submission writes others
FIXTURES = ("impl=", "described=", "far_id=", "memory_growth=")  # in an example, none of the input
MESSAGE_LENGTH = 2000  # characters of a message, half of them for the smallest input


def our_notes(notes: Iterable[str]) -> str:
    """What Hypothesis noted about the failing input."""
    return "\n".join(note for note in notes if note.lstrip().startswith(OUR_NOTES))


def blob_of(notes: str) -> str:
    """Hypothesis' encoding of the failing input, for a replay."""
    found = re.search(r"@reproduce_failure\('[^']*', b'([^']*)'\)", notes)
    return found[1] if found else ""


def message_of(failure: BaseException, notes: str) -> str:
    """What went wrong, in a few lines: the failure, and the smallest input that shows it."""
    text = shortened(str(failure).split("\nassert ")[0].strip()) or type(failure).__name__
    called, place = called_at(failure)
    if not isinstance(failure, (AssertionError, BoundaryFailure)):
        text = f"{called} raised {type(failure).__name__}: {text}".lstrip()
    elif isinstance(failure, SubmissionError) and called:
        text = f"{called} raised {text}"
    text += f"\nin {place}" if place else ""
    example = re.search(r"(?:Failing test case|Falsifying example): \w+\((.*?)\n\)", notes, re.DOTALL)
    if example:
        given = [line.split("  # or any other")[0].strip() for line in example[1].splitlines()]
        shown = [line for line in given if line and not line.startswith((*FIXTURES, "#"))]
        text += "\nsmallest input: " + shortened(" ".join(shown).rstrip(","))
    return text


def shortened(text: str) -> str:
    return text if len(text) <= MESSAGE_LENGTH // 2 else text[: MESSAGE_LENGTH // 2] + " …"
