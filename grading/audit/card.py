"""The suite's report card: what an audit of a topic found, in figures, and whether they meet the bars."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from grading.audit import mutants, witnesses
from grading.audit.jobs import KINDS, Job
from grading.requirements import requirements


@dataclass
class Card:
    """Counts, and lists of what must not be there. [a, b] is a of b."""

    topic: str
    requirements: int = 0
    tests: int = 0
    killed: list[int] = field(default_factory=lambda: [0, 0])  # known bugs
    again: list[int] = field(default_factory=lambda: [0, 0])  # the same at other seeds, one count a seed
    named: list[int] = field(default_factory=lambda: [0, 0])  # of those that an answer shows, by some test
    named_at_first: list[int] = field(default_factory=lambda: [0, 0])  # by the first that fails, among all
    alone: int = 0  # of these, named and no other bug with it
    checks: list[int] = field(default_factory=lambda: [0, 0])  # removed ones that were missed
    cheats: list[int] = field(default_factory=lambda: [0, 0])  # that earned nothing
    right_runs: int = 0
    isolated_runs: int = 0
    attacks: list[int] = field(default_factory=lambda: [0, 0])  # that gained nothing
    mutants: list[int] = field(default_factory=lambda: [0, 0])  # killed, of those that can be observed
    unobservable: int = 0
    survivors: list[str] = field(default_factory=list)  # titles of bugs, checks and mutants nobody caught
    lucky: list[str] = field(default_factory=list)  # known bugs that live at some seed
    unnamed: list[str] = field(default_factory=list)
    idle_tests: list[str] = field(default_factory=list)  # never seen to fail
    undefended: list[str] = field(default_factory=list)  # requirements whose tests catch no defect
    accused: list[str] = field(default_factory=list)  # right code, by which test
    earned: list[str] = field(default_factory=list)  # what a cheat earned
    gained: list[str] = field(default_factory=list)  # attacks that changed a verdict

    def missed(self) -> list[str]:
        """The bars that are not met, a sentence each."""
        found = [
            f"{what}: {', '.join(names)}"
            for what, names in (
                ("lives", [name for name in self.survivors if not name.startswith("solution/")]),
                ("lives at a seed", self.lucky),
                ("never seen to fail", self.idle_tests),
                ("no defect is caught by the tests of", self.undefended),
                ("right code was accused", self.accused),
                ("a cheat earned", self.earned),
                ("attacks gained", self.gained),
            )
            if names
        ]
        if self.mutants[0] < 0.95 * self.mutants[1]:
            found.append(f"mutants: {self.mutants[0]} of {self.mutants[1]} killed, expected 95 %")
        if self.named_at_first[0] < 0.9 * self.named_at_first[1]:
            found.append(f"named: {self.named_at_first[0]} of {self.named_at_first[1]}, expected 90 %")
        return found

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def card(topic: str, found: Mapping[Job, Any]) -> Card:
    """Adds up what the jobs of a topic found."""
    of = {kind: [result for job, result in found.items() if job.kind == kind] for kind in KINDS}
    card = Card(topic, requirements=len(requirements(topic)))
    tests: dict[str, str] = of["tests"][0]
    card.tests = len(tests)
    for bug in _flat(of["bugs"]):
        _count(card.killed, bool(bug["seen"]))
        if not bug["seen"]:
            card.survivors.append(bug["defect"])
        elif bug["to be named"]:
            by_some_test = any(named for _, _, named in bug["seen"])
            _count(card.named, by_some_test)
            own = bug["defect"].partition(" ")[2]
            _count(card.named_at_first, own in bug["named at first"])
            card.alone += bug["named at first"] == [own]
            if not by_some_test:
                card.unnamed.append(bug["defect"])
    for run in of["again"]:
        card.again[0] += run["tried"] - len(run["lived"])
        card.again[1] += run["tried"]
        card.lucky += [f"seed {run['seed']}: {name}" for name in run["lived"]]
    for check in _flat(of["checks"]):
        _count(card.checks, bool(check["seen"]))
        if not check["seen"]:
            card.survivors.append(check["defect"])
    for cheat in _flat(of["cheats"]):
        _count(card.cheats, not cheat["earned"])
        card.earned += [f"{cheat['defect']} {id}" for id in cheat["earned"]]
    seen = {node for node, *_ in (each for defect in _defects(of) for each in defect["seen"])}
    card.idle_tests = sorted(set(tests) - seen)
    by_defects = {
        node for defect in (*_flat(of["bugs"]), *_flat(of["checks"])) for node, *_ in defect["seen"]
    }
    defended = {tests.get(node) for node in by_defects}
    card.undefended = [r.id for r in requirements(topic) if r.id not in defended]
    card.right_runs, card.isolated_runs = len(of["right"]), len(of["isolated"])
    for run in (*of["right"], *of["isolated"]):
        where = run.get("tier", "in process")
        card.accused += [
            f"{run['name']}, {where}, seed {run['seed']}: {node}" for _, node, _ in run["accused"]
        ]
    for run in of["attacks"]:
        card.attacks[0] += run["tried"] - len(run["gained"])
        card.attacks[1] += run["tried"]
        card.gained += [f"{run['tier']}: {name}" for name in run["gained"]]
    _judge_mutants(card, of["mutants"])
    return card


def sightings(found: Mapping[Job, Any]) -> list[witnesses.Sighting]:
    """Every defect and test that were seen together."""
    of = {kind: [result for job, result in found.items() if job.kind == kind] for kind in KINDS}
    return [
        witnesses.Sighting(defect["defect"], node, seconds, named or not defect.get("to be named", False))
        for defect in _defects(of)
        for node, seconds, named in defect["seen"]
    ]


def _defects(of: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [*_flat(of["bugs"]), *_flat(of["checks"]), *_flat(of["cheats"])]


def _flat(lists: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [each for some in lists for each in some]


def _count(pair: list[int], yes: bool) -> None:
    pair[0] += yes
    pair[1] += 1


def _judge_mutants(card: Card, results: list[dict[str, Any]]) -> None:
    excused = mutants.unobservable()
    for result in results:
        if result["killed by"] is None and result["mutant"] in excused:
            card.unobservable += 1
            continue
        _count(card.mutants, result["killed by"] is not None)
        if result["killed by"] is None:
            card.survivors.append(result["mutant"])
