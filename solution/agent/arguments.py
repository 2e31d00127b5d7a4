"""Strict JSON, and what a schema says of it. A schema is compiled once."""

import json
from collections.abc import Iterable
from functools import lru_cache
from math import inf
from typing import Any, NoReturn

from jsonschema import Draft202012Validator, SchemaError, ValidationError

from spec import InvalidArgument
from spec.agent import MAX_MESSAGE, Problem, Schema

from .blocks import SPACE

_SCHEMAS = 256  # that validate_arguments remembers
_SAFE_DIGITS = 308  # so many digits are within the range of a float64


# Reading --------------------------------------------------------------------------------------------------


class NotJson(Exception):
    """The text is not what AG-09 calls JSON."""


def read(text: str) -> Any:
    """What arguments say; nothing at all is {}. Raises NotJson."""
    if text.strip(SPACE) in ("", "null"):
        return {}
    try:
        value = _JSON.decode(text)
        _WRITER.encode(value).encode()  # refuses infinity and half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from None
    return value


def canonical(text: str) -> tuple[str, str]:
    """Equal for arguments that say the same, however they are written, and for equal text that is no JSON."""
    try:
        return "json", json.dumps(read(text), sort_keys=True)
    except NotJson:
        return "text", text


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        raise ValueError(f"expected each key once, got {[key for key, _ in members]}")
    return found


def _whole(digits: str) -> int:
    if len(digits) > _SAFE_DIGITS and abs(float(digits)) == inf:
        raise ValueError("expected a number that a float64 can hold")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"expected JSON, got {name}")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_constant=_no_constant)
_WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


# Checking -------------------------------------------------------------------------------------------------


class Checker:
    """A schema, ready to be asked."""

    def __init__(self, schema: Schema) -> None:
        """Raises InvalidArgument for one that is none."""
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise InvalidArgument(f"schema: expected JSON Schema, got one where {error.message}") from None
        self._validator = Draft202012Validator(schema)

    def problems(self, text: str) -> list[Problem]:
        try:
            value = read(text)
            if not isinstance(value, dict):
                return [Problem("", "type", f"expected an object, got {type(value).__name__}")]
            return [_problem(error) for error in self._validator.iter_errors(value)]
        except (NotJson, RecursionError) as error:
            return [Problem("", "json", f"expected JSON, and {error}"[:MAX_MESSAGE])]


def validate_arguments(schema: Schema, arguments: str) -> list[Problem]:
    try:
        text = json.dumps(schema, default=dict)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"schema: expected JSON, and {error}") from None
    return _checker(text).problems(arguments)


@lru_cache(_SCHEMAS)
def _checker(schema: str) -> Checker:
    """By the text of the schema, since what was passed may change."""
    return Checker(json.loads(schema))


def _problem(error: ValidationError) -> Problem:
    return Problem(pointer(error.absolute_path), str(error.validator), error.message[:MAX_MESSAGE])


def pointer(path: Iterable[str | int]) -> str:
    return "".join("/" + str(each).replace("~", "~0").replace("/", "~1") for each in path)
