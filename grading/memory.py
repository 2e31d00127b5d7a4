"""How much memory a submission takes during some calls, measured by the system and never by the submission.

    with growth(session) as measured:
        session.namespace.blockwise_attention(…)
    assert measured.highest < 64 << 20

Measured is the largest process of the submission, against what it was at the start: at its highest point, and
at the end, once all that is free was given back. Memory is resident memory on Linux, on macOS the footprint,
which counts the buffers of the GPU.

It may miss, and does not accuse:

- What a process kept of freed memory is taken again without growth. The heap is emptied first, but holes
  below what is in use stay: the fixture `memory_growth` starts a fresh worker for a test and all its cases.
- macOS cannot forget the highest point, nor may Linux where that is not permitted: then only what goes above
  all that came before is seen of it.
- What a submission holds on a GPU is not seen on Linux.
- A process that comes and goes meanwhile, and files in the temporary folder, are not seen; in process, no
  other process is. In the tier `process` a submission can make Linux forget its highest point.

What counts at the highest point beside the algorithm: copies of arguments and results (three at most), and
what the first call sets up, threads and compiled code. Choose inputs small against the limit, and make a
small call before.
"""

import contextlib
import ctypes
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grading.boundary.session import Session

_RUSAGE_INFO_V4 = 4
_FOOTPRINT, _HIGHEST_FOOTPRINT = 16 + 7 * 8, 16 + 28 * 8  # in struct rusage_info_v4, 296 bytes


class Growth:
    """In bytes, never negative: there once the block has ended without an error.

    highest: at the highest point.
    held: at the end, without what was freed.
    """

    highest: int
    held: int


@contextlib.contextmanager
def growth(session: Session) -> Iterator[Growth]:
    """How far the submission's memory grows in this block.

    The test's calls are not recorded from here on: in process, the recording would grow beside the
    submission, and its arrays would split the heap that both use. So no known bug is looked for.
    """
    session.stop_recording()
    measured = Growth()
    session.empty_heap()
    processes = session.processes()
    for pid in processes:
        _forget_highest(pid)
    before = _largest(processes)
    yield measured
    measured.highest = max(0, _largest(session.processes()).highest - before.highest)
    session.empty_heap()
    measured.held = max(0, _largest(session.processes()).held - before.held)


@dataclass(frozen=True)
class _Taken:
    """Bytes that a process takes now, and took at its highest point."""

    held: int = 0
    highest: int = 0


def _largest(pids: list[int]) -> _Taken:
    """The most that one process takes. The sum would count twice what a fork shares."""
    taken = [_Taken(), *map(_taken_by, pids)]
    return _Taken(max(each.held for each in taken), max(each.highest for each in taken))


def _forget_highest(pid: int) -> None:
    """From here on the highest point of a process is that of the present or later."""
    with contextlib.suppress(OSError):  # not Linux, not permitted, or the process is gone
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _taken_by(pid: int) -> _Taken:
    """Nothing for a process that is gone."""
    if sys.platform == "darwin":
        return _footprint(pid)
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return _Taken()
    found = {name: int(kib) * 1024 for name, kib in re.findall(r"(\w+):\s*(\d+) kB", status)}
    return _Taken(found.get("VmRSS", 0), found.get("VmHWM", 0))


def _footprint(pid: int) -> _Taken:
    usage = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None).proc_pid_rusage(pid, _RUSAGE_INFO_V4, usage) != 0:
        return _Taken()
    held, highest = (struct.unpack_from("=Q", usage, at)[0] for at in (_FOOTPRINT, _HIGHEST_FOOTPRINT))
    return _Taken(held, highest)
