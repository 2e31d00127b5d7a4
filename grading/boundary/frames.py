"""Frames on a socket: magic, number of buffers, body length, buffer sizes, body, buffers.

The raw bytes of arrays travel beside the body, so that the body's cap can be small: parsing a hostile
body costs many times its size in memory, a buffer costs its own.
"""

import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from grading.boundary.failures import ChannelClosed, DeadlinePassed, ProtocolViolation

MAX_BODY = 1 << 20
MAX_BUFFERS = 4096
MAX_TOTAL = 1 << 30

_MAGIC = b"WK3\x01"
_HEAD = struct.Struct("<4sII")
_VECTORS = 512  # buffers handed to one sendmsg; the system takes at most 1,024

Remaining = Callable[[], float]
"""Seconds left before the deadline; infinite if there is none."""


class Frame(NamedTuple):
    body: bytes
    buffers: Sequence[memoryview]

    def copy(self) -> "Frame":
        """The same bytes in memory of their own, writable."""
        return Frame(self.body, [memoryview(bytearray(b)) for b in self.buffers])


class Channel:
    """One end of a socket pair. Any number of threads may send, one at a time may receive."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._sending = threading.Lock()
        self._readable = select.poll()
        self._readable.register(end, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(end, select.POLLOUT)
        self._ahead = bytearray()  # received but not yet consumed
        self._scratch = memoryview(bytearray(1 << 16))

    def send(self, frame: Frame, remaining: Remaining) -> None:
        sizes = [b.nbytes for b in frame.buffers]
        head = _HEAD.pack(_MAGIC, len(sizes), len(frame.body)) + struct.pack(f"<{len(sizes)}Q", *sizes)
        pending = [memoryview(head + frame.body), *(b for b in frame.buffers if b.nbytes)]
        with self._sending:
            while pending:
                try:
                    sent = self._socket.sendmsg(pending[:_VECTORS])
                except BlockingIOError:
                    _wait(self._writable, remaining)
                    continue
                except (BrokenPipeError, ConnectionResetError):
                    raise ChannelClosed from None
                while pending and sent >= pending[0].nbytes:
                    sent -= pending.pop(0).nbytes
                if sent:
                    pending[0] = pending[0][sent:]

    def receive(self, remaining: Remaining) -> Frame:
        magic, count, body_size = _HEAD.unpack(self._take(_HEAD.size, remaining))
        if magic != _MAGIC:
            raise ProtocolViolation(f"a frame must start with {_MAGIC!r}, got {magic!r}")
        problem = over_cap(body_size, [0] * min(count, MAX_BUFFERS + 1))
        if problem:
            raise ProtocolViolation(problem)
        sizes = struct.unpack(f"<{count}Q", self._take(8 * count, remaining))
        problem = over_cap(body_size, sizes)
        if problem:
            raise ProtocolViolation(problem)
        body = self._take(body_size, remaining)
        return Frame(body, [self._take_buffer(size, remaining) for size in sizes])

    def close(self) -> None:
        self._socket.close()

    def _take(self, size: int, remaining: Remaining) -> bytes:
        while len(self._ahead) < size:
            self._ahead += self._scratch[: self._fill(self._scratch, remaining)]
        taken = bytes(self._ahead[:size])
        del self._ahead[:size]
        return taken

    def _take_buffer(self, size: int, remaining: Remaining) -> memoryview:
        # np.empty and not bytearray: memory that never arrives is never touched.
        buffer = np.empty(size, np.uint8).data
        filled = min(size, len(self._ahead))
        buffer[:filled] = self._ahead[:filled]
        del self._ahead[:filled]
        while filled < size:
            filled += self._fill(buffer[filled:], remaining)
        return buffer

    def _fill(self, view: memoryview, remaining: Remaining) -> int:
        """Bytes received into `view`, at least one."""
        while True:
            _wait(self._readable, remaining)
            try:
                received = self._socket.recv_into(view)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                raise ChannelClosed from None
            if not received:
                raise ChannelClosed
            return received


def _wait(ready: select.poll, remaining: Remaining) -> None:
    while True:
        left = remaining()
        if left <= 0:
            raise DeadlinePassed
        if ready.poll(None if left == float("inf") else left * 1000 + 1):
            return


def over_cap(body: int, buffers: Sequence[int]) -> str | None:
    if body > MAX_BODY:
        return f"a message's body may have {MAX_BODY:,} bytes, got {body:,}"
    if len(buffers) > MAX_BUFFERS:
        return f"a message may have {MAX_BUFFERS:,} buffers, got more"
    if body + sum(buffers) > MAX_TOTAL:
        return f"a message may have {MAX_TOTAL:,} bytes in all, got {body + sum(buffers):,}"
    return None
