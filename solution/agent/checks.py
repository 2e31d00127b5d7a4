"""Errors as sentences, and the checks of what is passed to constructors."""

import re
from collections.abc import Sequence
from typing import Any

from spec import InvalidArgument
from spec.agent import BreakerPolicy, Limits, Message, Problem, Tool

NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
FORMATS = "hermes", "react", "llama3", "openai"
LEAST_RESULT = 100  # characters of a result that is cut: 80 of them may be the note that it was


def expect(condition: bool, argument: str, expected: Any, got: Any) -> None:
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def check_format(format: str) -> None:
    expect(format in FORMATS, "format", f"one of {', '.join(FORMATS)}", repr(format))


def check_tools(tools: Sequence[Tool]) -> None:
    names = [tool.name for tool in tools]
    expect(len(set(names)) == len(names), "tools", "names that differ", names)
    for tool in tools:
        expect(NAME.fullmatch(tool.name) is not None, "tools", f"names of {NAME.pattern}", repr(tool.name))
        expect(tool.timeout > 0, "tools", f"a timeout above 0 for {tool.name}", tool.timeout)
        attempts = tool.retry.attempts
        expect(attempts >= 1, "tools", f"attempts of at least 1 for {tool.name}", attempts)


def check_breaker(policy: BreakerPolicy) -> None:
    expect(policy.failures >= 1, "breaker", "failures of at least 1", policy.failures)


def check_max_result(max_result: int) -> None:
    expect(max_result >= LEAST_RESULT, "max_result", f"at least {LEAST_RESULT}", max_result)


def check_limits(limits: Limits) -> None:
    for name in ("model_calls", "tokens", "seconds"):
        expect(getattr(limits, name) >= 0, "limits", f"{name} of at least 0", getattr(limits, name))
    if limits.repeats != 0:
        check_repeats(limits.repeats, "limits")
    expect(limits.parallel >= 1, "limits", "parallel of at least 1", limits.parallel)


def check_repeats(repeats: int, argument: str) -> None:
    expect(repeats >= 2, argument, "repeats of at least 2", repeats)


def check_messages(messages: Sequence[Message], refused: Sequence[Problem]) -> None:
    """refused: what a server would refuse in them."""
    found = ", ".join(f"{each.rule} {each.path}" for each in refused)
    expect(not refused, "messages", "a list that a server would take", found)


def check_eos(eos: Sequence[int], vocab_size: int) -> None:
    expect(len(eos) > 0, "eos", "at least one id", list(eos))
    expect(all(0 <= each < vocab_size for each in eos), "eos", f"ids from 0 to {vocab_size - 1}", list(eos))
