"""Conditions on metadata."""

from collections.abc import Mapping

from .basics import expect

OPERATORS = ("$eq", "$ne", "$lt", "$lte", "$gt", "$gte", "$in", "$nin", "$contains")


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
    if isinstance(wanted, Mapping):
        return all(compares(operator, metadata[name], operand) for operator, operand in wanted.items())
    return equal(metadata[name], wanted)


def compares(operator, value, operand):
    if operator == "$eq":
        return equal(value, operand)
    if operator == "$ne":
        return not equal(value, operand)
    if operator == "$in":
        return any(equal(value, each) for each in operand)
    if operator == "$nin":
        return not any(equal(value, each) for each in operand)
    if operator == "$contains":
        return isinstance(value, list) and any(equal(each, operand) for each in value)
    if kind(value) is None or kind(value) != kind(operand):
        return False
    if operator == "$lt":
        return value < operand
    if operator == "$lte":
        return value <= operand
    if operator == "$gt":
        return value > operand
    return value >= operand


def equal(a, b):
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    return a == b


def kind(value):
    """What can be put in order with what; None for what cannot."""
    if isinstance(value, str):
        return "string"
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else None


# Checks ---------------------------------------------------------------------------------------------------


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
            if isinstance(wanted, Mapping):
                for operator, operand in wanted.items():
                    check_operator(operator, operand)


def check_operator(operator, operand):
    expect(operator in OPERATORS, "where", f"one of {', '.join(OPERATORS)}", operator)
    if operator in ("$in", "$nin"):
        expect(isinstance(operand, list), "where", f"a list for {operator}", repr(operand))
