"""Runs the suite inside a test of the suite, and hands its verdicts over."""

from collections import defaultdict

from grading.grade import run_suite
from grading.judging.judge import Judge


def verdicts(candidates, topic, *, seed=1, diagnosis=False, only=None):
    """What each candidate's tests found: {candidate: [(requirement, TestResult)]}."""
    found = defaultdict(list)

    def finished(result, requirement, candidate):
        found[candidate].append((requirement, result))

    judge = Judge(
        candidates,
        seed=seed,
        topics=[topic],
        only=only,
        diagnosis=diagnosis,
        shrink=False,
        finished=finished,
    )
    run_suite(judge)
    return found
