"""Conditions on metadata, made into functions: what is wrong in one is found before any metadata are seen."""

from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt
from typing import Any

from spec.rag import Metadata, Where

from .checks import expect

Test = Callable[[Any], bool]  # of a value, or of metadata


def matches(metadata: Metadata, where: Where) -> bool:
    return compiled(where)(metadata)


def compiled(where: Where) -> Test:
    """Whether metadata meet the condition. Raises InvalidArgument as `matches` does."""
    expect(isinstance(where, Mapping), "where", "a condition", repr(where))
    return _all([_entry(name, wanted) for name, wanted in where.items()])


def equal(a: Any, b: Any) -> bool:
    """Numbers by value, a bool is none; lists element by element."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def _all(tests: list[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda value: all(test(value) for test in tests)


def _entry(name: str, wanted: Any) -> Test:
    """One name of a condition: of metadata."""
    if name in ("$and", "$or"):
        expect(isinstance(wanted, list), "where", f"a list of conditions for {name}", repr(wanted))
        tests = [compiled(each) for each in wanted]
        return _all(tests) if name == "$and" else lambda metadata: any(test(metadata) for test in tests)
    if name == "$not":
        refused = compiled(wanted)
        return lambda metadata: not refused(metadata)
    expect(not name.startswith("$"), "where", "a field, $and, $or or $not", name)
    test = _value(wanted)
    return lambda metadata: name in metadata and test(metadata[name])


def _value(wanted: Any) -> Test:
    """What a field of a condition asks of a value."""
    if not isinstance(wanted, Mapping):
        return lambda value: equal(value, wanted)
    tests = []
    for operator, operand in wanted.items():
        expect(operator in OPERATORS, "where", f"one of {', '.join(OPERATORS)}", operator)
        tests.append(OPERATORS[operator](operand))
    return _all(tests)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Test]:
    def of(operand: Any) -> Test:
        kind = _kind(operand)
        return lambda value: kind is not None and _kind(value) is kind and compare(value, operand)

    return of


def _kind(value: Any) -> type | None:
    """Values of one kind have an order."""
    if isinstance(value, str):
        return str
    return float if isinstance(value, int | float) and not isinstance(value, bool) else None


def _among(operand: Any, operator: str) -> Test:
    expect(isinstance(operand, list), "where", f"a list for {operator}", repr(operand))
    return lambda value: any(equal(value, each) for each in operand)


def _none_of(operand: Any) -> Test:
    among = _among(operand, "$nin")
    return lambda value: not among(value)


OPERATORS: dict[str, Callable[[Any], Test]] = {
    "$eq": lambda operand: lambda value: equal(value, operand),
    "$ne": lambda operand: lambda value: not equal(value, operand),
    "$lt": _ordered(lt),
    "$lte": _ordered(le),
    "$gt": _ordered(gt),
    "$gte": _ordered(ge),
    "$in": lambda operand: _among(operand, "$in"),
    "$nin": _none_of,
    "$contains": lambda operand: (
        lambda value: isinstance(value, list) and any(equal(each, operand) for each in value)
    ),
}
