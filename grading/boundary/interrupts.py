"""Ends a call that runs in this process: when its time is up, and when the user presses Ctrl-C.

Only Python can be ended so, between two of its steps. While a debugger is in use no call is: it traces this
thread, or is registered with `sys.monitoring`. Where a timer runs already, such as that of pytest-timeout, it
stays the only one.
"""

import bdb
import ctypes
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from grading.boundary.failures import DeadlinePassed
from grading.boundary.frames import Remaining

_AGAIN = 5.0  # seconds: what was raised may have been swallowed, by a finaliser for example

_here = threading.local()  # within: whether this thread is in a call that can be ended


class Ended(BaseException):
    """Goes through the submission's code, which may catch KeyboardInterrupt and raise it itself."""


def until_ended(call: Callable[[], None], remaining: Remaining) -> None:
    """Runs a call. Raises DeadlinePassed where nothing is left, KeyboardInterrupt after Ctrl-C and where a
    debugger is left."""
    if getattr(_here, "within", False):
        return call()
    _here.within = True
    try:
        if threading.current_thread() is not threading.main_thread():
            call() if remaining() == float("inf") else _in_a_thread(call, remaining)
        elif hasattr(signal, "setitimer"):
            _in_the_main_thread(call, remaining)
        else:
            call()
    except bdb.BdbQuit:
        raise KeyboardInterrupt from None
    finally:
        _here.within = False


def left_the_debugger(error: BaseException) -> bool:
    """Whether somebody typed `q`: in a sandbox nobody can."""
    return isinstance(error, bdb.BdbQuit) and getattr(_here, "within", False)


def _in_the_main_thread(call: Callable[[], None], remaining: Remaining) -> None:
    limited = remaining() < float("inf") and not any(signal.getitimer(signal.ITIMER_REAL)) and not debugging()
    own_interrupt = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    before, running = signal.getsignal(signal.SIGALRM), True
    why: type[BaseException] | None = None

    def interrupted(number: int, frame: FrameType | None) -> None:
        nonlocal why
        why = KeyboardInterrupt  # raised at the end, should somebody swallow what is raised here
        if running:
            raise Ended

    def time_is_up(number: int, frame: FrameType | None) -> None:
        nonlocal why
        if debugging():
            signal.setitimer(signal.ITIMER_REAL, 0)
        elif (left := remaining()) > 0:  # the test's own code ran meanwhile, which costs nothing
            signal.setitimer(signal.ITIMER_REAL, left, _AGAIN)
        elif running:
            why = why or DeadlinePassed
            raise Ended

    try:
        if own_interrupt:
            signal.signal(signal.SIGINT, interrupted)
        if limited:
            signal.signal(signal.SIGALRM, time_is_up)
            signal.setitimer(signal.ITIMER_REAL, max(remaining(), 1e-3), _AGAIN)
        try:
            call()
        finally:
            running = False
    finally:
        running = False
        if limited:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        if own_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if why is not None:
            raise why from None


def _in_a_thread(call: Callable[[], None], remaining: Remaining) -> None:
    """Signals reach the main thread alone; another one is sent an exception by a thread that watches it."""
    mine, over, sending = threading.get_ident(), threading.Event(), threading.Lock()
    in_time = True

    def watch() -> None:
        nonlocal in_time
        pause = max(remaining(), 0)
        while not over.wait(pause):
            pause = remaining()
            if pause <= 0:
                pause = _AGAIN
                with sending:
                    if not over.is_set() and not debugging() and not _is_traced(mine):
                        in_time = False
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(
                            ctypes.c_ulong(mine), ctypes.py_object(Ended)
                        )

    def let_go() -> None:
        """From here on nothing is sent, and what was sent has come."""
        while True:
            try:
                with sending:
                    over.set()  # a call: what was sent before comes within it
                return
            except Ended:
                continue

    try:
        threading.Thread(target=watch, daemon=True).start()
        try:
            call()
        finally:
            let_go()
    except Ended:  # before the call, within it, or as `let_go` began
        let_go()
    finally:
        if not in_time:
            raise DeadlinePassed from None


def _is_traced(thread: int) -> bool:
    """Whether a debugger has stopped there, or steps through it."""
    frame = sys._current_frames().get(thread)
    while frame is not None and frame.f_trace is None:
        frame = frame.f_back
    return frame is not None


def debugging() -> bool:
    """Whether this thread is in a debugger, or any where they register."""
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    registered = monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None
    return registered or sys.gettrace() is not None
