"""The agent with a clock that ticks: what is interrupted in earnest, which no boundary lets through."""

import json
import signal
import threading
import time
from queue import Empty, SimpleQueue

import pytest

from reference import agent as truth
from spec.agent import Clock, Limits, Reply, Status, Tool, ToolCall

QUESTION = {"role": "user", "content": "What is 17 + 23?"}
CALL = '<tool_call>{"name": "act", "arguments": {}}</tool_call>'


def call(function, arguments, context, timeout):
    """As `Clock` has it, with a thread for each attempt that has a limit."""
    if timeout == float("inf"):
        return function(arguments, context)
    values = SimpleQueue()
    threading.Thread(target=lambda: values.put(function(arguments, context)), daemon=True).start()
    try:
        return values.get(timeout=timeout)
    except Empty:
        raise TimeoutError(f"longer than {timeout} s") from None


CLOCK = Clock(time.monotonic, time.sleep, call)


def toolbox(function, timeout=float("inf")):
    tool = Tool("act", "Acts.", {}, function, timeout=timeout)
    return truth.Toolbox([tool], clock=CLOCK, uniform=lambda: 0.5)


def agent(box, events, **limits):
    def model(messages, tools):
        return Reply(CALL if messages[-1]["role"] == "user" else "40")

    ids = iter(f"id{i}" for i in range(99))
    return truth.Agent(model, box, new_id=lambda: next(ids), limits=Limits(**limits), on_event=events.append)


def test_nobody_waits_for_what_hangs():
    released = threading.Event()
    box = toolbox(lambda arguments, context: str(released.wait(30)), timeout=0.05)
    begun = time.monotonic()
    result = box.call(ToolCall("c", "act", "{}"), run_id="r")
    took = time.monotonic() - begun
    released.set()
    assert (result.status, result.attempts) == (Status.TIMEOUT, 1)
    assert took < 15, f"expected that nobody waits for 30 s, took {took:.1f} s"


@pytest.mark.parametrize("parallel", [1, 2])
def test_ctrl_c_reaches_the_caller_and_nothing_happens_twice(parallel):
    """Python's own handler raises KeyboardInterrupt in the main thread, whichever runs the tool."""
    happened, events = [], []

    def act(arguments, context):
        happened.append(context.idempotency_key)
        if len(happened) == 1:
            signal.raise_signal(signal.SIGINT)
        return "40"

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            agent(toolbox(act), events, parallel=parallel).run([QUESTION])
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(happened) == 1
    attempt = next(event for event in events if event.kind.value == "attempt")
    found = agent(toolbox(act), [], parallel=parallel).resume(attempt.checkpoint)
    assert [(each.status, each.attempts) for each in found.results] == [(Status.INTERRUPTED, 1)]
    assert len(happened) == 1, "the function ran again"
    assert not truth.check_transcript(found.messages), json.dumps(found.messages)
