"""The same parser while the text is still coming: the same in the end, and nothing later than it must be."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, refused
from spec import InvalidArgument
from spec.agent import ToolCall
from tests.week3.agent.cases import (
    ADD,
    CODE,
    DOUBLE,
    PAIR,
    SEMICOLON,
    TAG,
    TEXTS,
    TRUTH,
    assert_calls,
    block,
    shown,
    texts,
)


def streamed(module, format, pieces):
    """What comes out of a parser that is fed with these pieces, content that was cut joined again."""
    parser = module.StreamingToolParser(format)
    found = [each for piece in pieces for each in parser.feed(piece)] + parser.close()
    return joined(found)


def joined(found):
    together = []
    for each in found:
        if isinstance(each, str) and together and isinstance(together[-1], str):
            together[-1] += each
        elif each != "":
            together.append(each)
    return together


def assert_found(actual, expected, format):
    """The same in the same order, but for what may be spelled in another way."""
    plain = [[shown(each, format) for each in found] for found in (actual, expected)]
    assert_equal(*plain, "what was returned")
    calls = [[each for each in found if isinstance(each, ToolCall)] for found in (actual, expected)]
    assert_calls(*calls)


@requirement("AG-07")
@pytest.mark.parametrize("format", [*TEXTS])
@pytest.mark.parametrize("size", [1, 7])
def test_in_pieces_of_one_size(impl, format, size):
    for text in TEXTS[format]:
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        assert_found(streamed(impl, format, pieces), streamed(TRUTH, format, [text]), format)


SHORT = {
    "hermes": f"a<{block()}b<tool_",
    "react": 'a\nAction: f\nAction Input: {"a": 1}\nso\nObservation: 4',
    "llama3": f'a<{TAG}{ADD};{TAG}{{"a": ";"; {{}} <|',
    "openai": ' {"content": "a", "tool_calls": [{"function": {"name": "f", "arguments": ""}}, 3]}',
}


@requirement("AG-07")
@pytest.mark.parametrize("format", [*SHORT])
def test_cut_at_each_place(impl, format):
    text = SHORT[format]
    expected = streamed(TRUTH, format, [text])
    for i in range(len(text) + 1):
        assert_found(streamed(impl, format, [text[:i], "", text[i:]]), expected, format)


@requirement("AG-07")
@given(data=st.data(), format=st.sampled_from([*TEXTS]))
def test_cut_anywhere(impl, data, format):
    text = data.draw(texts(format), "text")
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted), "places")
    pieces = [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]
    assert_found(streamed(impl, format, pieces), streamed(TRUTH, format, [text]), format)


@requirement("AG-07")
def test_a_brace_is_at_the_beginning_of_a_text_and_not_of_a_piece(impl):
    for pieces in (["x", ADD], ["x\n", " \n", ADD], ["<|python", "x", "", ADD]):
        found = streamed(impl, "llama3", pieces)
        assert_equal(found, ["".join(pieces)], f"what {pieces} are")


# When


def fed(module, pieces, format="hermes"):
    """What each piece brought, and the end."""
    parser = module.StreamingToolParser(format)
    return [joined(parser.feed(piece)) for piece in pieces] + [joined(parser.close())]


@requirement("AG-08")
def test_half_a_tag_is_kept_and_given_back(impl):
    found = fed(impl, ["a <tool", "box>", "<tool_call"])
    assert_equal(found, [["a "], ["<toolbox>"], [], ["<tool_call"]], "what each piece brought")
    found = fed(impl, ["a \n", " <tool", " \t"])
    assert_equal(found, [["a \n"], [" "], ["<tool \t"], []], "what each piece brought")
    found = fed(impl, ["<<", "<tool_", "call", "<"])
    assert_equal(found, [["<"], ["<"], [], ["<tool_call"], ["<"]], "what each piece brought")


GOOD = [block(), block(DOUBLE), block(CODE), "x", " ", "\n", "<", "<tool_", "call", "</tool_call>"]


@requirement("AG-08")
@given(parts=st.lists(st.sampled_from(GOOD), max_size=4), size=st.sampled_from([1, 2, 5, 20, 70]))
@example(parts=["x", block(), "<", block(CODE), "<tool_"], size=1)
@example(parts=["x", block(), "x"], size=20)
def test_each_feed_returns_what_is_certain(impl, parts, size):
    text = "".join(parts)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    for found, expected in zip(fed(impl, pieces), fed(TRUTH, pieces), strict=True):
        assert_found(found, expected, "hermes")


@requirement("AG-08")
def test_half_a_tag_of_llama_is_kept_and_given_back(impl):
    found = fed(impl, ["a <|py", "thon>", " \n", "<|python_tag"], "llama3")
    assert_equal(found, [["a "], ["<|python>"], [" \n"], [], ["<|python_tag"]], "what each piece brought")
    found = fed(impl, [" ", "<<|", "python_tag", "<"], "llama3")
    assert_equal(found, [[" "], ["<"], [], ["<|python_tag"], ["<"]], "what each piece brought")


OBJECTS = [ADD, DOUBLE, PAIR, SEMICOLON, f"{CODE};"]


@requirement("AG-08")
@given(
    before=st.sampled_from(["", " \n", TAG, f"x < <|python {{{TAG}", f"\n{TAG} "]),
    objects=st.lists(st.sampled_from(OBJECTS), max_size=3),
    between=st.sampled_from(["", "; ", "\n", f";;{TAG}"]),
    size=st.sampled_from([1, 2, 5, 20, 70]),
)
@example(before=f"x{TAG}", objects=[ADD, SEMICOLON], between="; ", size=1)
@example(before="\n", objects=[SEMICOLON, ADD], between="", size=20)
def test_each_feed_returns_the_objects_that_are_complete(impl, before, objects, between, size):
    text = before + between.join(objects)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    for found, expected in zip(fed(impl, pieces, "llama3"), fed(TRUTH, pieces, "llama3"), strict=True):
        assert_found(found, expected, "llama3")


@requirement("AG-42")
@pytest.mark.parametrize("format", [*TEXTS])
def test_nothing_comes_after_the_end(impl, format):
    parser = impl.StreamingToolParser(format)
    assert_equal(joined([*parser.feed("a"), *parser.close()]), ["a"], "content")
    with refused(InvalidArgument):
        parser.feed("b")
    with refused(InvalidArgument):
        parser.feed("")
    with refused(InvalidArgument):
        parser.close()
