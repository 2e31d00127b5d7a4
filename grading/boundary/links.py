"""Ways from one peer to the other: in one thread, a socket that callers read, a socket with a reader."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from grading.boundary.failures import BoundaryFailure, ChannelClosed, DeadlinePassed, ProtocolViolation
from grading.boundary.frames import MAX_TOTAL, Channel, Frame, Remaining
from grading.boundary.interrupts import until_ended
from grading.boundary.peer import Call, Inbox, Peer, Reply

_CALLBACKS_AT_ONCE = 32
_CALLS_AT_ONCE = 32
_CALLBACK_BYTES = MAX_TOTAL // _CALLBACKS_AT_ONCE  # each may wait long, and keeps what it was given


def forever() -> float:
    return float("inf")


class LocalLink:
    """To another peer of this thread. The bytes are copied, so that nothing is shared."""

    def __init__(self, other: Peer) -> None:
        self._other = other

    def send(self, frame: Frame, remaining: Remaining) -> None:
        until_ended(lambda: self._other.route(frame.copy()), remaining)

    def next(self, inbox: Inbox, remaining: Remaining) -> Call | Reply | None:
        return inbox.get_nowait()  # it came while `send` ran


def connect(one: Peer, other: Peer) -> None:
    one.link, other.link = LocalLink(other), LocalLink(one)


class CallersLink:
    """No thread of its own: of the threads that wait for a reply one reads, for all. Saves two thread
    switches a call. Calls from threads of the other side are served in threads here.
    """

    def __init__(self, peer: Peer, channel: Channel) -> None:
        self._peer = peer
        self._channel = channel
        self._reading = threading.Lock()
        self._others: set[Inbox] = set()
        self._callbacks = threading.Semaphore(_CALLBACKS_AT_ONCE)
        peer.link = self
        peer.deliver = self._deliver

    def send(self, frame: Frame, remaining: Remaining) -> None:
        self._channel.send(frame, remaining)

    def next(self, inbox: Inbox, remaining: Remaining) -> Call | Reply | None:
        while inbox.empty():
            self._others.add(inbox)  # before trying, so that a reader who stops now wakes this thread
            if not self._reading.acquire(blocking=False):
                return self._wait(inbox, remaining)
            self._others.discard(inbox)
            try:
                while inbox.empty():
                    self._peer.route(self._channel.receive(remaining))
            finally:
                self._reading.release()
                for other in list(self._others):  # once each: one that gets no processor would be flooded
                    self._others.discard(other)
                    other.put(None)
        return inbox.get_nowait()

    def _wait(self, inbox: Inbox, remaining: Remaining) -> Call | Reply | None:
        try:
            while (left := remaining()) > 0:
                try:
                    return inbox.get(timeout=None if left == forever() else left)
                except queue.Empty:
                    continue
            raise DeadlinePassed
        finally:
            self._others.discard(inbox)

    def _deliver(self, call: Call) -> None:
        if self._peer.hand_to_waiter(call):
            return
        if sum(buffer.nbytes for buffer in call.buffers) > _CALLBACK_BYTES:
            raise ProtocolViolation(f"a callback from a thread may bring {_CALLBACK_BYTES:,} bytes")
        if not self._callbacks.acquire(blocking=False):
            raise ProtocolViolation(f"more than {_CALLBACKS_AT_ONCE} callbacks at once from threads")
        threading.Thread(target=self._serve, args=(call,), daemon=True).start()

    def _serve(self, call: Call) -> None:
        try:
            self._peer.serve(call)
        except (BoundaryFailure, ChannelClosed, DeadlinePassed) as error:
            self._peer.fail(error, call.name)
        finally:
            self._callbacks.release()


class WorkersLink:
    """A thread reads; the main thread runs calls, because MLX dislikes other threads. A call that comes
    while it is busy gets another thread, one that has ended its call if there is one: MLX keeps a thread of
    its own for each that ever computed.
    """

    def __init__(self, peer: Peer, channel: Channel) -> None:
        self._peer = peer
        self._channel = channel
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._busy = threading.Lock()
        self._threads = ThreadPoolExecutor(_CALLS_AT_ONCE)
        peer.link = self
        peer.deliver = self._deliver

    def send(self, frame: Frame, remaining: Remaining) -> None:
        self._channel.send(frame, remaining)

    def next(self, inbox: Inbox, remaining: Remaining) -> Call | Reply | None:
        return inbox.get()

    def run(self, ended: Callable[[], None]) -> None:
        """Serves until the other side hangs up. `ended` is then called in the reading thread: the main
        thread may be busy forever.
        """
        threading.Thread(target=self._read, args=(ended,), daemon=True).start()
        while True:
            call = self._calls.get()
            reply = self._peer.run(call)
            self._busy.release()  # before the reply: the next call may follow at once
            self._channel.send(reply, forever)

    def _read(self, ended: Callable[[], None]) -> None:
        try:
            while True:
                self._peer.route(self._channel.receive(forever))
        except ChannelClosed:
            ended()

    def _deliver(self, call: Call) -> None:
        if self._peer.hand_to_waiter(call):
            return
        if self._busy.acquire(blocking=False):
            self._calls.put(call)
        else:
            self._threads.submit(self._peer.serve, call)
