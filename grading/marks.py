"""`@requirement("PA-07")`: what a test checks."""

from collections.abc import Callable
from typing import TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., None])


def requirement(id: str) -> Callable[[Test], Test]:
    """Marks a test as evidence for one requirement of `spec/<topic>.md`."""
    return pytest.mark.requirement(id)
