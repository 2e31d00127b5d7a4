"""What a constraint lets through: only what is right, all that is canonical, an end exactly at the end."""

import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, check_refusals, refused
from spec import InvalidArgument, NotSupported
from tests.week3.agent.cases import TRUTH
from tests.week3.agent.cases_constraint import (
    BYTE,
    EOS,
    INTEGER,
    NULL,
    PAIRS,
    SOON,
    STRING,
    TOKENS,
    accepts,
    an_object,
    compact,
    constraint_of,
    is_valid,
    mask_of,
    pairs,
    to_the_end,
    written,
)

SEEDS = st.integers(0, 2**32 - 1)
EACH_PAIR = pytest.mark.parametrize("name", [*PAIRS])


def allowed_tokens(constraint, state):
    return {TOKENS[i] for i in np.flatnonzero(mask_of(constraint, state)) if i not in EOS}


# What gets through


@requirement("AG-38")
@EACH_PAIR
def test_what_may_follow_leads_to_what_is_right(impl, name):
    """Along a text: each token that the truth does not allow there, but this does, is written to an end."""
    schema, value = PAIRS[name]
    ours, truth = constraint_of(impl, schema), constraint_of(TRUTH, schema)
    state, expected, before = ours.start(), truth.start(), b""
    for byte in [*compact(value), None]:
        more = mask_of(ours, state) & ~mask_of(truth, expected)
        assert not any(TOKENS[i] == b"" and i not in EOS for i in np.flatnonzero(more)), (
            "a token without bytes"
        )
        for token in set(np.flatnonzero(more).tolist()) - {*EOS}:
            text = to_the_end(ours, ours.advance(state, token), before + TOKENS[token])
            assert is_valid(schema, text), (
                f"{text!r} gets through: {TOKENS[token]!r} is allowed after {before!r}"
            )
        if byte is not None:
            state, expected = ours.advance(state, BYTE[byte]), truth.advance(expected, BYTE[byte])
            before += bytes([byte])


@requirement("AG-38")
@given(pair=pairs(), seed=SEEDS)
@example(pair=PAIRS["an object"], seed=1)
@example(pair=PAIRS["a list"], seed=3)
@example(pair=PAIRS["a string"], seed=5)
@example(pair=PAIRS["one of some"], seed=7)
def test_whatever_is_written_is_right(impl, pair, seed):
    schema, rng = pair[0], random.Random(seed)
    constraint = constraint_of(impl, schema)
    state, text = constraint.start(), b""
    for _ in range(rng.randrange(12)):
        mask = mask_of(constraint, state)
        likely = [BYTE[byte] for byte in SOON[:9] if mask[BYTE[byte]]]
        others = [i for i in np.flatnonzero(mask).tolist() if i not in EOS]
        if not others:
            break
        token = rng.choice(likely if likely and rng.random() < 0.4 else others)
        state, text = constraint.advance(state, token), text + TOKENS[token]
    text = to_the_end(constraint, state, text)
    assert is_valid(schema, text), f"{text!r} gets through"


AB = an_object(b=INTEGER, a=STRING)
WRONG = {  # what it is: a schema, and texts that it does not accept
    "whole numbers": (
        INTEGER,
        [b"01", b"-", b"+1", b"1.", b"1.5", b"00", b"--1", b"1e", b'"1"', b"-a", b"true", b""],
    ),
    "numbers": (
        {"type": "number"},
        [b".5", b"1.", b"-.5", b"00.5", b"1.2.3", b"NaN", b"-Infinity", b"1e+", b"0x1"],
    ),
    "words": (
        {"anyOf": [{"type": "boolean"}, NULL]},
        [b"True", b"tru", b"nul", b"truefalse", b"0", b'"true"', b"false,"],
    ),
    "strings": (
        STRING,
        [
            b'"',
            b'"a',
            b"a",
            b'"a"b"',
            b'"\n"',
            b'"\x1f"',
            rb'"\x"',
            rb'"\u12"',
            b'"\\"',
            b"'a'",
            rb'"\U0041"',
        ],
    ),
    "pairs": (
        STRING,
        [rb'"\ud800"', rb'"\udc00"', rb'"\uD83Da"', rb'"\ud83d\u0041"', rb'"\ude00\ud83d"'],
    ),
    "bytes": (STRING, [b'"\xff"', b'"\x80"', b'"\xc3"', b'"\xc3a"', b'"\xe2\x82"', b'"\xf0\x9f\x98"']),
    "characters that UTF-8 does not have": (
        STRING,
        [b'"\xc0\x80"', b'"\xe0\x80\x80"', b'"\xed\xa0\x80"', b'"\xf0\x80\x80\x80"', b'"\xf4\x90\x80\x80"'],
    ),
    "lists": (
        {"type": "array", "items": INTEGER},
        [b"[", b"[1", b"[1,]", b"[,1]", b"[1 2]", b'["1"]', b"[1]]", b"[[1]]", b"[1}", b"{}"],
    ),
    "properties": (
        AB,
        [
            b'{"b":1}',
            b"{}",
            b'{"b":1,"b":1,"a":""}',
            b'{"b":1,"a":"","c":1}',
            b'{"b":"","a":""}',
            b'{"B":1,"a":""}',
        ],
    ),
    "objects": (
        AB,
        [
            b'{"b":1,"a":""',
            b'{"b":1,"a":"",}',
            b'{b:1,"a":""}',
            b'{"b":1"a":""}',
            b'{"b"1,"a":""}',
            b'{"b":1,"a":""}}',
        ],
    ),
    "some": (
        {"enum": ["on", 12, None, [1]]},
        [b"on", b'"o"', b'"onn"', b"1", b"123", b"nul", b"[]", b"[1,1]", b'"off"', b'""'],
    ),
}


