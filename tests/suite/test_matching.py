"""What a comparison says."""

import pytest

from grading.matching import assert_equal, check_refusals
from spec import InvalidArgument


def test_of_long_values_what_stands_around_the_first_difference_is_told():
    right = list(range(200))
    wrong = [*right[:120], -1, *right[121:]]
    with pytest.raises(AssertionError) as failure:
        assert_equal(wrong, right, "ids")
    told = str(failure.value)
    assert told.startswith("ids: character 491 differs: expected … ")
    assert "118, 119, 120, 121" in told
    assert "118, 119, -1, 121" in told
    assert len(told) < 240  # what a card shows of a line


def test_short_values_are_told_whole():
    with pytest.raises(AssertionError, match=r"^ids: expected \[1, 2\], got \[1, 3\]$"):
        assert_equal([1, 3], [1, 2], "ids")


def route(top_k):
    if top_k < 0:
        raise InvalidArgument("something is below 0, got -1")


def test_a_refusal_that_is_missing_names_the_call():
    with pytest.raises(AssertionError, match="^route: expected InvalidArgument about top_k, but the message"):
        check_refusals(route, {"top_k": 1}, [("top_k", {"top_k": -1})])
    with pytest.raises(AssertionError, match="^expected InvalidArgument about top_k, but the message"):
        check_refusals(lambda top_k: route(top_k), {"top_k": 1}, [("top_k", {"top_k": -1})])
