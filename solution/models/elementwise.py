"""Functions of single numbers, of multiplications and additions alone: on MLX's CPU back end `mx.exp` takes
12 ns an element and `mx.erf` 24, these 2 and 3.

They are compiled, each to one pass; where there is no g++ they are many passes with the same result. A
longer function is cut by `mx.compile` itself, which may then pass constants on as whole arrays: `gelu` as one
function takes 9 ns.
"""

import mlx.core as mx

# e^t for -1 <= t <= 0 is wrong by at most 8e-10 of itself: the polynomial whose largest error is the least.
EXP = (
    0.9999999992477934,
    0.9999999133351889,
    0.49999831362809277,
    0.16665389669101144,
    0.041618310225312295,
    0.008231998299462924,
    0.0012681364579228732,
    0.00011951033873698143,
)
SQUARINGS = 5  # e^x = (e^(x/32))^32; each doubles the relative error, which ends at 1e-5 for x = -30
LEAST = -32.0  # what lies below counts as this, 1e-14

# The normal distribution up to x is 1 / (1 + e^-p(x)), here with the odd polynomial p for which x times it is
# wrong by at most 7e-8: the one whose largest error over [0, 7] is the least. Beyond, p only grows.
LOGIT = (
    1.5957684322208208,
    0.07266856706233885,
    -6.626001295878933e-05,
    -0.00011048030937950692,
    7.938217892591781e-06,
    -2.668927559699676e-07,
    3.6112314330107394e-09,
)
FARTHEST = 8.0  # there p is far beyond LEAST, and its powers stay finite


def gelu(x: mx.array) -> mx.array:
    """x times the share of the normal distribution up to x, float32."""
    return _without_tail(x, _exp(_tail_exponent(x)))


@mx.compile
def exp_below(x: mx.array, bound: mx.array) -> mx.array:
    """e^(x - bound) for x <= bound, float32."""
    return _exp(x - bound)


@mx.compile
def _exp(x: mx.array) -> mx.array:
    """e^x for x <= 0."""
    power = _polynomial(EXP, mx.maximum(x, LEAST) * 2**-SQUARINGS)
    for _ in range(SQUARINGS):
        power = power * power
    return power


@mx.compile
def _tail_exponent(x: mx.array) -> mx.array:
    """-p(|x|)"""
    size = mx.abs(x)
    return -size * _polynomial(LOGIT, mx.minimum(size * size, FARTHEST**2))


@mx.compile
def _without_tail(x: mx.array, odds: mx.array) -> mx.array:
    """odds: of a number beyond |x| on one side, against one that is not."""
    return mx.maximum(x, 0) - mx.abs(x) * odds / (1 + odds)


def _polynomial(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    """coefficients: of the powers of x, from the constant on."""
    *lower, value = coefficients
    for coefficient in reversed(lower):
        value = value * x + coefficient
    return value
