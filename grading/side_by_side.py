"""Judges several jobs at once, in trusted processes of their own, which tell this one what they found."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Told = Callable[[Any], None]  # takes what there is to say about a job
Job = TypeVar("Job", bound=Hashable)

_LAST_SECONDS = 10.0  # for a process to end what it started, after Ctrl-C


class JobFailed(Exception):
    """The grader failed at a job: its text says how."""


def judge_all(
    jobs: Sequence[Job], judge: Callable[[Job, Told], Any], told: Told, *, here: bool = False
) -> dict[Job, Any]:
    """{job: what `judge` returned}, with as many jobs at once as there are cores.

    here: one after the other, in this process.
    """
    if here or len(jobs) == 1:
        return {job: judge(job, told) for job in jobs}
    context = multiprocessing.get_context("spawn")
    left = deque(jobs)
    processes: list[BaseProcess] = []
    running: dict[Any, Job] = {}  # by our end of the pipe
    found: dict[Job, Any] = {}

    def go_on(ours: Any) -> None:
        if left:
            running[ours] = left.popleft()
            ours.send(running[ours])
        else:
            del running[ours]
            ours.close()  # which ends it

    try:
        for _ in range(min(len(jobs), os.cpu_count() or 1)):
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=_judge, args=(theirs, judge))
            process.start()
            processes.append(process)
            theirs.close()
            go_on(ours)
        while running:
            spoke: list[Any] = wait(list(running))
            for ours in spoke:
                try:
                    kind, said = ours.recv()
                except EOFError:
                    kind, said = "failed", f"the process that judged {running[ours]} has ended without a word"
                if kind == "told":
                    told(said)
                elif kind == "failed":
                    raise JobFailed(said)
                else:
                    found[running[ours]] = said
                    go_on(ours)
        for process in processes:
            process.join(_LAST_SECONDS)
    finally:
        _end(processes)
    return found


def _judge(theirs: Connection, judge: Callable[[Any, Told], Any]) -> None:
    """In a process: judges what it is given, until nothing is left."""
    end_with_parent()
    try:
        while True:
            theirs.send(("ended", judge(theirs.recv(), lambda said: theirs.send(("told", said)))))
    except (KeyboardInterrupt, BrokenPipeError, EOFError):
        pass  # the parent knows, has nothing left, or is gone
    except Exception as error:  # told to the parent, which gives no verdict
        theirs.send(("failed", "".join(traceback.format_exception(error))))


def end_with_parent() -> None:
    """This process ends when its parent does, however that came about."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGINT)  # where it is not ignored, the submission's processes go first
        time.sleep(_LAST_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end(processes: list[BaseProcess]) -> None:
    """Ctrl-C for each, so that it takes the submission's processes along."""
    for process in processes:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGINT)
    for process in processes:
        process.join(_LAST_SECONDS)
        if process.is_alive():
            process.kill()
