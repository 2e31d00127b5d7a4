"""Hints: which test catches a defect, and which defect a test catches.

`tests/week3/<topic>/witnesses.json` keeps them, so that a run of CI asks one test about each defect instead
of all tests of a requirement. A hint can hide nothing: what it promises is seen again each time, and where
that fails, all tests of the requirement are asked.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from grading.clone import ROOT
from grading.files import write_whole


@dataclass(frozen=True)
class Sighting:
    """A test that failed on a defect. named: it also said which one it was."""

    defect: str  # the key of a known bug or a removed check, or the name of a cheat
    node: str
    seconds: float
    named: bool


def path_of(topic: str) -> Path:
    return ROOT / "tests" / "week3" / topic / "witnesses.json"


def read(topic: str) -> dict[str, list[str]]:
    """{defect: tests that catch it}; nothing where no audit wrote it yet."""
    path = path_of(topic)
    if not path.is_file():
        return {}
    found: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(topic: str, chosen: Mapping[str, list[str]]) -> None:
    write_whole(path_of(topic), json.dumps(chosen, indent=0, ensure_ascii=False, sort_keys=True) + "\n")


def choose(sightings: Iterable[Sighting], before: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """A test for each defect, one that names it if there is one, and a defect for each test that is left.

    before: what was chosen by the last audit. It stays where it is still seen: times differ between runs.
    """
    by_defect: dict[str, list[Sighting]] = {}
    for each in sightings:
        by_defect.setdefault(each.defect, []).append(each)
    chosen: dict[str, list[str]] = {}
    taken: set[str] = set()

    def preferred(each: Sighting) -> tuple[object, ...]:
        fresh = each.node not in before.get(each.defect, [])[:1]
        return not each.named, fresh, each.node in taken, each.seconds, each.node

    for defect in sorted(by_defect, key=lambda defect: (len(by_defect[defect]), defect)):
        best = min(by_defect[defect], key=preferred)
        chosen[defect] = [best.node]
        taken.add(best.node)
    left: dict[str, list[Sighting]] = {}
    for each in (each for seen in by_defect.values() for each in seen if each.node not in taken):
        left.setdefault(each.node, []).append(each)
    for node, seen in sorted(left.items()):
        best = min(seen, key=lambda s: (s.node not in before.get(s.defect, []), s.seconds, s.defect))
        chosen[best.defect].append(node)
    return chosen
