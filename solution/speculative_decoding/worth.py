"""What speculation is worth, if each drafted token is accepted with the same probability."""

from .checks import expect


def expected_tokens(alpha: float, gamma: int) -> float:
    """Tokens a step: 1 + α + α² + … + α^γ."""
    _check(alpha, gamma, "gamma")
    total = 1.0
    for _ in range(gamma):
        total = 1 + alpha * total
    return total


def walltime_speedup(alpha: float, gamma: int, cost_ratio: float) -> float:
    """Plain time over speculative time; a drafted token costs cost_ratio target passes."""
    expect(cost_ratio >= 0, "cost_ratio", "at least 0", cost_ratio)
    return expected_tokens(alpha, gamma) / (1 + gamma * cost_ratio)


def best_gamma(alpha: float, cost_ratio: float, max_gamma: int) -> int:
    """Of 0 to max_gamma the one of the largest speed-up, the smallest of equals."""
    _check(alpha, max_gamma, "max_gamma")
    expect(cost_ratio >= 0, "cost_ratio", "at least 0", cost_ratio)
    best, tokens, power = (1.0, 0), 1.0, 1.0
    for gamma in range(1, max_gamma + 1):
        power *= alpha
        tokens += power
        best = max(best, (tokens / (1 + gamma * cost_ratio), -gamma))
    return -best[1]


def _check(alpha: float, gamma: int, name: str) -> None:
    expect(0 <= alpha <= 1, "alpha", "0 to 1", alpha)
    expect(gamma >= 0, name, "at least 0", gamma)
