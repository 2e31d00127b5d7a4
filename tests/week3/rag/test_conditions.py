"""`matches`: which metadata meet a condition."""

import numpy as np
import pytest
from hypothesis import example, given

from grading.edited import reference
from grading.marks import requirement
from grading.matching import assert_equal, check_refusals
from tests.week3.rag.cases import SEEDS

TRUTH = reference("rag")


def check(impl, metadata, where, expected):
    assert_equal(TRUTH.matches(metadata, where), expected, "the design of this test")
    assert_equal(impl.matches(metadata, where), expected, f"whether {metadata} meet {where}")


# RAG-13

PAPER = {"lang": "en", "year": 2024, "score": 0.5, "public": True, "owner": None, "groups": ["staff", 1]} | {
    "dc.date": 7
}


EQUAL = [
    ({}, True),
    ({"lang": "en"}, True),
    ({"lang": "e"}, False),
    ({"lang": "EN"}, False),
    ({"lang": ["en", "de"]}, False),
    ({"dc.date": 7}, True),
    ({"dc.date": 8}, False),
    ({"lang": "en", "year": 2024}, True),
    ({"lang": "en", "year": 2023}, False),
    ({"lang": "de", "year": 2024}, False),
    ({"year": 2024.0}, True),
    ({"year": "2024"}, False),
    ({"score": 0.5}, True),
    ({"owner": None}, True),
    ({"owner": ""}, False),
    ({"nobody": None}, False),
    ({"nobody": False}, False),
    ({"groups": ["staff", 1]}, True),
    ({"groups": ["staff", 1.0]}, True),
    ({"groups": [1, "staff"]}, False),
    ({"groups": ["staff"]}, False),
    ({"groups": ["staff", 1, 2]}, False),
    ({"groups": "staff"}, False),
    ({"groups": []}, False),
]
BOOLS = [
    (True, True, True),
    (False, False, True),
    (True, False, False),
    (True, 1, False),
    (1, True, False),
    (0, False, False),
    (False, 0.0, False),
    (False, None, False),
    (None, 0, False),
    ("True", True, False),
    ([True], [1], False),
    ([0], [False], False),
    ([True, None], [True, None], True),
    ([], [], True),
    (-0.0, 0, True),
    (2**60, 2**60 + 1, False),
    (2**53 + 1, float(2**53), False),
    ("é", "e\u0301", False),
]


@requirement("RAG-13")
def test_every_field_that_is_named_is_equal(impl):
    for where, expected in EQUAL:
        check(impl, PAPER, where, expected)


@requirement("RAG-13")
def test_a_bool_is_no_number(impl):
    for value, wanted, expected in BOOLS:
        check(impl, {"x": value}, {"x": wanted}, expected)


# RAG-14


