"""What speculation is worth."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, check_refusals
from tests.week3.speculative_decoding.cases import TRUTH

ALPHAS = st.sampled_from([0.0, 0.25, 0.5, 0.8, 0.99, 1.0])
GAMMAS = st.integers(0, 12)


def assert_near(actual, expected, what):
    assert isinstance(actual, float), f"{what}: expected a float, got {type(actual).__name__}"
    assert abs(actual - expected) <= 1e-9 * expected, f"{what}: expected {expected!r}, got {actual!r}"


@requirement("SD-51")
@given(alpha=ALPHAS, gamma=GAMMAS)
@example(alpha=0.8, gamma=4)
@example(alpha=1.0, gamma=5)
@example(alpha=0.0, gamma=3)
@example(alpha=1 - 1e-9, gamma=5)
@example(alpha=0.5, gamma=0)
def test_expected_tokens_is_a_sum_of_powers(impl, alpha, gamma):
    expected = sum(alpha**i for i in range(gamma + 1))
    actual = impl.expected_tokens(alpha, gamma)
    assert isinstance(actual, float), f"tokens: expected a float, got {type(actual).__name__}"
    # (1 − α^(γ+1)) / (1 − α) loses 2⁻⁵³ / (1 − α): half of the digits, where α is nearest to 1 here
    assert abs(actual - expected) <= 1e-6 * expected, f"tokens: expected {expected!r}, got {actual!r}"


@requirement("SD-51")
@given(alpha=ALPHAS, gamma=GAMMAS, cost=st.sampled_from([0.0, 0.1, 0.5, 2.0]))
@example(alpha=0.8, gamma=4, cost=0.1)
@example(alpha=0.0, gamma=4, cost=0.1)
@example(alpha=1.0, gamma=3, cost=0.0)
def test_speedup_pays_for_the_drafter(impl, alpha, gamma, cost):
    expected = sum(alpha**i for i in range(gamma + 1)) / (gamma * cost + 1)
    assert_near(impl.walltime_speedup(alpha, gamma, cost), expected, "speed-up")


@requirement("SD-52")
@pytest.mark.parametrize(
    ("alpha", "cost", "most", "best"),
    [
        (0.8, 0.1, 32, 6),
        (0.8, 0.1, 4, 4),
        (0.9, 0.1, 32, 10),
        (0.3, 0.5, 32, 0),
        (1.0, 0.5, 5, 5),
        (0.5, 0.5, 32, 0),
        (1.0, 1.0, 7, 0),
        (0.9, 0.02, 8, 8),
        (0.7, 0.1, 0, 0),
        (0.0, 0.0, 9, 0),
        (0.6, 0.3, 32, 1),
    ],
)
def test_the_best_gamma(impl, alpha, cost, most, best):
    assert TRUTH.best_gamma(alpha, cost, most) == best, "the design of this test"
    assert_equal(impl.best_gamma(alpha, cost, most), best, "gamma")


@requirement("SD-57")
def test_impossible_rates_are_refused(impl):
    nan = float("nan")
    valid = {"alpha": 0.8, "gamma": 4}
    assert_near(impl.expected_tokens(**valid), 3.3616, "tokens")
    rates = [("alpha", {"alpha": wrong}) for wrong in (1.2, -0.1, nan)]
    check_refusals(impl.expected_tokens, valid, [*rates, ("gamma", {"gamma": -1})])
    valid["cost_ratio"] = 0.1
    assert_near(impl.walltime_speedup(**valid), 3.3616 / 1.4, "speed-up")
    costs = [("cost_ratio", {"cost_ratio": wrong}) for wrong in (-0.1, nan)]
    check_refusals(impl.walltime_speedup, valid, [*rates, *costs, ("gamma", {"gamma": -1})])
    valid = {"alpha": 0.8, "cost_ratio": 0.1, "max_gamma": 9}
    assert_equal(impl.best_gamma(**valid), 6, "gamma")
    check_refusals(impl.best_gamma, valid, [*rates, *costs, ("max_gamma", {"max_gamma": -1})])
