"""What speculation is worth, if each drafted token is accepted with the same probability."""

from .basics import expect


def expected_tokens(alpha, gamma):
    check(alpha, gamma, "gamma")
    return float(sum(alpha**i for i in range(gamma + 1)))


def walltime_speedup(alpha, gamma, cost_ratio):
    expect(cost_ratio >= 0, "cost_ratio", "at least 0", cost_ratio)
    return expected_tokens(alpha, gamma) / (gamma * cost_ratio + 1)


def best_gamma(alpha, cost_ratio, max_gamma):
    check(alpha, max_gamma, "max_gamma")
    return max(range(max_gamma + 1), key=lambda gamma: walltime_speedup(alpha, gamma, cost_ratio))


def check(alpha, gamma, name):
    expect(0 <= alpha <= 1, "alpha", "0 to 1", alpha)
    expect(gamma >= 0, name, "at least 0", gamma)