OPERATORS = {
    "equal": [
        (5, {"$eq": 5}, True),
        (5, {"$eq": 5.0}, True),
        (1, {"$eq": True}, False),
        (None, {"$eq": None}, True),
        (["a"], {"$eq": "a"}, False),
        (["a"], {"$eq": ["a"]}, True),
        (5, {"$ne": 5}, False),
        (5, {"$ne": 6}, True),
        (1, {"$ne": True}, True),
        (None, {"$ne": 6}, True),
        (["a"], {"$ne": "a"}, True),
    ],
    "order": [
        (5, {"$lt": 5}, False),
        (5, {"$lt": 5.5}, True),
        (5, {"$lte": 5}, True),
        (5.5, {"$lte": 5}, False),
        (5, {"$gt": 5}, False),
        (5.5, {"$gt": 5}, True),
        (5, {"$gte": 5.0}, True),
        (4, {"$gte": 5}, False),
        (10, {"$gt": 9}, True),
        ("10", {"$gt": "9"}, False),
        ("B", {"$lt": "a"}, True),
        ("a", {"$lte": "a"}, True),
        ("b", {"$gte": "ab"}, True),
        ("5", {"$gt": 4}, False),
        (5, {"$lt": "6"}, False),
        (None, {"$lt": 1}, False),
        (None, {"$lte": None}, False),
        (True, {"$gt": 0}, False),
        (False, {"$lte": 0}, False),
        (0, {"$lt": True}, False),
        (True, {"$gte": True}, False),
        ([1], {"$lt": [2]}, False),
        ([1], {"$gte": 0}, False),
    ],
    "in": [
        ("b", {"$in": ["a", "b"]}, True),
        ("c", {"$in": ["a", "b"]}, False),
        ("b", {"$in": ["abc"]}, False),
        (1, {"$in": [True, "1"]}, False),
        (1, {"$in": [2, 1.0]}, True),
        (None, {"$in": [None]}, True),
        ("a", {"$in": []}, False),
        (["a"], {"$in": ["a", "b"]}, False),
        (["a"], {"$in": [["a"]]}, True),
        ("b", {"$nin": ["a", "b"]}, False),
        ("c", {"$nin": ["a", "b"]}, True),
        (True, {"$nin": [1, 0]}, True),
        ("a", {"$nin": []}, True),
        (["a"], {"$nin": ["a"]}, True),
    ],
    "contains": [
        (["a", "b"], {"$contains": "b"}, True),
        (["a", "b"], {"$contains": "c"}, False),
        (["abc"], {"$contains": "b"}, False),
        ("staffroom", {"$contains": "staff"}, False),
        ([1, 2], {"$contains": 2.0}, True),
        ([1], {"$contains": True}, False),
        ([None], {"$contains": None}, True),
        ([], {"$contains": None}, False),
        (["a", "b"], {"$contains": ["a"]}, False),
        (5, {"$contains": 5}, False),
    ],
    "several": [
        (None, {}, True),
        (2024, {"$gte": 2020, "$lt": 2024}, False),
        (2022, {"$gte": 2020, "$lt": 2024}, True),
        (2019, {"$gte": 2020, "$lt": 2024}, False),
        (5, {"$ne": 4, "$in": [5, 6], "$gt": 5}, False),
    ],
}
MISSING = [
    {},
    {"$eq": 1},
    {"$eq": None},
    {"$ne": 1},
    {"$ne": None},
    {"$lt": 1},
    {"$gte": ""},
    {"$in": [1, None]},
    {"$nin": [1]},
    {"$nin": []},
    {"$contains": None},
    {"$ne": 1, "$nin": [2]},
]


@requirement("RAG-14")
@pytest.mark.parametrize("kind", OPERATORS)
def test_operators(impl, kind):
    for value, operators, expected in OPERATORS[kind]:
        check(impl, {"x": value, "y": 0}, {"x": operators}, expected)


@requirement("RAG-14")
def test_of_a_field_that_is_not_there_nothing_holds(impl):
    for operators in MISSING:
        check(impl, {"y": 1}, {"x": operators}, False)


# RAG-15


AND_OR = [
    ({"$and": []}, True),
    ({"$or": []}, False),
    ({"lang": "en", "$or": []}, False),
    ({"lang": "de", "$and": []}, False),
    ({"$and": [{"lang": "en"}, {"year": 2024}]}, True),
    ({"$and": [{"lang": "en"}, {"year": 2023}]}, False),
    ({"$or": [{"lang": "de"}, {"year": 2024}]}, True),
    ({"$or": [{"lang": "de"}, {"year": 2023}]}, False),
    ({"$or": [{"lang": "en"}, {"year": 2024}]}, True),
    ({"$or": [{}]}, True),
    ({"$or": [{"year": 2024}, {"year": {"$lt": 2000}}], "lang": "en"}, True),
    ({"$or": [{"year": 2024}, {"year": {"$lt": 2000}}], "lang": "de"}, False),
    ({"$or": [{"year": 2023}, {"year": {"$lt": 2000}}], "lang": "en"}, False),
    ({"$and": [{"lang": "en"}], "$or": [{"lang": "de"}]}, False),
    ({"$and": [{"lang": "de"}], "$or": [{"lang": "en"}]}, False),
    ({"$or": [{"lang": "de", "year": 2024}, {"lang": "en", "year": 2023}]}, False),
]
NOT = [
    ({"$not": {}}, False),
    ({"$not": {"lang": "en"}}, False),
    ({"$not": {"lang": "de"}}, True),
    ({"$not": {"lang": "en", "year": 2023}}, True),
    ({"$not": {"secret": True}}, True),
    ({"$not": {"secret": {"$ne": True}}}, True),
    ({"$not": {"year": {"$gte": 2020, "$lt": 2024}}}, True),
    ({"$not": {"lang": "de"}, "year": 2023}, False),
    ({"$not": {"$not": {"secret": True}}}, False),
    ({"$not": {"$or": [{"lang": "de"}, {"$and": [{"year": 2024}, {"secret": True}]}]}}, True),
    ({"$and": [{"$or": [{"lang": "de"}, {"lang": "en"}]}, {"$not": {"year": 2024}}]}, False),
]


