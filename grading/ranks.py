"""Several ranks in one process: a thread each, and a collective that notices who does not take part."""

from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from threading import Condition
from typing import Any

import numpy as np

from grading.boundary.trace import RecordedCall
from spec.collective import Collective

Array = np.ndarray[Any, np.dtype[Any]]

MOST = 6
THREADS = ThreadPoolExecutor(MOST)  # kept: MLX keeps a thread of its own for each that ever computed
PATIENCE = 10.0  # seconds that a rank waits for the others, whose work takes milliseconds


class Ranks:
    """`run` calls a function once a rank, all at the same time.

    sent: bytes from one rank to another, {(source, destination): bytes}.
    gathered: bytes that each rank contributed to `all_gather`, {rank: bytes}.
    """

    def __init__(self, size: int, patience: float = PATIENCE) -> None:
        self.size = size
        self.patience = patience
        self.sent: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.gathered: defaultdict[int, int] = defaultdict(int)
        self._changed = Condition()
        # n -> {rank: what it passed to its n-th all_gather}
        self._rounds: defaultdict[int, dict[int, Array]] = defaultdict(dict)
        self._joined: set[int] = set()
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
        """[function(rank, collective), …]; raises the first error, once all ranks have ended."""
        ends = [self.collective(rank) for rank in range(self.size)]
        futures = [THREADS.submit(self._run, function, end) for end in ends]
        wait(futures)
        if self._broken is not None:
            raise self._broken
        return [future.result() for future in futures]

    def _run(self, function: Callable[[int, Collective], Any], end: Collective) -> Any:
        try:
            return function(end.rank, end)
        except BaseException as error:
            with self._changed:
                self._broken = self._broken or error
                self._changed.notify_all()
            raise

    def _all_gather(self, rank: int, array: Array) -> Array:
        with self._changed:
            array = np.asarray(array)
            self.gathered[rank] += array.nbytes
            round_ = self._rounds[self._calls[rank]]
            self._calls[rank] += 1
            round_[rank] = array
            self._changed.notify_all()
            self._wait(lambda: len(round_) == self.size, "all ranks to call all_gather")
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
            self._wait(lambda: len(waiting) > 0, f"a message from rank {source} to rank {rank}")
            array = waiting.popleft()
        expected, got = (tuple(shape), dtype), (array.shape, array.dtype.name)
        assert got == expected, f"recv on rank {rank} from {source}: expected {expected}, got {got}"
        return array

    def _wait(self, ready: Callable[[], object], what: str) -> None:
        patience = self.patience if len(self._joined) == self.size else 0
        arrived = self._changed.wait_for(lambda: ready() or self._broken is not None, patience)
        if self._broken is not None:
            raise ConnectionError("another rank has failed")
        assert arrived, f"waited {patience:g} s for {what}: a rank does not take part"


class FreshGroups:
    """For a replay: calls that took part in one group find each other in a new one.

    The recorded group is spent: its messages were taken. Replayed ranks that cannot go on give up sooner.
    """

    def __init__(self) -> None:
        self._ranks: Ranks | None = None
        self._taken: set[int] = set()

    def arguments(self, call: RecordedCall) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ends = call.kwargs.get("collective")
        if not isinstance(ends, Collective):
            return call.args, call.kwargs
        if self._ranks is None or self._ranks.size != ends.size or ends.rank in self._taken:
            self._ranks, self._taken = Ranks(ends.size, patience=1.0), set()
        self._taken.add(ends.rank)
        return call.args, {**call.kwargs, "collective": self._ranks.collective(ends.rank)}
