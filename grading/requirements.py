"""Reads the numbered requirements out of `spec/<topic>.md`.

A requirement is a heading `### PA-07 · Title · level` with an optional ` · needs PA-05, PA-22`, and the text
below it. A last line `Hint: …` is kept apart, so that it can be shown on demand. A hand-out may ask for some
requirements only: `spec/handout.txt`, if it is there, lists their ids, and no command knows the others.
"""

import re
from dataclasses import dataclass
from functools import cache

from grading.clone import ROOT
from spec.topics import TOPICS

LEVELS = ("core", "edge", "scale")
HANDOUT = ROOT / "spec" / "handout.txt"
_HEADING = re.compile(
    r"^### (?P<id>[A-Z]+-\d+) · (?P<title>.+?) · (?P<level>core|edge|scale)(?: · needs (?P<needs>.+))?$"
)


@dataclass(frozen=True)
class Requirement:
    id: str
    title: str
    topic: str
    level: str  # "core", "edge" or "scale"
    needs: tuple[str, ...]  # ids; while one of them is broken, this one is expected to be
    body: str  # Markdown
    hint: str


@cache
def topics() -> tuple[str, ...]:
    """The topics that exist: those with a `spec/<topic>.md` that asks for something."""
    there = (topic for topic in TOPICS if (ROOT / "spec" / f"{topic}.md").exists())
    return tuple(topic for topic in there if requirements(topic))


@cache
def requirements(topic: str) -> tuple[Requirement, ...]:
    """The live requirements of a topic, in the order of the text; in a hand-out those it asks for."""
    asked = handed_out()
    return tuple(each for each in _specified(topic) if asked is None or each.id in asked)


@cache
def handed_out() -> frozenset[str] | None:
    """The ids that this hand-out asks for; None where it asks for all."""
    if not HANDOUT.exists():
        return None
    lines = HANDOUT.read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _specified(topic: str) -> tuple[Requirement, ...]:
    text = (ROOT / "spec" / f"{topic}.md").read_text(encoding="utf-8")
    found: list[Requirement] = []
    for section in re.split(r"^(?=#{1,3} )", text, flags=re.MULTILINE):
        heading, _, body = section.partition("\n")
        match = _HEADING.match(heading)
        if match is None:
            if (
                heading.startswith("### ")
                and re.match(r"### [A-Z]+-\d+", heading)
                and "withdrawn" not in heading
            ):
                raise ValueError(f"spec/{topic}.md: not a requirement heading: {heading!r}")
            continue
        needs = tuple(re.split(r",\s*", match["needs"])) if match["needs"] else ()
        body, hint = _split_hint(body.strip())
        found.append(Requirement(match["id"], match["title"], topic, match["level"], needs, body, hint))
    _check(topic, found)
    return tuple(found)


@cache
def by_id() -> dict[str, Requirement]:
    """Every live requirement of every topic."""
    return {requirement.id: requirement for topic in topics() for requirement in requirements(topic)}


def _split_hint(body: str) -> tuple[str, str]:
    text, mark, hint = body.rpartition("\nHint: ")
    return (text.strip(), " ".join(hint.split())) if mark else (body, "")


def _check(topic: str, found: list[Requirement]) -> None:
    """Ids are unique and needs lead to requirements without a circle."""
    ids = [requirement.id for requirement in found]
    if len(set(ids)) != len(ids):
        raise ValueError(
            f"spec/{topic}.md: an id appears twice: {sorted(i for i in set(ids) if ids.count(i) > 1)}"
        )
    resolved: set[str] = set()
    waiting = list(found)
    while waiting:
        ready = [requirement for requirement in waiting if set(requirement.needs) <= resolved]
        if not ready:
            raise ValueError(f"spec/{topic}.md: needs lead nowhere or in a circle: {[r.id for r in waiting]}")
        resolved |= {requirement.id for requirement in ready}
        waiting = [requirement for requirement in waiting if requirement not in ready]
