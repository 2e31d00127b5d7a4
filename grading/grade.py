"""Judges one submission: runs the suite in this process, the submission in another, and writes the report."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from grading import requirements as specification
from grading.boundary import loading
from grading.boundary.failures import SubmissionError
from grading.boundary.loading import Settings
from grading.bugs import known_bugs
from grading.candidates import Candidate, in_process, isolated
from grading.clone import ROOT, UsageError, check_clone
from grading.contract import contract
from grading.judging.items import SUITE
from grading.judging.judge import Judge
from grading.report import (
    LEVEL_WEIGHTS,
    Report,
    RequirementResult,
    Status,
    TestResult,
    TopicResult,
)
from grading.requirements import Requirement
from grading.roots import waits_for
from grading.side_by_side import JobFailed, judge_all
from runtime.sandbox import Limits, Unavailable, best_tier, demand


class GraderError(Exception):
    """The grader itself failed: there is no verdict."""


class Listener(Protocol):
    """Is told of the progress."""

    def started(self, total: int) -> None: ...

    def finished(self, result: TestResult, requirement_id: str) -> None: ...


def grade(
    path: Path,
    *,
    topics: list[str] | None,
    seed: int,
    isolation: str | None,
    diagnosis: bool = True,
    thorough: bool = False,
    replay: Mapping[str, Any] | None = None,
    only: set[str] | None = None,
    listener: Listener,
    limits: Limits | None = None,
) -> Report:
    """What the suite finds about the submission in the folder `path`.

    isolation: the name of a tier, "in-process", or None for the best tier of this machine.
    replay: an earlier report; just the inputs that failed then are run, for the requirements in `only`.
    """
    check_clone()
    if not path.is_dir():
        raise UsageError(f"expected a folder with an implementation, got {path}")
    begun = time.monotonic()
    chosen = topics or list(specification.topics())
    asked = [
        requirement
        for topic in chosen
        for requirement in specification.requirements(topic)
        if not only or requirement.id in only
    ]
    results: dict[str, list[TestResult]] = {requirement.id: [] for requirement in asked}
    total = 0

    def told(said: Said) -> None:
        nonlocal total
        if isinstance(said, int):
            total += said
            listener.started(total)
        else:
            requirement, result = said
            results[requirement].append(result)
            listener.finished(result, requirement)

    declared = settings_of(path)
    candidate, tier = candidate_for(path.resolve(), isolation, limits or Limits())
    judge = partial(
        _judge,
        candidate,
        seed=seed,
        only=frozenset(results),
        thorough=thorough,
        diagnosis=diagnosis,
        blobs=None if replay is None else failing_inputs(replay, only),
    )
    try:
        here = tier == "in-process"  # a debugger needs the terminal, which only this process has
        halves = (None,) if here or only or replay is not None else (0, 1)
        jobs = [Job(topic, half) for topic in sorted(chosen, key=_size, reverse=True) for half in halves]
        ended = judge_all(jobs, judge, told, here=here)
    except JobFailed as error:
        raise GraderError(str(error)) from error
    order = {node: i for i, node in enumerate(node for each in ended.values() for node in each.order)}
    for tests in results.values():
        tests.sort(key=lambda test: order[test.node])  # as one process would have run them
    notes = {job.topic: each.note for job, each in reversed(ended.items()) if each.note}
    home = {bug.title: bug.requirement for topic in chosen for bug in known_bugs(topic)}
    for topic in chosen:
        home |= {f"{topic}.{each.name}": each.requirements[0] for each in contract(topic).called.values()}
    found = {r.id: judged(r, results[r.id], attempted(path, r.topic), home) for r in asked}
    for id, roots in waits_for(found, home).items():
        found[id].waits_for = roots
    return Report(
        implementation=str(path),
        framework=declared.framework,
        suite_version=version("week3"),
        seed=seed,
        isolation=tier,
        topics={topic: scored(topic, found, path, notes.get(topic, "")) for topic in chosen},
        requirements=found,
        seconds=time.monotonic() - begun,
        declines=list(declared.declines),
    )


Said = int | tuple[str, TestResult]  # how many tests there are, or what one of a requirement found


class Job(NamedTuple):
    """What one process judges at once: a topic, or one half of its tests."""

    topic: str
    half: int | None

    def __str__(self) -> str:
        return self.topic


class Ended(NamedTuple):
    """note: why the tests ended early, if they did. order: of the topic's tests, both halves."""

    note: str
    order: list[str]


def _judge(candidate: Candidate, job: Job, told: Callable[[Said], None], **how: Any) -> Ended:
    judge = Judge(
        [candidate],
        topics=[job.topic],
        half=job.half,
        started=told,
        finished=lambda result, requirement, _: told((requirement, result)),
        **how,
    )
    run_suite(judge)
    note = next((trial.given_up for trial in judge.trials.values()), "")
    return Ended(note, list(judge.collected))


def _size(topic: str) -> int:
    """The largest topic is begun first, so that none is left alone at the end."""
    return len(specification.requirements(topic))


