"""The pieces of the proof for one topic. Each runs alone, in any process, and finds plain data."""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grading.audit import mutants
from grading.audit.cheats import CHEATS, cheat
from grading.audit.runs import SEED, Verdict, nodes, verdicts, verdicts_with_names
from grading.bugs import known_bugs, removed_checks
from grading.candidates import edited_reference, in_process, isolated
from grading.clone import ROOT
from grading.requirements import requirements
from runtime.sandbox import Limits, demand
from runtime.sandbox.values import TIER_NAMES

RIGHT = {
    "reference": ROOT / "reference",
    "solution": ROOT / "solution",
    "another structure": ROOT / "tests" / "alternatives",
}
BATCH = 20  # defects that one job tries
SWEEP = 100  # known bugs that one job tries with another seed
MUTANTS = 30  # a topic
ATTACKED = "paged_attention"  # what attacks hide in; they are on the judge, whatever the topic


@dataclass(frozen=True)
class Job:
    """kind: a key of `KINDS`. what: its arguments, plain data. seconds: about how long it takes."""

    kind: str
    topic: str
    what: tuple[Any, ...]
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.topic} {self.kind} {' '.join(map(str, self.what))}"


def jobs(topic: str, seeds: int) -> Iterator[Job]:
    """All of the proof for a topic; right code, and known bugs once more, are judged with this many seeds."""
    for seed in range(1, seeds + 1):
        for start in range(0, len(known_bugs(topic)), SWEEP):
            yield Job("again", topic, (seed, start), 15)
    for kind, defects in (("bugs", known_bugs(topic)), ("checks", removed_checks(topic))):
        for start in range(0, len(defects), BATCH):
            yield Job(kind, topic, (start,), 20)
    yield Job("cheats", topic, (), 15)
    yield Job("tests", topic, (), 2)
    if topic == ATTACKED:
        for tier in TIER_NAMES:
            yield Job("attacks", topic, (tier,), 100)
    for number in range(MUTANTS):
        yield Job("mutants", topic, (number,), 6)
    for name in RIGHT:
        for tier in TIER_NAMES if name == "solution" else TIER_NAMES[:1]:
            yield Job("isolated", topic, (name, tier), 15)
        for seed in range(1, seeds + 1):
            yield Job("right", topic, (name, seed), 10)


def run(job: Job) -> Any:
    return KINDS[job.kind](job.topic, *job.what)


def _bugs(topic: str, start: int) -> list[dict[str, Any]]:
    """What the tests of its requirement say about each of some known bugs."""
    bugs = known_bugs(topic)[start : start + BATCH]
    candidates = [edited_reference(bug.key, bug, frozenset({bug.requirement})) for bug in bugs]
    found = verdicts_with_names(candidates, topic)
    return [
        {
            "defect": bug.key,
            "to be named": bug.seen_in_answers,
            "named at first": _names(found[bug.key], bug.title),
            "seen": _seen(found[bug.key], bug.title),
        }
        for bug in bugs
    ]


def _again(topic: str, seed: int, start: int) -> dict[str, Any]:
    """Which known bugs the tests of their own requirement let live with this seed."""
    bugs = known_bugs(topic)[start : start + SWEEP]
    candidates = [edited_reference(bug.key, bug, frozenset({bug.requirement})) for bug in bugs]
    found = verdicts(candidates, topic, seed=seed, first_failure=True)
    lived = [bug.key for bug in bugs if not _seen(found[bug.key])]
    return {"seed": seed, "tried": len(bugs), "lived": lived}


def _names(found: list[Verdict], title: str) -> list[str]:
    """The titles that the first failing test gives."""
    return next((verdict.result.diagnosis for verdict in found if verdict.failed), [])


def _seen(found: list[Verdict], title: str = "") -> list[list[Any]]:
    """[test, seconds, whether it named the bug] of each failure."""
    return [
        [verdict.result.node, round(verdict.seconds, 3), title in verdict.result.diagnosis]
        for verdict in found
        if verdict.failed
    ]


def _checks(topic: str, start: int) -> list[dict[str, Any]]:
    """The same for removed checks: tests about errors first, and all tests where these see nothing."""
    checks = removed_checks(topic)[start : start + BATCH]
    about_errors = frozenset(r.id for r in requirements(topic) if "refuse" in r.title)
    found = verdicts([edited_reference(check.key, check, about_errors) for check in checks], topic)
    left = [check for check in checks if not _seen(found[check.key])]
    if left:
        found |= verdicts([edited_reference(check.key, check) for check in left], topic, first_failure=True)
    return [{"defect": check.key, "seen": _seen(found[check.key])} for check in checks]


def _cheats(topic: str) -> list[dict[str, Any]]:
    """What each cheat earns, and the tests that fail on it."""
    found = verdicts([cheat(body) for body in CHEATS], topic)
    earned = {
        name: sorted({v.requirement for v in given} - {v.requirement for v in given if v.failed})
        for name, given in found.items()
    }
    return [{"defect": name, "earned": earned[name], "seen": _seen(found[name])} for name in found]


def _tests(topic: str) -> dict[str, str]:
    return nodes(topic)


def _mutants(topic: str, number: int) -> dict[str, Any]:
    """Whether the suite sees one generic mutant of the solution."""
    mutant = mutants.sample(topic, MUTANTS, SEED)[number]
    with mutants.written(mutant) as folder:
        candidate = isolated(folder, demand(TIER_NAMES[0]), Limits())
        found = verdicts([candidate], topic, first_failure=True)
    failed = [verdict for given in found.values() for verdict in given if verdict.result.outcome != "passed"]
    return {"mutant": mutant.title, "killed by": failed[0].result.node if failed else None}


def _right(topic: str, name: str, seed: int) -> dict[str, Any]:
    found = verdicts([in_process(RIGHT[name])], topic, seed=seed)
    return {"name": name, "seed": seed, "accused": _accused(found)}


def _isolated(topic: str, name: str, tier: str) -> dict[str, Any]:
    found = verdicts([isolated(RIGHT[name], demand(tier), Limits())], topic)
    return {"name": name, "seed": SEED, "tier": tier, "accused": _accused(found)}


def _accused(found: dict[str, list[Verdict]]) -> list[list[str]]:
    """[requirement, test, message] of whatever right code did not pass."""
    return [
        [verdict.requirement, verdict.result.node, verdict.result.message]
        for given in found.values()
        for verdict in given
        if verdict.result.outcome != "passed"
    ]


def _attacks(topic: str, tier: str) -> dict[str, Any]:
    """How many tests with hostile submissions a tier has, and in which of them these gained something."""
    with tempfile.TemporaryDirectory(prefix="week3-audit-") as place:
        report = Path(place) / "attacks.xml"
        tests = str(ROOT / "tests" / "suite" / "test_attacks.py")
        quiet = ("-q", "-p", "no:cacheprovider", "-k", tier, f"--junitxml={report}")
        subprocess.run([sys.executable, "-m", "pytest", tests, *quiet], cwd=ROOT, capture_output=True)
        cases = list(ElementTree.parse(report).iter("testcase"))
    gained = [
        case.get("name", "")
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return {"tier": tier, "tried": len(cases), "gained": gained}


KINDS: dict[str, Callable[..., Any]] = {
    "bugs": _bugs,
    "again": _again,
    "checks": _checks,
    "cheats": _cheats,
    "tests": _tests,
    "mutants": _mutants,
    "right": _right,
    "isolated": _isolated,
    "attacks": _attacks,
}
