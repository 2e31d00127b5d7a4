"""The pytest plugin: which implementation a test sees, with which seed, and what its failure is called.

`pytest -k week3` judges `solution/`; `--impl=PATH` judges another, in process, so that a debugger works.
`grading.grade` brings its own `Judge`, with the submission in a sandbox.
"""

import random
import re
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import Phase
from hypothesis.internal.conjecture import engine, providers
from hypothesis.internal.constants_ast import Constants
from hypothesis.reporting import with_reporter

from grading import memory
from grading.boundary.failures import (
    BoundaryFailure,
    CallTimeout,
    NotImplementedBySubmission,
    ProtocolViolation,
    SubmissionError,
    WorkerDied,
)
from grading.boundary.session import Described, Session
from grading.candidates import Candidate, in_process
from grading.clone import ROOT
from grading.diagnosis import diagnose
from grading.report import Outcome, TestResult
from spec.topics import TOPICS

EXAMPLES = 20  # inputs per property; --thorough takes six times as many
SHRINK_SECONDS = 2.0  # for the first failure of a requirement; its other tests show what they found
TOPIC_SECONDS = 180.0
FATAL_LIMIT = 3  # crashes and time-outs before a topic is given up
SUITE = ROOT / "tests" / "week3"
OUR_NOTES = ("Failing test case", "Falsifying example", "You can reproduce")  # the submission writes others
FIXTURES = ("impl=", "described=", "far_id=", "memory_growth=")  # in an example, none of the input
MESSAGE_LENGTH = 2000  # characters of a message, half of them for the smallest input
REPORTED = pytest.StashKey[TestResult]()


FATAL = (WorkerDied, CallTimeout, ProtocolViolation)  # the submission's process is gone


