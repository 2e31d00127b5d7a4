"""`block_hash`: how often it is called, and what its errors do."""

from hypothesis import given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, passed_through, refused
from spec import UnknownSequence
from tests.week3.paged_attention.cases import (
    B,
    assert_content,
    caching,
    joined,
    rows_of,
    run,
)


@requirement("PA-48")
@given(step=st.integers(1, 9), blocks=st.integers(1, 6))
def test_a_block_is_hashed_once(impl, step, blocks):
    calls = []

    def block_hash(parent, tokens, extras):
        calls.append(tokens)
        return repr((parent, tokens)).encode()

    tokens = list(range(blocks * B))
    cache = caching(impl, num_blocks=40, block_hash=block_hash)
    cache.add("s")
    for start in range(0, len(tokens), step):
        part = tokens[start : start + step]
        cache.append("s", *rows_of(part, tokens[:start]), tokens=part)
    assert_equal(len(calls), blocks, f"calls of block_hash to publish {blocks} blocks")
    cache.fork("s", "fork")
    cache.append("fork", *rows_of([7], tokens), tokens=[7])
    assert_equal(len(calls), blocks, "calls of block_hash after a fork and one more token")
    assert_equal(cache.add("again", tokens), (blocks - 1) * B, "add()")
    looked = len(calls) - blocks
    assert looked < blocks, f"expected at most {blocks - 1} calls of block_hash to find them, got {looked}"
    calls.clear()
    cache.append("again", *rows_of(tokens[-B:], tokens[:-B]), tokens=tokens[-B:])
    assert_equal(len(calls), 1, "calls of block_hash to publish one block after those that were found")


FORBIDDEN = 666


def hash_with_a_flaw(parent, tokens, extras):
    if FORBIDDEN in tokens:
        raise ValueError("cannot hash this")
    return repr((parent, tokens)).encode()


@requirement("PA-61")
def test_a_hash_that_raises_changes_nothing(impl):
    cache = caching(impl, num_blocks=6, block_hash=hash_with_a_flaw)
    tokens, bad = list(range(9)), [3, FORBIDDEN, 5, 6, 7, 8]
    for name in ("s", "t"):
        run(cache, name, tokens[:3])
    before = cache.usage()
    with passed_through(ValueError("cannot hash this")):
        cache.append("s", *rows_of(bad, tokens[:3]), tokens=bad)
    assert_equal((cache.usage(), cache.length("s")), (before, 3), "usage(), length() after append")
    cache.append("s", *rows_of(tokens[3:], tokens[:3]), tokens=tokens[3:])
    assert_content(cache, "s", tokens)
    assert_equal(cache.cached_prefix(tokens), 8, "cached_prefix()")


@requirement("PA-61")
def test_an_append_whose_hash_raises_evicts_and_copies_nothing(impl):
    cache = caching(impl, num_blocks=3, block_hash=hash_with_a_flaw)
    run(cache, "cached", [5, 6, 7, 8])
    cache.free("cached")
    run(cache, "s", [0, 1, 2])
    cache.fork("s", "fork")
    before = cache.usage()
    bad = [FORBIDDEN, 3]
    with passed_through(ValueError("cannot hash this")):
        cache.append("s", *rows_of(bad, [0, 1, 2]), tokens=bad)
    assert_equal(cache.usage(), before, "usage()")
    assert_equal(cache.cached_prefix([5, 6, 7, 8, 9]), 4, "cached_prefix()")
    cache.append("s", *rows_of([3, 4], [0, 1, 2]), tokens=[3, 4])
    assert_content(cache, "s", [0, 1, 2, 3, 4])
    assert_content(cache, "fork", [0, 1, 2])


@requirement("PA-61")
def test_a_commit_whose_hash_raises_leaves_the_reservation_open(impl):
    cache = caching(impl, num_blocks=6, block_hash=hash_with_a_flaw)
    for name in ("s", "t"):
        run(cache, name, [0, 1, 2])
    cache.reserve(["t", "s"], [1, 1], [[3], [FORBIDDEN]])
    cache.write(0, *joined(rows_of([3], [0, 1, 2]), rows_of([FORBIDDEN], [0, 1, 2])))
    reserved = cache.usage()
    with passed_through(ValueError("cannot hash this")):
        cache.commit(["t", "s"])
    assert_equal((cache.usage(), cache.length("t")), (reserved, 3), "usage(), length() after commit")
    cache.rollback(["s"])
    cache.commit(["t"])
    assert_content(cache, "s", [0, 1, 2])
    assert_content(cache, "t", [0, 1, 2, 3])


@requirement("PA-61")
def test_a_lookup_whose_hash_raises_changes_nothing(impl):
    cache = caching(impl, num_blocks=6, block_hash=hash_with_a_flaw)
    run(cache, "s", [0, 1, 2, 3, 4])
    cache.free("s")
    before = cache.usage()
    bad = [0, 1, 2, 3, 4, FORBIDDEN, 6, 7, 8]
    try:
        assert_equal(cache.cached_prefix(bad), 4, "cached_prefix() that does without the hash")
    except ValueError as raised:
        assert_equal(raised.args, ("cannot hash this",), "what came from the hash")
    assert_equal(cache.usage(), before, "usage() after cached_prefix")
    try:
        assert_equal(cache.add("t", bad), 4, "add() that does without the hash")
        cache.free("t")
    except ValueError:
        assert_equal(cache.usage(), before, "usage() after add")
    with refused(UnknownSequence, "seq_id", got="t"):
        cache.length("t")
    assert_equal(run(cache, "t", [0, 1, 2, 3, 4]), 4, "add() of what can be hashed")
