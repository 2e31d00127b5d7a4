"""The process of a submission: what ends it, and what goes on."""

import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from grading.boundary.failures import (
    CallTimeout,
    DeadlinePassed,
    NotCalledAgain,
    SubmissionError,
    WorkerDied,
)
from grading.boundary.interrupts import until_ended
from tests.suite.boundary.probes import isolated, write_submission


def test_prints_do_not_disturb_the_channel(submission):
    submission.act("print('x' * 100000, flush=True)")
    submission.act("os.write(2, b'y' * 1000)")
    assert submission.echo(3) == 3


def test_a_death_is_told_and_the_next_call_has_a_fresh_process(spawn):
    session = spawn()
    box = session.namespace.Box(1)
    with pytest.raises(WorkerDied, match=r"exited with code 3(.|\n)*last words"):
        session.namespace.act("(print('last words', flush=True), os._exit(3))")
    with pytest.raises(WorkerDied, match="the worker that held this has ended"):
        box.get()
    assert session.namespace.echo(2) == 2
    with pytest.raises(WorkerDied, match=r"SIGSEGV[\s\S]*\nin probe\.py:\d+, in act$"):
        session.namespace.act("__import__('ctypes').string_at(0)")
    assert session.failures == 2


def test_a_death_during_import_is_told_for_every_name(place, probe):
    session = isolated(write_submission(place / "deadly", "import os\nos._exit(7)"))
    for _ in range(2):
        with pytest.raises(WorkerDied, match="exited with code 7"):
            _ = session.namespace.echo
    assert session.failures == 1
    session.close()


def test_a_call_that_takes_too_long_ends_the_process(spawn):
    session = spawn(call_seconds=0.3)
    session.describe()
    began = time.monotonic()
    with pytest.raises(CallTimeout, match=r"within 0\.3 s"):
        session.namespace.act("time.sleep(60)")
    assert time.monotonic() - began < 2
    assert session.namespace.echo(1) == 1
    assert session.failures == 1


def test_a_function_that_hung_or_crashed_twice_is_not_called_again(spawn):
    session = spawn(call_seconds=0.3)
    session.describe()
    submission = session.namespace
    box = submission.Box(1)
    for _ in range(2):
        with pytest.raises(WorkerDied, match="^in act, the submission's process exited with code 3"):
            submission.act("os._exit(3)")
    for _ in range(2):
        with pytest.raises(NotCalledAgain, match="^act is not called again: it crashed 2 times, at last"):
            submission.act("1")
    hung = r"^take did not answer within 0\.3 s; its process was ended\nin probe\.py:\d+, in \S+$"
    with pytest.raises(CallTimeout, match=hung):
        submission.take(iter(lambda: time.sleep(0.01), 1), 10**9)
    with pytest.raises(NotCalledAgain, match=r"^take is not called again: it did not answer within 0\.3 s"):
        submission.take(iter([]), 0)
    assert submission.echo(1) == 1
    with pytest.raises(WorkerDied, match="the worker that held this has ended"):
        box.get()
    assert session.failures == 3


def test_an_interrupted_call_costs_its_process_but_no_later_result(spawn):
    class Interrupt(BaseException):
        pass

    def interrupt(*_):
        raise Interrupt

    session = spawn()
    session.describe()
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(Interrupt):
            session.namespace.act("time.sleep(0.3) or 'late'")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    time.sleep(0.3)
    assert session.namespace.echo(1) == 1


def test_an_endless_call_is_ended_in_process_too(hurried):
    box = hurried.namespace.Box(1)
    began = time.monotonic()
    with pytest.raises(CallTimeout, match=r"^act did not answer within 0\.3 s; the call was ended"):
        hurried.namespace.act("[1 for _ in iter(int, 1)]")
    assert time.monotonic() - began < 5
    with pytest.raises(NotCalledAgain, match=r"^act is not called again: it did not answer within 0\.3 s"):
        hurried.namespace.act("1")
    with pytest.raises(WorkerDied, match="has ended"):
        box.get()
    assert hurried.namespace.echo(1) == 1
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_endless_call_in_another_thread_is_ended_too(hurried):
    hurried.describe()
    with ThreadPoolExecutor(1) as threads:
        endless = threads.submit(hurried.namespace.act, "[1 for _ in iter(int, 1)]")
        with pytest.raises(CallTimeout, match=r"^act did not answer within 0\.3 s; the call was ended"):
            endless.result(timeout=5)
        assert threads.submit(hurried.namespace.echo, 1).result(timeout=5) == 1


