"""One attempt of a call, what may follow it, and the text that the model is given of it."""

import json
from dataclasses import dataclass
from typing import Any

from spec import Cancelled, ToolFailure
from spec.agent import Clock, RetryPolicy, Status, Tool, ToolContext

_MOST_DOUBLINGS = 1000  # 2.0 ** 1024 overflows


@dataclass(frozen=True)
class Outcome:
    """Of an attempt, or of a call without one.

    failed: what the tool depends on did. again: it may be tried once more, for nothing was done or a second
    time does no more. at_least: seconds that the tool asks for before that.
    """

    status: Status
    text: str
    failed: bool = False
    again: bool = False
    at_least: float = 0.0


NO_TIME = Outcome(Status.TIMEOUT, "There was no time left to begin.")
DOWN = Outcome(Status.OPEN, "What this tool depends on has failed too often. Do without it for now.")
UNKNOWN = Outcome(Status.INTERRUPTED, "It was interrupted. Nobody knows whether it happened.")


def attempt(
    clock: Clock, tool: Tool, arguments: dict[str, Any], context: ToolContext, timeout: float
) -> Outcome:
    try:
        text = as_text(clock.call(tool.function, arguments, context, timeout))
    except Cancelled:
        raise
    except TimeoutError:
        late = f"No result after {timeout:g} s. Nobody knows whether it happened."
        return Outcome(Status.TIMEOUT, late, failed=True, again=tool.idempotent)
    except ToolFailure as error:
        return Outcome(Status.ERROR, str(error), error.transient, error.transient, error.retry_after)
    except Exception as error:
        return Outcome(Status.ERROR, f"{type(error).__name__}: {error}", failed=True)
    return Outcome(Status.OK, text)


def wait_before(retry: int, policy: RetryPolicy, draw: float, at_least: float) -> float:
    """Seconds before a retry, counted from 0."""
    most = min(policy.cap, policy.base * 2.0 ** min(retry, _MOST_DOUBLINGS))
    return max(draw * most, at_least)


def as_text(value: Any) -> str:
    """Raises ValueError, TypeError or RecursionError for what JSON cannot say."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def sendable(text: str, most: int) -> str:
    """With U+FFFD for halves of surrogate pairs, and no longer than so many characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if len(text) <= most:
        return text
    note = f"\n[cut: this has {len(text)} characters]"
    return text[: most - len(note)] + note
