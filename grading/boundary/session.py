"""A submission as the tests see it: `session.namespace.paged_attention(…)`, in process or isolated.

    session = InProcess.from_folder(Path("solution"), "paged_attention")
    session = Isolated(Path("code/week3"), "paged_attention", best_tier(), Limits())

Both send every value through the same bytes, so that a test sees no difference.
"""

import compileall
import itertools
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from grading.boundary import frameworks, loading, places, worker
from grading.boundary.codec import Vocabulary
from grading.boundary.failures import (
    BoundaryFailure,
    CallTimeout,
    ChannelClosed,
    DeadlinePassed,
    NotAttempted,
    NotCalledAgain,
    WorkerDied,
)
from grading.boundary.frames import Channel
from grading.boundary.links import CallersLink, connect
from grading.boundary.peer import Peer, as_it_is
from grading.boundary.proxies import Namespace, proxy_classes
from grading.boundary.recording import Exchange, Recording
from grading.boundary.references import Exports
from grading.boundary.service import DESCRIBE, EMPTY_HEAP, Described, Service, read_description
from grading.boundary.trace import RecordedCall, Reference, read_trace
from grading.boundary.watch import Watch
from grading.capabilities import Declines
from grading.contract import contract
from runtime.sandbox import Child, Limits, Tier, best_tier, start

__all__ = ["Described", "InProcess", "Isolated", "Limits", "RecordedCall", "Session", "Tier", "best_tier"]

START_SECONDS = 60.0  # importing PyTorch on a busy machine takes several
_LAST_WORDS = 0.3  # killed sooner, a process that is dying would show the signal that killed it
_MOST_CRASHES = 2  # of one function
_TAIL = 2_000  # characters of its output that a failure quotes
_CRASHED = "Fatal Python error: "

_PROJECT = Path(__file__).resolve().parents[2]


class Session(ABC):
    """One submission and one topic. Any thread may call.

    failures: how often the submission's process crashed, hung or broke the protocol.
    declines: names of capabilities; calls that ask for one are not made, but raise Declined.
    """

    def __init__(self, topic: str, framework: str, folder: Path | None, declines: Iterable[str] = ()) -> None:
        self.topic = topic
        self._declines = Declines(topic, declines)
        self.framework = framework
        self.failures = 0
        self._folder = folder
        self._contract = contract(topic)
        self._vocabulary = Vocabulary.of(self._contract)
        self._classes = proxy_classes(self._contract, self)
        self._opening = threading.Lock()
        self._peer: Peer | None = None
        self._description: dict[str, Described] | Exception | None = None
        self._exports = Exports()
        self._ids = itertools.count(1)
        self._recording: Recording | None = None
        self._ends_at = float("inf")
        self._called = self._contract.called
        self._crashes: Counter[str] = Counter()
        self._stopped: dict[str, str] = {}  # name of a function: why it is not called again
        self.namespace = Namespace(self._contract, self, self._classes)

    @property
    @abstractmethod
    def isolation(self) -> str:
        """How far apart the submission is kept, for the report."""

    def describe(self) -> dict[str, Described]:
        """What the submission offers, per name of the contract.

        Raises NotAttempted without a module for the topic, and what importing it raised.
        """
        if self._description is None:
            self.peer()
        if isinstance(self._description, Exception):
            raise self._description.with_traceback(None)
        assert self._description is not None
        return self._description

    def check_name(self, name: str) -> None:
        self._declines.check_whole(name)

    def check_call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._declines.check(name, args, kwargs)
        if name in self._stopped:
            raise NotCalledAgain(f"{name} is not called again: {self._stopped[name]}")

    def described(self, name: str) -> Described:
        return self.describe()[name]

    # ---- Recording. ----

    def start_recording(self) -> None:
        """Forgets what was recorded and records from here on. Objects must be made after this."""
        self._recording = Recording()
        self._exports.keep()
        if self._peer is not None:
            self._peer.recording = self._recording

    def stop_recording(self) -> None:
        """Forgets what was recorded, and keeps nothing until the next start."""
        self._recording = None
        if self._peer is not None:
            self._peer.recording = None

    def trace(self) -> list[RecordedCall]:
        """The calls since `start_recording`, those made from callbacks left out."""
        in_order = sorted(self._exchanges, key=lambda exchange: exchange.begun)
        return read_trace(self._vocabulary, in_order)

    @property
    def _exchanges(self) -> list[Exchange]:
        return [] if self._recording is None else self._recording.exchanges

    def callback_of(self, reference: Reference) -> Callable[..., Any]:
        """The test's own function that a trace of this session refers to."""
        function: Callable[..., Any] = self._exports.get(reference.kind, reference.id)
        return function

    # ---- Memory. ----

    @abstractmethod
    def processes(self) -> list[int]:
        """Those that the submission runs in, by number. It is loaded before, if it was not."""

    def empty_heap(self) -> None:
        """The submission's process gives back what it keeps of freed memory; from here on it keeps little."""
        self.peer().call(EMPTY_HEAP, None, (), {})

    def output(self) -> str:
        """The end of what the submission's process has printed; nothing in process, where it can be seen."""
        return ""

    # ---- The connection. ----

    def end_at(self, moment: float) -> None:
        """No call goes on after this moment of `time.monotonic`, however quick each single one is."""
        self._ends_at = moment
        if self._peer is not None:
            self._peer.ends_at = moment

    def peer(self) -> Peer:
        """A peer that works: a fresh one if the last has failed."""
        with self._opening:
            if self._peer is None or self._peer.failure is not None:
                if self._folder is not None and loading.module_file(self._folder, self.topic) is None:
                    raise NotAttempted(f"not attempted: the submission has no {self.topic}.py")
                if self._recording is None:
                    self._exports = Exports()
                self._peer = self._open(self._exports)
                self._load(self._peer)
            return self._peer

    def restart(self) -> None:
        """The next call has a fresh peer. Objects made before are lost."""
        with self._opening:
            self._peer = None

    def _load(self, peer: Peer) -> None:
        peer.ends_at = self._ends_at
        try:
            described = read_description(self._contract, peer.call(DESCRIBE, None, (), {}))
        except Exception as error:  # whatever the submission raises on import; the same for every test
            self._description = self._description or error
        else:
            self._description = described
        peer.call_seconds = self._call_seconds
        peer.recording = self._recording

    def _timed_out(self, name: str, limit: float, then: str) -> CallTimeout:
        if time.monotonic() >= self._ends_at:
            return CallTimeout(f"the submission used up the time for all its calls; {then}")
        self._stopped[name] = f"it did not answer within {limit:g} s"
        called = name if name in self._called else "the submission"
        return CallTimeout(f"{called} did not answer within {limit:g} s; {then}")

    _call_seconds: float

    @abstractmethod
    def _open(self, exports: Exports) -> Peer:
        """A new peer, its other side ready to describe itself."""

    def _tests_side(
        self,
        exports: Exports,
        explain: Callable[[Exception, str], BoundaryFailure],
        frames: places.Frames | None = None,
    ) -> Peer:
        return Peer(
            self._vocabulary,
            frameworks.NumpyArrays(),
            remote_classes=self._classes,
            exports=exports,
            ids=self._ids,
            explain=explain,
            frames=frames,
            trusted=True,
        )

    @abstractmethod
    def close(self) -> None:
        """Ends the submission's process, if there is one."""


