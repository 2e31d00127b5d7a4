"""Runs of the suite on something else than a submission: defects, cheats, mutants, right code."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from grading.bugs import Bug, known_bugs
from grading.candidates import Candidate
from grading.grade import run_suite
from grading.judging.judge import Judge
from grading.judging.trial import Trial
from grading.report import TestResult

SEED = 20260  # of every proof: a witness is seen again with the inputs that it was found with


@dataclass(frozen=True)
class Verdict:
    """What one test found about one candidate, and how long it took."""

    requirement: str
    result: TestResult
    seconds: float

    @property
    def failed(self) -> bool:
        return self.result.outcome == "failed"


def verdicts(
    candidates: Sequence[Candidate], topic: str, *, seed: int = SEED, first_failure: bool = False
) -> dict[str, list[Verdict]]:
    """{candidate: its verdicts}. Inputs are not made smaller, and each known bug is looked for alone."""
    return _verdicts(Judge, candidates, topic, seed, first_failure)


def verdicts_with_names(
    candidates: Sequence[Candidate], topic: str, *, seed: int = SEED
) -> dict[str, list[Verdict]]:
    """The same; the first failure of each candidate is compared with all known bugs of the topic."""
    return _verdicts(NamingJudge, candidates, topic, seed, False)


def _verdicts(
    kind: type[Judge], candidates: Sequence[Candidate], topic: str, seed: int, first_failure: bool
) -> dict[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = defaultdict(list)
    last = time.monotonic()

    def finished(result: TestResult, requirement: str, candidate: str) -> None:
        nonlocal last
        now = time.monotonic()
        found[candidate].append(Verdict(requirement, result, now - last))
        last = now

    judge = kind(
        list(candidates),
        seed=seed,
        topics=[topic],
        shrink=False,
        first_failure=first_failure,
        naming_seconds=float("inf"),
        finished=finished,
    )
    run_suite(judge)
    return found


def nodes(topic: str) -> dict[str, str]:
    """{node: requirement} of every test of the topic."""
    judge = Judge([Candidate("any", lambda _: NotImplemented)], seed=SEED, topics=[topic])
    run_suite(judge, collect_only=True)
    return judge.collected


class NamingJudge(Judge):
    def suspects(self, trial: Trial, requirement: str) -> Sequence[Bug]:
        own = super().suspects(trial, requirement)
        if trial.candidate.name in self.failed:
            return own
        return [*own, *(bug for bug in known_bugs(trial.topic) if bug not in own)]
