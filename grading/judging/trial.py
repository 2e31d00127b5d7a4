"""One candidate at one topic, and one test of it: its time, its end, what is recorded for a diagnosis."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import hypothesis
import pytest
from hypothesis.errors import DidNotReproduce, Unsatisfiable

from grading.boundary.failures import (
    BoundaryFailure,
    CallTimeout,
    Declined,
    NotAttempted,
    NotCalledAgain,
    NotImplementedBySubmission,
    ProtocolViolation,
    WorkerDied,
)
from grading.boundary.service import DESCRIBE
from grading.boundary.session import Session
from grading.candidates import Candidate
from grading.judging import inputs
from grading.judging.texts import message_of

TOPIC_SECONDS = 180.0
FATAL = (WorkerDied, CallTimeout, ProtocolViolation)  # the submission's process is gone


class NoSmallerInput(BaseException):
    """The failure is the same for every input, or costs a process each time.

    Not an Exception, so that Hypothesis passes it through instead of looking for a smaller input.
    """


class TooFewInputs(BaseException):
    """Of the inputs so far so many were declined that the test ends. Not an Exception: see NoSmallerInput."""


class GivenUp(BoundaryFailure):
    """The test was not run, because the topic was given up."""


class CannotImport(BoundaryFailure):
    """The topic's module raises, crashes or hangs when it is imported."""


NOT_RUN = (GivenUp, NotCalledAgain)


class Trial:
    """One candidate at one topic: its session and its time.

    whole: all tests of the topic are run here, not half of them.
    """

    def __init__(self, candidate: Candidate, topic: str, *, whole: bool) -> None:
        self.candidate = candidate
        self.topic = topic
        self.asked = topic if whole else f"half of {topic}"
        self.allowed = TOPIC_SECONDS if whole else TOPIC_SECONDS / 2
        self.seconds = 0.0  # used by tests that have ended
        self.begun: float | None = None  # when the present test did
        self.measured = ""  # the test that measures memory in the present worker
        self._session: Session | None = None
        self._told = False  # why the module cannot be imported

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
        running = time.monotonic() - self.begun if self.begun is not None else 0.0
        if self.seconds + running > self.allowed:
            return f"{self.asked} was given up after {self.allowed:.0f} s"
        return ""

    def begin(self) -> None:
        """A test begins. Its calls end when the time of the topic does."""
        self.begun = time.monotonic()
        self.session.end_at(self.begun + self.allowed - self.seconds)

    def end(self) -> None:
        """The test has ended; what is done about its failure costs the submission nothing."""
        if self.begun is not None:
            self.seconds += time.monotonic() - self.begun
            self.begun = None

    def check(self) -> None:
        """Raises what every test of this topic would meet: no module, an import that fails, no time left."""
        if self.given_up:
            raise GivenUp(f"not run: {self.given_up}")
        try:
            self.session.describe()
        except NotAttempted as failure:
            raise NoSmallerInput from failure
        except Exception as failure:  # whatever the submission raises when it is imported
            raised = message_of(failure, "").removeprefix(f"{DESCRIBE} ").removeprefix("raised ")
            said = f"{self.topic} cannot be imported: {raised}"
            if self._told:
                raise GivenUp(f"not run: {said}") from None
            self._told = True
            raise NoSmallerInput from CannotImport(said)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


class recorded:
    """Records the calls of each input, so that the last one, the smallest failing, can be replayed.

    An input whose calls ask for what is declined is none, as if the test had assumed otherwise. Where that
    happened and no other input failed, Declined is raised at the end.

    blob: the one input of a replay. Where it fails no more, nothing is raised.
    """

    def __init__(self, item: pytest.Function, trial: Trial, blob: str | None) -> None:
        self.item, self.trial, self.session, self.blob = item, trial, trial.session, blob
        self.judged = 0  # inputs
        self.declined: list[tuple[str, ...]] = []  # what each of the others asked for

    def __enter__(self) -> None:
        test = self.item.obj
        self.handle = getattr(test, "hypothesis", None)
        if self.handle is None:
            self.session.start_recording()
            self.item.obj = self._watched(test)
            return
        self.inner = self.handle.inner_test
        self.handle.inner_test = self._watched(self.inner)
        inputs.replay(self.item, self.blob)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if self.handle is not None:
            self.handle.inner_test = self.inner
            inputs.replay(self.item, None)
        no_input = Unsatisfiable | TooFewInputs | DidNotReproduce
        if self.declined and (error is None or isinstance(error, no_input)):
            raise Declined(tuple(dict.fromkeys(name for names in self.declined for name in names))) from None
        if isinstance(error, DidNotReproduce) and not self.judged:
            raise GivenUp("not run: the input of the report is none of this test") from None
        return isinstance(error, DidNotReproduce)

    def _watched(self, test: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(test)
        def run(*args: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            if self.trial.given_up:
                raise NoSmallerInput from GivenUp(f"not finished: {self.trial.given_up}")
            self.session.start_recording()
            try:
                answer = test(*args, **options)
            except (*FATAL, NotCalledAgain, NotImplementedBySubmission) as failure:
                raise NoSmallerInput from failure
            except Declined as failure:
                self.declined.append(failure.names)
                # Else a test that has next to no input left would draw hundreds.
                if self.handle is None or len(self.declined) >= inputs.EXAMPLES * (1 + self.judged):
                    raise TooFewInputs from failure
                hypothesis.reject()
            self.judged += 1
            return answer

        return run
