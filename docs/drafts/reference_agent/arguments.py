"""What the arguments of a call are, and whether they are right."""

import json
import math
import sys
from itertools import islice

from spec.agent import MAX_ARGUMENTS, MAX_DEPTH, MAX_PROBLEMS, MAX_SHOWN, Problem

from .scanning import SPACE, refuse
from .schemas import validator


def validate_arguments(schema, arguments):
    return problems(validator(schema), arguments)


def problems(checker, arguments):
    try:
        value = read(arguments)
    except ValueError as error:
        return [shown("", "json", "JSON", str(error))]
    if not isinstance(value, dict):
        return [shown("", "type", "an object", arguments)]
    errors = islice(checker.iter_errors(value), MAX_PROBLEMS)
    return [
        shown(pointer(error.absolute_path), error.validator, f"{error.validator_value}", f"{error.instance}")
        for error in errors
    ]


def shown(path, rule, expected, got):
    return Problem(path, rule, expected[:MAX_SHOWN], got[:MAX_SHOWN])


def pointer(path):
    return "".join("/" + str(each).replace("~", "~0").replace("/", "~1") for each in path)


# JSON -----------------------------------------------------------------------------------------------------


def read(text):
    """The value of strict JSON; ValueError says why there is none."""
    if len(text) > MAX_ARGUMENTS:
        raise ValueError(f"more than {MAX_ARGUMENTS} characters")
    if text.strip(SPACE) in ("", "null"):
        return {}
    try:
        value = json.loads(
            text,
            object_pairs_hook=unique,
            parse_int=whole,
            parse_float=finite,
            parse_constant=refuse,
        )
    except RecursionError:
        raise ValueError("too deep") from None
    if depth(value) > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} objects and arrays inside each other")
    json.dumps(value, ensure_ascii=False).encode()  # refuses a surrogate without its partner
    return value


def unique(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def whole(digits):
    number = int(digits) if len(digits) < 400 else math.inf
    if abs(number) > sys.float_info.max:
        raise ValueError("a number that is too large")
    return number


def finite(digits):
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number that is too large")
    return number


def depth(value):
    """How many objects and arrays stand inside each other, level by level."""
    level, count = [value], 0
    while containers := [each for each in level if isinstance(each, dict | list)]:
        count += 1
        level = [e for each in containers for e in (each.values() if isinstance(each, dict) else each)]
    return count


# Equal calls ----------------------------------------------------------------------------------------------


def canonical_call(call):
    try:
        return json.dumps([call.name, "json", numbers(read(call.arguments))], sort_keys=True)
    except ValueError:
        return json.dumps([call.name, "text", call.arguments])


def numbers(value):
    """With integers for all floats that are whole."""
    if isinstance(value, dict):
        return {key: numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
