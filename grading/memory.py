"""How much memory a submission takes during some calls, measured by the system and never by the submission.

    with growth(session) as measured:
        session.namespace.blockwise_attention(…)
    assert measured.bytes < 64 << 20

Measured is the highest point that the largest process of the submission reaches, above where it was at the
start: resident memory on Linux, on macOS the footprint, which counts the buffers of the GPU.

It may miss, and does not accuse:

- What a process kept of freed memory is taken again without growth. In process the heap is emptied first. A
  worker's is not: the fixture `memory_growth` starts a fresh one. MLX keeps what it freed on a GPU.
- macOS cannot forget the highest point, nor may Linux where that is not permitted: then only what goes above
  all that came before is seen.
- A process that comes and goes meanwhile, and files in the temporary folder, are not seen; in process, no
  other process is. In the tier `process` a submission can make Linux forget its highest point.

What counts beside the algorithm: copies of arguments and results (three at most), and what the first call
sets up, threads and compiled code. Choose inputs small against the limit, and make a small call before.
"""

import contextlib
import ctypes
import gc
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from grading.boundary.session import Session

_RUSAGE_INFO_V4 = 4
_HIGHEST_FOOTPRINT = 16 + 28 * 8  # of ri_lifetime_max_phys_footprint in struct rusage_info_v4, 296 bytes


class Growth:
    """bytes: there once the block has ended without an error."""

    bytes: int


@contextlib.contextmanager
def growth(session: Session) -> Iterator[Growth]:
    """What the submission's memory grows by in this block, at its highest point.

    The test's calls are not recorded from here on: in process, the recording would grow beside the
    submission, and its arrays would split the heap that both use. So no known bug is looked for.
    """
    session.stop_recording()
    measured = Growth()
    processes = session.processes()
    _empty_heap()
    for pid in processes:
        _forget_highest(pid)
    before = _highest(processes)
    yield measured
    measured.bytes = max(0, _highest(session.processes()) - before)


def _empty_heap() -> None:
    """Gives back what this process keeps of freed memory: taken again, it would hide growth."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)


def _highest(pids: list[int]) -> int:
    """The highest point of the largest process. Their sum would count twice what a fork shares."""
    return max(map(_highest_of, pids), default=0)


def _forget_highest(pid: int) -> None:
    """From here on the highest point of a process is that of the present or later."""
    with contextlib.suppress(OSError):  # not Linux, not permitted, or the process is gone
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _highest_of(pid: int) -> int:
    """In bytes; 0 for a process that is gone."""
    if sys.platform == "darwin":
        return _highest_footprint(pid)
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _highest_footprint(pid: int) -> int:
    usage = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None).proc_pid_rusage(pid, _RUSAGE_INFO_V4, usage) != 0:
        return 0
    highest: int = struct.unpack_from("=Q", usage, _HIGHEST_FOOTPRINT)[0]
    return highest
