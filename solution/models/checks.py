"""Errors as sentences."""

from typing import Any

from spec import InvalidArgument


def expect(condition: bool, argument: str, expected: Any, got: Any) -> None:
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")
