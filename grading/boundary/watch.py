"""Whether a submission leaves alone what is not its own: its arguments, and what it returned earlier.

Values are copied at the boundary, so tests cannot see that memory is shared. Only the submission's side can
look again, which it does after every call of a test. It can accuse none but the submission that it runs in;
and one that keeps it from looking gains no more than leaving the values alone would have given.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from grading.boundary.failures import SubmissionError
from grading.boundary.frameworks import SubmissionArrays, held_once
from grading.contract import Contract

MOST_KEPT = 64  # values of earlier calls
MOST_BYTES = 16 << 20  # of these values together
_SHOWN = 100  # characters of a list in a message

_PLAIN = (type(None), bool, int, float, str, bytes)


@dataclass(frozen=True)
class Crossed:
    """An array, list or dict that a call took or gave. before: what was in it, see `Watch._contents`."""

    call: int
    name: str  # of what was called
    argument: str  # empty for a result
    value: Any
    before: tuple[Any, ...]

    @property
    def nbytes(self) -> int:
        return len(self.before[-1]) if isinstance(self.before[-1], bytes) else 64 * len(self.before)

    def changed_by(self, name: str, call: int) -> str:
        if call == self.call:
            return f"{name} changed its argument `{self.argument}`"
        what = f"the argument `{self.argument}` of" if self.argument else "what"
        returned = "" if self.argument else " returned"
        ago = "the call before" if call - self.call == 1 else f"{call - self.call} calls before"
        return f"{name} changed {what} {self.name}{returned} {ago}"


class Watch:
    """Of the calls of one peer. Each thread looks after its own: MLX dislikes the arrays of another."""

    def __init__(self, contract: Contract, arrays: SubmissionArrays) -> None:
        self._names = {name: [p.name for p in each.parameters] for name, each in contract.called.items()}
        self._arrays = arrays
        # test: its number; calls: how many it made; kept: what crossed in them.
        self._here = threading.local()

    @contextmanager
    def call(
        self, test: int | None, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Iterator[Callable[[Any], None]]:
        """Around a call of this test, None if nobody watches; what it gives takes the result.

        Raises SubmissionError if a value is not as it was, whatever the call itself raised.
        """
        here = self._here
        if test is None or getattr(here, "test", None) != test:
            here.test, here.calls, here.kept = test, 0, deque()
        if test is None:
            yield lambda result: None
            return
        here.calls += 1
        # Nobody can change what nobody else holds. Asked before the call, which may let go of it.
        here.kept = deque(each for each in here.kept if not self._is_alone(each))
        names = list(self._names.get(name, ()))
        names += [f"number {i + 1}" for i in range(len(names), len(args))]
        named = {**dict(zip(names, args, strict=False)), **kwargs}
        given = [each for argument, value in named.items() for each in self._crossed(name, argument, value)]
        results: list[Any] = []
        try:
            yield results.append
        except Exception:
            self._check(name, given)
            raise
        self._check(name, given)
        here.kept.extend((*given, *self._crossed(name, "", tuple(results))))
        while len(here.kept) > MOST_KEPT or sum(each.nbytes for each in here.kept) > MOST_BYTES:
            here.kept.popleft()

    def _check(self, name: str, given: list[Crossed]) -> None:
        for each in (*given, *self._here.kept):
            if (now := self._contents(each.value)) != each.before:
                changed = each.changed_by(name, self._here.calls)
                raise SubmissionError(f"{changed}: {self._difference(each, now)}")

    def _crossed(self, name: str, argument: str, whole: Any) -> Iterator[Crossed]:
        for value in self._changeable(whole):
            yield Crossed(self._here.calls, name, argument, value, self._contents(value))

    def _changeable(self, value: Any) -> Iterator[Any]:
        """The arrays, lists and dicts in a value, but not those within a list or dict."""
        if isinstance(value, (list, dict, self._arrays.array_type)):
            yield value
        elif isinstance(value, tuple):
            for each in value:
                yield from self._changeable(each)
        elif is_dataclass(value) and not isinstance(value, type):
            for field in fields(value):
                yield from self._changeable(getattr(value, field.name))

    def _contents(self, value: Any) -> Any:
        """What is in a value now, in a form that nothing changes and that compares bits."""
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, self._arrays.array_type):
            return tuple(value.shape), str(value.dtype), self._arrays.bits(value)
        if isinstance(value, (list, tuple)):
            return (type(value), *map(self._contents, value))
        if isinstance(value, dict):
            return (dict, *((key, self._contents(each)) for key, each in value.items()))
        if is_dataclass(value) and not isinstance(value, type):
            return (type(value), *(self._contents(getattr(value, f.name)) for f in fields(value)))
        return value

    def _is_alone(self, crossed: Crossed) -> bool:
        """Whether nobody but this side holds the memory of a value."""
        if not held_once(crossed.value):  # not through a name, which would be another reference
            return False
        if isinstance(crossed.value, self._arrays.array_type):
            return self._arrays.owns_its_memory(crossed.value)
        return isinstance(crossed.value, list) and all(isinstance(each, _PLAIN) for each in crossed.value)

    def _difference(self, crossed: Crossed, now: Any) -> str:
        before = crossed.before
        if not isinstance(crossed.value, self._arrays.array_type):
            return f"was {_clipped(_listed(before))}, is {_clipped(crossed.value)}"
        if now[:2] != before[:2]:
            return f"was {before[1]} of shape {before[0]}, is {now[1]} of shape {now[0]}"
        array = np.asarray(self._arrays.outgoing(crossed.value))
        was, is_ = (np.frombuffer(bits, array.dtype) for bits in (before[2], now[2]))
        differs = was.view(f"V{array.itemsize}") != is_.view(f"V{array.itemsize}")
        first = int(differs.argmax())
        index = ", ".join(str(i) for i in np.unravel_index(first, array.shape))
        return f"[{index}] was {was[first]}, is {is_[first]} ({differs.sum()} of {array.size} values differ)"


def _listed(contents: Any) -> Any:
    """Contents of a list or dict as they were, for a message."""
    if not isinstance(contents, tuple) or not contents or contents[0] not in (list, tuple, dict):
        return contents
    return [_listed(each) for each in contents[1:]]


def _clipped(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
