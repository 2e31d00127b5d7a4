"""Time that passes, and a way to end all waiting."""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from math import inf
from threading import Event, Thread
from typing import Any

from spec import Cancelled
from spec.agent import Clock, ToolContext

Function = Callable[[dict[str, Any], ToolContext], Any]

_LOOK = 0.05  # seconds between two looks at whether it was cancelled


def real_clock(cancelled: Event) -> Clock:
    """What waits raises Cancelled once that is set. A function with a timeout has a thread of its own, which
    nobody waits for after that; one without runs in the caller's."""

    def sleep(seconds: float) -> None:
        if cancelled.wait(seconds):
            raise Cancelled("The run was cancelled.")

    def call(function: Function, arguments: dict[str, Any], context: ToolContext, timeout: float) -> Any:
        if timeout == inf:
            return function(arguments, context)
        found: Future[Any] = Future()
        Thread(target=_into, args=(found, function, arguments, context), daemon=True).start()
        deadline = time.monotonic() + timeout
        while not found.done():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"longer than {timeout:g} s")
            if cancelled.is_set():
                raise Cancelled("The run was cancelled.")
            wait([found], min(left, _LOOK))
        return found.result()

    return Clock(time.monotonic, sleep, call)


def _into(found: "Future[Any]", function: Function, arguments: dict[str, Any], context: ToolContext) -> None:
    try:
        found.set_result(function(arguments, context))
    except BaseException as error:  # the caller's thread raises it
        found.set_exception(error)
