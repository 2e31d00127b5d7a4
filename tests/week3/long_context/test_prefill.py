"""`chunked_prefill`: a prompt in pieces."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical, check_refusals, passed_through, refused
from spec import ContextTooLong, NotSupported
from tests.week3.long_context.cases import SEEDS
from tests.week3.long_context.cases_prefill import VOCAB, Toy, logits, prompt


def check(impl, toy, ids, chunk):
    """The logits after the last token, with all tokens in the context."""
    expected = logits([*toy.before, *ids.tolist()])
    assert_identical(impl.chunked_prefill(toy.model, ids, chunk), expected, "logits")
    assert_equal(toy.context, [*toy.before, *ids.tolist()], "the context")


def check_in_one_call(impl, toy, ids):
    check(impl, toy, ids, 10)
    assert_equal([len(call) for call in toy.calls], [len(ids)], "the tokens of each call of forward")


def check_refused(impl, error, arguments, toy, ids, chunk):
    with toy:
        with refused(error, *arguments):
            impl.chunked_prefill(toy.model, ids, chunk)
        assert_equal(toy.calls, [], "calls of forward")
        assert_equal(toy.context, toy.before, "the context")


@requirement("LC-88")
@given(
    seed=SEEDS,
    n=st.sampled_from([1, 3, 10]),
    chunk=st.sampled_from([1, 2, 3, 4, 9, 10, 11, 50]),
    context=st.sampled_from([[], [3, 1, 4]]),
)
@example(seed=1, n=10, chunk=4, context=[])
@example(seed=1, n=10, chunk=5, context=[3, 1, 4])
@example(seed=1, n=1, chunk=1, context=[3, 1, 4])
def test_any_cut_gives_the_logits_of_the_whole(impl, seed, n, chunk, context):
    with Toy(context) as toy:
        check(impl, toy, prompt(seed, n), chunk)


@requirement("LC-89")
@given(n=st.integers(1, 12), chunk=st.integers(1, 13), dtype=st.sampled_from(["int32", "int64"]))
@example(n=10, chunk=4, dtype="int32")
@example(n=12, chunk=4, dtype="int64")
@example(n=3, chunk=5, dtype="int32")
def test_pieces_are_in_order_and_few(impl, n, chunk, dtype):
    with Toy([2, 7]) as toy:
        ids = prompt(n, n).astype(dtype)
        impl.chunked_prefill(toy.model, ids, chunk)
        assert_equal([token for call in toy.calls for token in call], ids.tolist(), "the tokens of all calls")
        most = -(-(n - 1) // chunk) + 1  # the last token may have a call of its own
        assert len(toy.calls) <= most, f"expected at most {most} calls of forward, got {len(toy.calls)}"
        for given in toy.given:
            assert isinstance(given, np.ndarray), f"forward: expected an array, got {type(given).__name__}"
            assert given.dtype.kind in "iu", f"forward: expected integers, got {given.dtype}"
        longest = max(map(len, toy.calls))
        assert longest <= chunk, f"expected at most {chunk} tokens a call, got {longest}"


@requirement("LC-90")
@given(
    chunk=st.integers(1, 9),
    traits=st.sampled_from([("expert capacity",), ("a", "prompt compression"), ("a",)]),
)
@example(chunk=9, traits=("expert capacity",))
@example(chunk=5, traits=("expert capacity",))
@example(chunk=5, traits=("a",))
def test_what_is_decided_once_a_call_needs_one_call(impl, chunk, traits):
    ids = prompt(1, 10)
    check_refused(impl, NotSupported, [], Toy(per_call=traits), ids, chunk)
    with Toy([5, 2], per_call=traits) as toy:
        check_in_one_call(impl, toy, ids)


@requirement("LC-90")
@pytest.mark.parametrize("held", [0, 3])
def test_pieces_are_refused_beyond_the_length_where_the_rotation_changes(impl, held):
    ids, context = prompt(1, 10), [4] * held
    check_refused(impl, NotSupported, [], Toy(context, rope_changes_after=held + 9), ids, 4)
    check_refused(impl, NotSupported, [], Toy(context, rope_changes_after=held + 9), ids, 9)
    check_refused(impl, NotSupported, [], Toy(context, rope_changes_after=0), ids, 4)
    with Toy(context, rope_changes_after=held + 10) as toy:
        check(impl, toy, ids, 4)


@requirement("LC-90")
def test_a_context_that_was_rotated_otherwise_is_refused(impl):
    ids = prompt(1, 10)
    check_refused(impl, NotSupported, [], Toy([4], rope_changes_after=10), ids, 10)
    check_refused(impl, NotSupported, [], Toy([4] * 12, rope_changes_after=10), ids, 10)
    with Toy([], rope_changes_after=9) as toy:
        check_in_one_call(impl, toy, ids)
    with Toy([4], rope_changes_after=11) as toy:
        check(impl, toy, ids, 10)


@requirement("LC-91")
@given(held=st.integers(0, 4), n=st.integers(1, 6), chunk=st.sampled_from([2, 20]))
@example(held=3, n=6, chunk=20)
@example(held=0, n=6, chunk=2)
def test_the_context_has_an_end(impl, held, n, chunk):
    ids, context = prompt(1, n), [4] * held
    check_refused(impl, ContextTooLong, [], Toy(context, held + n - 1), ids, chunk)
    with Toy(context, held + n) as toy:
        check(impl, toy, ids, chunk)


@requirement("LC-92")
@pytest.mark.parametrize(("chunk", "fails_at"), [(4, 1), (4, 2), (4, 3), (10, 1)])
@pytest.mark.parametrize("context", [[], [3, 1, 4]], ids=len)
@pytest.mark.parametrize("failure", [RuntimeError("no memory left"), NotSupported("tokens: expected less")])
def test_a_failed_prefill_leaves_the_context_as_it_was(impl, chunk, fails_at, context, failure):
    ids = prompt(1, 10)
    with Toy(context, fails_at=fails_at, failure=failure) as toy:
        with passed_through(failure):
            impl.chunked_prefill(toy.model, ids, chunk)
        assert_equal(toy.context, context, "the context after the failure")
        toy.fails_at = None
        check(impl, toy, ids, chunk)


@requirement("LC-93")
def test_prompts_that_cannot_be_are_refused(impl):
    with Toy([3, 1]) as toy:
        ids = prompt(1, 6)
        check(impl, toy, ids, 4)
        toy.context, toy.calls = [3, 1], []
        check_refusals(
            impl.chunked_prefill,
            {"model": toy.model, "tokens": ids, "chunk": 4},
            [
                ("chunk", {"chunk": 0}),
                ("chunk", {"chunk": -1}),
                ("tokens", {"tokens": ids[:0]}),
                ("tokens", {"tokens": ids[None]}),
                ("tokens", {"tokens": np.array(3, np.int32)}),
                ("tokens", {"tokens": np.insert(ids, 3, VOCAB)}),
                ("tokens", {"tokens": np.insert(ids, 3, -1)}),
                ("tokens", {"tokens": np.append(ids, np.int32(VOCAB))}),
                ("tokens", {"tokens": np.append(np.int32(-1), ids)}),
            ],
        )
        assert_equal(toy.calls, [], "calls of forward")
        assert_equal(toy.context, [3, 1], "the context")