class InProcess(Session):
    """The submission in this process and thread: a debugger works, nothing is protected.

    module_loader: gives the module that implements the topic.
    debugged: errors of the submission keep its frames.
    """

    def __init__(
        self,
        module_loader: Callable[[], ModuleType],
        topic: str,
        framework: str,
        *,
        folder: Path | None = None,
        declines: Iterable[str] = (),
        debugged: bool = False,
    ) -> None:
        super().__init__(topic, framework, folder, declines)
        self._module_loader = module_loader
        self._call_seconds = Limits().call_seconds
        self._frames = places.Frames() if debugged else None

    @classmethod
    def from_folder(cls, folder: Path, topic: str, *, debugged: bool = False) -> "InProcess":
        """Raises SubmissionError when `week3.toml` is wrong."""
        declared = loading.settings_of(folder)
        module_loader = partial(loading.load, folder, topic)
        return cls(
            module_loader,
            topic,
            declared.framework,
            folder=folder,
            declines=declared.declines,
            debugged=debugged,
        )

    @property
    def isolation(self) -> str:
        return "in process"

    def _open(self, exports: Exports) -> Peer:
        frameworks.start(self.framework)
        service = Service(self._contract, self.framework, self._module_loader)
        arrays = frameworks.arrays_of(self.framework)
        theirs = Peer(
            self._vocabulary,
            arrays,
            functions=service.functions,
            classes=service.classes,
            watch=Watch(self._contract, arrays),
            frames=self._frames,
        )
        ours = self._tests_side(
            exports, lambda error, name: self._explain(error, name, ours.call_seconds), self._frames
        )
        ours.call_seconds = START_SECONDS
        connect(ours, theirs)
        return ours

    def _explain(self, error: Exception, name: str, limit: float) -> BoundaryFailure:
        self.failures += 1
        if isinstance(error, DeadlinePassed):
            return self._timed_out(name, limit, "the call was ended")
        return as_it_is(error, name)

    def processes(self) -> list[int]:
        self.peer()
        return [os.getpid()]

    def close(self) -> None:
        pass


