"""What the command line was asked for, or a sentence that says what there is instead."""

import json
import re
import sys
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grading.clone import UsageError

if TYPE_CHECKING:
    from grading.requirements import Requirement


def must_exist(path: Path) -> None:
    if path.is_dir():
        return
    if path.exists():
        raise UsageError(f"{path} is a file, and a submission is a folder. Did you mean {path.parent}?")
    there = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, there, n=1)
    raise UsageError(f"no folder {path}." + (f" Did you mean {path.parent / near[0]}?" if near else ""))


def must_decline_what_there_is(path: Path) -> None:
    """What else is wrong with a `week3.toml` fails the tests, and they say so."""
    from grading.boundary.failures import SubmissionError
    from grading.boundary.loading import settings_of
    from grading.capabilities import check_names

    try:
        declines = settings_of(path).declines
    except SubmissionError:
        return
    try:
        check_names(declines)
    except SubmissionError as error:
        raise UsageError(f"{path}: {error}") from None


def must_be_writable(file: Path | None) -> None:
    """Said before the work, not after it."""
    from grading.files import can_be_written

    if file and not can_be_written(file):
        raise UsageError(f"{file} cannot be written: name a file, in a folder that exists and is yours")


def known_topics(names: list[str] | None) -> list[str] | None:
    from grading.requirements import topics

    return [nearest("topic", name, topics()) for name in names] if names else None


def requirement_of(id: str) -> "Requirement":
    from grading.requirements import by_id

    written = re.fullmatch(r"([A-Z]+)-?0*(\d+)", id.upper())  # LC-1, lc01 and LC-01 are one
    id = f"{written[1]}-{int(written[2]):02}" if written else id.upper()
    return by_id()[nearest("requirement", id, by_id())]


def ids_of(only: list[str]) -> list[str]:
    """The ids that topics, levels and ids name: of several topics or levels any, of both those in both."""
    from grading.requirements import LEVELS, by_id, topics

    words = [word if word in (*topics(), *LEVELS) else requirement_of(word).id for word in only]
    in_topic = [word for word in words if word in topics()]
    at_level = [word for word in words if word in LEVELS]
    return [
        id
        for id, requirement in by_id().items()
        if id in words
        or (in_topic or at_level)
        and (not in_topic or requirement.topic in in_topic)
        and (not at_level or requirement.level in at_level)
    ]


def nearest(kind: str, name: str, known: Collection[str]) -> str:
    if name in known:
        return name
    near = get_close_matches(name, known, n=1)
    there = f"There are: {', '.join(known)}" if len(known) <= 10 else "All of them: week3 list"
    raise UsageError(f"no {kind} {name}. " + (f"Did you mean {near[0]}? " if near else "") + there)


def recorded_in(file: Path, id: str) -> dict[str, Any]:
    """The one report in this file in which the requirement failed."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        reports: list[dict[str, Any]] = data if isinstance(data, list) else [data]
        results = [(report, report["requirements"].get(id, {})) for report in reports]
        failing = [report for report, result in results if result.get("status") in ("broken", "error")]
        names = [str(report["implementation"]) for report in failing]
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{file} is no report of week3 grade --json") from error
    if len(failing) != 1:
        found = ", ".join(names) or "none"
        raise UsageError(f"{file}: expected one submission in which {id} failed, found {found}")
    return failing[0]


def place_of(recorded: Mapping[str, Any]) -> Path:
    """The submission of a report: where it was graded, or on another machine the same path from here."""
    path = Path(recorded.get("path", recorded["implementation"]))
    if not path.is_dir():
        path = Path(recorded["implementation"])
        must_exist(path)
        print(f"week3: graded elsewhere; replaying {path.resolve()}", file=sys.stderr)
    return path
