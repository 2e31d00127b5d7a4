"""Starts processes that mean to stay: in its group, in one of their own, orphaned."""

import contextlib
import os
import subprocess
import sys

from known import TOKEN

SLEEP = [sys.executable, "-c", "import time; time.sleep(120)", TOKEN]


def attack():
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(SLEEP, **quiet)
    for leave in (os.setsid, lambda: os.setpgid(0, 0)):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                leave()
            if os.fork() == 0:
                os.execv(SLEEP[0], SLEEP)
            os._exit(0)
        os.waitpid(child, 0)
