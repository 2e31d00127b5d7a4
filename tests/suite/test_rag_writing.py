"""The model of `week3 rag ask`: it answers in pieces, and an answer that goes in circles ends."""

import pytest

from solution.rag.writing import CIRCLE, Writer
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
    ["Grüße. " + LETTERS, LETTERS * 2 + "!", "no, no, no!", (LETTERS[: CIRCLE - 1] + "{}") * 3],
    ids=["news", "twice", "short", "a token less"],
)
def test_what_is_no_circle_is_said_to_its_end(answer, text):
    text = text.format(*range(3))
    pieces = answer(text)
    assert "".join(pieces) == text
    assert len(pieces) == len(text)


@pytest.mark.parametrize("period", [1, 3, CIRCLE, 26])
def test_an_answer_that_goes_in_circles_ends(answer, period):
    """Where the first `CIRCLE` tokens have come a third time."""
    circle = LETTERS[:period] * 100
    assert "".join(answer("First. " + circle)) == "First. " + circle[: 2 * period + CIRCLE]


def test_so_does_one_that_counts(answer):
    lines = [f"{number}. A function. " for number in range(30)]
    assert "".join(answer("".join(lines))) == "".join(lines[:2]) + "2. A func"
