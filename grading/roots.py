"""Roots and what waits for them: which requirement's own text is broken, and what only depends on it.

Two things lead from a failure to its root. A known bug has a requirement of its own: where the tests of that
requirement fail by it, every other failure that it explains waits for it. Else `needs` of the specification
leads: what fails while something that it needs fails too, waits for that.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from grading.report import LEVEL_WEIGHTS, Report, RequirementResult

FAILED = ("broken", "error")


@dataclass(frozen=True)
class Root:
    """A requirement that is broken by itself, what waits for it, and what that costs together."""

    requirement: RequirementResult
    waiting: tuple[RequirementResult, ...]
    marks: float  # of the topic's 100


def roots(report: Report) -> list[Root]:
    """Core first, what came to no verdict last, else in the order of the specification."""
    failed = [result for result in report.requirements.values() if result.status in FAILED]
    found = []
    for first in failed:
        if not first.waits_for:
            waiting = tuple(result for result in failed if first.id in result.waits_for)
            found.append(Root(first, waiting, _marks((first, *waiting), report)))
    return sorted(
        found, key=lambda root: (root.requirement.status == "error", root.requirement.level != "core")
    )


def waits_for(results: Mapping[str, RequirementResult], home: Mapping[str, str]) -> dict[str, list[str]]:
    """The roots that each failed requirement waits for: none for a root.

    home: the requirement of each known bug, by the bug's title.
    """
    failed = {id: result for id, result in results.items() if result.status in FAILED}
    own = {id: {t for t in result.diagnosis if home.get(t) == id} for id, result in failed.items()}
    found: dict[str, list[str]] = {}

    def roots_of(id: str) -> list[str]:
        if id not in found:
            found[id] = [] if own[id] else _homes(failed[id], own, home) or of_needs(id)
        return found[id]

    def of_needs(id: str) -> list[str]:
        needed = [r for r in _needed(id, results) if r in failed]
        if not failed[id].unwritten:  # what is wrong is not hidden behind what is not written
            needed = [r for r in needed if not failed[r].unwritten]
        return list(dict.fromkeys(root for r in needed for root in roots_of(r) or [r]))

    return {id: roots_of(id) for id in failed}


def _homes(result: RequirementResult, own: Mapping[str, set[str]], home: Mapping[str, str]) -> list[str]:
    """The requirements whose known bugs explain every failure of this one, and their own failures too."""
    found = []
    for test in result.tests:
        if test.outcome == "failed":
            homes = [home[t] for t in test.diagnosis if t in home and t in own.get(home[t], ())]
            if not homes:
                return []
            found.append(homes[0])
    return list(dict.fromkeys(found))


def _needed(id: str, results: Mapping[str, RequirementResult]) -> Iterator[str]:
    """What it needs, and what that needs, as far as it was graded: the first before what is built on it."""
    for other in results[id].needs:
        if other in results:
            yield from _needed(other, results)
            yield other


def _marks(results: Iterable[RequirementResult], report: Report) -> float:
    results = list(results)
    topic = [r for r in report.requirements.values() if r.topic == results[0].topic]
    return 100 * _weight(results) / _weight(topic)


def _weight(results: Iterable[RequirementResult]) -> int:
    return sum(LEVEL_WEIGHTS[result.level] for result in results)
