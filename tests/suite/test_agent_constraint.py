"""Constraints over a real vocabulary, and schemas that are large."""

import json
from itertools import combinations, permutations

import numpy as np
import pytest

from solution.agent import JsonConstraint
from solution.agent.vocabulary import token_bytes
from solution.models.vocabulary import read_vocabulary
from spec import InvalidArgument, NotSupported
from tests.suite.real_models import fetched
from tests.week3.agent.cases_constraint import INTEGER, STRING, an_object

BYTES, EOS = [bytes([byte]) for byte in range(256)], [0]
VALUE = {"city": 'Oslo, "old town", 日本\n', "days": 14}
TEXT = json.dumps(VALUE, ensure_ascii=False, separators=(",", ":"))


@pytest.fixture(scope="module")
def vocabulary():
    return read_vocabulary(fetched("smollm2-135m-instruct"))


def test_the_bytes_of_tokens_are_those_of_the_text(vocabulary):
    tokens = token_bytes(vocabulary)
    for text in (TEXT, "naïve \x00\x7f\u0085 👩‍👩‍👧 \u200b\t\r\n  x", "".join(map(chr, range(32, 0x250)))):
        ids = vocabulary.backend.encode(text, add_special_tokens=False).ids
        assert b"".join(tokens[id] for id in ids) == text.encode()
    assert [tokens[id] for id in sorted(vocabulary.eos_ids)] == [b""] * len(vocabulary.eos_ids)


def test_its_own_tokens_can_write_a_text(vocabulary):
    tokens, eos = token_bytes(vocabulary), sorted(vocabulary.eos_ids)
    constraint = JsonConstraint(an_object(city=STRING, days=INTEGER), tokens, eos)
    state = constraint.start()
    for id in vocabulary.backend.encode(TEXT).ids:
        mask = np.asarray(constraint.allowed(state))
        assert mask[id] and not mask[eos].any()
        state = constraint.advance(state, id)
    assert np.flatnonzero(np.asarray(constraint.allowed(state))).tolist() == eos


def text_so_far(constraint, text):
    state = constraint.start()
    for byte in text:
        state = constraint.advance(state, byte)
    return np.flatnonzero(np.asarray(constraint.allowed(state))), constraint.is_complete(state)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"enum": [f"k{i}" for i in range(20_000)]}, b'"k77"'),
        ({"anyOf": [an_object(kind={"enum": [f"k{i}"]}) for i in range(3_000)]}, b'{"kind":"k77"}'),
        (an_object(**{f"p{i}": INTEGER for i in range(2_000)}), b'{"p0":1,"p1":'),
        ({"anyOf": [INTEGER, {"type": "number"}] * 100}, b"12.5"),
    ],
    ids=["enum", "anyOf", "properties", "the same again and again"],
)
def test_schemas_may_be_large(schema, text):
    allowed, complete = text_so_far(JsonConstraint(schema, BYTES, EOS), text)
    assert len(allowed) > 0 and complete == (text[-1:] in b'"}5')


def test_lists_may_be_deep():
    schema = INTEGER
    for _ in range(200):
        schema = {"type": "array", "items": schema}
    assert text_so_far(JsonConstraint(schema, BYTES, EOS), b"[" * 200 + b"1" + b"]" * 200)[1]


NAMES = "abc"
SUBSETS = [subset for count in range(4) for subset in combinations(NAMES, count)]


@pytest.mark.parametrize("required", SUBSETS, ids="".join)
def test_properties_that_are_not_required_may_be_left_out(required):
    """AG-38 asks for less."""
    schema = {**an_object(**dict.fromkeys(NAMES, INTEGER)), "required": [*required]}
    constraint = JsonConstraint(schema, BYTES, EOS)
    for there in (order for subset in SUBSETS for order in permutations(subset)):
        text = json.dumps(dict.fromkeys(there, 1), separators=(",", ":"))
        right = [*there] == sorted(there) and {*required} <= {*there}
        assert can_write(constraint, text) == right, text
    assert not any(can_write(constraint, text) for text in ("{,}", '{"a":1,}', '{,"a":1}', '{"a":1"b":1}'))


def can_write(constraint, text):
    state = constraint.start()
    try:
        for byte in text.encode():
            state = constraint.advance(state, byte)
    except InvalidArgument:
        return False
    return constraint.is_complete(state)


def test_what_it_cannot_follow_is_refused_at_the_beginning():
    for schema in ({"enum": ["\ud800"]}, {"anyOf": [an_object(a={"enum": [i]}) for i in range(20_000)]}):
        with pytest.raises(NotSupported, match="schema: expected"):
            JsonConstraint(schema, BYTES, EOS)


def test_a_state_of_something_else_is_refused():
    constraint = JsonConstraint(INTEGER, BYTES, EOS)
    with pytest.raises(InvalidArgument, match="state"):
        constraint.allowed(b'"')
    assert constraint.is_complete(b"12")
