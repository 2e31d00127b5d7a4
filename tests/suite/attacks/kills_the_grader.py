"""Signals its parent, every ancestor and their groups."""

import os
import signal
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def attack():
    for pid in ancestors():
        for number in SIGNALS:
            for send in (os.kill, kill_group):
                try:
                    send(pid, number)
                except OSError:
                    continue
                if pid != 1:  # the first process of a namespace ignores what it does not ask for
                    raise LookupError(f"signal {number} went to {pid}")


def kill_group(pid, number):
    group = os.getpgid(pid)
    if group in (0, os.getpgrp()):
        raise OSError("0 would be its own")
    os.killpg(group, number)


def ancestors():
    pid = os.getppid()
    while pid > 0:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return
