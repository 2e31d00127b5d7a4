"""Languages of bytes, and the automaton that reads them: its state is a set of stacks of what must come."""

from functools import cached_property

from .basics import expect


class Bytes:
    """One byte of a set."""

    def __init__(self, allowed):
        self.allowed = frozenset(allowed)

    def unfold(self, rest):
        return [(self, rest)]


class Sequence:
    def __init__(self, *parts):
        self.parts = parts

    def unfold(self, rest):
        for part in reversed(self.parts):
            rest = (part, rest)
        return stacks(rest)


class Choice:
    def __init__(self, *parts):
        self.parts = parts

    def unfold(self, rest):
        return [stack for part in self.parts for stack in stacks((part, rest))]


class Repeat:
    """`part` from `low` to `high` times; high None: any number of times. `part` is never empty."""

    def __init__(self, part, low=0, high=None):
        expect(high is None or low <= high, "schema", "one that accepts something", f"{low} to {high} items")
        self.part, self.low, self.high = part, low, high

    @cached_property
    def less(self):
        if self.low == 0 and self.high is None:
            return self
        return Repeat(self.part, max(self.low - 1, 0), None if self.high is None else self.high - 1)

    def unfold(self, rest):
        found = stacks(rest) if self.low == 0 else []
        return found if self.high == 0 else [*found, *stacks((self.part, (self.less, rest)))]


def literal(text):
    return Sequence(*(Bytes([byte]) for byte in text.encode()))


def stacks(stack):
    """The same with a byte on top of each; () is the empty one. A stack is (top, rest)."""
    return [()] if stack == () else stack[0].unfold(stack[1])


def after(states, byte):
    """All stacks that are left after a byte; none if it may not come."""
    return {new for stack in states if stack and byte in stack[0].allowed for new in stacks(stack[1])}
