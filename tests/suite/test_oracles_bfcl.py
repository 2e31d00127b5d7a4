"""The agent against questions and answers of others: the Berkeley Function Calling Leaderboard.

Each answer that it calls right is written as a model would, read, checked and judged.
"""

import json
import re
from collections import Counter
from decimal import Decimal

import pytest

from solution.agent import JsonConstraint, parse_tool_calls, validate_arguments
from solution.agent.judging import SETS, is_right, json_schema, narrowed, read_bfcl
from tests.suite.real_models import fetched
from tests.suite.test_agent_constraint import BYTES, EOS, can_write

CONTRADICTIONS = {  # of BFCL's answers and its own schemas: what the schema says of such an answer
    "simple_python_17": {("", "required")},  # `formatted` is required, and may be left out
    "simple_python_149": {("/company_names/0", "type"), ("/company_names/1", "type")},  # lists for strings
    "simple_python_200": {("", "required")},  # `fuel_efficiency` is required, and may be left out
    "simple_python_307": {("/venue", "type")},  # true for a string
    "simple_python_358": {("/diet/0", "enum")},  # "GF" for "Gluten Free", "gluten free"
    "multiple_76": {("/material", "enum")},  # "bronze" for "Bronze"
}
UNKNOWN_KEYS = {  # right are objects of which the schema names no key: constrained, they are empty
    "simple": {"simple_python_337"},
    "multiple": {"multiple_9"},
    "irrelevance": set(),
}


def questions(name):
    return read_bfcl(fetched("bfcl"), name)


def answers(values):
    """Arguments that are right, as far as each value for itself can tell: each of them once beside the first
    ones of the others."""
    every = {name: [form for value in each for form in forms(value)] for name, each in values.items()}
    first = {name: next((form for form in each if form != ""), "") for name, each in every.items()}
    for name, each in every.items():
        for form in each:
            yield {key: value for key, value in {**first, name: form}.items() if value != ""}
    if not every:
        yield {}


def forms(value):
    """In an object each value is a list of right ones."""
    if isinstance(value, dict):
        yield from answers(value)
    elif isinstance(value, list):
        first = [next(forms(each)) for each in value]
        yield first
        yield from (
            [*first[:i], form, *first[i + 1 :]] for i in range(len(value)) for form in forms(value[i])
        )
    else:
        yield value


def unique(found):
    return {json.dumps(each): each for each in found}.values()


def hermes(name, arguments):
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def test_right_answers_are_read_accepted_and_right():
    """By BFCL's rule too a call is wrong that leaves out what is required."""
    counts, refused, wrong = Counter(), {}, set()
    for question in questions("simple") + questions("multiple"):
        schema = json_schema(question.functions[question.name]["parameters"])
        for arguments in unique(answers(question.values)):
            parsed = parse_tool_calls(hermes(question.name, arguments), "hermes")
            (call,) = parsed.calls
            assert (parsed.content, parsed.problems, call.name) == ("", [], question.name)
            assert json.loads(call.arguments) == arguments
            problems = {(each.path, each.rule) for each in validate_arguments(schema, call.arguments)}
            counts.update(calls=1, refused=bool(problems))
            if problems:
                refused.setdefault(question.id, set()).update(problems)
            if not is_right(question, [call]):
                wrong.add(question.id)
        counts["questions"] += 1
    assert refused == CONTRADICTIONS
    assert wrong == {"simple_python_17", "simple_python_200"}
    assert counts == {"questions": 600, "calls": 1366, "refused": 10}


@pytest.mark.parametrize("name", SETS)
def test_a_constraint_leaves_room_for_what_is_right(name):
    """The first answer of each question can be written; all functions of all questions have a constraint."""
    without = set()
    for question in questions(name):
        for called, function in question.functions.items():
            schema = json_schema(function["parameters"])
            constraint = JsonConstraint(narrowed(schema), BYTES, EOS)
            if called == question.name and question.id not in CONTRADICTIONS:
                arguments = in_order(next(answers(question.values)), schema)
                text = json.dumps(arguments, ensure_ascii=False)
                if not can_write(constraint, re.sub(r"[\d.]+e-?\d+", without_exponent, text)):
                    without.add(question.id)
    assert without == UNKNOWN_KEYS[name]


def in_order(value, schema):
    """Properties as the schema has them."""
    if isinstance(value, list):
        return [in_order(each, schema["items"]) for each in value]
    if isinstance(value, dict) and "properties" in schema:
        properties = schema["properties"]
        return {name: in_order(value[name], properties[name]) for name in properties if name in value}
    return value


def without_exponent(number):
    """As AG-40 has them."""
    return f"{Decimal(number[0]):f}"
