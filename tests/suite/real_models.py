"""What `week3 model fetch` brings: tests of it run wherever it is, and in CI it must be."""

import os
import warnings
from pathlib import Path

import pytest

from runtime import downloads


def fetched(name: str) -> Path:
    """What a loader opens. Where it is not here the test is skipped, and pytest's summary warns; with
    WEEK3_MODELS=required, as .ci/run sets it, the test fails."""
    path = downloads.installed(name)
    if path is None:
        missing = f"{name} is not here, and nothing was tested with it: week3 model fetch {name}"
        if os.environ.get("WEEK3_MODELS") == "required":
            pytest.fail(missing, pytrace=False)
        warnings.warn(missing, stacklevel=2)
        pytest.skip(missing)
    return path