class NoSmallerInput(BaseException):
    """The failure is the same for every input, or costs a process each time.

    Not an Exception, so that Hypothesis passes it through instead of looking for a smaller input.
    """


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("week3", "judging an implementation")
    group.addoption("--impl", action="append", metavar="PATH", help="the implementation to judge; repeatable")
    group.addoption("--topic", action="append", metavar="TOPIC", help="only tests of this topic; repeatable")
    group.addoption("--requirement", action="append", metavar="ID", help="only its tests; repeatable")
    group.addoption("--seed", type=int, metavar="N", help="replays the inputs of the run that printed it")
    group.addoption("--thorough", action="store_true", help="six times as many inputs")
    group.addoption(
        "--no-diagnosis", action="store_true", help="do not look for a known bug behind a failure"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requirement(id): the requirement that a test checks")
    if config.pluginmanager.is_blocked("terminal"):
        config.option.tbstyle = "native"  # the others read sources to show them, and nobody looks
    if not any(isinstance(plugin, Judge) for plugin in config.pluginmanager.get_plugins()):
        options = config.option
        paths = [Path(path) for path in options.impl or [ROOT / "solution"]]
        for path in paths:
            if not path.is_dir():
                raise pytest.UsageError(f"--impl: expected a folder with an implementation, got {path}")
        judge = Judge(
            [in_process(path.resolve()) for path in paths],
            seed=random.randrange(2**32) if options.seed is None else options.seed,
            topics=options.topic,
            only=frozenset(options.requirement) if options.requirement else None,
            thorough=options.thorough,
            diagnosis=not options.no_diagnosis,
        )
        config.pluginmanager.register(judge, "week3-judge")


def only_benchmarks(config: pytest.Config) -> bool:
    return bool(config.getoption("benchmark_only", False))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if only_benchmarks(config) and collection_path.match("test_*.py") else None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Benches are collected where they are asked for, and nowhere else."""
    asked = only_benchmarks(parent.config) and not parent.session.isinitpath(file_path)
    if asked and file_path.match("bench_*.py"):
        return pytest.Module.from_parent(parent, path=file_path)
    return None


def labelled(candidates: Iterable[Candidate]) -> dict[str, Candidate]:
    """Each under its name, if that can stand in a node id and is no other's."""
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        plain = re.fullmatch(r"[\w.]{1,40}", candidate.name, re.ASCII) and candidate.name not in found
        found[candidate.name if plain else f"impl{len(found)}"] = candidate
    return found


def topic_of(item: pytest.Item) -> str | None:
    """The topic that an item judges: a parameter `topic`, or the name of its file or folder."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    names = [parameters.get("topic"), item.path.stem.removeprefix("test_"), item.path.parent.name]
    return next((name for name in names if name in TOPICS), None)


def requirement_of(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("requirement")
    return mark.args[0] if mark else None


class Judge:
    """Decides which tests run against which candidates, and writes down what each found.

    listener: told of the number of tests and of each result; None to keep silent.
    blobs: the failing inputs of an earlier run, node id -> what Hypothesis printed; nothing else is run then.
    """

    def __init__(
        self,
        candidates: list[Candidate],
        *,
        seed: int,
        topics: list[str] | None = None,
        only: frozenset[str] | None = None,
        thorough: bool = False,
        diagnosis: bool = True,
        shrink: bool = True,
        blobs: dict[str, str] | None = None,
        started: Callable[[int], None] = lambda total: None,
        finished: Callable[[TestResult, str, str], None] = lambda result, requirement, candidate: None,
    ) -> None:
        self.candidates = labelled(candidates)
        self.seed = seed
        self.topics = topics
        self.only = only
        self.diagnosis = diagnosis
        self.blobs = blobs or {}
        self.started = started
        self.finished = finished
        self.trials: dict[tuple[str, str], Trial] = {}
        self.broken: set[tuple[str, str]] = set()  # (candidate, requirement) with a failure shown
        self.collection_errors: list[str] = []
        self.interrupted = False
        hypothesis.core.global_force_seed = seed  # type: ignore[assignment]
        # Numbers found in modules that happen to be loaded, a submission's too, must not change the inputs.
        providers._get_local_constants = Constants
        hypothesis.settings.register_profile(
            "week3",
            max_examples=EXAMPLES * (6 if thorough else 1),
            deadline=None,
            derandomize=False,  # Hypothesis would set it in CI, and ignore the seed
            database=None,
            print_blob=True,
            report_multiple_bugs=False,
            phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if shrink else [])],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.settings.load_profile("week3")

    def trial(self, candidate: str, topic: str) -> "Trial":
        key = candidate, topic
        if key not in self.trials:
            self.trials[key] = Trial(self.candidates[candidate], topic)
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
            names = [
                name
                for name, candidate in self.candidates.items()
                if candidate.only is None or wanted is None or wanted in candidate.only
            ]
            metafunc.parametrize("impl", names, indirect=True)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if self._is_wanted(item)]
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
        topic = topic_of(pyfuncitem)
        assert topic is not None, f"{pyfuncitem.nodeid} judges no topic"
        trial = self.trial(name, topic)
        result = pyfuncitem.stash[REPORTED] = TestResult(node_of(pyfuncitem), "passed")
        engine.MAX_SHRINKING_SECONDS = self._shrink_seconds(name, requirement)  # type: ignore[assignment]
        trial.begun = time.monotonic()
        try:
            trial.session.end_at(trial.begun + TOPIC_SECONDS - trial.seconds)
            trial.check()
            with recorded(pyfuncitem, trial, self.blobs.get(result.node)), with_reporter(silent):
                return (yield)
        except NoSmallerInput as final:
            failure = final.__cause__
            assert failure is not None
            trial.fatal += isinstance(failure, FATAL)
            self._explain(failure, result, trial, requirement)
            raise failure.with_traceback(None) from None
        except Exception as failure:
            self._explain(failure, result, trial, requirement)
            raise
        finally:
            trial.seconds += time.monotonic() - trial.begun
            trial.begun = None

    def _shrink_seconds(self, candidate: str, requirement: str) -> float:
        first = (candidate, requirement) not in self.broken
        return SHRINK_SECONDS if first else 0.0

    def _explain(self, failure: BaseException, result: TestResult, trial: "Trial", requirement: str) -> None:
        result.outcome = "error" if isinstance(failure, GivenUp) else "failed"
        notes = "\n".join(
            note for note in getattr(failure, "__notes__", []) if note.lstrip().startswith(OUR_NOTES)
        )
        result.message = message_of(failure, notes)
        found = re.search(r"@reproduce_failure\('[^']*', b'([^']*)'\)", notes)
        result.blob = found[1] if found else ""
        self.broken.add((trial.candidate.name, requirement))
        if self.diagnosis and not isinstance(failure, BoundaryFailure):
            bugs = diagnose(trial.topic, trial.session.trace(), trial.session.callback_of)
            result.diagnosis = [bug.title for bug in bugs]
            for bug in bugs:
                failure.add_note(
                    f"This is what happens when an implementation {bug.title}. {bug.hint}".rstrip()
                )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        requirement = requirement_of(item)
        if requirement is not None and (
            report.when == "call" or (report.when == "setup" and not report.passed)
        ):
            result = item.stash.get(REPORTED, None)
            if result is None or (result.outcome == "passed" and not report.passed):
                failure = call.excinfo.value if call.excinfo else GivenUp("the test did not run")
                outcome: Outcome = "failed" if isinstance(failure, SubmissionError) else "error"
                result = TestResult(node_of(item), outcome, message_of(failure, ""))
            candidate = self.candidates[item.callspec.params["impl"]]  # type: ignore[attr-defined]
            self.finished(result, requirement, candidate.name)
        return report

    def pytest_sessionfinish(self) -> None:
        for trial in self.trials.values():
            trial.close()

    # What tests ask for

    @pytest.fixture
    def impl(self, request: pytest.FixtureRequest) -> Any:
        """The topic's module of the implementation under test, behind the boundary."""
        topic = topic_of(request.node)
        assert topic is not None
        return self.trial(request.param, topic).namespace

    @pytest.fixture
    def described(self, request: pytest.FixtureRequest, impl: Any) -> Callable[[str], Described]:
        """What the implementation has under a name of the contract."""
        session = self._session(request.node)
        return lambda name: session.describe()[name]

    @pytest.fixture
    def memory_growth(
        self, request: pytest.FixtureRequest, impl: Any
    ) -> Callable[[], AbstractContextManager[memory.Growth]]:
        """Measures how far the implementation's memory grows in a `with` block: see grading/memory.py."""
        session = self._session(request.node)
        session.restart()  # what earlier tests left in its heap would hide growth
        return lambda: memory.growth(session)

    @pytest.fixture
    def far_id(self, request: pytest.FixtureRequest, impl: Any) -> Callable[[int], int]:
        """An id outside a pool: far outside where a crash hurts only the submission's own process."""
        isolated = self.candidates[request.node.callspec.params["impl"]].isolated
        return lambda num_blocks: 2**30 if isolated else num_blocks + 3

    def _session(self, item: Any) -> Session:
        topic = topic_of(item)
        assert topic is not None
        return self.trial(item.callspec.params["impl"], topic).session


def silent(text: object) -> None:
    """Hypothesis' own remarks: what matters is in the notes of the failure."""


class GivenUp(BoundaryFailure):
    """The test was not run, because the topic was given up."""


class Trial:
    """One candidate at one topic: its session, its time, and how often its process died."""

    def __init__(self, candidate: Candidate, topic: str) -> None:
        self.candidate = candidate
        self.topic = topic
        self.seconds = 0.0  # used by tests that have ended
        self.begun: float | None = None  # when the present test did
        self.fatal = 0
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        if self._session is None:
            self._session = self.candidate.open(self.topic)
        return self._session

    @property
    def namespace(self) -> Any:
        return self.session.namespace

    @property
    def given_up(self) -> str:
        """Why no more tests of this topic are run; empty while they are."""
        if self.fatal >= FATAL_LIMIT:
            return f"{self.topic} was given up after {self.fatal} crashes or time-outs"
        running = time.monotonic() - self.begun if self.begun is not None else 0.0
        if self.seconds + running > TOPIC_SECONDS:
            return f"{self.topic} was given up after {TOPIC_SECONDS:.0f} s"
        return ""

    def check(self) -> None:
        """Raises what every test of this topic would meet: no module, an import that fails, no time left."""
        if self.given_up:
            raise GivenUp(f"not run: {self.given_up}")
        try:
            self.session.describe()
        except Exception as failure:  # whatever the submission raises when it is imported
            raise NoSmallerInput from failure

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


class recorded:
    """Records the calls of each input, so that the last one, the smallest failing, can be replayed."""

    def __init__(self, item: pytest.Function, trial: Trial, blob: str | None) -> None:
        self.item, self.trial, self.session, self.blob = item, trial, trial.session, blob

    def __enter__(self) -> None:
        test = self.item.obj
        self.handle = getattr(test, "hypothesis", None)
        if self.handle is None:
            self.session.start_recording()
            self.item.obj = self._watched(test)
            return
        self.inner = self.handle.inner_test
        self.handle.inner_test = self._watched(self.inner)
        if self.blob:
            test._hypothesis_internal_use_reproduce_failure = (hypothesis.__version__, self.blob.encode())

    def __exit__(self, *_: object) -> None:
        if self.handle is not None:
            self.handle.inner_test = self.inner
            self.item.obj._hypothesis_internal_use_reproduce_failure = None

    def _watched(self, test: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(test)
        def run(*args: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            if self.trial.given_up:
                raise NoSmallerInput from GivenUp(f"not finished: {self.trial.given_up}")
            self.session.start_recording()
            try:
                return test(*args, **options)
            except (*FATAL, NotImplementedBySubmission) as failure:
                raise NoSmallerInput from failure

        return run


def node_of(item: pytest.Item) -> str:
    """The node id below tests/week3, without the name of the implementation."""
    node = item.nodeid.removeprefix("tests/week3/")
    name = str(item.callspec.params["impl"])  # type: ignore[attr-defined]
    return node.replace(f"[{name}]", "").replace(f"[{name}-", "[").replace(f"-{name}]", "]")


def message_of(failure: BaseException, notes: str) -> str:
    """What went wrong, in a few lines: the failure, and the smallest input that shows it."""
    text = shortened(str(failure).split("\nassert ")[0].strip()) or type(failure).__name__
    if not isinstance(failure, (AssertionError, BoundaryFailure)):
        text = f"raised {type(failure).__name__}: {text}"
    example = re.search(r"(?:Failing test case|Falsifying example): \w+\((.*?)\n\)", notes, re.DOTALL)
    if example:
        given = [line.split("  # or any other")[0].strip() for line in example[1].splitlines()]
        shown = [line for line in given if line and not line.startswith((*FIXTURES, "#"))]
        text += "\nsmallest input: " + shortened(" ".join(shown).rstrip(","))
    return text


def shortened(text: str) -> str:
    return text if len(text) <= MESSAGE_LENGTH // 2 else text[: MESSAGE_LENGTH // 2] + " …"
