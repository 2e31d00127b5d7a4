"""Judges several topics at once, each in a trusted process of its own, which tells this one what it found."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

Told = Callable[[Any], None]  # takes what a topic's process has to say
JudgeTopic = Callable[[str, Told], str]  # judges one topic, tells what it finds, returns why it ended early

_LAST_SECONDS = 10.0  # for a process to end what it started, after Ctrl-C


class TopicFailed(Exception):
    """The grader failed at a topic: its text says how."""


def judge_all(
    topics: Sequence[str], judge_topic: JudgeTopic, told: Told, *, here: bool = False
) -> dict[str, str]:
    """{topic: why it ended early}, with as many topics at once as there are cores.

    here: one after the other, in this process.
    """
    if here or len(topics) == 1:
        return {topic: judge_topic(topic, told) for topic in topics}
    context = multiprocessing.get_context("spawn")
    left = deque(topics)
    running: dict[Any, tuple[str, BaseProcess]] = {}  # by the end of a pipe
    notes: dict[str, str] = {}
    try:
        while left or running:
            while left and len(running) < (os.cpu_count() or 1):
                pipe: tuple[Any, Any] = context.Pipe(duplex=False)
                ours, theirs = pipe
                topic = left.popleft()
                process: BaseProcess = context.Process(target=_judge, args=(theirs, judge_topic, topic))
                process.start()
                theirs.close()
                running[ours] = topic, process
            spoke: list[Any] = wait(list(running))
            for ours in spoke:
                topic, process = running[ours]
                try:
                    kind, said = ours.recv()
                except EOFError:
                    kind, said = "failed", f"the process that judged {topic} has ended without a word"
                if kind == "told":
                    told(said)
                    continue
                del running[ours]
                process.join()
                if kind == "failed":
                    raise TopicFailed(said)
                notes[topic] = said
    finally:
        _end([process for _, process in running.values()])
    return notes


def _judge(theirs: Connection, judge_topic: JudgeTopic, topic: str) -> None:
    """In a topic's process."""
    end_with_parent()
    try:
        theirs.send(("ended", judge_topic(topic, lambda said: theirs.send(("told", said)))))
    except (KeyboardInterrupt, BrokenPipeError):
        pass  # the parent knows, or is gone
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
