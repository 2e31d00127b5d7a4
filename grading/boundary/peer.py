"""One side of the boundary. Both sides are alike: each calls the other, also while it serves a call.

Messages, as JSON lists with values packed by codec.py:

    ["call",   id, within, releases, name, object, args, kwargs, test]
    ["return", id, releases, value]
    ["raise",  id, releases, name of the exception, args, traceback]

`within` is the call of the other side that this one is made from: a nested call is served by the thread
that waits for that call, as it would be without a boundary. Replies carry the call's id, and a second reply
to the same call is refused, or it would shift every later result. `test` is the number of the recording that
a call belongs to, None without one: its arguments and its result are watched, see watch.py.
"""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, Protocol

from grading.boundary import places
from grading.boundary.codec import Arrays, Packer, Tree, Unpacker, Vocabulary, parse
from grading.boundary.failures import (
    BoundaryFailure,
    ChannelClosed,
    DeadlinePassed,
    ProtocolViolation,
    SubmissionError,
    Unsendable,
    WorkerDied,
)
from grading.boundary.frames import Frame, Remaining
from grading.boundary.interrupts import Ended, left_the_debugger
from grading.boundary.recording import Exchange, Recording
from grading.boundary.references import CALLABLE, Exports, Imports, PeerReferences, Proxy, UnknownObject, pull
from grading.boundary.watch import Watch
from spec.errors import CallbackError

_NESTED_AT_ONCE = 8  # one, and what wakes the waiting thread
_OF_TESTS = (AssertionError, Unsendable)  # raised by a callback, these say that the test failed


class Call(NamedTuple):
    id: int
    within: int | None
    name: str
    object_id: str | None
    arguments: tuple[Tree, Tree]
    buffers: Sequence[memoryview]
    test: int | None


class Reply(NamedTuple):
    id: int
    raised: bool
    content: tuple[Tree, ...]
    buffers: Sequence[memoryview]
    frame: Frame


Inbox = queue.SimpleQueue[Call | Reply | None]
"""What comes for one waiting call: nested calls, at last the reply. None: look whether something is wrong."""


class Link(Protocol):
    """The way to the other side."""

    def send(self, frame: Frame, remaining: Remaining) -> None: ...

    def next(self, inbox: Inbox, remaining: Remaining) -> Call | Reply | None:
        """Waits for what comes for this call."""


