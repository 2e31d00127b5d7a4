"""Names the bug: which edits of the reference do exactly what the submission did?

The calls of the failing test are made again on the reference and on each known bug of the topic. A bug is
named if it explains every answer that the submission gave and one of them is wrong.
"""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from types import FrameType, ModuleType
from typing import Any, Protocol

import numpy as np

from grading.boundary.codec import BUILTIN_ERRORS
from grading.boundary.failures import BoundaryFailure
from grading.boundary.references import CALLABLE, STREAM
from grading.boundary.trace import RecordedCall, Reference
from grading.bugs import Bug, free_choices
from grading.edited import Place, edited_functions, fresh_reference, is_reference, reference
from grading.ranks import of_one_group, says_nothing
from grading.tolerance import allowance
from grading.trees import leaves, mapped
from grading.truth import in_float32, is_float_array, raised

Resolve = Callable[[Reference], Any]  # the callback of the test behind a reference in a trace


class FreeChoices(Protocol):
    """What an implementation of the topic may choose, such as physical block ids, and how to see past it.

    `tests/week3/<topic>/free_choices.py` defines a class of this name; one object follows one implementation.
    """

    def arguments(self, call: RecordedCall) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, by position and by name, that mean here what they meant for the submission."""

    def answer(self, call: RecordedCall, answer: Any) -> Any:
        """The answer in a form that is the same for every right implementation."""

    def ended(self, call: RecordedCall, error: Exception | None) -> None:
        """The call has been made again, and raised this: no other one needs to wait for it."""


def diagnose(
    topic: str, trace: Sequence[RecordedCall], resolve: Resolve, suspects: Sequence[Bug], seconds: float
) -> list[Bug]:
    """The suspects that explain this trace, in their order: of those that could be tried in this time."""
    begun = time.monotonic()
    if not suspects:
        return []
    if any(isinstance(call.error, BoundaryFailure) for call in trace):
        return []  # a crash, a time-out or a missing function is its own name
    if any(isinstance(call.error, AssertionError) for call in trace):
        return []  # a callback of the test complained, and said what about
    choices = free_choices(topic)
    submitted = [
        comparable(call, call.value if call.error is None else call.error, seen)
        for seen in [choices()]
        for call in trace
    ]
    module = reference(topic)
    with functions_called() as called:
        truth = list(answers(module, trace, resolve, choices()))
    allowed = allowances(topic, trace, resolve, truth)
    wrong = [i for i, expected in enumerate(truth) if not same(submitted[i], expected, allowed[i])]
    if not wrong:
        return []
    end = 0
    for calls in at_once(trace):  # whole groups: a rank alone would wait for the others
        end += len(calls)
        if end > wrong[-1]:
            break

    def explains(bug: Bug) -> bool:
        edited = edited_functions(topic, bug)
        if edited is not None and not edited & called:
            return False  # it would answer as the truth does
        defect = fresh_reference(topic, bug) if edited is None else reference(topic, bug)
        found = answers(defect, trace[:end], resolve, choices())
        return all(map(same, submitted, found, allowed))  # up to the first that differs

    in_time = itertools.takewhile(lambda _: time.monotonic() - begun < seconds, suspects)
    return [bug for bug in in_time if explains(bug)]


@contextmanager
def functions_called() -> Iterator[set[Place]]:
    """The functions of the reference that run meanwhile."""
    called: set[Place] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and is_reference(frame.f_code):
            called.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    before = sys.getprofile()
    sys.setprofile(note)
    threading.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


def answers(
    module: ModuleType, trace: Sequence[RecordedCall], resolve: Resolve, choices: FreeChoices
) -> Iterator[Any]:
    """What `module` answers to the same calls, one by one; an exception it raises is its answer."""
    objects: dict[str | None, Any] = {}

    def resolved(reference: Reference) -> Any:
        """An object made in the trace is here what was made here, None where that raised."""
        ours = reference.kind in (CALLABLE, STREAM)
        return resolve(reference) if ours else objects.get(reference.id)

    def again(call: RecordedCall, args: Any, options: Any) -> Any:
        owner, _, method = call.name.partition(".")
        try:
            with np.errstate(all="ignore"):
                target = getattr(objects[call.object_id], method) if method else getattr(module, owner)
                answer = target(*args, **options)
        except Exception as error:  # whatever a defect leads to is what it shows
            choices.ended(call, error)
            return error
        choices.ended(call, None)
        return answer

    for calls in at_once(trace):
        prepared = [mapped(lambda leaf: copied(leaf, resolved), choices.arguments(call)) for call in calls]
        if len(calls) == 1:
            given = [again(calls[0], *prepared[0])]
        else:
            with ThreadPoolExecutor(len(calls)) as threads:
                given = list(threads.map(again, calls, *zip(*prepared, strict=True)))
        for call, answer in zip(calls, given, strict=True):
            made = call.value.id if isinstance(call.value, Reference) else call.object_id
            if made is not None and made not in objects and not isinstance(answer, Exception):
                objects[made] = answer
                answer = None
            yield comparable(call, answer, choices)


def at_once(trace: Sequence[RecordedCall]) -> Iterator[list[RecordedCall]]:
    """The calls in order; those that ran at the same time, or wait for each other, together."""
    together: list[RecordedCall] = []
    for call in trace:
        alone = together and call.begun >= max(other.ended for other in together)
        if alone and not of_one_group(together, call):
            yield together
            together = []
        together.append(call)
    if together:
        yield together


def comparable(call: RecordedCall, answer: Any, choices: FreeChoices) -> Any:
    if isinstance(answer, Exception):
        return answer
    return choices.answer(call, None if isinstance(answer, Reference) else answer)


def copied(value: Any, resolve: Resolve) -> Any:
    if isinstance(value, Reference):
        return resolve(value)
    return value.copy() if isinstance(value, np.ndarray) else value


def allowances(
    topic: str, trace: Sequence[RecordedCall], resolve: Resolve, truth: Sequence[Any]
) -> list[list[float]]:
    """For each leaf of each answer, how far another right one may be from it: nothing where all is exact."""
    if not any(is_float_array(leaf) for answer in truth for leaf in leaves(answer)):
        return [[] for _ in truth]
    choices = free_choices(topic)
    plain = answers(in_float32(topic), trace, resolve, choices())
    higher = [
        replace(call, args=mapped(raised, call.args), kwargs=mapped(raised, call.kwargs)) for call in trace
    ]
    shaken = answers(reference(topic), higher, resolve, choices())
    return [tolerance(*each) for each in zip(truth, plain, shaken, strict=True)]


def tolerance(truth: Any, plain: Any, shaken: Any) -> list[float]:
    """For each leaf of the answer, how far another right one may be from it."""
    others = itertools.chain(leaves(shaken), itertools.repeat(None))
    pairs = zip(leaves(truth), leaves(plain), strict=False)
    return [leaf_tolerance(a, b, other) for (a, b), other in zip(pairs, others, strict=False)]


def leaf_tolerance(truth: Any, plain: Any, shaken: Any) -> float:
    if not is_float_array(truth) or not is_float_array(plain) or truth.shape != plain.shape:
        return 0.0
    if not is_float_array(shaken) or shaken.shape != truth.shape:
        shaken = truth
    finite = np.isfinite(truth) & np.isfinite(plain) & np.isfinite(shaken)
    a, b, c = (np.where(finite, each, 0) for each in (truth, plain, shaken))
    return allowance(a, b.astype(plain.dtype), [c])


def same(a: Any, b: Any, allowed: Sequence[float]) -> bool:
    """Whether two answers are the same up to the allowances of their leaves.

    Two errors are if their classes are; a rank that another one stopped may have been about to say anything.
    Integers in a dataclass must have the same dtype.
    """
    if isinstance(a, Exception) or isinstance(b, Exception):
        stopped = any(isinstance(each, Exception) and says_nothing(each) for each in (a, b))
        return stopped or crossed(a) is crossed(b)
    if skeleton(a) != skeleton(b):
        return False
    dtypes = is_dataclass(a)
    limits = itertools.chain(allowed, itertools.repeat(0.0))
    pairs = zip(leaves(a), leaves(b), strict=True)
    return all(same_leaf(x, y, limit, dtypes) for (x, y), limit in zip(pairs, limits, strict=False))


def crossed(answer: Any) -> type:
    """Of an error the class under which it comes back from a submission."""
    for kind in type(answer).__mro__:
        if kind in BUILTIN_ERRORS or kind.__module__ == "spec.errors":
            return kind
    return type(answer)


def skeleton(value: Any) -> Any:
    """The types and keys of a tree; a list is as good as a tuple."""
    if is_dataclass(value):
        return type(value), [skeleton(getattr(value, f.name)) for f in fields(value)]
    if isinstance(value, (list, tuple)):
        return [skeleton(each) for each in value]
    if isinstance(value, dict):
        return {key: skeleton(each) for key, each in value.items()}
    return type(value)


def same_leaf(a: Any, b: Any, allowed: float, dtypes: bool) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return same_array(a, b, allowed, dtypes)
    return bool(a == b)


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
