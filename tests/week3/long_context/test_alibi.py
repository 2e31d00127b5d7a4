"""`alibi_slopes`: how much farther keys count less, head by head."""

import pytest

from grading.marks import requirement
from grading.matching import check_refusals
from tests.week3.long_context.cases_rotation import assert_octaves, reference


def check(impl, heads):
    slopes = reference.exact.alibi_slopes(heads)
    assert_octaves(impl.alibi_slopes(heads), slopes, (slopes, slopes), "alibi_slopes")


@requirement("LC-25")
@pytest.mark.parametrize("heads", [1, 2, 8, 32])
def test_slopes_fall_geometrically(impl, heads):
    check(impl, heads)


@requirement("LC-25")
@pytest.mark.parametrize("heads", [3, 5, 7, 12, 20, 71])
def test_other_numbers_of_heads_take_from_twice_as_many(impl, heads):
    check(impl, heads)


@requirement("LC-25")
def test_no_heads_are_refused(impl):
    check(impl, 4)
    check_refusals(impl.alibi_slopes, {"heads": 4}, [("heads", {"heads": 0}), ("heads", {"heads": -8})])
