"""Ends a call that runs in this process: when its time is up, and when the user presses Ctrl-C.

Only what runs in the main thread can be ended so, between two steps of Python. While a debugger is in use no
call is: it traces this thread, or is registered with `sys.monitoring`. Where a timer runs already, such as
that of pytest-timeout, it stays the only one.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from grading.boundary.failures import DeadlinePassed
from grading.boundary.frames import Remaining

_AGAIN = 5.0  # seconds: what was raised may have been swallowed, by a finaliser for example

_ended = threading.local()  # by: the class to raise where the call began


class Ended(BaseException):
    """Goes through the submission's code, which may catch KeyboardInterrupt and raise it itself."""


@contextmanager
def ending(remaining: Remaining) -> Iterator[None]:
    """Raises DeadlinePassed when nothing is left, KeyboardInterrupt after Ctrl-C."""
    here = threading.current_thread() is threading.main_thread()
    if not here or not hasattr(signal, "setitimer") or getattr(_ended, "watching", False):
        yield
        return
    _ended.watching = True
    _ended.by = None
    limited = remaining() < float("inf") and not any(signal.getitimer(signal.ITIMER_REAL)) and not debugging()
    own_interrupt = signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def end(error: type[BaseException]) -> None:
        _ended.by = error
        raise Ended

    def time_is_up(number: int, frame: FrameType | None) -> None:
        if debugging():
            signal.setitimer(signal.ITIMER_REAL, 0)
        elif (left := remaining()) > 0:  # the test's own code ran meanwhile, which costs nothing
            signal.setitimer(signal.ITIMER_REAL, left, _AGAIN)
        else:
            end(DeadlinePassed)

    try:
        if own_interrupt:
            signal.signal(signal.SIGINT, lambda number, frame: end(KeyboardInterrupt))
        if limited:
            before = signal.signal(signal.SIGALRM, time_is_up)
            signal.setitimer(signal.ITIMER_REAL, max(remaining(), 1e-3), _AGAIN)
        yield
    except Ended:
        raise _ended.by from None
    finally:
        if limited:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        if own_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _ended.watching = False


def debugging() -> bool:
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    registered = monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None
    return registered or sys.gettrace() is not None
