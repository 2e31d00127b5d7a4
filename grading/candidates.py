"""What the suite can judge: a folder, isolated or in process, or an edit of the reference."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from grading.boundary.session import InProcess, Isolated, Session
from grading.bugs import Bug, RemovedCheck
from grading.edited import reference
from runtime.sandbox import Limits, Tier


@dataclass(frozen=True)
class Candidate:
    """An implementation under test. `open` starts a session for one topic.

    only: the requirements whose tests concern it; None for all.
    nodes: the tests that concern it, as node ids below tests/week3; None for all.
    suspects: the known bugs that are tried when one of its tests fails; None for all of the topic.
    """

    name: str
    open: Callable[[str], Session]
    isolated: bool = False
    only: frozenset[str] | None = None
    nodes: frozenset[str] | None = None
    suspects: tuple[Bug, ...] | None = None

    @cached_property
    def functions(self) -> frozenset[str] | None:
        """Those that `nodes` run, whatever their parameters."""
        return None if self.nodes is None else frozenset(node.partition("[")[0] for node in self.nodes)


def in_process(folder: Path, *, debugged: bool = False) -> Candidate:
    return Candidate(folder.name, partial(InProcess.from_folder, folder, debugged=debugged))


def isolated(folder: Path, tier: Tier, limits: Limits) -> Candidate:
    return Candidate(folder.name, partial(_isolated, folder, tier, limits), isolated=True)


def _isolated(folder: Path, tier: Tier, limits: Limits, topic: str) -> Session:
    return Isolated(folder, topic, tier, limits)


def edited_reference(
    name: str,
    edit: Bug | RemovedCheck,
    only: frozenset[str] | None = None,
    nodes: frozenset[str] | None = None,
) -> Candidate:
    """The reference with one defect, which alone is looked for: what a known bug looks like from outside."""

    def open_session(topic: str) -> Session:
        return InProcess(lambda: reference(topic, edit), topic, "numpy")

    suspects = (edit,) if isinstance(edit, Bug) else ()
    return Candidate(name, open_session, only=only, nodes=nodes, suspects=suspects)
