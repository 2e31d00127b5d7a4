"""The model of `week3 rag ask`: it answers in pieces, and an answer that goes in circles ends."""

import pytest

from solution.rag.packing import check_packing
from solution.rag.writing import CIRCLE, TEMPLATE, Writer
from tests.suite.test_agent_writing import END, PLAIN, Recites
from tests.suite.test_tokenizer import made

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def answer():
    """What a model that wants to say this is let say, in pieces. A letter is a token."""

    def say(text):
        tokenizer = made(special=["<|end|>"], template=PLAIN, config={"eos_token_id": END})
        return list(Writer(Recites(tokenizer, [text], 10_000), tokenizer, 400).generate("Why?"))

    return say


@pytest.mark.parametrize(
    "text",
    ["Grüße. " + LETTERS, LETTERS + LETTERS[: CIRCLE - 1] + "!" + LETTERS[CIRCLE - 1 :], "no " * 5],
    ids=["news", "a token less than a circle", "short"],
)
def test_what_is_no_circle_is_said_to_its_end(answer, text):
    pieces = answer(text)
    assert "".join(pieces) == text
    assert len(pieces) == len(text)


@pytest.mark.parametrize("period", [1, 3, CIRCLE, 26])
def test_an_answer_that_goes_in_circles_ends(answer, period):
    """Where the first `CIRCLE` tokens have come a second time."""
    circle = LETTERS[:period] * 100
    assert "".join(answer("First. " + circle)) == "First. " + circle[: period + CIRCLE]


def test_its_template_can_be_packed():
    check_packing(1000, 10, "rank", TEMPLATE, ())
