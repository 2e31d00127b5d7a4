"""Raises what pytest takes for an outcome."""

import pytest


def attack():
    pytest.skip("nothing to see here")
