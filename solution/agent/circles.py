"""Calls that come again and again with the same results."""

from collections.abc import Sequence

from spec.agent import MAX_PERIOD, ToolCall, ToolResult

from .arguments import canonical
from .checks import check_repeats

Step = tuple[object, ...]  # equal for equal steps


def detect_loop(steps: Sequence[tuple[ToolCall, ToolResult]], *, repeats: int) -> bool:
    check_repeats(repeats, "repeats")
    return ends_in_a_circle([step(*each) for each in steps[-repeats * MAX_PERIOD :]], repeats)


def step(call: ToolCall, result: ToolResult) -> Step:
    return call.name, *canonical(call.arguments), result.status, result.content


def ends_in_a_circle(steps: Sequence[Step], repeats: int) -> bool:
    """A sequence is a circle of p if each of its steps is the one that is p before it."""
    for period in range(1, MAX_PERIOD + 1):
        last = steps[-repeats * period :]
        if len(last) == repeats * period and last[period:] == last[:-period]:
            return True
    return False
