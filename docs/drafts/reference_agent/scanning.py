"""Where JSON values begin and end in a text. Values are looked at, never changed."""

import json

from spec.agent import ToolCall

SPACE = " \t\n\r"


def refuse(constant):
    raise ValueError(f"{constant} is no JSON")


# Numbers stay text: here they are never computed with, and may be of any size.
_decode = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=refuse).raw_decode


def skip(text, at):
    """The first place from `at` on that is not white space."""
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


def end_of_value(text, at):
    """Where the JSON value that begins at `at` ends; None if there is no complete one."""
    try:
        return _decode(text, at)[1]
    except (ValueError, RecursionError, StopIteration):
        return None


def is_value(text, first):
    """Whether all of a text is a JSON value that begins with one of these characters."""
    return text[:1] in first and text != "" and end_of_value(text, 0) == len(text)


def elements(text):
    """The texts of the elements of an array."""
    found, at = [], skip(text, 1)
    while text[at] != "]":
        end = end_of_value(text, at)
        found.append(text[at:end])
        at = skip(text, end)
        at = skip(text, at + 1) if text[at] == "," else at
    return found


def members(text):
    """The keys of an object and the texts of their values, in order."""
    found, at = [], skip(text, 1)
    while text[at] != "}":
        key, colon = _decode(text, at)
        start = skip(text, skip(text, colon) + 1)
        end = end_of_value(text, start)
        found.append((key, text[start:end]))
        at = skip(text, end)
        at = skip(text, at + 1) if text[at] == "," else at
    return found


def string(text):
    """The value of a JSON string; None for anything else."""
    return _decode(text)[0] if is_value(text, '"') else None


def as_call(text):
    """The call that the text of a JSON value is, or None."""
    if not is_value(text, "{"):
        return None
    found = members(text)
    keys = [key for key, _ in found]
    if any(keys.count(key) > 1 for key in ("name", "arguments", "parameters")):
        return None
    fields = dict(found)
    name = string(fields.get("name", ""))
    if not name:
        return None
    return ToolCall(None, name, plain_arguments(fields.get("arguments", fields.get("parameters", ""))))


def plain_arguments(text):
    text = text.strip(SPACE)
    if text in ("", "null"):
        return "{}"
    inner = string(text)
    if inner is None:
        return text
    inner = inner.strip(SPACE)
    if inner == "":
        return "{}"
    return inner if is_value(inner, "{") else text
