"""Who sees whom, by positions."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import check_refusals
from grading.truth import GroundTruth
from tests.week3.long_context.cases import SEEDS

reference = GroundTruth("long_context")

QUERIES, KEYS = 5, 11
FIRST = st.sampled_from([0, 7, 65_530])  # the last: positions do not fit into 16 bits


def positions(seed, first=0):
    """Some queries, and all keys in no order: (QUERIES,) and (KEYS,) from `first` on."""
    rng = np.random.default_rng(seed)
    q, k = (rng.permutation(KEYS)[:count] + first for count in (QUERIES, KEYS))
    return q.astype(np.int32), k.astype(np.int32)


def everyone(count):
    """The same tokens as queries and keys."""
    at = np.arange(count, dtype=np.int32)
    return at, at


def check(impl, q, k, **options):
    __tracebackhide__ = True
    actual = impl.attention_mask(q, k, **options)
    expected = reference.attention_mask(q, k, **options)
    assert isinstance(actual, np.ndarray), f"mask: expected an array, got {type(actual).__name__}"
    assert actual.dtype == bool, f"mask: expected bool, got {actual.dtype}"
    assert actual.shape == expected.shape, f"mask: expected shape {expected.shape}, got {actual.shape}"
    differs = np.argwhere(actual != expected)
    assert not len(differs), "; ".join(
        f"the query at {q[i]} {'sees' if actual[i, j] else 'does not see'} the key at {k[j]}"
        for i, j in differs[:3]
    )


@requirement("LC-26")
@given(seed=SEEDS, first=FIRST)
@example(seed=1, first=7)
@example(seed=1, first=65_530)
def test_a_query_sees_the_keys_up_to_its_own_position(impl, seed, first):
    check(impl, *positions(seed, first))


@requirement("LC-26")
@given(queries=st.integers(0, 6), keys=st.integers(0, 6))
@example(queries=2, keys=6)
@example(queries=1, keys=5000)
@example(queries=0, keys=3)
@example(queries=3, keys=0)
def test_the_last_queries_see_everything_before_them(impl, queries, keys):
    at = np.arange(max(queries, keys), dtype=np.int32)
    check(impl, at[len(at) - queries :], at[:keys])


@requirement("LC-26")
@given(seed=SEEDS)
@example(seed=1)
def test_without_causal_every_key_is_seen(impl, seed):
    check(impl, *positions(seed), causal=False)


@requirement("LC-27")
@given(seed=SEEDS, window=st.sampled_from([1, 2, 3, KEYS - 1, KEYS, KEYS + 1]), first=FIRST)
@example(seed=1, window=1, first=0)
@example(seed=1, window=3, first=7)
def test_a_window_ends_with_the_query_itself(impl, seed, window, first):
    check(impl, *positions(seed, first), window=window)


@requirement("LC-27")
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_a_window_of_everyone(impl, dtype):
    q, k = everyone(6)
    check(impl, q.astype(dtype), k.astype(dtype), window=3)


@requirement("LC-28")
@given(seed=SEEDS, sink_tokens=st.integers(1, 5), window=st.integers(1, 4))
@example(seed=1, sink_tokens=4, window=2)
def test_sinks_are_seen_through_the_window(impl, seed, sink_tokens, window):
    check(impl, *positions(seed), window=window, sink_tokens=sink_tokens)


@requirement("LC-28")
@given(seed=SEEDS, sink_tokens=st.integers(1, 5), chunk=st.integers(1, 4), causal=st.booleans())
@example(seed=1, sink_tokens=2, chunk=3, causal=True)
@example(seed=1, sink_tokens=2, chunk=3, causal=False)
def test_sinks_are_seen_through_the_chunk(impl, seed, sink_tokens, chunk, causal):
    check(impl, *positions(seed), chunk=chunk, sink_tokens=sink_tokens, causal=causal)


@requirement("LC-28")
def test_future_sinks_are_not_seen(impl):
    check(impl, *everyone(8), window=2, sink_tokens=4)


@requirement("LC-28")
@given(sink_tokens=st.integers(1, 5), prefix=st.integers(1, 8), chunk=st.integers(1, 4))
@example(sink_tokens=4, prefix=6, chunk=2)
def test_sinks_of_a_prefix_are_in_nobodys_future(impl, sink_tokens, prefix, chunk):
    check(impl, *everyone(9), sink_tokens=sink_tokens, prefix=prefix, chunk=chunk)


@requirement("LC-28")
def test_sinks_are_the_first_positions_and_not_the_first_places(impl):
    q, k = everyone(8)
    check(impl, q, k[3:], window=2, sink_tokens=2)  # the sinks are not here


@requirement("LC-29")
@given(seed=SEEDS, chunk=st.sampled_from([1, 2, 4, KEYS, 20]), first=FIRST)
@example(seed=1, chunk=4, first=7)
def test_chunks_do_not_see_each_other(impl, seed, chunk, first):
    check(impl, *positions(seed, first), chunk=chunk)


@requirement("LC-29")
@given(seed=SEEDS, chunk=st.integers(1, 5))
@example(seed=1, chunk=4)
def test_without_causal_a_chunk_sees_all_of_itself(impl, seed, chunk):
    check(impl, *positions(seed), chunk=chunk, causal=False)


@requirement("LC-29")
@given(seed=SEEDS)
@example(seed=1)
def test_a_window_and_a_chunk_hold_together(impl, seed):
    check(impl, *positions(seed), window=3, chunk=4)


@requirement("LC-29")
def test_chunks_of_everyone(impl):
    check(impl, *everyone(9), chunk=4)


@requirement("LC-30")
@given(seed=SEEDS, prefix=st.integers(1, KEYS + 1), causal=st.booleans())
@example(seed=1, prefix=6, causal=True)
@example(seed=1, prefix=2, causal=False)
def test_a_prefix_is_seen_from_everywhere(impl, seed, prefix, causal):
    check(impl, *positions(seed), prefix=prefix, causal=causal)


@requirement("LC-30")
def test_a_prefix_of_everyone(impl):
    check(impl, *everyone(6), prefix=3)


@requirement("LC-30")
@given(prefix=st.integers(1, 8), window=st.integers(1, 4))
@example(prefix=6, window=2)
def test_a_window_holds_for_the_prefix(impl, prefix, window):
    check(impl, *everyone(9), prefix=prefix, window=window)


@requirement("LC-30")
@given(prefix=st.integers(1, 8), chunk=st.integers(1, 4))
@example(prefix=7, chunk=3)
def test_a_chunk_holds_for_the_prefix(impl, prefix, chunk):
    check(impl, *everyone(9), prefix=prefix, chunk=chunk)


@requirement("LC-31")
@given(seed=SEEDS, causal=st.booleans())
@example(seed=1, causal=True)
@example(seed=1, causal=False)
def test_documents_do_not_see_each_other(impl, seed, causal):
    rng = np.random.default_rng(seed)
    segments = tuple(rng.integers(-1, 2, count).astype(np.int32) for count in (QUERIES, KEYS))
    check(impl, *positions(seed), segments=segments, causal=causal)


@requirement("LC-31")
def test_positions_may_start_again_with_each_document(impl):
    at = np.array([0, 1, 2, 0, 1, 0, 1, 2, 3], np.int32)
    document = np.array([4, 4, 4, 2, 2, 7, 7, 7, 7], np.int32)
    check(impl, at[2:], at, segments=(document[2:], document))


@requirement("LC-31")
@given(options=st.sampled_from([{"sink_tokens": 3, "window": 2}, {"prefix": 6}, {"prefix": 6, "chunk": 4}]))
@example(options={"sink_tokens": 3, "window": 2})
@example(options={"prefix": 6})
def test_sinks_and_prefix_stay_in_their_document(impl, options):
    q, k = everyone(9)
    document = np.array([0, 0, 1, 0, 1, 1, 0, 1, 0], np.int32)
    check(impl, q, k, segments=(document, document), **options)


SAME_DOCUMENT = np.zeros(QUERIES, np.int32), np.zeros(KEYS, np.int32)
PADDED = [
    {},
    {"causal": False},
    {"window": 3},
    {"window": 2, "sink_tokens": 2},
    {"chunk": 4},
    {"causal": False, "chunk": 4},
    {"prefix": 5},
    {"prefix": 5, "window": 3},
    {"segments": SAME_DOCUMENT},
]


@requirement("LC-32")
@given(seed=SEEDS, options=st.sampled_from(PADDED))
@example(seed=1, options={})
@example(seed=1, options={"causal": False})
@example(seed=1, options={"window": 2, "sink_tokens": 2})
@example(seed=1, options={"prefix": 5})
@example(seed=1, options={"prefix": 5, "window": 3})
@example(seed=1, options={"segments": SAME_DOCUMENT})
def test_negative_positions_are_padding(impl, seed, options):
    q, k = positions(seed, first=-4)
    q[:2] = -1, 2
    check(impl, q, k, **options)


@requirement("LC-33")
def test_masks_that_make_no_sense_are_refused(impl):
    q, k = positions(1)
    segments = SAME_DOCUMENT
    options = {"window": 3, "sink_tokens": 2, "chunk": 6, "prefix": 4, "segments": segments}
    check(impl, q, k, **options)
    valid = {"q_positions": q, "kv_positions": k, **options}
    check_refusals(
        impl.attention_mask,
        valid,
        [
            ("q_positions", {"q_positions": q[None]}),
            ("kv_positions", {"kv_positions": k[:, None]}),
            ("window", {"window": 0}),
            ("window", {"window": 0, "chunk": None}),
            ("window", {"window": -3}),
            ("window/causal", {"causal": False}),
            ("sink_tokens", {"sink_tokens": -1}),
            ("chunk", {"chunk": 0}),
            ("chunk", {"chunk": -2}),
            ("prefix", {"prefix": -1}),
            ("segments/q_positions/kv_positions", {"segments": segments[::-1]}),
            ("segments/kv_positions", {"segments": (segments[0], segments[1][1:])}),
            ("segments/q_positions", {"segments": (segments[0][1:], segments[1])}),
            ("segments", {"segments": (segments[0][None], segments[1])}),
        ],
    )
