"""Raises what pytest takes for an outcome."""

import pytest


def attack():
    pytest.exit("nothing to see here")
