"""Strict JSON, and what a schema says of it."""

import json
import math

from jsonschema import Draft202012Validator, SchemaError

from spec import InvalidArgument
from spec.agent import MAX_MESSAGE, Problem

from .basics import SPACE


def unique(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"expected each key once, got {[key for key, _ in pairs]}")
    return dict(pairs)


def finite(digits):
    if not math.isfinite(float(digits)):
        raise ValueError(f"expected numbers that a float64 can hold, got {digits}")
    return digits


JSON = json.JSONDecoder(
    object_pairs_hook=unique,
    parse_int=lambda digits: int(finite(digits)),
    parse_float=lambda digits: float(finite(digits)),
    parse_constant=finite,
)


def read(text):
    """The value of strict JSON; ValueError or RecursionError where there is none."""
    if text.strip(SPACE) in ("", "null"):
        return {}
    value = JSON.decode(text)
    json.dumps(value, ensure_ascii=False).encode()  # refuses a surrogate without its partner
    return value


def validate_arguments(schema, arguments):
    return problems(validator(schema), arguments)


def validator(schema):
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidArgument(f"schema: expected JSON Schema, got one where {error.message}") from None
    return Draft202012Validator(schema)


def problems(checker, arguments):
    try:
        value = read(arguments)
        found = list(checker.iter_errors(value))
    except (ValueError, RecursionError) as error:
        return [Problem("", "json", str(error)[:MAX_MESSAGE])]
    if not isinstance(value, dict):
        return [Problem("", "type", "expected an object")]
    return [Problem(pointer(e.absolute_path), e.validator, e.message[:MAX_MESSAGE]) for e in found]


def pointer(path):
    return "".join("/" + str(each).replace("~", "~0").replace("/", "~1") for each in path)
