"""Python for the model, where nothing of this machine is in reach: in the sandbox that grading has."""

import sys
from typing import Any

from runtime.sandbox import CannotStart, Limits, Unavailable, demand, start
from runtime.sandbox.values import MIB, Tier, TierName
from spec import NotSupported, ToolFailure
from spec.agent import Tool, ToolContext

from .tools import STRING, tool

SECONDS = 10.0  # that a program may take
LIMITS = Limits(memory_bytes=1024 * MIB, processes=16, output_bytes=8 * 1024, temporary_bytes=16 * MIB)
ISOLATED: tuple[TierName, ...] = ("namespaces", "landlock")  # the others let it read what this user can read


def python() -> Tool:
    """Raises NotSupported, with what mends it, where this machine cannot keep a program from its files."""
    tier = _tier()

    def run(arguments: dict[str, Any], context: ToolContext) -> str:
        return _run(arguments["code"], tier)

    about = (
        f"Runs a Python program and shows what it prints. It has {SECONDS:g} s, the standard library, no "
        "network and no files."
    )
    return tool("python", about, run, code=STRING)


def _tier() -> Tier:
    reasons = []
    for name in ISOLATED:
        try:
            return demand(name)
        except Unavailable as error:
            reasons.append(str(error))
    raise NotSupported(f"--python: expected a machine that can isolate it. {'; '.join(reasons)}")


def _run(code: str, tier: Tier) -> str:
    command = [sys.executable, "-I", "-B", "-c", code]
    try:
        child = start(command, tier=tier, read_only={}, env={}, limits=LIMITS, channel=None)
    except (CannotStart, OSError, ValueError) as error:  # the latter for a null character
        raise ToolFailure(f"Python did not start: {error}") from error
    with child:
        ended = child.exit_status(SECONDS)
        if child.alive():
            raise ToolFailure(f"It did not end within {SECONDS:g} s. It printed:\n{child.output_tail()}")
        if ended != "exited with code 0":
            raise ToolFailure(f"Python {ended}. It printed:\n{child.output_tail()}")
        return child.output_tail() or "It printed nothing."