class Clock:
    """Time that the other side has used: it stands still while this side serves a call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._serving = 0
        self._stopped_at = 0.0
        self._lost = 0.0

    def now(self) -> float:
        with self._lock:
            return (self._stopped_at if self._serving > 0 else time.monotonic()) - self._lost

    def serving(self, change: int) -> None:
        with self._lock:
            before, self._serving = self._serving, self._serving + change
            if before <= 0 < self._serving:
                self._stopped_at = time.monotonic()
            elif self._serving <= 0 < before:
                self._lost += time.monotonic() - self._stopped_at


def as_it_is(error: Exception, name: str) -> BoundaryFailure:
    return error if isinstance(error, BoundaryFailure) else WorkerDied(f"the connection broke: {error!r}")


class Peer:
    """functions: what the other side may call by name, "route" or "PagedKVCache.append".
    classes: those among them that make objects for the other side to hold.
    remote_classes: proxies for what the other side makes.
    explain: turns an error of the link into the failure that this and every other waiting call raises; told
        the name of the call that met it.
    watch: looks after what the calls of the other side are given and give.
    frames: shared by two peers of one process, for a debugger.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        arrays: Arrays,
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        classes: Mapping[str, type[Any]] | None = None,
        remote_classes: Mapping[str, type[Proxy]] | None = None,
        exports: Exports | None = None,
        ids: Iterator[int] | None = None,
        explain: Callable[[Exception, str], BoundaryFailure] = as_it_is,
        watch: Watch | None = None,
        frames: places.Frames | None = None,
        trusted: bool = False,
    ) -> None:
        self.link: Link
        self.deliver: Callable[[Call], None] = self.serve
        self.call_seconds = float("inf")
        self.ends_at = float("inf")  # when no call may go on, callbacks included
        self.classes = {} if classes is None else classes  # may be empty as yet, and fill
        self.exports = Exports() if exports is None else exports
        self.imports = Imports(self, remote_classes or {})
        self.recording: Recording | None = None  # takes the calls made from outside any other
        self.failure: BoundaryFailure | None = None
        self._vocabulary = vocabulary
        self._arrays = arrays
        self._functions = {} if functions is None else functions
        self._ids = itertools.count(1) if ids is None else ids
        self._explain = explain
        self._watch = watch
        self._frames = frames
        self._trusted = trusted
        self._clock = Clock()
        self._waiting: dict[int, Inbox] = {}
        self._here = threading.local()  # within: the call that this thread serves
        self._test_failure: BaseException | None = None
        self._failing = threading.Lock()

    # ---- Calling the other side. ----

    def call(self, name: str, object_id: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a function of the other side, or a method of its object."""
        return self._call(next(self._ids), name, object_id, args, kwargs)

    def construct(self, proxy: Proxy, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Makes an object on the other side. This side gives the id."""
        call_id = next(self._ids)
        self._call(call_id, name, None, args, kwargs)
        self.imports.adopt(proxy, str(call_id))

    def _call(
        self, call_id: int, name: str, object_id: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        within = getattr(self._here, "within", None)
        packer = Packer(self._vocabulary, self._arrays, PeerReferences(self, f"q{call_id}"))
        arguments = packer.pack(args), packer.pack(kwargs)
        releases = self.imports.take_releases()
        recording = self.recording if within is None else None
        test = None if recording is None else recording.test
        request = packer.frame(["call", call_id, within, releases, name, object_id, *arguments, test])
        if recording is None:
            return self._result(name, self._exchange(call_id, name, request))
        request = request.copy()  # the caller may change its arrays later
        begun = time.monotonic_ns()
        try:
            reply = self._exchange(call_id, name, request)
        except Exception as failure:
            recording.add(Exchange(request, failure, begun, time.monotonic_ns()))
            raise
        recording.add(Exchange(request, reply.frame.copy(), begun, time.monotonic_ns()))
        return self._result(name, reply)

    def _exchange(self, call_id: int, name: str, request: Frame) -> Reply:
        """Sends a call and waits for the reply, serving the calls that the other side makes meanwhile."""
        if self.failure is not None:
            raise WorkerDied(f"the worker that held this has ended: {self.failure}")
        nested = getattr(self._here, "within", None) is not None
        deadline = self._clock.now() + self.call_seconds
        inbox: Inbox = queue.SimpleQueue()
        self._waiting[call_id] = inbox
        if nested:
            self._clock.serving(-1)
        try:
            return self._converse(
                inbox,
                request,
                lambda: min(deadline - self._clock.now(), self.ends_at - time.monotonic()),
            )
        except (ChannelClosed, DeadlinePassed, ProtocolViolation) as error:
            raise self.fail(error, name) from None
        except BaseException:  # Ctrl-C, pytest-timeout: a late reply must not meet a later call
            self.fail(WorkerDied("a call was interrupted, and with it the process was ended"), name)
            raise
        finally:
            self._waiting.pop(call_id, None)
            if nested:
                self._clock.serving(1)
            failure, self._test_failure = self._test_failure, None
            if failure is not None:
                raise failure

    def _converse(self, inbox: Inbox, request: Frame, remaining: Remaining) -> Reply:
        self.link.send(request, remaining)
        while True:
            message = self.link.next(inbox, remaining)
            if isinstance(message, Reply):
                return message
            if message is not None:
                self.link.send(self.run(message), remaining)
            elif self.failure is not None:
                raise self.failure

    def _result(self, name: str, reply: Reply) -> Any:
        unpacker = self._unpacker(reply.buffers)
        try:
            if not reply.raised:
                value = unpacker.unpack(reply.content[0])
                unpacker.finish()
                return value
            kind, args, text = reply.content
            error = unpacker.exception(kind, [unpacker.unpack(each) for each in args])
        except (ProtocolViolation, UnknownObject) as violation:
            raise self.fail(ProtocolViolation(str(violation)), name) from None
        places.add_note(error, name, text)
        raise error.with_traceback(None if self._frames is None else self._frames.last)

    def fail(self, error: Exception, name: str) -> BoundaryFailure:
        """Ends this peer: every waiting call raises the same failure."""
        with self._failing:
            if self.failure is None:
                self.failure = self._explain(error, name)
        for inbox in list(self._waiting.values()):
            inbox.put(None)
        return self.failure

    # ---- Being called. ----

    def route(self, frame: Frame) -> None:
        """Takes a message to whoever waits for it. Values are unpacked there, in the right thread."""
        message, releases = _read(frame)
        for release in releases:
            match release:
                case [str(identity), int(times)]:
                    self.exports.release(identity, times)
                case _:
                    raise ProtocolViolation("a release is an id and a count")
        if isinstance(message, Call):
            self.deliver(message)
            return
        inbox = self._waiting.pop(message.id, None)
        if inbox is None:
            raise ProtocolViolation(f"a reply to call {message.id}, which waits for none")
        inbox.put(message)

    def hand_to_waiter(self, call: Call) -> bool:
        """Whether a thread waits for the call that this one is made from; then it will serve it."""
        inbox = None if call.within is None else self._waiting.get(call.within)
        if inbox is None:
            return False
        if inbox.qsize() > _NESTED_AT_ONCE:
            raise ProtocolViolation(f"more than {_NESTED_AT_ONCE} calls at once from within one call")
        inbox.put(call)
        return True

    def serve(self, call: Call) -> None:
        """Runs a call of the other side and replies."""
        deadline = self._clock.now() + self.call_seconds
        self.link.send(self.run(call), lambda: deadline - self._clock.now())

    def run(self, call: Call) -> Frame:
        """Runs a call of the other side; the reply is still to be sent."""
        outer, self._here.within = getattr(self._here, "within", None), call.id
        self._clock.serving(1)
        try:
            return self._run(call)
        finally:
            self._clock.serving(-1)
            self._here.within = outer

    def _run(self, call: Call) -> Frame:
        packer = Packer(self._vocabulary, self._arrays, PeerReferences(self, str(call.id)))
        try:
            function, args, kwargs = self._resolve(call)
        except UnknownObject as error:
            return self._raised(call, SubmissionError(str(error)))
        try:
            with self._watched(call, args, kwargs) as gave:
                value = function(*args, **kwargs)
                if call.name in self.classes:
                    self.exports.adopt(call.name, value, str(call.id))
                    value = None
                content = packer.pack(value)
                gave(value)
            return packer.frame(["return", call.id, self.imports.take_releases(), content])
        except Ended:  # not by the submission: the call is over
            raise
        except BaseException as error:  # SystemExit and pytest's outcomes too: the other side decides
            if left_the_debugger(error):
                raise
            if self._trusted and (isinstance(error, _OF_TESTS) or not isinstance(error, Exception)):
                self._test_failure = self._test_failure or error  # raised again, even if swallowed
            return self._raised(call, error)

    def _watched(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AbstractContextManager[Callable[[Any], None]]:
        if self._watch is None or call.within is not None:
            return nullcontext(lambda value: None)
        return self._watch.call(call.test, call.name, args, kwargs)

    def _resolve(self, call: Call) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        unpacker = self._unpacker(call.buffers)
        args, kwargs = (unpacker.unpack(tree) for tree in call.arguments)
        unpacker.finish()
        if type(args) is not tuple or type(kwargs) is not dict or not all(type(k) is str for k in kwargs):
            raise ProtocolViolation("a call's arguments are a tuple and a dict with names")
        kind = call.name.partition(".")[0]
        target = () if call.object_id is None else (self.exports.get(kind, call.object_id),)
        function = _OF_REFERENCES.get(call.name) if target else None
        function = function or self._functions.get(call.name)
        if function is None:
            raise UnknownObject(f"there is no {call.name[:80]!r} to call")
        return partial(function, *target), args, kwargs

    def _raised(self, call: Call, error: BaseException) -> Frame:
        name, args = self._as_callback_error(error) if self._trusted else self._as_submission_error(error)
        text = "" if self._trusted else places.described(error)
        if self._frames is not None:
            self._frames.last = error.__traceback__
        packer = Packer(self._vocabulary, self._arrays, PeerReferences(self, str(call.id)))
        try:
            packed = [packer.pack(each) for each in args]
        except BoundaryFailure:
            packer = Packer(self._vocabulary, self._arrays, PeerReferences(self, str(call.id)))
            packed = [packer.pack(_text(error))]
        return packer.frame(["raise", call.id, self.imports.take_releases(), name, packed, text])

    def _as_callback_error(self, error: BaseException) -> tuple[str, tuple[Any, ...]]:
        """What a test's callback raised: itself if the other side knows the very class."""
        name = type(error).__name__
        if self._vocabulary.exceptions.get(name) is type(error):
            return name, error.args
        return CallbackError.__name__, (name, _text(error))

    def _as_submission_error(self, error: BaseException) -> tuple[str, tuple[Any, ...]]:
        """What the submission raised: the nearest class that may cross."""
        for base in type(error).__mro__:
            if self._vocabulary.exceptions.get(base.__name__) is base:
                return base.__name__, error.args
        if isinstance(error, BoundaryFailure):
            return SubmissionError.__name__, (str(error),)
        return SubmissionError.__name__, (f"{type(error).__name__}: {_text(error)}",)

    def _unpacker(self, buffers: Sequence[memoryview]) -> Unpacker:
        return Unpacker(self._vocabulary, self._arrays, PeerReferences(self, ""), buffers)


_OF_REFERENCES: dict[str, Callable[..., Any]] = {
    CALLABLE: lambda function, /, *args, **kwargs: function(*args, **kwargs),
    "Stream.next": pull,
    "Stream.close": lambda iterator: iterator.close() if hasattr(iterator, "close") else None,
}


def _read(frame: Frame) -> tuple[Call | Reply, list[Any]]:
    body, buffers = frame
    match parse(body):
        case ["return", int(i), list(releases), value]:
            return Reply(i, False, (value,), buffers, frame), releases
        case ["raise", int(i), list(releases), str(name), list(args), str(text)]:
            return Reply(i, True, (name, args, text), buffers, frame), releases
        case ["call", int(i), int() | None as within, list(releases), str(name), thing, args, kwargs, test]:
            if isinstance(thing, str | None) and isinstance(test, int | None):
                return Call(i, within, name, thing, (args, kwargs), buffers, test), releases
    raise ProtocolViolation("a message is neither a call nor a reply")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # its __str__ is the submission's code
        return f"(no text: its __str__ raised {type(second).__name__})"
