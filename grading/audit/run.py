"""Runs the jobs of an audit side by side, and goes on with what an interrupted one left."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, Protocol

from grading.audit.jobs import Job, run
from grading.audit.journal import Journal
from grading.side_by_side import end_with_parent

# Then a fresh one: what tests load and cache grows. `max_tasks_per_child` of ProcessPoolExecutor would do so,
# and wait forever once all have ended at the same time (CPython issue 115634).
JOBS_A_PROCESS = 25


class Progress(Protocol):
    """Is told what there is to do, and of each job that has ended. seconds: of one process, about."""

    def begun(self, jobs: int, resumed: int, seconds: float) -> None: ...

    def done(self, job: Job) -> None: ...


def run_all(
    wanted: Iterable[Job],
    progress: Progress,
    *,
    run: Callable[[Job], Any] = run,
    processes: int | None = None,
) -> dict[Job, Any]:
    """{job: what it found}. Each result is kept as soon as it is there."""
    wanted = list(wanted)
    journals = {topic: Journal(topic) for topic in {job.topic for job in wanted}}
    found = {job: result for job in wanted if (result := journals[job.topic].read(job)) is not None}
    left = sorted((job for job in wanted if job not in found), key=lambda job: -job.seconds)
    progress.begun(len(left), len(found), sum(job.seconds for job in left))
    if not left:
        return found
    processes = processes or os.cpu_count() or 1

    def ended(job: Job, result: Any, seconds: float) -> None:
        found[job] = result
        journals[job.topic].write(job, result, seconds)
        progress.done(job)

    at_once = processes * JOBS_A_PROCESS
    for start in range(0, len(left), at_once):
        _side_by_side(left[start : start + at_once], run, processes, ended)
    return found


def _side_by_side(
    jobs: Iterable[Job],
    run: Callable[[Job], Any],
    processes: int,
    ended: Callable[[Job, Any, float], None],
) -> None:
    """Runs these in fresh processes. ended: told of each, what it found, and the seconds it took."""
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        running = {pool.submit(_timed, run, job): job for job in jobs}
        for future in as_completed(running):
            ended(running[future], *future.result())
    except BaseException:  # Ctrl-C too: nothing stays behind
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _timed(run: Callable[[Job], Any], job: Job) -> tuple[Any, float]:
    """In a worker: what the job found, and the seconds it took."""
    begun = time.monotonic()
    return run(job), time.monotonic() - begun


def _begin() -> None:
    """In a worker: Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
