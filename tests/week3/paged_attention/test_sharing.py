"""Forks and copy-on-write."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical
from tests.week3.paged_attention.cases import (
    HEAD_DIM,
    KV_HEADS,
    assert_content,
    caching,
    joined,
    rows,
    rows_of,
    run,
)


@requirement("PA-31")
@given(n=st.integers(0, 9))
def test_a_fork_copies_nothing(impl, n):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("parent")
    cache.append("parent", *rows(n, 1))
    used = cache.usage().used
    cache.fork("parent", "child")
    assert_equal(cache.block_table("child"), cache.block_table("parent"), "block_table() of the child")
    assert_equal(cache.length("child"), n, "length() of the child")
    usage = cache.usage()
    assert_equal((usage.used, usage.shared, usage.copies), (used, used, 0), "blocks used, shared, copied")
    assert_identical(cache.gather("child")[1], rows(n, 1)[1], "values of the child")


@requirement("PA-31")
def test_forks_of_a_fork_are_all_sequences_of_their_own(impl):
    cache = caching(impl)
    run(cache, "parent", [1, 2, 3, 4, 5], salt="x", adapter="y")
    cache.fork("parent", "child")
    cache.fork("child", "grandchild")
    for name, tokens in (("parent", [6, 7]), ("child", [8]), ("grandchild", [9, 10, 11])):
        cache.append(name, *rows_of(tokens, [1, 2, 3, 4, 5]), tokens=tokens)
    told = {"parent": [1, 2, 3, 4, 5, 6, 7], "child": [1, 2, 3, 4, 5, 8]}
    told["grandchild"] = [1, 2, 3, 4, 5, 9, 10, 11]
    for name, last in (("parent", 12), ("child", 13), ("grandchild", 14)):
        tokens = [last] * (10 - len(told[name]))
        cache.append(name, *rows_of(tokens, told[name]), tokens=tokens)
        told[name] = told[name] + tokens
    for name, tokens in told.items():
        assert_content(cache, name, tokens)
        found = cache.cached_prefix(tokens, salt="x", adapter="y")
        assert_equal(found, 8, f"cached_prefix() of what {name} holds")
        for extras in ({}, {"salt": "x"}, {"adapter": "y"}):
            assert_equal(cache.cached_prefix(tokens, **extras), 0, f"cached_prefix() with {extras}")


@requirement("PA-32")
@given(n=st.integers(0, 9), first=st.integers(1, 5), second=st.integers(1, 5), child_first=st.booleans())
def test_writing_into_a_shared_block_copies_it_first(impl, n, first, second, child_first):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add("parent")
    cache.append("parent", *rows(n, 1))
    cache.fork("parent", "child")
    writers = ["child", "parent"] if child_first else ["parent", "child"]
    cache.append(writers[0], *rows(first, 2))
    assert_equal(cache.length(writers[1]), n, "length() of the other")
    assert_identical(cache.gather(writers[1])[0], rows(n, 1)[0], "keys of the other")
    cache.append(writers[1], *rows(second, 3))
    for name, m, seed in ((writers[0], first, 2), (writers[1], second, 3)):
        keys, values = joined(rows(n, 1), rows(m, seed))
        assert_identical(cache.gather(name)[0], keys, f"keys of {name}")
        assert_identical(cache.gather(name)[1], values, f"values of {name}")


@requirement("PA-32")
def test_a_copy_takes_every_layer_along(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM, layers=2)
    cache.add("parent")
    for name, m in (("parent", 2), ("child", 1)):
        if name == "child":
            cache.fork("parent", "child")
        cache.reserve([name], [m])
        for layer in range(2):
            cache.write(layer, *rows(m, [m, layer]))
        cache.commit([name])
    for layer in range(2):
        expected = joined(rows(2, [2, layer]), rows(1, [1, layer]))
        assert_identical(cache.gather("child", layer=layer)[0], expected[0], f"keys of layer {layer}")
        assert_identical(cache.gather("child", layer=layer)[1], expected[1], f"values of layer {layer}")


@requirement("PA-32")
@given(lens=st.permutations([("writes", 1), ("waits", 0)]))
def test_who_writes_copies_though_the_other_is_reserved_as_well(impl, lens):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add("writes")
    cache.append("writes", *rows(2, 1))
    cache.fork("writes", "waits")
    cache.reserve([name for name, _ in lens], [m for _, m in lens])
    cache.write(0, *rows(1, 2))
    cache.commit(["writes", "waits"])
    assert_equal((cache.usage().copies, cache.usage().used), (1, 2), "blocks copied, used")
    cache.append("waits", *rows(1, 3))
    assert_identical(cache.gather("writes")[0], joined(rows(2, 1), rows(1, 2))[0], "keys of the writer")
    assert_identical(cache.gather("waits")[0], joined(rows(2, 1), rows(1, 3))[0], "keys of the other")


@requirement("PA-33")
@given(k=st.integers(2, 5), together=st.booleans())
def test_k_sequences_that_share_a_tail_make_one_copy_less(impl, k, together):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add(0)
    cache.append(0, *rows(6, 0))
    for child in range(1, k):
        cache.fork(0, child)
    tail = cache.block_table(0)[1]
    new = rows(k, 1)
    if together:
        cache.reserve(list(range(k)), [1] * k)
        cache.write(0, *new)
        cache.commit(list(range(k)))
    else:
        for name in range(k):
            cache.append(name, new[0][name : name + 1], new[1][name : name + 1])
    assert_equal(cache.usage().copies, k - 1, "usage().copies")
    assert_equal(cache.usage().used, 1 + k, "usage().used")
    for name in range(k):
        expected = np.concatenate([rows(6, 0)[0], new[0][name : name + 1]])
        assert_identical(cache.gather(name)[0], expected, f"keys of {name}")
    kept = [name for name in range(k) if cache.block_table(name)[1] == tail]
    assert_equal(kept, [k - 1], "who writes in place")


@requirement("PA-34")
@given(blocks=st.integers(1, 3), m=st.integers(0, 5))
def test_full_shared_blocks_are_never_copied(impl, blocks, m):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add("parent")
    cache.append("parent", *rows(4 * blocks, 1))
    cache.fork("parent", "child")
    cache.append("child", *rows(m, 2))
    cache.append("parent", *rows(m, 3))
    usage = cache.usage()
    assert_equal((usage.copies, usage.shared), (0, blocks), "blocks copied, shared")
    assert_equal(cache.block_table("child")[:blocks], cache.block_table("parent")[:blocks], "shared part")


@requirement("PA-34")
def test_appending_nothing_copies_nothing(impl):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add("parent")
    cache.append("parent", *rows(2, 1))
    cache.fork("parent", "child")
    cache.append("child", *rows(0, 2))
    assert_equal((cache.usage().copies, cache.usage().used), (0, 1), "blocks copied, used")


@requirement("PA-35")
@given(order=st.permutations(["parent", "child", "grandchild"]), n=st.integers(1, 9))
def test_relatives_may_leave_in_any_order(impl, order, n):
    cache = impl.PagedKVCache(20, 4, KV_HEADS, HEAD_DIM)
    cache.add("parent")
    cache.append("parent", *rows(n, 1))
    cache.fork("parent", "child")
    cache.append("child", *rows(2, 2))
    cache.fork("child", "grandchild")
    told = {"parent": rows(n, 1), "child": joined(rows(n, 1), rows(2, 2))}
    told["grandchild"] = told["child"]
    for leaver in order:
        cache.free(leaver)
        del told[leaver]
        cache.add("other")
        cache.append("other", *rows(4, 5))  # would overwrite a block given back too early
        for name, (keys, _) in told.items():
            assert_identical(cache.gather(name)[0], keys, f"keys of {name}")
        cache.free("other")
    assert_equal(cache.usage().free, 20, "usage().free")
