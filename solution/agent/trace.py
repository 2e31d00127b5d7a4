"""A run in a file: a line of JSON for each event, with what it brought. A killed run leaves whole lines.

    run      the run's id
    kind     of the event
    at       seconds since the first event
    time     of day, UTC
    call_id  of an attempt and a result
    messages those that the run has had since the line before

Beside these an attempt and a result have the call's name and arguments, the former its number, the latter
status, content and the number of attempts; a reply of the model has its tokens; the end has its reason and
how many calls of the model and tokens there were.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spec.agent import Event, EventKind

from .journal import Entry, Journal

Line = dict[str, Any]


class BadTrace(Exception):
    """The file is no trace; the message is a sentence."""


class Lines:
    """Of the events of one run, each as it comes."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._messages = self._tokens = 0  # that are in a line

    def __call__(self, event: Event) -> Line:
        journal = Journal.of_checkpoint(event.checkpoint)
        self._began = event.at if self._began is None else self._began
        line = {
            "run": journal.counts.run_id,
            "kind": event.kind.value,
            "at": round(event.at - self._began, 6),
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "call_id": event.call_id,
            "messages": journal.messages[self._messages :],
            **self._brought(event, journal),
        }
        self._messages, self._tokens = len(journal.messages), journal.counts.tokens
        return line

    def _brought(self, event: Event, journal: Journal) -> Line:
        if event.call_id is not None:
            entry = next(each for each in journal.entries if each.id == event.call_id)
            return _of_call(event.kind, entry)
        counts = journal.counts
        if event.kind is EventKind.MODEL_REPLY:
            return {"tokens": counts.tokens - self._tokens}
        if event.kind is EventKind.STOP and counts.stop is not None:
            return {"reason": counts.stop.value, "model_calls": counts.model_calls, "tokens": counts.tokens}
        return {}


class Trace:
    """A file that is there is appended to."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where it cannot be written."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def write(self, line: Line) -> None:
        data = f"{json.dumps(line)}\n".encode()
        while data:  # at once, but where the disk is full
            data = data[os.write(self._file, data) :]

    def close(self) -> None:
        os.close(self._file)


def _of_call(kind: EventKind, entry: Entry) -> Line:
    asked = {"name": entry.name, "arguments": entry.arguments}
    if kind is EventKind.ATTEMPT:
        return {**asked, "attempt": entry.attempts}
    result = entry.result()
    ended = {"status": result.status.value, "content": result.content, "attempts": result.attempts}
    return {**asked, **ended}


_NEEDED = {"run": str, "kind": str, "at": int | float, "time": str, "messages": list}
_OF_A_CALL = {"call_id": str, "name": str, "arguments": str}
_OF_KIND = {
    EventKind.MODEL_CALL: {},
    EventKind.MODEL_REPLY: {"tokens": int},
    EventKind.ATTEMPT: {**_OF_A_CALL, "attempt": int},
    EventKind.RESULT: {**_OF_A_CALL, "status": str, "content": str, "attempts": int},
    EventKind.STOP: {"reason": str, "model_calls": int, "tokens": int},
}


def read_trace(path: Path) -> list[list[Line]]:
    """The lines of each run, in the order in which they began. A last line that was cut off is left out.

    Raises BadTrace, with the line, for what `Trace` would not have written.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise BadTrace(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadTrace(f"{path}: expected UTF-8, got another byte at {error.start}") from error
    *lines, _ = text.split("\n")
    runs: dict[str, list[Line]] = {}
    for number, line in enumerate(lines, start=1):
        found = _checked(line, f"{path}:{number}")
        runs.setdefault(found["run"], []).append(found)
    if not runs:
        raise BadTrace(f"{path}: expected lines of a trace, got none")
    return list(runs.values())


def _checked(text: str, place: str) -> Line:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadTrace(f"{place}: expected JSON, got {error}") from error
    if not isinstance(line, dict):
        raise BadTrace(f"{place}: expected an object, got {type(line).__name__}")
    _expect(line, _NEEDED, place)
    kinds = {kind.value: needed for kind, needed in _OF_KIND.items()}
    if line["kind"] not in kinds:
        raise BadTrace(f"{place}: expected a kind of {', '.join(kinds)}, got {line['kind']!r}")
    _expect(line, kinds[line["kind"]], place)
    for message in line["messages"]:
        if not (isinstance(message, dict) and isinstance(message.get("role"), str)):
            raise BadTrace(f"{place}: expected messages with a role, got {message!r}")
    return line


def _expect(line: Line, needed: dict[str, Any], place: str) -> None:
    for name, kind in needed.items():
        if not isinstance(line.get(name), kind):
            raise BadTrace(f"{place}: expected {name}, got {line.get(name)!r}")