def candidate_for(path: Path, isolation: str | None, limits: Limits) -> tuple[Candidate, str]:
    """How the submission is run, and the name of that for the report."""
    if isolation == "in-process":
        return in_process(path), isolation
    try:
        tier = best_tier() if isolation is None else demand(isolation)
    except Unavailable as error:
        raise UsageError(str(error)) from error
    return isolated(path, tier, limits), tier.name


def settings_of(path: Path) -> Settings:
    try:
        return loading.settings_of(path)
    except SubmissionError as error:  # which each test will meet
        return Settings(f"unknown ({error})")


def attempted(path: Path, topic: str) -> bool:
    return loading.module_file(path, topic) is not None


def run_suite(judge: Judge, *, collect_only: bool = False) -> None:
    """Runs tests/week3 with this judge. Raises GraderError unless pytest came to its end."""
    # The last one collects all garbage twice a run: a third of a short one where a process has many tests.
    quiet = ("terminal", "cacheprovider", "junitxml", "faulthandler", "debugging", "unraisableexception")
    places = [SUITE] if judge.topics is None else [SUITE / topic for topic in judge.topics]
    arguments = [
        *map(str, places),
        str(SUITE / "test_signatures.py"),
        f"--rootdir={ROOT}",
        f"--config-file={ROOT / 'pyproject.toml'}",
        "--capture=no",
        *(["--collect-only"] if collect_only else []),
        *(argument for name in quiet for argument in ("-p", f"no:{name}")),
    ]
    with only_our_plugins():
        code = pytest.main(arguments, plugins=[judge])
    if judge.collection_errors:  # looked at first: pytest ends as if it were interrupted
        raise GraderError("a test file cannot be read: " + "\n".join(judge.collection_errors))
    if judge.interrupted:
        raise KeyboardInterrupt
    if code == pytest.ExitCode.NO_TESTS_COLLECTED and judge.half is not None and judge.collected:
        return  # a hand-out may ask for one test, which is in the other half
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise GraderError(f"the suite did not come to its end: pytest said {pytest.ExitCode(code).name}")


@contextmanager
def only_our_plugins() -> Iterator[None]:
    """Plugins and options that happen to be installed or set must not change a verdict."""
    before = dict(os.environ)
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def failing_inputs(report: Mapping[str, Any], only: set[str] | None) -> dict[str, str]:
    """The tests that failed in an earlier report, each with the encoding of its input, if it had one."""
    failing: dict[str, str] = {}
    for id, requirement in report["requirements"].items():
        if not only or id in only:
            blobs = requirement.get("replay", {})
            tests = requirement["tests"].items()
            failing |= {
                node: blobs.get(node, "") for node, outcome in tests if outcome in ("failed", "error")
            }
    return failing


def judged(
    requirement: Requirement, tests: list[TestResult], attempted: bool, home: Mapping[str, str]
) -> RequirementResult:
    """Met if it has tests and all of them passed. A missing verdict is a failure. Declined if none fails, but
    some ask for what the submission declines.

    home: the requirement of each known bug, by its title. A failure by a bug of this very one is told first,
    what is not implemented or was not run last.
    """

    def told_last(test: TestResult) -> tuple[bool, ...]:
        foreign = requirement.id not in map(home.get, test.diagnosis)
        return test.outcome != "failed", bool(test.missing), foreign

    failing = sorted((test for test in tests if test.failing), key=told_last)
    declined = list(dict.fromkeys(name for test in tests for name in test.declined))
    worst = failing[0] if failing else None
    status: Status
    if not attempted:
        status = "not attempted"
    elif worst is not None:
        status = "broken" if worst.outcome == "failed" else "error"
    elif declined:
        status = "declined"
    else:
        status = "met" if tests else "error"
    message = worst.message if worst else f"declined: {', '.join(declined)}" if declined else ""
    titles = [title for test in failing for title in test.diagnosis]
    return RequirementResult(
        id=requirement.id,
        title=requirement.title,
        topic=requirement.topic,
        level=requirement.level,
        needs=list(requirement.needs),
        status=status,
        tests=tests,
        message=message if tests else "no test came to a verdict",
        diagnosis=list(dict.fromkeys(titles)),
    )


def scored(topic: str, found: Mapping[str, RequirementResult], path: Path, note: str) -> TopicResult:
    own = [requirement for requirement in found.values() if requirement.topic == topic]
    weights = sum(LEVEL_WEIGHTS[requirement.level] for requirement in own)
    met = sum(LEVEL_WEIGHTS[requirement.level] for requirement in own if requirement.status == "met")
    complete = "complete" if met == weights else "incomplete"
    return TopicResult(
        name=topic,
        status=complete if attempted(path, topic) else "not attempted",
        score=100 * met / weights if weights else 0.0,
        missing=missing_names(own),
        note=note,
    )


def missing_names(requirements: list[RequirementResult]) -> list[str]:
    """`paged_attention.to_csr` for each function or class that a test found not implemented."""
    missing = [test.missing for requirement in requirements for test in requirement.tests]
    return [name for name in dict.fromkeys(missing) if name]