@requirement("AG-38")
@pytest.mark.parametrize("what", [*WRONG])
def test_what_is_wrong_does_not_get_through(impl, what):
    schema, texts = WRONG[what]
    constraint = constraint_of(impl, schema)
    for text in texts:
        assert not is_valid(schema, text), "a wrong text"
        assert not accepts(constraint, text), f"{text!r} gets through"


@requirement("AG-38")
def test_a_token_counts_with_all_its_bytes(impl):
    constraint = constraint_of(impl, an_object(a=INTEGER))
    found = allowed_tokens(constraint, written(constraint, b'{"a":'))
    assert {b"1", b"12", b"1}", b"-", b"0"} <= found, f"allowed: {found}"
    assert not {b'"', b'"}', b"}", b"true", b'{"a":', b""} & found, f"allowed: {found}"
    found = allowed_tokens(constraint, written(constraint, b'{"a":0'))
    assert b"}" in found and not {b"1", b"0", b"12", b"1}"} & found, f"allowed after 0: {found}"
    constraint = constraint_of(impl, STRING)
    found = allowed_tokens(constraint, written(constraint, b'"\xf0\x9f'))
    assert b"\x98\x80" in found and not {b'"', b"a", b"\xc3\xa9", b'"}'} & found, (
        f"allowed in a character: {found}"
    )


@requirement("AG-38")
def test_properties_come_in_the_order_of_the_schema(impl):
    constraint = constraint_of(impl, {**AB, "required": ["a", "b"]})
    assert accepts(constraint, b'{"b":1,"a":""}'), "b before a, as in properties"
    assert not accepts(constraint, b'{"a":"","b":1}'), "a before b, as in required, gets through"


# Ends and states


@requirement("AG-39")
@given(pair=pairs(), seed=SEEDS)
@example(pair=PAIRS["an object"], seed=2)
@example(pair=PAIRS["an integer"], seed=2)
@example(pair=PAIRS["a string"], seed=2)
@example(pair=PAIRS["a list of lists"], seed=2)
def test_an_end_is_allowed_exactly_at_the_end(impl, pair, seed):
    schema, value = pair
    constraint = constraint_of(impl, schema)
    state, before = constraint.start(), b""
    for token in [*in_tokens(compact(value), random.Random(seed)), None]:
        mask, complete = mask_of(constraint, state), constraint.is_complete(state)
        assert_equal(complete, is_valid(schema, before), f"is_complete after {before!r}")
        assert_equal(mask[EOS].tolist(), [complete] * len(EOS), f"each eos after {before!r}")
        assert mask.any(), f"nothing is allowed after {before!r}"
        if token is not None:
            state, before = constraint.advance(state, token), before + TOKENS[token]


def in_tokens(text, rng):
    """Token ids that are this text, often longer ones than bytes."""
    found = []
    while text:
        fitting = [i for i, token in enumerate(TOKENS) if token and text.startswith(token) and i not in EOS]
        found.append(max(rng.sample(fitting, min(2, len(fitting))), key=lambda i: len(TOKENS[i])))
        text = text[len(TOKENS[found[-1]]) :]
    return found