@requirement("RAG-15")
@pytest.mark.parametrize("conditions", [AND_OR, NOT], ids=["$and $or", "$not"])
def test_and_or_not(impl, conditions):
    for where, expected in conditions:
        check(impl, {"lang": "en", "year": 2024}, where, expected)


VALUES = [None, True, False, 0, 1, 1.0, 2, "", "1", "a", ["a"], [1, True], []]
COMPARED = [0, 1, 1.5, "a", ""]


def metadata_of(rng):
    return {name: VALUES[rng.integers(len(VALUES))] for name in "xyz" if rng.random() < 0.7}


def condition(rng, depth):
    found = {}
    for _ in range(rng.integers(0, 3)):
        kind = rng.integers(0, 6 if depth else 3)
        if kind < 3:
            found[rng.choice(list("xyz")).item()] = operators(rng) if kind else VALUES[rng.integers(13)]
        elif kind < 5:
            found[("$and", "$or")[kind - 3]] = [condition(rng, depth - 1) for _ in range(rng.integers(0, 3))]
        else:
            found["$not"] = condition(rng, depth - 1)
    return found


def operators(rng):
    values = [VALUES[i] for i in rng.integers(0, len(VALUES), 3)]
    number = COMPARED[rng.integers(len(COMPARED))]
    operands = dict.fromkeys(["$lt", "$lte", "$gt", "$gte"], number) | dict.fromkeys(["$in", "$nin"], values)
    operands |= dict.fromkeys(["$eq", "$ne", "$contains"], values[0])
    return {name: operands[name] for name in rng.permutation(list(operands))[: rng.integers(1, 3)].tolist()}


@requirement("RAG-15")
@given(seed=SEEDS)
@example(seed=1)
def test_conditions_within_conditions(impl, seed):
    rng = np.random.default_rng(seed)
    for _ in range(6):
        metadata, where = metadata_of(rng), condition(rng, 2)
        check(impl, metadata, where, TRUTH.matches(metadata, where))


# RAG-57

AROUND = {
    "alone": lambda bad: bad,
    "$not": lambda bad: {"$not": bad},
    "$or": lambda bad: {"$or": [{"$and": [{}]}, bad]},
    "$and": lambda bad: {"z": 1, "$and": [{"z": 2}, bad]},
}


@requirement("RAG-57")
@pytest.mark.parametrize("around", AROUND)
def test_conditions_that_mean_nothing_are_refused(impl, around):
    """Whatever the metadata, and also where the answer is known before."""
    wrong = [
        {"x": {"$gtt": 0}},
        {"x": {"$gt": 2, "$regex": "a"}},
        {"x": {"$and": []}},
        {"x": {"$or": [{}]}},
        {"x": {"$not": {"$eq": 1}}},
        {"x": {"y": 1}},
        {"x": {"$eq": 1, "y": 1}},
        {"$eq": 1},
        {"$in": [1]},
        {"$nor": []},
        {"$": 1},
        {"x": {"$in": "abc"}},
        {"x": {"$in": 1}},
        {"x": {"$nin": None}},
        {"x": {"$nin": {"a": 1}}},
        {"$and": {"x": 1}},
        {"$and": None},
        {"$or": "x"},
        {"$or": [{"x": 1}, "x"]},
        {"$and": [{"x": 1}, None]},
        {"$and": [["x", 1]]},
        {"$not": [{"x": 1}]},
        {"$not": None},
        {"$not": "x"},
    ]
    for metadata in ({}, {"x": 1, "y": ["a"]}):
        valid = {"metadata": metadata, "where": AROUND[around]({"x": {"$gt": 0}})}
        assert_equal(impl.matches(**valid), TRUTH.matches(**valid), "whether they meet it")
        check_refusals(impl.matches, valid, [("where", {"where": AROUND[around](each)}) for each in wrong])
