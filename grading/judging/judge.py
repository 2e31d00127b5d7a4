"""The judge: which tests run against which candidates, with which seed, and what each found."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis.reporting import with_reporter

from grading import memory
from grading.boundary.failures import BoundaryFailure, Declined, SubmissionError
from grading.boundary.session import Described
from grading.bugs import Bug, known_bugs
from grading.candidates import Candidate
from grading.diagnosis import diagnose
from grading.judging import inputs
from grading.judging.items import (
    SUITE,
    breadth_first,
    function_of,
    half_of,
    labelled,
    node_of,
    requirement_of,
    topic_of,
)
from grading.judging.texts import blob_of, message_of, our_notes
from grading.judging.trial import NOT_RUN, GivenUp, NoSmallerInput, Trial, recorded
from grading.report import Outcome, TestResult

SHRINK_SECONDS = 2.0  # for the first failure of a requirement; its other tests show what they found
NAMING_SECONDS = 2.0  # for each failing test: a name is a help, and no verdict
REPORTED = pytest.StashKey[TestResult]()
SPARED = pytest.StashKey[bool]()  # not run, since its candidate has failed already


class Judge:
    """Decides which tests run against which candidates, and writes down what each found.

    half: 0 or 1, every second test; the other half is judged elsewhere.
    first_failure: a candidate's tests end with its first failure; the others come to no result.
    blobs: the failing inputs of an earlier run, node id -> what Hypothesis printed; nothing else is run then.
    started, finished: told of the number of tests and of each result.
    """

    def __init__(
        self,
        candidates: list[Candidate],
        *,
        seed: int,
        topics: list[str] | None = None,
        half: int | None = None,
        only: frozenset[str] | None = None,
        thorough: bool = False,
        diagnosis: bool = True,
        shrink: bool = True,
        first_failure: bool = False,
        naming_seconds: float = NAMING_SECONDS,
        blobs: dict[str, str] | None = None,
        started: Callable[[int], None] = lambda total: None,
        finished: Callable[[TestResult, str, str], None] = lambda result, requirement, candidate: None,
    ) -> None:
        self.candidates = labelled(candidates)
        self.seed = seed
        self.topics = topics
        self.half = half
        self.only = only
        self.diagnosis = diagnosis
        self.first_failure = first_failure
        self.naming_seconds = naming_seconds
        self.blobs = blobs or {}
        self.started = started
        self.finished = finished
        self.trials: dict[tuple[str, str], Trial] = {}
        self.broken: set[tuple[str, str]] = set()  # (candidate, requirement) with a failure shown
        self.failed: set[str] = set()  # candidates
        self.collected: dict[str, str] = {}  # node: requirement, of both halves, in the order of the run
        self.collection_errors: list[str] = []
        self.interrupted = False
        self._put_back = inputs.set_up(seed, thorough=thorough, shrink=shrink)

    def trial(self, candidate: str, topic: str) -> Trial:
        key = candidate, topic
        if key not in self.trials:
            self.trials[key] = Trial(self.candidates[candidate], topic, whole=self.half is None)
        return self.trials[key]

    # Collection

    def pytest_report_header(self) -> str:
        return f"week3: seed {self.seed}, judging {', '.join(self.candidates)}"

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if item.path.is_relative_to(SUITE):
            item.extra_keyword_matches.add("week3")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "impl" in metafunc.fixturenames:
            mark = metafunc.definition.get_closest_marker("requirement")
            wanted = mark.args[0] if mark else None
            function = function_of(metafunc.definition.nodeid)
            names = [
                name
                for name, candidate in self.candidates.items()
                if (candidate.only is None or wanted is None or wanted in candidate.only)
                and (candidate.functions is None or function in candidate.functions)
            ]
            metafunc.parametrize("impl", names, indirect=True)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if self._is_wanted(item)]
        if config.pluginmanager.is_blocked("terminal"):  # which shows one file after the other
            chosen = breadth_first(chosen)
        self.collected = {node_of(item): id for item in chosen if (id := requirement_of(item))}
        if self.half is not None:
            chosen = half_of(chosen, self.half)
        if len(chosen) < len(items):
            wanted = set(chosen)
            config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
        items[:] = chosen
        self.started(sum(requirement_of(item) is not None for item in items))

    def _is_wanted(self, item: pytest.Item) -> bool:
        requirement, topic = requirement_of(item), topic_of(item)
        if requirement is None:
            return self.topics is None and self.only is None
        candidate = self.candidates.get(item.callspec.params["impl"])  # type: ignore[attr-defined]
        return candidate is not None and (
            (self.topics is None or topic in self.topics)
            and (self.only is None or requirement in self.only)
            and (candidate.only is None or requirement in candidate.only)
            and (candidate.nodes is None or node_of(item) in candidate.nodes)
            and (not self.blobs or node_of(item) in self.blobs)
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.collection_errors.append(str(report.longrepr))

    def pytest_keyboard_interrupt(self) -> None:
        self.interrupted = True

    # One test

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        __tracebackhide__ = True
        requirement = requirement_of(pyfuncitem)
        if requirement is None:
            return (yield)
        name = str(pyfuncitem.callspec.params["impl"])
        if self.first_failure and self.candidates[name].name in self.failed:
            pyfuncitem.stash[SPARED] = True
            pyfuncitem.obj = lambda **_: None
            return (yield)
        topic = topic_of(pyfuncitem)
        assert topic is not None, f"{pyfuncitem.nodeid} judges no topic"
        trial = self.trial(name, topic)
        result = pyfuncitem.stash[REPORTED] = TestResult(node_of(pyfuncitem), "passed")
        remarks: list[object] = []  # of Hypothesis, which tells the input of a replay in no other way
        inputs.shrink_for(0.0 if (name, requirement) in self.broken else SHRINK_SECONDS)
        try:
            trial.begin()
            trial.check()
            with recorded(pyfuncitem, trial, self.blobs.get(result.node)), with_reporter(remarks.append):
                return (yield)
        except NoSmallerInput as final:
            failure = final.__cause__
            assert failure is not None
            trial.end()
            self._explain(failure, result, trial, name, requirement, remarks)
            raise failure.with_traceback(None) from None
        except Declined as declined:
            result.outcome, result.message, result.declined = "declined", str(declined), list(declined.names)
            pytest.skip(str(declined))
        except Exception as failure:
            trial.end()
            self._explain(failure, result, trial, name, requirement, remarks)
            raise
        finally:
            trial.end()

    def _explain(
        self,
        failure: BaseException,
        result: TestResult,
        trial: Trial,
        candidate: str,
        requirement: str,
        remarks: Sequence[object],
    ) -> None:
        result.outcome = "error" if isinstance(failure, NOT_RUN) else "failed"
        notes = our_notes([*getattr(failure, "__notes__", []), *map(str, remarks)])
        result.message = message_of(failure, notes)
        result.blob = blob_of(notes)
        result.output = trial.session.output()
        self.broken.add((candidate, requirement))
        if self.diagnosis and not isinstance(failure, BoundaryFailure):
            session = trial.session
            suspects = self.suspects(trial, requirement)
            bugs = diagnose(trial.topic, session.trace(), session.callback_of, suspects, self.naming_seconds)
            result.diagnosis = [bug.title for bug in bugs]
            for bug in bugs:
                failure.add_note(
                    f"This is what happens when an implementation {bug.title}. {bug.hint}".rstrip()
                )
        self.failed.add(trial.candidate.name)

    def suspects(self, trial: Trial, requirement: str) -> Sequence[Bug]:
        """The known bugs to try, those of the requirement first."""
        if trial.candidate.suspects is not None:
            return trial.candidate.suspects
        return sorted(known_bugs(trial.topic), key=lambda bug: bug.requirement != requirement)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        requirement = requirement_of(item)
        if requirement is None or SPARED in item.stash:
            return report
        if report.when == "call" or (report.when == "setup" and not report.passed):
            result = item.stash.get(REPORTED, None)
            if result is None or (result.outcome == "passed" and not report.passed):
                failure = call.excinfo.value if call.excinfo else GivenUp("the test did not run")
                outcome: Outcome = "failed" if isinstance(failure, SubmissionError) else "error"
                result = TestResult(node_of(item), outcome, message_of(failure, ""))
            result.seconds = report.duration
            candidate = self.candidates[item.callspec.params["impl"]]  # type: ignore[attr-defined]
            self.finished(result, requirement, candidate.name)
        return report

    def pytest_sessionfinish(self) -> None:
        for trial in self.trials.values():
            trial.close()
        self._put_back()

    # What tests ask for

    @pytest.fixture
    def impl(self, request: pytest.FixtureRequest) -> Any:
        """The topic's module of the implementation under test, behind the boundary."""
        topic = topic_of(request.node)
        assert topic is not None
        return self.trial(request.param, topic).namespace

    @pytest.fixture
    def described(self, request: pytest.FixtureRequest, impl: Any) -> Callable[[str], Described]:
        """What the implementation has under a name of the contract; of a method, its class."""
        session = self._trial(request.node).session

        def look(name: str) -> Described:
            session.check_name(name)
            return session.describe()[name.partition(".")[0]]

        return look

    @pytest.fixture
    def memory_growth(
        self, request: pytest.FixtureRequest, impl: Any
    ) -> Callable[[], AbstractContextManager[memory.Growth]]:
        """Measures how far the implementation's memory grows in a `with` block: see grading/memory.py."""
        trial, function = self._trial(request.node), function_of(request.node.nodeid)
        if trial.measured != function:
            trial.session.restart()  # what earlier tests left in its heap would hide growth
            trial.measured = function  # its own cases leave little, and a worker takes half a second to start
        return lambda: memory.growth(trial.session)

    @pytest.fixture
    def far_id(self, request: pytest.FixtureRequest, impl: Any) -> Callable[[int], int]:
        """An id outside a pool: far outside where a crash hurts only the submission's own process."""
        isolated = self.candidates[request.node.callspec.params["impl"]].isolated
        return lambda num_blocks: 2**30 if isolated else num_blocks + 3

    def _trial(self, item: Any) -> Trial:
        topic = topic_of(item)
        assert topic is not None
        return self.trial(item.callspec.params["impl"], topic)