@requirement("AG-39")
def test_ends_of_the_examples(impl):
    constraint = constraint_of(impl, INTEGER)
    for text, complete in ((b"", False), (b"-", False), (b"-1", True), (b"0", True), (b"-10", True)):
        mask = mask_of(constraint, written(constraint, text))
        assert_equal(mask[EOS].tolist(), [complete] * 3, f"each eos after {text!r}")
    assert mask[[BYTE[byte] for byte in b"0123456789"]].all(), "digits after -10"
    constraint = constraint_of(impl, {"enum": [12]})
    mask = mask_of(constraint, written(constraint, b"12"))
    assert_equal(np.flatnonzero(mask).tolist(), sorted(EOS), "tokens after 12")


@requirement("AG-39")
@pytest.mark.parametrize("eos", EOS)
def test_after_an_eos_the_output_has_ended(impl, eos):
    constraint = constraint_of(impl, an_object(a=INTEGER))
    before = written(constraint, b'{"a":1}')
    ended = constraint.advance(before, eos)
    assert_equal(constraint.is_complete(ended), True, "is_complete after an eos")
    for function, *others in (
        (constraint.allowed,),
        (constraint.advance, BYTE[32]),
        (constraint.advance, eos),
    ):
        with refused(InvalidArgument):
            function(ended, *others)
    assert mask_of(constraint, before)[eos], "eos before it was taken"


@requirement("AG-39")
def test_a_state_stays_what_it_was(impl):
    schema = an_object(a=STRING, b=INTEGER)
    constraint = constraint_of(impl, schema)
    state = written(constraint, b'{"a":"')
    mask, again = mask_of(constraint, state), mask_of(constraint, state)
    assert (mask == again).all(), "the same mask each time"
    branches = [b'","b":', b'x\\n"}'[:4], b"\xf0\x9f\x98", b'12",']
    reached = []
    for branch in branches:
        reached.append(state)
        for byte in branch:
            reached[-1] = constraint.advance(reached[-1], BYTE[byte])
        assert (mask_of(constraint, state) == mask).all(), f"the mask before {branch!r} was written"
    for branch, end in zip(branches, reached, strict=True):
        alone = constraint_of(impl, schema)
        expected = mask_of(alone, written(alone, b'{"a":"' + branch))
        assert (mask_of(constraint, end) == expected).all(), f"the mask after {branch!r} and other branches"


# The canonical form


@requirement("AG-40")
@given(pair=pairs(), seed=SEEDS)
@example(pair=PAIRS["an integer"], seed=4)
@example(pair=PAIRS["15 digits"], seed=4)
@example(pair=PAIRS["a number"], seed=4)
@example(pair=PAIRS["a whole number"], seed=4)
@example(pair=PAIRS["a string"], seed=4)
@example(pair=PAIRS["a list of lists"], seed=4)
@example(pair=PAIRS["strange names"], seed=4)
@example(pair=PAIRS["one of three"], seed=4)
@example(pair=PAIRS["one of some"], seed=4)
@example(pair=PAIRS["notes"], seed=4)
@example(pair=PAIRS["nothing inside"], seed=4)
def test_the_canonical_form_is_allowed_in_any_tokens(impl, pair, seed):
    schema, value = pair
    constraint, text = constraint_of(impl, schema), compact(value)
    state, before = constraint.start(), b""
    for token in in_tokens(text, random.Random(seed)):
        mask = mask_of(constraint, state)
        missing = [
            each
            for i, each in enumerate(TOKENS)
            if each and i not in EOS and not mask[i] and text.startswith(before + each)
        ]
        assert not missing, f"after {before!r} expected {missing} to be allowed, for {text!r}"
        state, before = constraint.advance(state, token), before + TOKENS[token]
    assert constraint.is_complete(state), f"is_complete after {text!r}"


EXACT = [  # a schema, and all that it accepts
    ({"type": "boolean"}, [True, False]),
    ({"enum": ["on", "off"]}, ["on", "off"]),
    ({"enum": [12]}, [12]),
    ({"enum": ['a"b\\c\n\x01/', "", "0"]}, ['a"b\\c\n\x01/', "", "0"]),
    ({"enum": [1, 12, -1, True, None, "null"], "default": 12}, [1, 12, -1, True, None, "null"]),
]


