"""Looks for the truth where the tests keep theirs: frames, objects, the memory of other processes."""

import ctypes
import gc
import os
import sys
from pathlib import Path

TELLTALE = ("Expected", "Truth", "Judge", "Trial", "Bug", "TestResult")


def attack():
    for thing in gc.get_objects():
        if type(thing).__name__ in TELLTALE or getattr(thing, "__name__", "") in (
            "reference",
            "grading.truth",
        ):
            raise LookupError(f"an object of the tests: {type(thing)}")
    for frame in sys._current_frames().values():
        while frame is not None:
            if "tests" in Path(frame.f_code.co_filename).parts:
                raise LookupError(f"a frame of the tests: {frame}")
            frame = frame.f_back
    parent = os.getppid() or 1
    for file in ("mem", "environ", "maps", "fd/0", "cwd/pyproject.toml", "root/etc/passwd"):
        try:
            with Path(f"/proc/{parent}/{file}").open("rb") as opened:
                opened.read(1)
        except OSError:
            continue
        raise LookupError(f"/proc/{parent}/{file}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, parent, 0, 0) == 0:  # PTRACE_ATTACH
        raise LookupError(f"traced {parent}")
    here = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(here), 8)
    if libc.process_vm_readv(parent, vector, 1, vector, 1, 0) > 0:
        raise LookupError(f"read the memory of {parent}")
