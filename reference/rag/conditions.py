"""Conditions on metadata."""

from collections.abc import Mapping

from .basics import expect

OPERATORS = {
    "$eq": lambda value, operand: equal(value, operand),
    "$ne": lambda value, operand: not equal(value, operand),
    "$lt": lambda value, operand: comparable(value, operand) and value < operand,
    "$lte": lambda value, operand: comparable(value, operand) and value <= operand,
    "$gt": lambda value, operand: comparable(value, operand) and value > operand,
    "$gte": lambda value, operand: comparable(value, operand) and value >= operand,
    "$in": lambda value, operand: any(equal(value, each) for each in operand),
    "$nin": lambda value, operand: not any(equal(value, each) for each in operand),
    "$contains": lambda value, operand: (
        isinstance(value, list) and any(equal(each, operand) for each in value)
    ),
}


def matches(metadata, where):
    check_where(where)
    return holds(metadata, where)


def holds(metadata, where):
    return all(holds_one(metadata, name, wanted) for name, wanted in where.items())


def holds_one(metadata, name, wanted):
    """One entry of a condition."""
    if name == "$and":
        return all(holds(metadata, each) for each in wanted)
    if name == "$or":
        return any(holds(metadata, each) for each in wanted)
    if name == "$not":
        return not holds(metadata, wanted)
    if name not in metadata:
        return False
    if not isinstance(wanted, Mapping):
        return equal(metadata[name], wanted)
    return all(OPERATORS[operator](metadata[name], operand) for operator, operand in wanted.items())


def equal(a, b):
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def comparable(a, b):
    if isinstance(a, str):
        return isinstance(b, str)
    return all(isinstance(each, int | float) and not isinstance(each, bool) for each in (a, b))


def check_where(where):
    expect(isinstance(where, Mapping), "where", "a condition", repr(where))
    for name, wanted in where.items():
        if name in ("$and", "$or"):
            expect(isinstance(wanted, list), "where", f"a list of conditions for {name}", repr(wanted))
            for each in wanted:
                check_where(each)
        elif name == "$not":
            check_where(wanted)
        else:
            expect(not name.startswith("$"), "where", "a field, $and, $or or $not", name)
            for operator, operand in wanted.items() if isinstance(wanted, Mapping) else ():
                expect(operator in OPERATORS, "where", f"one of {', '.join(OPERATORS)}", operator)
                fits = operator not in ("$in", "$nin") or isinstance(operand, list)
                expect(fits, "where", f"a list for {operator}", repr(operand))
