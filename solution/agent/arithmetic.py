"""Works out arithmetic expressions, as Python reads them, and nothing else.

    sum     = product { ("+" | "-") product }
    product = signed { ("*" | "/" | "//" | "%") signed }
    signed  = ("+" | "-") signed | power
    power   = atom [ "**" signed ]
    atom    = number | "(" sum ")" | function "(" sum ")"

Numbers are fractions, so that 0.1 + 0.2 is 0.3; a root or a power that is none becomes a float.
"""

import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NoReturn

from spec import ToolFailure

LONGEST, DEEPEST = 1_000, 50  # characters; parentheses, signs and powers within each other
MOST_BITS = 4_096  # of a number, so that no expression takes long

Number = Fraction | float

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)|(?P<name>[a-z]+)|(?P<sign>\*\*|//|[-+*/%()]))",
    re.ASCII,
)


def calculate(expression: str) -> str:
    """Raises ToolFailure for what is no expression, has no value or is too large."""
    if len(expression) > LONGEST:
        _fail(f"expected at most {LONGEST} characters, got {len(expression)}")
    try:
        return _written(_Reader(_tokens(expression)).whole())
    except ZeroDivisionError:
        _fail("expected no division by 0")
    except (OverflowError, ValueError) as error:
        _fail(f"expected a number, got {error}")


def _fail(what: str) -> NoReturn:
    raise ToolFailure(f"expression: {what}")


def _tokens(expression: str) -> list[tuple[str, str]]:
    """(kind, text) of each, and an end."""
    found, at, text = [], 0, expression.rstrip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            _fail(f"expected arithmetic, got {text[at:]!r}")
        found.append((str(token.lastgroup), token[token.lastgroup or 0]))
        at = token.end()
    return [*found, ("end", "the end")]


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    def whole(self) -> Number:
        value = self.sum()
        if self.tokens[self.at][0] != "end":
            _fail(f"expected an operator, got {self.tokens[self.at][1]}")
        return value

    def sum(self) -> Number:
        return self.chain(self.product, {"+": operator.add, "-": operator.sub})

    def product(self) -> Number:
        dividing = {"/": operator.truediv, "//": operator.floordiv, "%": operator.mod}
        return self.chain(self.signed, {"*": operator.mul, **dividing})

    def chain(self, part: Callable[[], Number], operators: dict[str, Callable[..., Number]]) -> Number:
        """Parts with these between them, from left to right."""
        value = part()
        while (sign := self.tokens[self.at][1]) in operators:
            self.at += 1
            value = _bounded(operators[sign](value, part()))
        return value

    def signed(self) -> Number:
        self.depth += 1
        if self.depth > DEEPEST:
            _fail(f"expected at most {DEEPEST} things within each other")
        sign = self.tokens[self.at][1]
        if sign in ("+", "-"):
            self.at += 1
            value = self.signed()
            value = -value if sign == "-" else value
        else:
            value = self.power()
        self.depth -= 1
        return value

    def power(self) -> Number:
        base = self.atom()
        if self.tokens[self.at][1] != "**":
            return base
        self.at += 1
        return _power(base, self.signed())

    def atom(self) -> Number:
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return _bounded(Fraction(text))
        if kind == "name":
            if text not in _FUNCTIONS:
                _fail(f"expected one of {', '.join(_FUNCTIONS)}, got {text}")
            if self.tokens[self.at][1] != "(":
                _fail(f"expected ( after {text}")
            return _bounded(_FUNCTIONS[text](self.atom()))
        if text != "(":
            _fail(f"expected a number, got {text}")
        value = self.sum()
        if self.tokens[self.at][1] != ")":
            _fail(f"expected ), got {self.tokens[self.at][1]}")
        self.at += 1
        return value


def _power(base: Number, exponent: Number) -> Number:
    whole = isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1
    if whole and abs(exponent) * _bits(base) > MOST_BITS:
        _fail(f"expected numbers of at most {MOST_BITS} bits")
    value = base**exponent
    if isinstance(value, complex):
        _fail("expected a real number")
    return _bounded(value)


def _root(value: Number) -> Number:
    if isinstance(value, Fraction) and value >= 0:
        above, below = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if above * above == value.numerator and below * below == value.denominator:
            return Fraction(above, below)
    return math.sqrt(value)


_FUNCTIONS: dict[str, Callable[[Number], Number]] = {
    "sqrt": _root,
    "abs": abs,
    "round": lambda value: Fraction(round(value)),
}


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Number | int) -> Number:
    if isinstance(value, int):  # of a floor
        value = Fraction(value)
    if isinstance(value, Fraction) and _bits(value) > MOST_BITS:
        _fail(f"expected numbers of at most {MOST_BITS} bits")
    if isinstance(value, float) and not math.isfinite(value):
        _fail("expected numbers that a float64 can hold")
    return value


def _written(value: Number) -> str:
    """Whole numbers in all their digits."""
    if isinstance(value, Fraction) and value.denominator == 1:
        return str(value.numerator)
    return repr(float(value))
