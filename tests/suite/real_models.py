"""Models that `week3 model fetch` brings: tests of these run wherever they are."""

import warnings
from pathlib import Path

import pytest

from runtime import downloads


def fetched(name: str) -> Path:
    """What a loader opens. Where the model is not here the test is skipped, and pytest's summary warns."""
    path = downloads.installed(name)
    if path is None:
        missing = f"{name} is not here, and nothing was tested with it: week3 model fetch {name}"
        warnings.warn(missing, stacklevel=2)
        pytest.skip(missing)
    return path
