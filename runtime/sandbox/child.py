"""The running command: its output, its end."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MEANINGS = {
    signal.SIGSEGV: "invalid memory access, or an allocation beyond the memory limit",
    signal.SIGBUS: "invalid memory access, or a full temporary folder",
    signal.SIGABRT: "a library gave up, as after a failed allocation",
    signal.SIGKILL: "stopped by the grader, or by the system when memory ran out",
    signal.SIGFPE: "an integer division by zero",
    signal.SIGILL: "an instruction that this processor lacks",
    signal.SIGXFSZ: "a file grew beyond the limit",
    signal.SIGSYS: "a system call that the sandbox forbids",
}


class Child:
    """One confined command and everything it started.

    `kill`, `close`, leaving the `with` block and the end of this interpreter all end the whole family."""

    def __init__(self, process: subprocess.Popen[bytes], private: Path | None, output_bytes: int) -> None:
        self._family = Family(process)
        assert process.stdout is not None
        self._output = Output(process.stdout, output_bytes)
        self._drain = threading.Thread(target=_drain, args=(self._output,), daemon=True)
        self._drain.start()
        # Also runs at exit, and when the caller drops the child without closing it.
        self._close = weakref.finalize(self, _end, self._family, private)

    @property
    def pid(self) -> int:
        return self._family.process.pid

    def family(self) -> list[int]:
        """The command and what it started, by number. Without /proc the command alone."""
        return list(_descendants(self.pid))

    def alive(self) -> bool:
        return not self._family.has_ended()

    def abort(self) -> None:
        """SIGABRT for the command: Python with `faulthandler` writes where it is, and ends."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.family()[-1], signal.SIGABRT)  # what led to it, such as bubblewrap, comes before

    def kill(self) -> None:
        """Ends the command and all it started; returns when the command is gone."""
        self._family.end()

    def exit_status(self, timeout: float) -> str:
        """How it ended, as a sentence. Waits up to `timeout` seconds first: killing a child that is about to
        report its own death would hide the cause."""
        deadline = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() >= deadline:
                return "still running"
            time.sleep(0.005)
        return describe(self._family.process.returncode)

    def output_tail(self) -> str:
        """The end of what it wrote to stdout and stderr. The untrusted side wrote it: data, never markup."""
        deadline = time.monotonic() + 0.5
        if self.alive():
            # A reply may have overtaken what was printed before it.
            while time.monotonic() < deadline and self._output.is_ready(0) and self._output.read():
                pass
        else:
            self._drain.join(0.5)  # the last words may still be on their way
        return self._output.text()

    def forget_output(self) -> None:
        """The tail begins anew, with what is written from here on."""
        self._output.forget()

    def close(self) -> None:
        """Ends it and removes its private folder. May be called again."""
        self._close()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Family:
    """The command, which leads a process group, and the rest of that group.

    With namespaces the command's death takes all others with it, in whatever group they are; elsewhere no
    process can leave the group where system calls are filtered (`Tier.lacks` says where they are not).
    The group is killed before its leader is reaped and never after: then its number may be another's."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._lock = threading.Lock()

    def has_ended(self) -> bool:
        with self._lock:
            if self.process.returncode is None and self._leader_has_ended():
                self._kill_and_reap()
            return self.process.returncode is not None

    def end(self) -> None:
        with self._lock:
            if self.process.returncode is None:
                self._kill_and_reap()

    def _leader_has_ended(self) -> bool:
        if sys.platform != "linux":  # Python 3.11 has no waitid on macOS; the leader is reaped a moment early
            return self.process.poll() is not None
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _kill_and_reap(self) -> None:
        # A group of zombies alone is «not permitted» on macOS.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Output:
    """The last bytes of a stream of any length, in bounded memory. Two threads may read it at once."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._kept = bytearray()
        self._seen = 0
        self._lock = threading.Lock()

    def is_ready(self, milliseconds: int | None) -> bool:
        """Whether there is more to read, or its end. Waits so long for that, without end if None."""
        poll = select.poll()  # one for each thread
        with self._lock:
            if self._stream.closed:
                return False
            poll.register(self._stream, select.POLLIN)
        return bool(poll.poll(milliseconds))

    def read(self) -> bool:
        """What is there, if another thread has not read it; False once the stream has ended."""
        with self._lock:
            if self._stream.closed:
                return False
            poll = select.poll()
            poll.register(self._stream, select.POLLIN)
            if not poll.poll(0):
                return True
            data = os.read(self._stream.fileno(), 1 << 16)
            self._seen += len(data)
            self._kept += data
            del self._kept[: max(0, len(self._kept) - self._limit)]
            return bool(data)

    def close(self) -> None:
        with self._lock:
            self._stream.close()

    def forget(self) -> None:
        self.read()
        with self._lock:
            self._kept.clear()
            self._seen = 0

    def text(self) -> str:
        with self._lock:
            left_out = self._seen - len(self._kept)
            kept = self._kept.decode(errors="replace")
        return f"[{left_out} bytes left out] {kept}" if left_out else kept


def describe(returncode: int) -> str:
    # bubblewrap reports a command that died from signal n as exit code 128 + n.
    number = -returncode if returncode < 0 else returncode - 128
    if number not in set(signal.Signals):
        return f"exited with code {returncode}"
    name = signal.Signals(number)
    meaning = f": {MEANINGS[name]}" if name in MEANINGS else ""
    return f"killed by signal {number} ({name.name}){meaning}"


def _descendants(pid: int) -> Iterator[int]:
    """A process, and those below it that are there now."""
    yield pid
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in listed.read_text().split():
                yield from _descendants(int(child))


def _drain(output: Output) -> None:
    while output.is_ready(None) and output.read():
        pass
    output.close()


def _end(family: Family, private: Path | None) -> None:
    family.end()
    if private is not None:
        shutil.rmtree(private, ignore_errors=True)  # the child may have filled it with anything
