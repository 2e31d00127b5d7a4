"""What the suite can judge: a folder, isolated or in process, or an edit of the reference."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grading import bugs
from grading.boundary.session import InProcess, Isolated, Session
from runtime.sandbox import Limits, Tier


@dataclass(frozen=True)
class Candidate:
    """An implementation under test. `open` starts a session for one topic.

    only: the requirements whose tests concern it; None for all.
    """

    name: str
    open: Callable[[str], Session]
    isolated: bool = False
    only: frozenset[str] | None = None


def in_process(folder: Path) -> Candidate:
    return Candidate(folder.name, lambda topic: InProcess.from_folder(folder, topic))


def isolated(folder: Path, tier: Tier, limits: Limits) -> Candidate:
    return Candidate(folder.name, lambda topic: Isolated(folder, topic, tier, limits), isolated=True)


def edited_reference(
    name: str, edit: bugs.Bug | bugs.RemovedCheck, only: frozenset[str] | None = None
) -> Candidate:
    """The reference with one defect: what a known bug looks like from outside."""

    def open_session(topic: str) -> Session:
        return InProcess(lambda: bugs.reference(topic, edit), topic, "numpy")

    return Candidate(name, open_session, only=only)
