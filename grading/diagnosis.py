"""Names the bug: which edits of the reference do exactly what the submission did?

The calls of the failing test are made again on the reference and on each known bug of the topic. A bug is
named if it explains every answer that the submission gave and one of them is wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from grading.boundary.failures import BoundaryFailure
from grading.boundary.trace import RecordedCall, Reference
from grading.bugs import Bug, free_choices, known_bugs, reference
from grading.tolerance import allowance
from grading.truth import FLOAT32_INSIDE, is_float_array

Resolve = Callable[[Reference], Any]  # the callback of the test behind a reference in a trace


class FreeChoices(Protocol):
    """What an implementation of the topic may choose, such as physical block ids, and how to see past it.

    `tests/known_bugs/<topic>.py` may define a class of this name; one object follows one implementation.
    """

    def arguments(self, call: RecordedCall) -> tuple[Any, ...]:
        """The arguments that mean for this implementation what they meant for the submission."""

    def answer(self, call: RecordedCall, answer: Any) -> Any:
        """The answer in a form that is the same for every right implementation."""


def diagnose(topic: str, trace: Sequence[RecordedCall], resolve: Resolve) -> list[Bug]:
    """The known bugs that explain this trace, in the order of their list."""
    if any(isinstance(call.error, BoundaryFailure) for call in trace):
        return []  # a crash, a time-out or a missing function is its own name
    choices = free_choices(topic)
    submitted = [
        comparable(call, call.value if call.error is None else call.error, seen)
        for seen in [choices()]
        for call in trace
    ]
    truth = answers(reference(topic), trace, resolve, choices())
    plain = answers(reference(topic, FLOAT32_INSIDE), trace, resolve, choices())
    allowed = [tolerance(a, b) for a, b in zip(truth, plain, strict=True)]
    wrong = [i for i, expected in enumerate(truth) if not same(submitted[i], expected, allowed[i])]
    if not wrong:
        return []
    end = wrong[-1] + 1
    return [
        bug
        for bug in known_bugs(topic)
        if all(
            map(
                same,
                submitted[:end],
                answers(reference(topic, bug), trace[:end], resolve, choices()),
                allowed,
            )
        )
    ]


def answers(
    module: ModuleType, trace: Sequence[RecordedCall], resolve: Resolve, choices: FreeChoices
) -> list[Any]:
    """What `module` answers to the same calls; an exception it raises is its answer."""
    objects: dict[str | None, Any] = {}
    found = []
    for call in trace:
        owner, _, method = call.name.partition(".")
        args = [copied(argument, resolve) for argument in choices.arguments(call)]
        options = {name: copied(value, resolve) for name, value in call.kwargs.items()}
        answer: Any
        try:
            with np.errstate(all="ignore"):
                target = getattr(objects[call.object_id], method) if method else getattr(module, owner)
                answer = target(*args, **options)
        except Exception as error:  # whatever a defect leads to is what it shows
            answer = error
        if not method and call.object_id is not None and not isinstance(answer, Exception):
            objects[call.object_id] = answer
            answer = None
        found.append(comparable(call, answer, choices))
    return found


def comparable(call: RecordedCall, answer: Any, choices: FreeChoices) -> Any:
    if isinstance(answer, Exception):
        return answer
    return choices.answer(call, None if isinstance(answer, Reference) else answer)


def copied(value: Any, resolve: Resolve) -> Any:
    if isinstance(value, Reference):
        return resolve(value)
    return value.copy() if isinstance(value, np.ndarray) else value


def tolerance(truth: Any, plain: Any) -> float:
    alike = is_float_array(truth) and is_float_array(plain) and truth.shape == plain.shape
    return allowance(truth, plain) if alike else 0.0


def same(a: Any, b: Any, allowed: float, *, dtypes: bool = False) -> bool:
    """Whether two answers are the same up to the allowance; two errors are if their classes are.

    dtypes: integers must have the same one, as they must in the fields of a dataclass.
    """
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return same_array(a, b, allowed, dtypes)
    if is_dataclass(a) and type(a) is type(b):
        return all(same(getattr(a, f.name), getattr(b, f.name), allowed, dtypes=True) for f in fields(a))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y, allowed) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def same_array(a: np.ndarray, b: np.ndarray, allowed: float, dtypes: bool) -> bool:
    if a.shape != b.shape or ((dtypes or is_float_array(a)) and a.dtype != b.dtype):
        return False
    if not is_float_array(a) or not is_float_array(b):
        return bool((a == b).all())
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    close = np.abs(np.where(finite, x - y, 0)) <= allowed
    alike = (x == y) | (np.isnan(x) & np.isnan(y))
    return bool(np.where(finite, close, alike).all())
