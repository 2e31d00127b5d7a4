"""Roots and what waits for them: which requirement's own text is broken, and what only depends on it.

Four things lead from a failure to its root. A known bug has a requirement of its own: where the tests of
that requirement fail by it, every other failure that it explains waits for it. So has a name of the contract:
what only lacks `fork` waits for the requirement about forks. A function that hung or crashed is not called
again: what misses it waits for the requirement that met it. Else `needs` of the specification leads: what
fails while something that it needs fails too, waits for that.
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

    home: the requirement of each known bug, by its title, and of each name of the contract.
    """
    failed = {id: result for id, result in results.items() if result.status in FAILED}
    homes = _homes(failed, home)
    stopped = {id: {test.stopped for test in result.tests} - {""} for id, result in failed.items()}
    lacking = {id: _lacking(result, home) for id, result in failed.items()}
    found: dict[str, list[str]] = {}

    def roots_of(id: str) -> list[str]:
        if id not in found:
            others = [other for other in homes[id] if other != id]
            told = homes[id] or stopped[id] or id in lacking[id]
            found[id] = others if told else of_names(id) or stoppers(id) or of_needs(id)
        return found[id]

    def of_names(id: str) -> list[str]:
        return lacking[id] if all(other in lacking.get(other, ()) for other in lacking[id]) else []

    def stoppers(id: str) -> list[str]:
        missed = {test.not_called for test in failed[id].tests if test.outcome != "passed"}
        return [other for other, names in stopped.items() if missed and missed <= names]

    def of_needs(id: str) -> list[str]:
        needed = [r for r in _needed(id, results) if r in failed]
        if not failed[id].unwritten:  # what is wrong is not hidden behind what is not written
            needed = [r for r in needed if not failed[r].unwritten]
        return list(dict.fromkeys(root for r in needed for root in roots_of(r) or [r]))

    return {id: roots_of(id) for id in failed}


def _homes(failed: Mapping[str, RequirementResult], home: Mapping[str, str]) -> dict[str, list[str]]:
    """Where each is told by its known bugs: itself, or others; nothing where a failure of it has no name.

    Often several bugs explain one failure. Of those whose own requirement fails by them, the fewest that
    explain all are taken, the one that explains most first.
    """
    possible = {
        (id, test.node): test.diagnosis
        for id, result in failed.items()
        for test in result.tests
        if test.outcome == "failed"
    }
    titles = dict.fromkeys(t for (id, _), named in possible.items() for t in named if home.get(t) == id)
    explained = {title: {test for test, named in possible.items() if title in named} for title in titles}
    address: dict[tuple[str, str], str] = {}
    while left := set().union(*explained.values()) - address.keys():
        best = max(explained, key=lambda title: len(explained[title] & left))
        address |= dict.fromkeys(explained[best] & left, home[best])
    found = {}
    for id in failed:
        own = [address.get(test, "") for test in possible if test[0] == id]
        found[id] = [id] if id in address.values() else [] if "" in own else list(dict.fromkeys(own))
    return found


def _lacking(result: RequirementResult, home: Mapping[str, str]) -> list[str]:
    """Where the text is about what it lacks, if it lacks something and nothing else is wrong."""
    names = dict.fromkeys(test.missing for test in result.tests if result.unwritten and test.missing)
    return list(dict.fromkeys(home.get(name, "") for name in names))


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
