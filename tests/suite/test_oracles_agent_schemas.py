"""The ground truth against the outside world: jsonschema-rs and llguidance.

The reference rests on jsonschema and on one regular expression. jsonschema-rs shares no code with the first,
llguidance none with the second.
"""

import json

import numpy as np
import pytest
from hypothesis import given, settings

from grading.edited import reference
from tests.suite.outside import outside
from tests.week3.agent.cases_arguments import (
    ALL,
    COMBINED,
    DEFINITIONS,
    EQUALS,
    KEYWORDS,
    TYPES,
    objects,
    of_all,
    schemas,
)
from tests.week3.agent.cases_constraint import BYTE, EOS, PAIRS, TOKENS, compact, constraint_of, pairs

TRUTH = reference("agent")
OFTEN = settings(max_examples=300, deadline=None, database=None)

# Schemas --------------------------------------------------------------------------------------------------


def pointer(path):
    return "".join("/" + str(each).replace("~", "~0").replace("/", "~1") for each in path)


def assert_same_problems(schema, text):
    """But that for "items": false they tell each item, and the text of this topic the array."""
    theirs = outside("jsonschema_rs").Draft202012Validator(schema).iter_errors(json.loads(text))
    expected = set()
    for error in theirs:
        forbidden = error.schema_path[-1] == "items"
        path = error.instance_path[:-1] if forbidden else error.instance_path
        expected.add((pointer(path), error.schema_path[-1]))
    assert {(each.path, each.rule) for each in TRUTH.validate_arguments(schema, text)} == expected


@pytest.mark.parametrize("schema", [*TYPES, *EQUALS, *KEYWORDS, *COMBINED], ids=json.dumps)
def test_each_keyword_is_that_of_jsonschema_rs(schema):
    assert_same_problems(of_all(schema, **{"$defs": DEFINITIONS}), ALL)


@OFTEN
@given(schema=schemas(), arguments=objects())
def test_drawn_schemas_are_those_of_jsonschema_rs(schema, arguments):
    assert_same_problems(schema, json.dumps(arguments))


# Constraints ----------------------------------------------------------------------------------------------


class Vocabulary:
    """What llguidance asks of a tokenizer."""

    tokens = [f"<|{i}|>".encode() if i in EOS else token for i, token in enumerate(TOKENS)]
    special_token_ids = EOS
    eos_token_id, bos_token_id = EOS[0], None

    def __call__(self, text):
        return [BYTE[byte] for byte in text]


def matcher(schema):
    llguidance = outside("llguidance")
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Vocabulary()))
    compacted = {"whitespace_flexible": False}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=compacted)
    return llguidance.LLMatcher(tokenizer, grammar)


def their_mask(theirs):
    """(V,) bool"""
    bits = outside("llguidance.numpy").allocate_token_bitmask(1, len(TOKENS))
    outside("llguidance.numpy").fill_next_token_bitmask(theirs, bits)
    return np.unpackbits(bits.view(np.uint8), bitorder="little")[: len(TOKENS)].astype(bool)


def along(schema, value):
    """What was written so far, and the bytes that we and that they allow next, without 7f: there they want an
    escape. Of longer tokens llguidance takes those that it would have made itself."""
    ours, theirs, text = constraint_of(TRUTH, schema), matcher(schema), compact(value).partition(b"\x7f")[0]
    state = ours.start()
    for i in range(len(text) + 1):
        masks = ours.allowed(state), their_mask(theirs)
        assert ours.is_complete(state) == theirs.is_accepting()
        yield (
            text[:i],
            *({byte for byte in range(256) if mask[BYTE[byte]] and byte != 0x7F} for mask in masks),
        )
        if i < len(text):
            state = ours.advance(state, BYTE[text[i]])
            assert theirs.consume_token(BYTE[text[i]])


@pytest.mark.parametrize("name", [*PAIRS])
def test_masks_are_those_of_llguidance(name):
    """It has exponents in numbers and capital letters in escapes, too, which here are free."""
    for text, ours, theirs in along(*PAIRS[name]):
        escape = text.endswith((b"\\u00", b"\\u000", b"\\u001"))
        assert theirs - ours <= {*(b"7ABCDEF" if escape else b"eE")}
        assert ours <= theirs


@OFTEN
@given(pair=pairs())
def test_drawn_masks_are_within_those_of_llguidance(pair):
    for _, ours, theirs in along(*pair):
        assert ours <= theirs