def test_no_time_is_up_in_a_debugger_in_another_thread(hurried):
    hurried.describe()

    def stepped_through():
        sys.settrace(lambda *_: lambda *_: None)
        sys._getframe().f_trace = lambda *_: None  # as set_trace does with all frames
        return hurried.namespace.act("time.sleep(0.6) or 5")

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(stepped_through).result(timeout=5) == 5


def test_what_a_test_does_meanwhile_costs_no_time_in_process(hurried):
    assert hurried.namespace.apply(lambda: time.sleep(0.6) or 5) == 5


def test_no_time_is_up_in_a_debugger_nor_beside_another_timer(hurried):
    hurried.describe()
    sleeps = "time.sleep(0.6) or 5"
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        assert hurried.namespace.act(sleeps) == 5
    finally:
        sys.settrace(before)
    handler = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        assert hurried.namespace.act(sleeps) == 5
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@pytest.fixture
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # CI may ignore it
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_control_c_ends_the_run_and_not_only_the_call(hurried, interruptible):
    with pytest.raises(KeyboardInterrupt):
        hurried.namespace.act("__import__('signal').raise_signal(2)")
    assert hurried.namespace.echo(1) == 1


def test_control_c_when_a_call_has_just_ended_is_no_failure_of_it(hurried, interruptible, monkeypatch):
    hurried.describe()
    setitimer = signal.setitimer

    def interrupted(which, seconds, *again):
        if seconds == 0:
            signal.raise_signal(signal.SIGINT)
        return setitimer(which, seconds, *again)

    monkeypatch.setattr(signal, "setitimer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hurried.namespace.act("1")


def test_control_c_that_somebody_swallows_ends_the_run_after_the_call(hurried, interruptible):
    hurried.describe()
    swallowed = "exec('try: __import__(\"signal\").raise_signal(2)\\nexcept BaseException: 1')"
    with pytest.raises(KeyboardInterrupt):
        hurried.namespace.act(swallowed)


def test_who_leaves_the_debugger_leaves_the_run(hurried):
    with pytest.raises(KeyboardInterrupt):
        hurried.namespace.act("exec('raise __import__(\"bdb\").BdbQuit')")


def test_in_a_sandbox_nobody_is_at_the_debugger(spawn):
    session = spawn()
    with pytest.raises(RuntimeError, match="needs --in-process"):
        session.namespace.act("breakpoint()")
    with pytest.raises(SubmissionError, match="BdbQuit"):
        session.namespace.act("exec('raise __import__(\"bdb\").BdbQuit')")
    assert session.failures == 0


def endless():
    while True:
        pass


@pytest.mark.parametrize("left", [-1.0, 0.0, 0.001])
def test_no_time_is_left_in_another_thread(left):
    """Nothing goes on watching: another job of the thread is its own."""
    before = threading.active_count()
    with ThreadPoolExecutor(1) as threads:
        for _ in range(50):
            end = time.monotonic() + left
            job = threads.submit(until_ended, endless, lambda end=end: end - time.monotonic())
            assert isinstance(job.exception(timeout=5), DeadlinePassed)
        assert threads.submit(time.sleep, 0.01).exception(timeout=5) is None
    assert threading.active_count() < before + 25


def test_a_call_that_ends_when_its_time_does_is_in_time_or_not():
    with ThreadPoolExecutor(1) as threads:
        for _ in range(200):
            end = time.monotonic() + 0.002
            job = threads.submit(
                until_ended, lambda: time.sleep(0.002), lambda end=end: end - time.monotonic()
            )
            assert isinstance(job.exception(timeout=5), DeadlinePassed | None)


def test_the_project_is_out_of_sight(spawn):
    namespace = spawn().namespace
    for name in ("reference", "solution", "tests.suite"):
        with pytest.raises(ModuleNotFoundError):
            namespace.act(f"__import__({name!r})")
