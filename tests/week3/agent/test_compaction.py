"""`compact`: messages that fit, with as little lost as can be, and no call without its result."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, passed_through, refused
from spec import CannotCompact, InvalidArgument
from tests.week3.agent.cases_loop import TRUTH, talk


def compacted(impl, messages, budget, *, count=len, says="{n} messages"):
    """What `compact` makes of them. count: the tokens of messages. says: the summary of n of them."""
    return impl.compact(
        messages,
        budget=budget,
        count_tokens=count,
        summarize=lambda dropped: says.format(n=len(dropped), first=contents(dropped)),
    )


def contents(messages):
    return " ".join(message["content"] or "-" for message in messages)


def words(messages):
    """One token for each word, and one for each message."""
    return len(messages) + sum(len((message["content"] or "").split()) for message in messages)


def short(text, *parts):
    """What is left of `talk(text)`: messages by number, and for a text a summary that says so."""
    whole = talk(text)
    return [whole[each] if isinstance(each, int) else {"role": "user", "content": each} for each in parts]


SIX = "s u u u u u u"
CALLS = "s u ?a =a u ?b =b"  # of the example


# AG-37


@requirement("AG-37")
@pytest.mark.parametrize(
    ("text", "budget", "left"),
    [
        (SIX, 7, range(7)),
        (SIX, 99, range(7)),
        (SIX, 6, [0, "1 2", 3, 4, 5, 6]),
        (SIX, 4, [0, "1 2 3 4", 5, 6]),
        (SIX, 3, [0, "1 2 3 4 5", 6]),
        (CALLS, 7, range(7)),
        (CALLS, 6, [0, "1 - 3", 4, 5, 6]),
        (CALLS, 5, [0, "1 - 3", 4, 5, 6]),
        (CALLS, 4, [0, "1 - 3 - 6", 4]),
        (CALLS, 3, [0, "1 - 3 - 6", 4]),
        ("s s u a u a", 5, [0, 1, "2 3", 4, 5]),
        ("s s u a u a", 4, [0, 1, "2 3 5", 4]),
        ("u a u a", 3, ["0 1", 2, 3]),
        ("u a s a u a", 4, ["0 1 2", 3, 4, 5]),
        ("u ?abc =b =a =c a", 5, ["- 2 3 4", 0, 5]),
        ("u ?abc =b =a =c a", 3, ["- 2 3 4", 0, 5]),
        ("u ?abc =b =a =c a", 2, ["- 2 3 4 5", 0]),
        ("u a ?a =a ?b =b", 5, ["1 - 3", 0, 4, 5]),
        ("s u a a a", 4, [0, "2 3", 1, 4]),
        ("a a a", 2, ["0 1", 2]),
        ("a a a", 1, ["0 1 2"]),
        ("s a ?a =a", 2, [0, "1 - 3"]),
    ],
)
def test_the_oldest_are_dropped(impl, text, budget, left):
    whole = talk(text)
    found = compacted(impl, whole, budget, says="{first}")
    assert_equal(found, short(text, *left), f"what is left of {text!r} with {budget}")
    assert_equal(TRUTH.check_transcript(found), [], "what a server would refuse")


@requirement("AG-37")
@pytest.mark.parametrize(
    ("text", "budget"),
    [(SIX, 2), (CALLS, 2), ("s u", 1), ("u", 0), ("s s", 1), ("s", 0), ("u a", 1), ("a", 0)],
)
def test_what_must_stay_may_not_fit(impl, text, budget):
    with refused(CannotCompact):
        compacted(impl, talk(text), budget)


@requirement("AG-37")
def test_nothing_is_summarized_where_all_fits(impl):
    def summarize(dropped):
        raise AssertionError(f"expected no summary, got asked for one of {dropped}")

    for text in (CALLS, "s", "u", SIX):
        whole = talk(text)
        found = impl.compact(whole, budget=len(whole), count_tokens=len, summarize=summarize)
        assert_equal(found, whole, f"what is left of {text!r}")


@requirement("AG-37")
@pytest.mark.parametrize(
    ("says", "budget", "left"),
    [
        ("x", 13, [0, "x", 3, 4, 5, 6]),
        ("x x", 13, [0, "x x", 3, 4, 5, 6]),
        ("x x x", 13, [0, "x x x", 4, 5, 6]),
        ("x x x x x", 13, [0, "x x x x x", 5, 6]),
        ("x x x x x", 11, [0, "x x x x x", 6]),
        ("x x x x x", 10, [0, "x x x x x", 6]),
    ],
)
def test_the_summary_takes_room_as_well(impl, says, budget, left):
    """Each message has two tokens, and the summary one and its words."""
    found = compacted(impl, talk(SIX), budget, count=words, says=says)
    assert_equal(found, short(SIX, *left), "what is left")


@requirement("AG-37")
def test_a_summary_that_is_too_long_is_no_help(impl):
    with refused(CannotCompact):
        compacted(impl, talk(SIX), 13, count=words, says="x " * 30)
    with refused(CannotCompact):
        compacted(impl, talk(SIX), 13, count=words, says="{first} {first} {first}")


@requirement("AG-37")
def test_what_stays_is_as_it_was(impl):
    whole = talk("s u ?a =a u ?bc =c =b u")
    whole[5]["content"] = "Let me see."
    whole[5]["tool_calls"][0]["function"] = {"name": "g", "arguments": ' {"a":  1'}
    whole[0]["content"] = "s" * 300
    found = compacted(impl, whole, 7)
    expected = [whole[0], {"role": "user", "content": "3 messages"}, *whole[4:]]
    assert_equal(found, expected, "what is left")


TURNS = st.sampled_from(["u", "a", "s", "one call", "two calls"])


@st.composite
def talks(draw):
    """Messages that a server takes."""
    ids = iter("abcdefghijklmnopqrstuvwxyz")
    text = draw(st.sampled_from(["", "s", "s s"]))
    for turn in draw(st.lists(TURNS, min_size=1, max_size=7)):
        first, second = next(ids), next(ids)
        text += " " + {
            "one call": f"?{first} ={first}",
            "two calls": f"?{first}{second} ={second} ={first}",
        }.get(turn, turn)
    return text


@requirement("AG-37")
@given(text=talks(), budget=st.integers(1, 14), longer=st.booleans(), weights=st.integers(0, 3))
@example(text="s u ?a =a ?b =b a u ?c =c", budget=5, longer=False, weights=0)
@example(text="s u ?a =a ?b =b a u ?c =c", budget=8, longer=True, weights=2)
@example(text="s u a", budget=2, longer=False, weights=0)
def test_it_is_the_first_cut_that_fits(impl, text, budget, longer, weights):
    """Messages weigh 1 and more, in a way that a definition of tools makes heavier by 1."""

    def count(messages):
        extra = sum(len(message["content"] or "") * weights % 5 for message in messages)
        return bool(weights) + len(messages) + extra

    whole = talk(text)
    says = "{first}" if longer else "{n}"
    try:
        expected = compacted(TRUTH, whole, budget, count=count, says=says)
    except CannotCompact:
        with refused(CannotCompact):
            compacted(impl, whole, budget, count=count, says=says)
        return
    found = compacted(impl, whole, budget, count=count, says=says)
    assert_equal(found, expected, f"what is left of {text!r} with {budget}")


@requirement("AG-37")
@pytest.mark.parametrize("which", ["count_tokens", "summarize"])
def test_what_the_host_raises_reaches_it(impl, which):
    def broken(messages):
        raise OSError("the tokenizer is gone")

    functions = {"count_tokens": len, "summarize": lambda dropped: "x", which: broken}
    with passed_through(OSError("the tokenizer is gone")):
        impl.compact(talk(SIX), budget=4, **functions)


# AG-42


@requirement("AG-42")
@pytest.mark.parametrize("text", ["u ?a", "u =a", "u ?a u =a", "u ?aa =a", "u ?a =a u ?a =a"])
@pytest.mark.parametrize("budget", [2, 9])
def test_only_what_a_server_would_take_is_compacted(impl, text, budget):
    assert_equal(len(compacted(impl, talk("u ?a =a u ?b =b"), 9)), 6, "how many are left")
    with refused(InvalidArgument, "messages"):
        compacted(impl, talk(text), budget)
