"""Errors as sentences, and the one rounding that everything in blocks needs."""

from typing import Any

from spec import InvalidArgument


def expect(condition: bool, argument: str, expected: Any, got: Any) -> None:
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def blocks_for(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)  # rounded up