class Isolated(Session):
    """The submission in a sandboxed process. A new one is started for the call after a failure.

    Raises SubmissionError when `week3.toml` is wrong.
    """

    def __init__(self, folder: Path, topic: str, tier: Tier, limits: Limits) -> None:
        declared = loading.settings_of(folder)
        super().__init__(topic, declared.framework, folder, declared.declines)
        self._tier = tier
        self._limits = limits
        self._call_seconds = limits.call_seconds
        self._submission = folder.resolve()
        self._staging = tempfile.TemporaryDirectory(prefix="week3-")
        _stage(Path(self._staging.name))
        self._ends: list[Child | Channel] = []  # of the present worker

    @property
    def isolation(self) -> str:
        return self._tier.name

    def processes(self) -> list[int]:
        self.peer()
        return [pid for end in self._ends if isinstance(end, Child) for pid in end.family()]

    def start_recording(self) -> None:
        super().start_recording()
        for end in self._ends:
            if isinstance(end, Child):
                end.forget_output()  # it is that of another input

    def output(self) -> str:
        tails = [end.output_tail() for end in self._ends if isinstance(end, Child)]
        return "".join(tails).strip()[-_TAIL:]

    def _open(self, exports: Exports) -> Peer:
        self._end_worker()
        ours, theirs = socket.socketpair()
        project = Path(self._staging.name)
        inside = {project: "/project", self._submission: "/submission"}
        places = [self._tier.path_inside(host, path) for host, path in inside.items()]
        arguments = [*places, self.topic, self.framework, str(theirs.fileno())]
        child = start(
            [sys.executable, "-I", "-B", "-c", worker.START, *arguments],
            tier=self._tier,
            read_only=inside,
            env={name: os.environ[name] for name in ("WEEK3_BLAS",) if name in os.environ},
            limits=self._limits,
            channel=theirs,
        )
        peer = self._tests_side(
            exports, lambda error, name: self._explain(error, name, child, peer.call_seconds)
        )
        peer.call_seconds = START_SECONDS
        channel = Channel(ours)
        CallersLink(peer, channel)
        self._ends = [child, channel]
        return peer

    def _explain(self, error: Exception, name: str, child: Child, limit: float) -> BoundaryFailure:
        self.failures += 1
        failure: BoundaryFailure
        if isinstance(error, DeadlinePassed):
            child.abort()  # its last words tell where it is
            child.exit_status(_LAST_WORDS)
            child.kill()
            _, dump = _last_words(child)
            return self._timed_out(name, limit, f"its process was ended{self._place(dump)}")
        if isinstance(error, ChannelClosed):
            status = _ended(child.exit_status(_LAST_WORDS))
            output, dump = _last_words(child)
            quoted = f"; its output ends:\n{output}" if output else ""
            during = f"in {name}, " if name in self._called else ""
            failure = WorkerDied(f"{during}the submission's process {status}{quoted}{self._place(dump)}")
            self._crashed(name, f"the submission's process {status}")
        else:
            assert isinstance(error, BoundaryFailure)
            failure = error
            self._crashed(name, str(error))
        child.kill()
        return failure

    def _place(self, dump: str) -> str:
        """A line for the innermost frame of the submission; nothing where there is none."""
        below = re.escape(self._tier.path_inside(self._submission, "/submission"))
        place = re.search(rf'File "{below}/([\w./-]+)", line (\d+) in (\S+)', dump)
        return "\nin {}:{}, in {}".format(*place.groups()) if place else ""

    def _crashed(self, name: str, how: str) -> None:
        self._crashes[name] += 1
        if self._crashes[name] >= _MOST_CRASHES:
            self._stopped[name] = f"it crashed {_MOST_CRASHES} times, at last {how}"

    def _end_worker(self) -> None:
        for each in self._ends:
            each.close()
        self._ends = []

    def close(self) -> None:
        self._end_worker()
        self._staging.cleanup()


def _last_words(child: Child) -> tuple[str, str]:
    """What it printed and why Python crashed, if it did; and the frames, the innermost first."""
    said = child.output_tail()
    head, crashed, dump = said.rpartition(_CRASHED)
    if not crashed:
        return said.strip()[-_TAIL:], ""
    reason, _, frames = dump.partition("\n")
    return f"{head}{crashed}{reason}".strip()[-_TAIL:], frames


def _ended(status: str) -> str:
    if status == "still running":
        return "hung up on the tests while running"
    return f"was {status}" if status.startswith("killed") else status


def _stage(place: Path) -> None:
    """What the worker imports, and nothing else of the project: its neighbours hold the answers."""
    import spec  # where it was imported from, which need not be beside this package

    for folder in spec.__path__:
        shutil.copytree(folder, place / "spec", ignore=_not_python, dirs_exist_ok=True)
    for name in ("runtime/__init__.py", "runtime/blas.py", "grading/__init__.py", "grading/contract.py"):
        (place / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(_PROJECT / name, place / name)
    shutil.copytree(_PROJECT / "grading/boundary", place / "grading/boundary", ignore=_not_python)
    compileall.compile_dir(place, quiet=2)  # the worker may not write, and would compile at each start
    place.chmod(0o755)  # it runs as another user


def _not_python(folder: str, names: list[str]) -> list[str]:
    return [n for n in names if not n.endswith(".py") and not Path(folder, n).is_dir() or n == "__pycache__"]
