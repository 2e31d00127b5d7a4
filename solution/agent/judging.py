"""Whether the right function is called with the right values: the Berkeley Function Calling Leaderboard.

A question comes with functions, in a dialect of JSON Schema, and with all values of each parameter that are
right. The rule is that of BFCL's `ast_checker`, also where it is odd, so that figures can be compared: with
the wheel 2026.3.23 it agreed on each of 180,000 calls that were drawn from right ones and changed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spec.agent import Message, Parsed, Schema, ToolCall

from .arguments import NotJson, read, validate_arguments

SETS = {"simple": "simple_python", "multiple": "multiple", "irrelevance": "irrelevance"}
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}  # in JSON Schema
_KINDS = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
_NOT_COMPARED = re.compile(r"[ ,./\-_*^]")  # in strings


@dataclass(frozen=True)
class Question:
    """functions: by name, each with "description" and "parameters", as BFCL has them.

    name: of the function to call; None where none of them helps.
    values: for each parameter what is right; "" where it may be left out. In an object the same again.
    """

    id: str
    messages: list[Message]
    functions: dict[str, dict[str, Any]]
    name: str | None
    values: Mapping[str, list[Any]]


def read_bfcl(folder: Path, name: str) -> list[Question]:
    """The questions of one of SETS, as `week3 model fetch bfcl` brings them."""
    file = f"BFCL_v4_{SETS[name]}.json"
    answers: dict[str, tuple[str, Any]] = {}
    if name != "irrelevance":
        for each in _lines(folder / "possible_answer" / file):
            ((answers[each["id"]],),) = (answer.items() for answer in each["ground_truth"])
    return [
        Question(
            each["id"],
            each["question"][0],
            {function["name"]: function for function in each["function"]},
            *answers.get(each["id"], (None, {})),
        )
        for each in _lines(folder / file)
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Schemas --------------------------------------------------------------------------------------------------


def json_schema(declared: Mapping[str, Any]) -> Schema:
    """What BFCL declares, in the words of JSON Schema."""
    found = dict(declared)
    found["type"] = _TYPES.get(declared["type"], declared["type"])
    if "properties" in declared:
        found["properties"] = {name: json_schema(each) for name, each in declared["properties"].items()}
    if "items" in declared:
        found["items"] = json_schema(declared["items"])
    return found


def narrowed(schema: Schema) -> Schema:
    """What `JsonConstraint` takes of it, notes and all. It accepts nothing that `schema` refuses, but for
    limits of sizes; an object of which no property is known is empty."""
    kept = {name: schema[name] for name in ("description", "default") if name in schema}
    if "enum" in schema:
        return {**kept, "enum": schema["enum"]}
    kept["type"] = schema["type"]
    if schema["type"] == "array":
        kept["items"] = narrowed(schema["items"])
    if schema["type"] == "object":
        properties = schema.get("properties", {})
        kept["properties"] = {name: narrowed(each) for name, each in properties.items()}
        kept |= {"required": schema.get("required", []), "additionalProperties": False}
    return kept


# Verdicts -------------------------------------------------------------------------------------------------


def is_valid(question: Question, parsed: Parsed) -> bool:
    """Whether there are calls, and each could be carried out: it can be read, and the schema of a function
    that there is accepts its arguments."""
    return (
        bool(parsed.calls) and not parsed.problems and all(_is_valid(question, call) for call in parsed.calls)
    )


def _is_valid(question: Question, call: ToolCall) -> bool:
    function = question.functions.get(call.name)
    return function is not None and not validate_arguments(
        json_schema(function["parameters"]), call.arguments
    )


def is_right(question: Question, calls: Sequence[ToolCall]) -> bool:
    """One call, of the function to call, with all required parameters, none that is unknown, and values that
    are right; no call where no function helps."""
    if question.name is None:
        return not calls
    if len(calls) != 1 or calls[0].name != question.name:
        return False
    try:
        given = read(calls[0].arguments)
    except NotJson:
        return False
    parameters, values = question.functions[question.name]["parameters"], question.values
    declared = parameters["properties"]
    return (
        isinstance(given, dict)
        and set(parameters["required"]) <= set(given) <= set(declared) & set(values)
        and all(name in given or "" in values[name] for name in values)
        and all(_fits(given[name], values[name], declared[name]) for name in given)
    )


def _fits(value: Any, values: Sequence[Any], declared: Mapping[str, Any]) -> bool:
    """Of the type that is declared, an integer being a float too, or of that of the first right value, as
    where a variable stands for a number; such a value is compared as it is, others as `_compared`."""
    kind, first = _KINDS[declared["type"]], _first_kind(values)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        return type(value) is first and value in values
    inner = _KINDS[declared["items"]["type"]] if kind is list else None
    if kind is list and not any(_of_kind(value, inner, each) for each in values):
        return False
    if first not in (kind, None):
        return value in values
    if kind is dict:
        return any(each != "" and _fits_object(value, each) for each in values)
    if inner is dict:
        return any(len(value) == len(each) and all(map(_fits_object, value, each)) for each in values)
    if kind is list:
        return [_compared(each) for each in value] in [
            [_compared(each) for each in right] for right in values
        ]
    return _compared(value) in [_compared(each) for each in values]


def _first_kind(values: Sequence[Any]) -> type | None:
    return next((type(each) for each in values if each != ""), None)


def _of_kind(items: list[Any], kind: type, right: Any) -> bool:
    return not isinstance(right, list) or all(type(each) in (kind, _first_kind(right)) for each in items)


def _fits_object(value: Mapping[str, Any], values: Mapping[str, list[Any]]) -> bool:
    return all(name in value or "" in values[name] for name in values) and all(
        name in values and _compared(value[name]) in [_compared(each) for each in values[name]]
        for name in value
    )


def _compared(value: Any) -> Any:
    """Of a string neither case nor some marks count, nor which quotation marks it has."""
    return _NOT_COMPARED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value
