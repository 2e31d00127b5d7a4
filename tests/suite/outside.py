"""What tests against outside libraries share."""

import importlib
from types import ModuleType

import numpy as np
import pytest

from runtime import blas


def outside(module: str) -> ModuleType:
    """A module of a library that only these tests need. Imported late, because some take seconds."""
    blas.preload()  # before MLX is imported, by whatever it is
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = str(error)
    pytest.fail(f"{missing}. These tests need outside libraries: pip install -e '.[dev]'", pytrace=False)


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
