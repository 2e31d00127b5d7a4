"""Several ranks in one process: a thread each, and a collective that notices who does not take part."""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from threading import Condition
from typing import Any

import numpy as np

from grading.boundary.trace import RecordedCall
from spec.collective import Collective
from spec.errors import CallbackError

Array = np.ndarray[Any, np.dtype[Any]]

MOST = 6
THREADS = ThreadPoolExecutor(MOST)  # kept: MLX keeps a thread of its own for each that ever computed
PATIENCE = 10.0  # seconds that a rank waits for the others, whose work takes milliseconds
DEADLOCK = 2.0  # seconds when all of them wait: a thread of one of them may still be about to send


class AnotherRankFailed(ConnectionError):
    """What ends a rank that waits for one that failed."""


def says_nothing(error: Exception) -> bool:
    """Whether this is the end of a rank whose own work was stopped: when that happens is chance."""
    passed_on = isinstance(error, CallbackError) and error.args[:1] == (AnotherRankFailed.__name__,)
    return passed_on or isinstance(error, AnotherRankFailed)


class Ranks:
    """`run` calls a function once a rank, all at the same time.

    A rank learns at once that it waits for one that has left.

    sent: bytes from one rank to another, {(source, destination): bytes}.
    gathered: bytes that each rank contributed to `all_gather`, {rank: bytes}.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.gathered: defaultdict[int, int] = defaultdict(int)
        self._changed = Condition()
        # n -> {rank: what it passed to its n-th all_gather}
        self._rounds: defaultdict[int, dict[int, Array]] = defaultdict(dict)
        self._joined: set[int] = set()
        self._left: set[int] = set()
        self._waiting: dict[int, Callable[[], set[int]]] = {}  # rank -> for whom
        self._calls = [0] * size
        # (source, destination) -> arrays
        self._messages: defaultdict[tuple[int, int], deque[Array]] = defaultdict(deque)
        self._broken: BaseException | None = None

    def collective(self, rank: int) -> Collective:
        self._joined.add(rank)
        return Collective(
            rank,
            self.size,
            partial(self._all_gather, rank),
            partial(self._send, rank),
            partial(self._recv, rank),
        )

    def run(self, function: Callable[[int, Collective], Any]) -> list[Any]:
        """[function(rank, collective), …]; raises the first error, once all ranks have ended.

        Raises AssertionError where a message was sent and never received.
        """
        ends = [self.collective(rank) for rank in range(self.size)]
        futures = [THREADS.submit(self._run, function, end) for end in ends]
        wait(futures)
        if self._broken is not None:
            raise self._broken
        results = [future.result() for future in futures]
        for (source, rank), messages in self._messages.items():
            assert not messages, f"rank {source} sent rank {rank} a message more than it received"
        return results

    def leave(self, rank: int, error: BaseException | None = None) -> None:
        """The rank has ended, with an error perhaps: nobody needs to wait for it."""
        with self._changed:
            self._left.add(rank)
            self._broken = self._broken or error
            self._changed.notify_all()

    def _run(self, function: Callable[[int, Collective], Any], end: Collective) -> Any:
        try:
            result = function(end.rank, end)
        except BaseException as error:
            self.leave(end.rank, error)
            raise
        self.leave(end.rank)
        return result

    def _all_gather(self, rank: int, array: Array) -> Array:
        with self._changed:
            array = np.asarray(array)
            self.gathered[rank] += array.nbytes
            round_ = self._rounds[self._calls[rank]]
            self._calls[rank] += 1
            round_[rank] = array
            self._changed.notify_all()
            self._wait(rank, lambda: set(range(self.size)) - set(round_), "all ranks to call all_gather")
            kinds = {(each.shape, each.dtype.name) for each in round_.values()}
            assert len(kinds) == 1, f"all_gather: expected one shape and dtype, got {sorted(kinds)}"
            return np.stack([round_[r] for r in range(self.size)])

    def _send(self, rank: int, array: Array, to: int) -> None:
        assert 0 <= to < self.size and to != rank, f"send: expected another rank, got {to} on rank {rank}"
        with self._changed:
            array = np.asarray(array)
            self.sent[rank, to] += array.nbytes
            self._messages[rank, to].append(array)
            self._changed.notify_all()

    def _recv(self, rank: int, shape: tuple[int, ...], dtype: str, source: int) -> Array:
        with self._changed:
            waiting = self._messages[source, rank]
            self._wait(rank, lambda: set() if waiting else {source}, f"a message from rank {source}")
            array = waiting.popleft()
        expected, got = (tuple(shape), dtype), (array.shape, array.dtype.name)
        assert got == expected, f"recv on rank {rank} from {source}: expected {expected}, got {got}"
        return array

    def _wait(self, rank: int, missing: Callable[[], set[int]], what: str) -> None:
        """Until no rank is missing any more."""
        self._waiting[rank] = missing
        self._changed.notify_all()
        deadline = time.monotonic() + PATIENCE
        while missing() and self._broken is None and missing() <= self._joined - self._left:
            stuck = self._stuck()
            moment = min(deadline - time.monotonic(), DEADLOCK if stuck else PATIENCE)
            if moment <= 0 or (not self._changed.wait(moment) and stuck):
                break
        waits = {each: missed for each, of in sorted(self._waiting.items()) if (missed := of())}
        self._waiting.pop(rank, None)
        if self._broken is not None:
            raise AnotherRankFailed("another rank has failed")
        if missing() and missing() <= waits.keys() == self._joined - self._left:
            others = ", ".join(f"{each} for {min(missed)}" for each, missed in waits.items())
            raise AssertionError(f"rank {rank} waited for {what}, and all wait for each other: {others}")
        assert not missing(), f"rank {rank} waited for {what}: rank {min(missing())} does not take part"

    def _stuck(self) -> bool:
        """Whether nobody can go on. Who has what it waited for can, though it may not have woken yet."""
        active = self._joined - self._left
        return all(rank in self._waiting and self._waiting[rank]() for rank in active)


def collective_of(call: RecordedCall) -> Collective | None:
    """What the call was given to talk to other ranks."""
    found = call.kwargs.get("collective")
    return found if isinstance(found, Collective) else None


def of_one_group(calls: list[RecordedCall], call: RecordedCall) -> bool:
    """Whether `call` may be one more rank of the group that these belong to."""
    ends, end = [collective_of(each) for each in calls], collective_of(call)
    sizes = {each.size for each in ends if each is not None}
    return (
        end is not None
        and None not in ends
        and sizes == {end.size}
        and end.rank not in {each.rank for each in ends if each is not None}
    )


class FreshGroups:
    """For a replay: calls that took part in one group find each other in a new one.

    The recorded group is spent: its messages were taken.
    """

    def __init__(self) -> None:
        self._ranks: Ranks | None = None
        self._taken: set[int] = set()

    def arguments(self, call: RecordedCall) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ends = collective_of(call)
        if ends is None:
            return call.args, call.kwargs
        if self._ranks is None or self._ranks.size != ends.size or ends.rank in self._taken:
            self._ranks, self._taken = Ranks(ends.size), set()
        self._taken.add(ends.rank)
        return call.args, {**call.kwargs, "collective": self._ranks.collective(ends.rank)}

    def ended(self, call: RecordedCall, error: Exception | None) -> None:
        ends = collective_of(call)
        if ends is not None and self._ranks is not None:
            self._ranks.leave(ends.rank, error)
