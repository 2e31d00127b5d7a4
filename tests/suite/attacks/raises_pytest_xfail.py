"""Raises what pytest takes for an outcome."""

import pytest


def attack():
    pytest.xfail("nothing to see here")
