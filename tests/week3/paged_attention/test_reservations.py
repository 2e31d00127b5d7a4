"""Reserve, write, attend, commit, or roll back."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical, assert_matches, refused
from grading.truth import GroundTruth
from spec import InvalidArgument, OutOfBlocks
from tests.week3.paged_attention.cases import HEAD_DIM, KV_HEADS, SEEDS, joined, query_rows, rows

reference = GroundTruth("paged_attention")
NAN = np.nan


@requirement("PA-26")
@given(seed=SEEDS, old=st.integers(0, 6), new=st.integers(1, 6), asked=st.integers(1, 12))
@example(seed=0, old=3, new=3, asked=1)
def test_reserved_tokens_are_attended_once_written_and_count_once_committed(impl, seed, old, new, asked):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM, layers=2)
    told = [joined(rows(old, [seed, layer]), rows(new, [seed, layer, 1])) for layer in range(2)]
    cache.add("s")
    cache.reserve(["s"], [old])
    for layer in range(2):
        cache.write(layer, *rows(old, [seed, layer]))
    cache.commit(["s"])

    cache.reserve(["s"], [new])
    assert_equal(cache.length("s"), old, "length() before commit")
    assert_equal(len(cache.block_table("s")), -(-(old + new) // 4), "blocks before commit")
    queries = query_rows(min(asked, old + new), seed)
    for layer in range(2):
        cache.write(layer, *rows(new, [seed, layer, 1]))
        actual = cache.attend(["s"], queries, [len(queries)], layer=layer)
        assert_matches(actual, reference.attention(queries, *told[layer]), f"output of layer {layer}")
        keys, _ = cache.gather("s", layer=layer)
        assert_identical(keys, told[layer][0][:old], "keys before commit")
    cache.commit(["s"])
    assert_equal(cache.length("s"), old + new, "length() after commit")
    assert_identical(cache.gather("s", layer=1)[1], told[1][1], "values after commit")


@requirement("PA-26")
def test_writing_a_layer_again_replaces_it(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add("s")
    cache.reserve(["s"], [5])
    cache.write(0, *rows(5, 1))
    cache.write(0, *rows(5, 2))
    cache.commit(["s"])
    assert_identical(cache.gather("s")[0], rows(5, 2)[0], "keys")


@requirement("PA-26")
def test_a_reservation_may_end_sequence_by_sequence(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    for name in "abc":
        cache.add(name)
    cache.reserve(["b", "a", "c"], [3, 5, 2])
    first = rows(10, 1)
    cache.write(0, *first)
    cache.commit(["a"])
    cache.rollback(["c"])
    last = rows(3, 2)
    cache.write(0, *last)  # only b is left
    cache.commit(["b"])
    assert_identical(cache.gather("a")[0], first[0][3:8], "keys of a")
    assert_identical(cache.gather("b")[0], last[0], "keys of b")
    assert_equal(cache.length("c"), 0, "length() of c")


@requirement("PA-26")
def test_what_was_not_written_is_neither_attended_nor_committed(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM, layers=2)
    cache.add("s")
    cache.reserve(["s"], [2])
    cache.write(0, *rows(2, 1))
    with refused(InvalidArgument, "layer", "seq_ids"):
        cache.attend(["s"], query_rows(2, 1), [2], layer=1)
    with refused(InvalidArgument, "layer", "seq_ids"):
        cache.commit(["s"])
    cache.write(1, *rows(2, 2))
    cache.commit(["s"])
    assert_equal(cache.length("s"), 2, "length()")
    cache.reserve(["s"], [1])  # what was written before counts for nothing now
    with refused(InvalidArgument, "layer", "seq_ids"):
        cache.attend(["s"], query_rows(2, 1), [2], layer=1)
    with refused(InvalidArgument, "layer", "seq_ids"):
        cache.commit(["s"])


@requirement("PA-26")
def test_what_was_written_counts_until_the_last_of_a_reservation_has_ended(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    for name in "abcd":
        cache.add(name)
    cache.reserve(["a", "b", "c"], [3, 5, 2])
    keys, values = rows(10, 1)
    cache.write(0, keys, values)
    cache.commit(["b"])
    queries = query_rows(2, 1)
    expected = reference.attention(queries, keys[8:], values[8:])
    assert_matches(cache.attend(["c"], queries, [2]), expected, "output of c")
    cache.free("a")
    cache.commit(["c"])
    assert_identical(cache.gather("b")[0], keys[3:8], "keys of b")
    assert_identical(cache.gather("c")[1], values[8:], "values of c")
    cache.reserve(["d"], [1])
    cache.free("d")  # the last of its reservation
    cache.reserve(["b"], [1])
    assert_equal(len(cache.block_table("b")), 2, "blocks of b")


@requirement("PA-26")
def test_a_reservation_of_no_tokens_needs_no_write(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    for name, n in (("a", 3), ("b", 0)):
        cache.add(name)
        cache.append(name, *rows(n, 1))
    cache.reserve(["a", "b"], [0, 2])
    queries = query_rows(2, 1)
    assert_matches(cache.attend(["a"], queries, [2]), reference.attention(queries, *rows(3, 1)))
    cache.commit(["a"])
    cache.write(0, *rows(2, 2))
    cache.commit(["b"])
    assert_equal((cache.length("a"), cache.length("b")), (3, 2), "lengths")


@requirement("PA-26")
def test_others_go_on_while_a_reservation_is_open(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    for name in ("a", "b", "c"):
        cache.add(name)
        cache.append(name, *rows(5, ord(name)))
    cache.reserve(["a"], [2])
    cache.write(0, *rows(2, 1))
    queries = query_rows(4, 1)
    actual = cache.attend(["b", "a"], queries, [1, 3])
    assert_matches(actual[:1], reference.attention(queries[:1], *rows(5, ord("b"))), "output of b")
    told = joined(rows(5, ord("a")), rows(2, 1))
    assert_matches(actual[1:], reference.attention(queries[1:], *told), "output of a")
    cache.fork("b", "fork")
    cache.truncate("b", 2)
    cache.swap_out(["c"])
    cache.swap_in(["c"])
    cache.add("new")
    cache.free("c")
    cache.commit(["a"])
    for name, keys in (("a", told[0]), ("b", rows(5, ord("b"))[0]), ("fork", rows(5, ord("b"))[0])):
        assert_identical(cache.gather(name)[0], keys[: cache.length(name)], f"keys of {name}")
    assert_equal([cache.length(name) for name in ("a", "b", "fork", "new")], [7, 2, 5, 0], "lengths")


@requirement("PA-27")
@given(old=st.lists(st.integers(0, 6), min_size=2, max_size=3), new=st.integers(0, 9), written=st.booleans())
def test_a_rollback_gives_everything_back(impl, old, new, written):
    cache = impl.PagedKVCache(40, 4, KV_HEADS, HEAD_DIM)
    names = list(range(len(old)))
    for name, n in enumerate(old):
        cache.add(name)
        cache.append(name, *rows(n, name))
    cache.fork(0, "fork")
    names, lens = [*names, "fork"], [*old, old[0]]
    before, tables = cache.usage(), [cache.block_table(name) for name in names]
    cache.reserve(names, [new] * len(names))
    if written and new:
        cache.write(0, *rows(new * len(names), 99))
    cache.rollback(names)
    after = cache.usage()
    for count in ("free", "used", "cached", "shared", "slots_used", "slots_wasted"):
        assert_equal(getattr(after, count), getattr(before, count), f"usage().{count}")
    for name, n, table in zip(names, lens, tables, strict=True):
        assert_equal(cache.length(name), n, f"length() of {name}")
        assert_equal(cache.block_table(name), table, f"block_table() of {name}")
        assert_identical(cache.gather(name)[0], rows(n, 0 if name == "fork" else name)[0], f"keys of {name}")


@requirement("PA-27")
def test_a_sequence_rolled_back_beside_one_committed_keeps_its_content(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("a")
    cache.append("a", *rows(2, 1))
    cache.fork("a", "b")
    cache.reserve(["a", "b"], [1, 1])
    new = rows(2, 2)
    cache.write(0, *new)
    cache.rollback(["a"])
    cache.commit(["b"])
    assert_identical(cache.gather("a")[0], rows(2, 1)[0], "keys of a")
    assert_identical(cache.gather("b")[0], np.concatenate([rows(2, 1)[0], new[0][1:]]), "keys of b")


@requirement("PA-27")
@given(shorter_first=st.booleans())
def test_a_rollback_keeps_tokens_that_only_the_longer_reader_of_a_tail_has(impl, shorter_first):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("long")
    cache.append("long", *rows(3, 1))
    cache.fork("long", "short")
    cache.truncate("short", 2)
    names = ["short", "long"] if shorter_first else ["long", "short"]
    cache.reserve(names, [1, 1])
    cache.write(0, *rows(2, 2))
    cache.rollback(names)
    assert_identical(cache.gather("long")[0], rows(3, 1)[0], "keys of the longer")
    assert_identical(cache.gather("short")[0], rows(3, 1)[0][:2], "keys of the shorter")


@requirement("PA-27")
def test_a_copied_tail_is_kept_for_a_rollback(impl):
    cache = impl.PagedKVCache(3, 4, KV_HEADS, HEAD_DIM)
    for name, n in (("gang", 8), ("a", 2)):
        cache.add(name)
        cache.append(name, *rows(n, n))
    cache.fork("a", "b")
    cache.swap_out(["gang"])
    cache.reserve(["a"], [1])  # one block more, and the original is kept although its other reader leaves
    cache.free("b")
    with refused(OutOfBlocks):
        cache.swap_in(["gang"])
    cache.write(0, *rows(1, 3))
    cache.rollback(["a"])
    cache.swap_in(["gang"])
    assert_identical(cache.gather("a")[0], rows(2, 2)[0], "keys of a")
    assert_identical(cache.gather("gang")[0], rows(8, 8)[0], "keys of the gang")


@requirement("PA-28")
@given(first=st.integers(0, 8), second=st.integers(1, 8), forked=st.booleans())
@example(first=5, second=1, forked=True)  # the copy of the tail is one block too many
def test_running_out_changes_nothing(impl, first, second, forked):
    cache = impl.PagedKVCache(4, 2, KV_HEADS, HEAD_DIM)
    cache.add("a")
    cache.add("b")
    cache.append("a", *rows(first, 1))
    if forked:
        cache.fork("a", "c")
    before, table = cache.usage(), cache.block_table("a")
    copies = int(forked and first % 2 == 1)  # the odd tail is shared
    needed = -(-(first + second) // 2) - len(table) + copies + 1
    if needed <= before.free:
        cache.reserve(["a", "b"], [second, 1])
        return
    with refused(OutOfBlocks):
        cache.reserve(["a", "b"], [second, 1])
    assert_equal(cache.usage(), before, "usage() after the refusal")
    assert_equal(cache.block_table("a"), table, "block_table() after the refusal")
    assert_equal(cache.length("b"), 0, "length() of b")
    assert_identical(cache.gather("a")[0], rows(first, 1)[0], "keys after the refusal")
    with refused(OutOfBlocks):
        cache.append("b", *rows(9, 2))
    assert_equal(cache.usage(), before, "usage() after the second refusal")


@requirement("PA-28")
def test_the_last_block_can_be_used(impl):
    cache = impl.PagedKVCache(2, 3, KV_HEADS, HEAD_DIM)
    cache.add("a")
    cache.append("a", *rows(6, 1))
    assert_equal(cache.usage().free, 0, "usage().free")
    assert_identical(cache.gather("a")[1], rows(6, 1)[1], "values")
