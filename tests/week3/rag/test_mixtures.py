"""The probability of an answer that several documents may have led to."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, check_refusals
from grading.tolerance import UNITS, unit_in_the_last_place
from tests.week3.rag.cases_numbers import TRUTH, assert_number

SEQUENCE, TOKEN = "rag_sequence_log_prob", "rag_token_log_prob"
ALL = np.ones(2, bool)
SCORES = np.array([0, 1], np.float32)
TOKENS = np.log(np.array([[0.5, 0.1], [0.2, 0.9]])).astype(np.float32)


def answer(seed, documents, length, scale):
    """(doc_scores, token_log_probs, mask); what is not there is anything."""
    rng = np.random.default_rng(seed)
    scores = (scale * rng.standard_normal(documents)).astype(np.float32)
    tokens = np.log(rng.uniform(0.01, 1, (documents, length))).astype(np.float32)
    impossible = rng.random((documents, length)) < 0.1
    impossible[0] = False  # one document allows all of it
    tokens[impossible] = -np.inf
    mask = rng.random(length) < 0.7
    tokens[:, ~mask] = rng.choice(np.float32([np.nan, -np.inf, 5.0]), (documents, int((~mask).sum())))
    return scores, tokens, mask


def check(impl, name, scores, tokens, mask):
    """Where the result is near 0, larger numbers have been subtracted: scores, and logarithms of weights."""
    __tracebackhide__ = True
    expected = getattr(TRUTH, name)(scores, tokens, mask)
    largest = np.abs(scores).max() + np.log(len(scores))
    rounding = UNITS * unit_in_the_last_place(largest, scores.dtype)
    expected = replace(expected, allowed=expected.allowed + rounding)
    assert_number(getattr(impl, name)(scores, tokens, mask), expected, name)


CASES = given(
    seed=st.integers(0, 999),
    documents=st.integers(1, 4),
    length=st.sampled_from([1, 3, 6]),
    scale=st.sampled_from([0.5, 3.0]),
)


@requirement("RAG-53")
@CASES
@example(seed=3, documents=3, length=6, scale=3.0)
@example(seed=4, documents=3, length=6, scale=0.5)
def test_one_document_for_all_of_the_answer(impl, seed, documents, length, scale):
    check(impl, SEQUENCE, *answer(seed, documents, length, scale))


@requirement("RAG-54")
@CASES
@example(seed=3, documents=3, length=6, scale=3.0)
@example(seed=4, documents=3, length=6, scale=0.5)
def test_each_token_of_any_document(impl, seed, documents, length, scale):
    check(impl, TOKEN, *answer(seed, documents, length, scale))


@requirement("RAG-53")
def test_a_sequence_as_in_the_text(impl):
    check(impl, SEQUENCE, SCORES, TOKENS, ALL)


@requirement("RAG-54")
def test_tokens_as_in_the_text(impl):
    check(impl, TOKEN, SCORES, TOKENS, ALL)


LONG = np.full((2, 1000), np.log(0.1), np.float32)
UNLIKELY = np.float32([[-800], [-801]])
APART, OPPOSED = np.float32([0, 64]), np.float32([[-0.5, -1], [-np.inf, -1]])
FAR_APART, IN_EIGHTHS = (
    np.float32([-2000, 3000]),
    np.float32([[-0.5, -2.25], [-1.625, -0.125]]),
)  # sums are exact


@requirement("RAG-53")
def test_a_long_answer_does_not_vanish(impl):
    check(impl, SEQUENCE, SCORES, LONG, np.ones(1000, bool))
    check(impl, SEQUENCE, FAR_APART, IN_EIGHTHS, ALL)
    check(impl, SEQUENCE, APART, OPPOSED, ALL)


@requirement("RAG-54")
def test_unlikely_tokens_do_not_vanish(impl):
    check(impl, TOKEN, SCORES, UNLIKELY, np.ones(1, bool))
    check(impl, TOKEN, SCORES, LONG, np.ones(1000, bool))
    check(impl, TOKEN, FAR_APART, IN_EIGHTHS, ALL)
    check(impl, TOKEN, APART, OPPOSED, ALL)


NOTHING = [
    (np.zeros((2, 0), np.float32), np.zeros(0, bool)),
    (np.full((2, 3), np.nan, np.float32), np.zeros(3, bool)),
]
NEVER = np.float32([[-np.inf, -1], [-np.inf, -2]])


@requirement("RAG-53")
def test_a_sequence_of_nothing_and_one_that_cannot_be(impl):
    for tokens, mask in NOTHING:
        check(impl, SEQUENCE, SCORES, tokens, mask)
    assert_equal(impl.rag_sequence_log_prob(SCORES, NEVER, ALL), -np.inf, "log-probability of what cannot be")


@requirement("RAG-54")
def test_no_tokens_and_one_that_cannot_be(impl):
    for tokens, mask in NOTHING:
        check(impl, TOKEN, SCORES, tokens, mask)
    assert_equal(impl.rag_token_log_prob(SCORES, NEVER, ALL), -np.inf, "log-probability of what cannot be")


@requirement("RAG-60")
@pytest.mark.parametrize("name", [SEQUENCE, TOKEN])
def test_mixtures_refuse(impl, name):
    valid = {"doc_scores": SCORES, "token_log_probs": TOKENS, "mask": ALL}
    check(impl, name, *valid.values())
    check_refusals(
        getattr(impl, name),
        valid,
        [
            ("doc_scores/token_log_probs", {"doc_scores": SCORES[:1]}),
            ("doc_scores/token_log_probs", {"token_log_probs": TOKENS[:1]}),
            ("token_log_probs/mask", {"token_log_probs": TOKENS[:, :1]}),
            ("token_log_probs", {"token_log_probs": TOKENS[0]}),
            ("token_log_probs/mask", {"mask": ALL[:1]}),
            ("mask", {"mask": ALL[None]}),
            ("doc_scores", {"doc_scores": SCORES[None]}),
            ("doc_scores/token_log_probs", {"doc_scores": SCORES[:0], "token_log_probs": TOKENS[:0]}),
        ],
    )
