"""Runs the jobs of an audit side by side, and goes on with what an interrupted one left."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any, Protocol

from grading.audit.jobs import Job, run
from grading.audit.journal import Journal
from grading.side_by_side import end_with_parent


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
    context = multiprocessing.get_context("spawn")
    # A fresh process now and then: what tests load and cache grows.
    pool = ProcessPoolExecutor(
        processes or os.cpu_count(), mp_context=context, initializer=_begin, max_tasks_per_child=25
    )
    try:
        waiting = {pool.submit(_timed, run, job): job for job in left}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                job = waiting.pop(future)
                found[job], seconds = future.result()
                journals[job.topic].write(job, found[job], seconds)
                progress.done(job)
    except BaseException:  # Ctrl-C too: nothing stays behind
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _timed(run: Callable[[Job], Any], job: Job) -> tuple[Any, float]:
    """In a worker: what the job found, and the seconds it took."""
    begun = time.monotonic()
    return run(job), time.monotonic() - begun


def _begin() -> None:
    """In a worker: Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