@requirement("AG-40")
@pytest.mark.parametrize(("schema", "values"), EXACT, ids=range(len(EXACT)))
def test_of_a_few_values_nothing_else_is_allowed(impl, schema, values):
    constraint, texts = constraint_of(impl, schema), [compact(value) for value in values]
    states = {b"": constraint.start()}
    for before in sorted({text[:i] for text in texts for i in range(len(text) + 1)}, key=len):
        state = states.get(before) or written(constraint, before)
        found = allowed_tokens(constraint, state)
        expected = {each for each in TOKENS if each and any(text.startswith(before + each) for text in texts)}
        assert_equal(sorted(found), sorted(expected), f"tokens allowed after {before!r}")


@requirement("AG-40")
@pytest.mark.parametrize("space", [b" ", b" \t\r\n"])
def test_white_space_has_an_end(impl, space):
    constraint = constraint_of(impl, an_object(a={"type": "array", "items": INTEGER}, b=STRING))
    text = b'{"a":[1,2],"b":""}'
    for place in (0, 1, 4, 5, 6, 8, 9, 10, 14, 17, 18):
        state, count = written(constraint, text[:place]), 0
        while mask_of(constraint, state)[BYTE[space[count % len(space)]]]:
            state, count = constraint.advance(state, BYTE[space[count % len(space)]]), count + 1
            assert count <= 20, f"after {text[:place]!r}: expected at most 20 bytes of white space in a row"


# Refusals

LIST = {"type": "array", "items": INTEGER}
BEYOND = [  # a schema beyond AG-38, one of AG-38, a text that only this one accepts
    ({**STRING, "minLength": 2}, STRING, b'"a"'),
    ({**STRING, "pattern": "^a"}, STRING, b'"b"'),
    ({**INTEGER, "minimum": 5}, INTEGER, b"4"),
    ({**LIST, "maxItems": 1}, LIST, b"[1,2]"),
    ({**LIST, "uniqueItems": True}, LIST, b"[1,1]"),
    ({**LIST, "prefixItems": [STRING]}, LIST, b"[1]"),
    ({"type": ["string", "null"]}, INTEGER, b"1"),
    ({"enum": [1, "x"], "type": "integer"}, {"enum": [1, "x"]}, b'"x"'),
    ({"anyOf": [INTEGER, STRING], "enum": [1]}, {"anyOf": [INTEGER, STRING]}, b'"x"'),
    ({"oneOf": [INTEGER, {"enum": [1, "x"]}]}, {"anyOf": [INTEGER, {"enum": [1, "x"]}]}, b"1"),
    ({"allOf": [INTEGER, {"enum": [1, "x"]}]}, {"anyOf": [INTEGER, {"enum": [1, "x"]}]}, b'"x"'),
    ({"const": 1}, {"enum": [1, 2]}, b"2"),
    ({"$ref": "#/$defs/x", "$defs": {"x": NULL}}, INTEGER, b"1"),
    (an_object(a={**INTEGER, "maximum": 0}), an_object(a=INTEGER), b'{"a":1}'),
    ({**AB, "maxProperties": 2, "not": {"properties": {"b": {"const": 1}}}}, AB, b'{"b":1,"a":""}'),
]


@requirement("AG-42")
def test_a_schema_that_cannot_be_kept_to_is_refused(impl):
    for beyond, within, text in BEYOND:
        assert accepts(constraint_of(impl, within), text), f"{text!r} is accepted by {within}"
        try:
            constraint = constraint_of(impl, beyond)
        except NotSupported:
            continue
        assert not accepts(constraint, text), f"{text!r} gets through, though the schema is {beyond}"


@requirement("AG-42")
def test_a_constraint_refuses(impl):
    valid = {"schema": INTEGER, "vocabulary": TOKENS, "eos": [0]}
    constraint = impl.JsonConstraint(**valid)
    wrong = [("eos", {"eos": each}) for each in ([], [len(TOKENS)], [-1], [0, len(TOKENS)])]
    check_refusals(impl.JsonConstraint, valid, wrong)
    state = constraint.advance(constraint.start(), BYTE[ord("-")])
    assert not constraint.is_complete(state), "is_complete after -"
    no_digits = [BYTE[byte] for byte in range(256) if byte not in b"0123456789"]
    for token in (*no_digits, 0, -1, len(TOKENS)):
        with refused(InvalidArgument):
            constraint.advance(state, token)
    assert constraint.is_complete(constraint.advance(state, BYTE[ord("7")])), "is_complete after -7"
