"""The comparisons that tests make. Each failure says where, what was expected and what came."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

import numpy as np

from grading.boundary.failures import Declined
from grading.truth import Expected
from spec import InvalidArgument, SpecError

SHOWN = 160  # characters of two values; of longer ones a part


def assert_matches(actual: Any, expected: Expected, what: str = "result") -> None:
    """A float array within the allowance that the input implies. NaN never matches."""
    __tracebackhide__ = True
    _assert_array(actual, expected.value.shape, what)
    assert actual.dtype == expected.dtype, f"{what}: expected dtype {expected.dtype}, got {actual.dtype}"
    error = np.abs(actual.astype(np.float64) - expected.value)
    right = error <= expected.allowed
    if not right.all():
        index = tuple(int(i) for i in np.argwhere(~right)[0])
        raise AssertionError(
            f"{what}[{_show(index)}]: expected {expected.value[index]:.7g} ± {expected.allowed:.1e}, "
            f"got {float(actual[index]):.7g} ({(~right).sum()} of {right.size} values differ)"
        )


def assert_identical(actual: Any, expected: np.ndarray, what: str = "result") -> None:
    """The same bits: for what is copied or gathered, not computed."""
    __tracebackhide__ = True
    _assert_array(actual, expected.shape, what)
    assert actual.dtype == expected.dtype, f"{what}: expected dtype {expected.dtype}, got {actual.dtype}"
    bits = f"u{expected.dtype.itemsize}"
    same = np.ascontiguousarray(actual).view(bits) == np.ascontiguousarray(expected).view(bits)
    if not same.all():
        index = tuple(int(i) for i in np.argwhere(~same)[0])
        raise AssertionError(
            f"{what}[{_show(index)}]: expected exactly {expected[index]}, got {actual[index]} "
            f"({(~same).sum()} of {same.size} values differ)"
        )


def assert_integers(actual: Any, expected: Any, what: str = "result") -> None:
    """The same whole numbers, in any integer dtype."""
    __tracebackhide__ = True
    expected = np.asarray(expected)
    _assert_array(actual, expected.shape, what)
    assert actual.dtype.kind in "iu", f"{what}: expected integers, got dtype {actual.dtype}"
    assert (actual == expected).all(), f"{what}: expected {expected.tolist()}, got {actual.tolist()}"


def assert_equal(actual: Any, expected: Any, what: str = "result") -> None:
    """The same plain value, of the same type inside and out: True is not 1, and 8.0 is not 8."""
    __tracebackhide__ = True
    assert type(actual) is type(expected), (
        f"{what}: expected {type(expected).__name__} {expected!r}, got {type(actual).__name__} {actual!r}"
    )
    assert actual == expected and _types(actual) == _types(expected), (
        f"{what}: {difference(repr(expected), repr(actual))}"
    )


def difference(expected: str, got: str) -> str:
    """Both, of long ones what stands around the first character that differs."""
    if len(expected) + len(got) <= SHOWN:
        return f"expected {expected}, got {got}"
    pairs = enumerate(zip(expected, got, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(expected), len(got)))
    first, end = max(0, at - SHOWN // 4), at + SHOWN // 3

    def part(text: str) -> str:
        return "… " * (first > 0) + text[first:end] + " …" * (end < len(text))

    return f"character {at} differs: expected {part(expected)}, got {part(got)}"


def _types(value: Any) -> Any:
    """The types of a plain value and of all that it holds."""
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), [_types(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, list | tuple):
        return type(value), [_types(each) for each in value]
    if isinstance(value, dict):
        return type(value), {key: _types(each) for key, each in value.items()}
    return type(value)


@contextmanager
def refused(error: type[SpecError], *arguments: str, got: object = None) -> Iterator[None]:
    """The block must raise exactly this contract error, and its message tell three things.

    Which argument: one of those named here. What came: `got`, where it is given, and otherwise some value.
    What was expected: more than that something is wrong. How the sentence is put is free.
    """
    __tracebackhide__ = True
    about = f"{error.__name__} about {' or '.join(arguments)}" if arguments else error.__name__
    try:
        yield
    except error as raised:
        text = str(raised)
        missing = _missing(text, arguments, got)
        assert not missing, f"expected {about}, but the message does not {missing}: {text!r}"
        return
    except SpecError as raised:
        raise AssertionError(f"expected {about}, got {type(raised).__name__}: {raised}") from raised
    raise AssertionError(f"expected {about}, but the call succeeded")


_NUMERAL = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", re.IGNORECASE)
_PART = re.compile(r"[\[({][^\])}]*[\])}]|(?:['\"]).*?(?:['\"])|-?\d+[\w.]*|\w+|[<>≥≤≠]+")
_SAYS_NOTHING = {
    "expected",
    "got",
    "came",
    "was",
    "is",
    "the",
    "a",
    "an",
    "of",
    "value",
    "argument",
    "error",
} | {"invalid", "illegal", "wrong", "bad", "unexpected", "unknown", "unacceptable", "found", "for", "in"}


def _missing(text: str, arguments: Sequence[str], got: object) -> str:
    """What the message of a refusal fails to do; empty where it tells all."""
    if arguments and not any(re.search(rf"\b{each}", text) for each in arguments):
        return "name it"
    for each in arguments:
        text = re.sub(rf"\b{each}\w*", " ", text)
    rest = text if got is None else _without(text, got)
    if got is not None and rest == text:
        return f"say that {got!r} came"
    told = [part for part in _PART.findall(rest) if part.lower() not in _SAYS_NOTHING]
    return "" if len(told) >= (2 if got is None else 1) else "say what was expected and what came"


def _without(text: str, value: object) -> str:
    """The text where this value was struck out. A number may be written in any way: -1, -1.0."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _NUMERAL.sub(lambda found: " " if float(found[0]) == value else found[0], text)
    return text.replace(str(value), " ")


def check_refusals(
    function: Callable[..., Any], valid: dict[str, Any], refusals: Sequence[tuple[str, dict[str, Any]]]
) -> None:
    """Each refusal replaces arguments of a call that is otherwise valid. "a/b": the message names a or b.

    Where one number or one word is what is wrong, the message must tell which. Where one asks for what the
    submission declines, the others are judged all the same.
    """
    __tracebackhide__ = True
    declined = None
    for argument, replaced in refusals:
        wrong = replaced.get(argument)
        plain = isinstance(wrong, int) or (isinstance(wrong, float) and isfinite(wrong))
        word = isinstance(wrong, str) and wrong.isalnum()
        try:
            with refused(InvalidArgument, *argument.split("/"), got=wrong if plain or word else None):
                function(**{**valid, **replaced})
        except Declined as each:
            declined = each
        except AssertionError as failure:
            called = getattr(function, "__qualname__", "<")
            raise AssertionError(str(failure) if "<" in called else f"{called}: {failure}") from failure
    if declined is not None:
        raise declined


@contextmanager
def passed_through(error: Exception) -> Iterator[None]:
    """The block must raise what a callback of the test raised."""
    __tracebackhide__ = True
    try:
        yield
    except type(error) as raised:
        assert raised.args == error.args, f"expected {error!r} from the callback, got {raised!r}"
        return
    raise AssertionError(f"expected {error!r} from the callback to pass through, but the call succeeded")


def _assert_array(actual: Any, shape: tuple[int, ...], what: str) -> None:
    __tracebackhide__ = True
    assert isinstance(actual, np.ndarray), f"{what}: expected an array, got {type(actual).__name__}"
    assert actual.shape == shape, f"{what}: expected shape {shape}, got {actual.shape}"


def _show(index: tuple[int, ...]) -> str:
    return ", ".join(str(i) for i in index)
