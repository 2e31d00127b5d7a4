"""What is refused, each time beside a call that is not."""

import numpy as np

from grading.marks import requirement
from grading.matching import (
    assert_equal,
    assert_identical,
    assert_integers,
    assert_matches,
    check_refusals,
    refused,
)
from grading.truth import GroundTruth
from spec import InvalidArgument, NotSupported, UnknownSequence
from spec.paged_attention import Fragmentation, MemoryUse
from tests.week3.paged_attention.cases import (
    HEAD_DIM,
    KV_HEADS,
    Shape,
    joined,
    query_rows,
    ragged_batch,
    rows,
    written_by_hand,
)

reference = GroundTruth("paged_attention")


@requirement("PA-58")
def test_unknown_sequences_are_refused(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("known")
    cache.append("known", *rows(5, 1))
    before = cache.usage()
    for use in (
        lambda name: cache.length(name),
        lambda name: cache.block_table(name),
        lambda name: cache.gather(name),
        lambda name: cache.truncate(name, 5),
        lambda name: cache.attend(["known", name], query_rows(2, 1), [1, 1]),
        lambda name: cache.append(name, *rows(1, 1)),
        lambda name: cache.reserve(["known", name], [1, 1]),
        lambda name: cache.fork(name, "child"),
        lambda name: cache.swap_out(["known", name]),
        lambda name: cache.swap_in([name]),
        lambda name: cache.free(name),
    ):
        with refused(UnknownSequence, "seq_id", "parent", got="nobody"):
            use("nobody")
        assert_equal(cache.usage(), before, "usage() after the refusal")
    cache.reserve(["known"], [1])
    cache.write(0, *rows(1, 2))
    for end in (cache.commit, cache.rollback):
        with refused(UnknownSequence, "seq_id", got="nobody"):
            end(["known", "nobody"])
    cache.commit(["known"])
    assert_identical(cache.gather("known")[0], joined(rows(5, 1), rows(1, 2))[0], "keys")
    cache.free("known")
    assert_equal(cache.usage().free, 9, "usage().free")


@requirement("PA-58")
def test_existing_sequences_are_refused(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    for name in ("a", "b"):
        cache.add(name)
        cache.append(name, *rows(3, ord(name)))
    cache.add("out")
    cache.append("out", *rows(3, 1))
    cache.swap_out(["out"])
    for name in ("a", "out"):
        with refused(InvalidArgument, "seq_id", got=name):
            cache.add(name)
    for name in ("b", "out"):
        with refused(InvalidArgument, "child", got=name):
            cache.fork("a", name)
    cache.swap_in(["out"])
    assert_identical(cache.gather("out")[0], rows(3, 1)[0], "keys of the one that was out")
    for name in ("a", "b"):
        assert_identical(cache.gather(name)[0], rows(3, ord(name))[0], f"keys of {name}")
    cache.free("b")
    cache.fork("a", "b")
    assert_identical(cache.gather("b")[0], rows(3, ord("a"))[0], "keys of the fork")


@requirement("PA-59")
def test_bad_arguments_of_slot_mapping_are_refused(impl):
    valid = {"block_table": [4, None, 2], "start": 6, "count": 3, "block_size": 3}
    assert_integers(impl.slot_mapping(**valid), np.array([6, 7, 8]))
    check_refusals(
        impl.slot_mapping,
        valid,
        [
            ("block_size", {"block_size": 0}),
            ("start", {"start": -1, "count": 1}),
            ("count", {"count": -1}),
            ("count/start/block_table", {"count": 4}),
            ("block_table/start", {"start": 5}),
        ],
    )


@requirement("PA-59")
def test_bad_arguments_of_write_slots_are_refused(impl):
    pool = np.zeros((3, KV_HEADS, 4, HEAD_DIM), np.float32)
    keys, values = rows(2, 1)
    valid = {
        "keys": keys,
        "values": values,
        "slots": np.array([11, 0]),
        "key_blocks": pool,
        "value_blocks": pool,
    }
    assert_identical(impl.write_slots(**valid)[0], written_by_hand(keys, [11, 0], pool), "key_blocks")
    check_refusals(
        impl.write_slots,
        valid,
        [
            ("slots", {"slots": np.array([12, 0])}),
            ("slots/keys", {"slots": np.array([1])}),
            ("key_blocks", {"key_blocks": pool[0], "value_blocks": pool[0]}),
            ("keys/key_blocks", {"keys": keys.astype(np.float16)}),
            ("values/value_blocks", {"values": values.astype(np.float16)}),
            ("keys", {"keys": keys[:, :1]}),
            ("values", {"values": values[:1]}),
            ("value_blocks", {"value_blocks": pool[:2]}),
        ],
    )


@requirement("PA-59")
def test_bad_arguments_of_to_csr_are_refused(impl):
    valid = {"block_tables": [[5, 1], [2]], "lengths": [4, 2], "block_size": 3}
    assert_identical(impl.to_csr(**valid).indices, np.array([5, 1, 2], np.int32), "indices")
    check_refusals(
        impl.to_csr,
        valid,
        [
            ("block_size", {"block_size": 0}),
            ("lengths/block_tables", {"lengths": [4]}),
            ("lengths", {"lengths": [4, 0]}),
            ("lengths/block_tables", {"lengths": [7, 2]}),
            ("lengths/block_tables", {"lengths": [4, 4]}),
        ],
    )


@requirement("PA-59")
def test_bad_arguments_of_fragmentation_are_refused(impl):
    valid = {"lengths": [3, 5], "block_size": 4, "max_length": 5}
    expected = Fragmentation(MemoryUse(8, 12, 4), MemoryUse(8, 10, 2))
    assert_equal(impl.fragmentation(**valid), expected, "fragmentation()")
    check_refusals(
        impl.fragmentation,
        valid,
        [
            ("block_size", {"block_size": 0}),
            ("max_length", {"max_length": 0, "lengths": []}),
            ("lengths", {"lengths": [3, -1]}),
            ("lengths/max_length", {"lengths": [3, 6]}),
        ],
    )


@requirement("PA-59")
def test_bad_arguments_of_paged_attention_are_refused(impl):
    case = ragged_batch(Shape(6, 2, 4, 8), [9, 3], [2, 1], seed=5)
    names = ("queries", "key_blocks", "value_blocks", "block_tables", "context_lens", "query_lens")
    valid = dict(zip(names, case, strict=True))
    assert_matches(impl.paged_attention(**valid), reference.paged_attention(*case))
    queries, keys, values, tables, context, query = case
    outside, negative = tables.copy(), tables.copy()
    outside[0, 1], negative[1, 0] = len(keys), -1
    lens = lambda *n: np.array(n, np.int32)  # noqa: E731
    check_refusals(
        impl.paged_attention,
        valid,
        [
            ("queries", {"queries": queries[0]}),
            ("queries/query_lens", {"queries": queries[:2]}),
            ("queries/key_blocks/heads", {"queries": queries[:, :5]}),
            (
                "queries/key_blocks/value_blocks/heads/kv_heads/num_kv_heads",
                {"key_blocks": keys[:, :0], "value_blocks": values[:, :0]},
            ),
            ("queries/key_blocks/head_dim", {"queries": queries[:, :, :7]}),
            ("key_blocks", {"key_blocks": keys[0], "value_blocks": values[0]}),
            ("key_blocks/queries", {"key_blocks": keys.astype(np.float16)}),
            ("value_blocks/queries", {"value_blocks": values.astype(np.float16)}),
            ("value_blocks", {"value_blocks": values[:-1]}),
            ("block_tables", {"block_tables": tables[0]}),
            ("block_tables", {"block_tables": outside}),
            ("block_tables", {"block_tables": negative}),
            ("block_tables/context_lens", {"block_tables": tables[:, :2]}),
            ("context_lens", {"context_lens": lens(9)}),
            ("query_lens", {"query_lens": lens(3)}),
            ("query_lens", {"query_lens": lens(4, -1)}),
            ("query_lens/context_lens", {"context_lens": lens(1, 3)}),
            ("query_lens/context_lens", {"context_lens": lens(9, 0)}),
            ("window", {"window": 0}),
            ("softcap", {"softcap": 0.0}),
            ("softcap", {"softcap": -1.0}),
            ("sink_logits", {"sink_logits": np.zeros(2, np.float32)}),
        ],
    )


@requirement("PA-59")
def test_bad_arguments_of_the_pool_are_refused(impl):
    for argument, sizes in (("num_blocks", (0, 4)), ("block_size", (4, 0))):
        with refused(InvalidArgument, argument):
            impl.BlockAllocator(*sizes)
    pool = impl.BlockAllocator(3, 4)
    blocks = pool.allocate(2)
    with refused(InvalidArgument, "n:", "n ", "`n`", "'n'", got=-1):
        pool.allocate(-1)
    for outside in (-1, 3):
        for use in (
            lambda block: pool.ref_count(block),
            lambda block: pool.share([blocks[0], block]),
            lambda block: pool.release([blocks[0], block]),
        ):
            with refused(InvalidArgument, "block", got=outside):
                use(outside)
    assert_equal([pool.ref_count(block) for block in blocks], [1, 1], "reference counts after the refusals")
    assert_equal(len(pool.allocate(1)), 1, "blocks handed out")


@requirement("PA-60")
def test_bad_sizes_of_a_cache_are_refused(impl):
    valid = {
        "num_blocks": 3,
        "block_size": 4,
        "kv_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "layers": 1,
        "window": 1,
    }
    cache = impl.PagedKVCache(**valid)
    cache.add("s")
    cache.append("s", *rows(2, 1))
    assert_identical(cache.gather("s")[0], rows(2, 1)[0][1:], "keys in the window")
    check_refusals(
        impl.PagedKVCache,
        valid,
        [(name, {name: 0}) for name in valid]
        + [("dtype", {"dtype": name}) for name in ("float31", "float64")],
    )
    with refused(NotSupported, "prefix_caching", "window"):
        impl.PagedKVCache(**{**valid, "prefix_caching": True})


@requirement("PA-60")
def test_bad_reservations_are_refused(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM, prefix_caching=True)
    for name in ("a", "b"):
        cache.add(name)
    before = cache.usage()
    check_refusals(
        cache.reserve,
        {"seq_ids": ["a", "b"], "lens": [1, 2], "tokens": [[5], [6, 7]]},
        [
            ("seq_ids", {"seq_ids": ["a", "a"]}),
            ("lens/seq_ids", {"lens": [1]}),
            ("lens", {"lens": [1, -1]}),
            ("tokens/seq_ids", {"tokens": [[5]]}),
            ("tokens/lens", {"tokens": [[5], [6]]}),
        ],
    )
    assert_equal(cache.usage(), before, "usage() after the refusals")
    cache.reserve(["a"], [1], [[5]])
    for use in (
        lambda: cache.reserve(["b"], [1]),
        lambda: cache.append("b", *rows(1, 1)),
        lambda: cache.fork("a", "c"),
        lambda: cache.truncate("a", 0),
        lambda: cache.swap_out(["a"]),
        lambda: cache.commit(["b"]),
        lambda: cache.rollback(["b"]),
        lambda: cache.rollback(["a", "a"]),
    ):
        with refused(InvalidArgument, "seq_id", "parent"):
            use()
    cache.write(0, *rows(1, 1))
    with refused(InvalidArgument, "seq_id"):
        cache.commit(["a", "a"])
    cache.commit(["a"])
    assert_identical(cache.gather("a")[0], rows(1, 1)[0], "keys")
    with refused(InvalidArgument, "layer", "seq_ids", "reserv"):
        cache.write(0, *rows(0, 1))


@requirement("PA-60")
def test_bad_writes_are_refused(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("s")
    cache.reserve(["s"], [3])
    keys, values = rows(3, 1)
    refusals = [
        ("layer", {"layer": 1}),
        ("layer", {"layer": -1}),
        ("keys", {"keys": keys[:2]}),
        ("keys", {"keys": keys[:, :1]}),
        ("keys", {"keys": keys.astype(np.float16)}),
        ("values", {"values": values[:2]}),
        ("values", {"values": values.astype(np.float16)}),
    ]
    check_refusals(cache.write, {"layer": 0, "keys": keys, "values": values}, refusals)
    cache.write(0, keys, values)
    cache.commit(["s"])
    before = cache.usage()
    appends = [(argument, replaced) for argument, replaced in refusals if "layer" not in replaced]
    appends = [
        ("keys/values", {"keys": keys[:2]}),
        *((argument, bad) for argument, bad in appends if len(next(iter(bad.values()))) == 3),
    ]
    appends += [("tokens", {"tokens": ids}) for ids in ([1, 2], [1, 2, 3, 4], [])]
    check_refusals(cache.append, {"seq_id": "s", "keys": keys, "values": values}, appends)
    assert_equal(cache.usage(), before, "usage() after the refusals")
    cache.append("s", keys, values)
    assert_identical(cache.gather("s")[1], np.concatenate([values, values]), "values")
    deep = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM, layers=2)
    deep.add("s")
    with refused(NotSupported, "layer"):
        deep.append("s", keys, values)
    assert_equal(deep.length("s"), 0, "length()")


@requirement("PA-60")
def test_bad_reads_are_refused(impl):
    cache = impl.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("s")
    cache.append("s", *rows(3, 1))
    queries = query_rows(2, 1)
    valid = {"seq_ids": ["s"], "queries": queries, "query_lens": [2]}
    assert_matches(cache.attend(**valid), reference.attention(queries, *rows(3, 1)))
    check_refusals(
        cache.attend,
        valid,
        [
            ("layer", {"layer": 1}),
            ("layer", {"layer": -1}),
            ("query_lens/seq_ids", {"query_lens": [1, 1]}),
            ("query_lens", {"seq_ids": ["s", "s"], "query_lens": [3, -1]}),
            ("query_lens", {"query_lens": [4], "queries": query_rows(4, 1)}),
            ("queries/query_lens", {"query_lens": [1]}),
            ("queries/heads", {"queries": queries[:, :5]}),
            ("queries", {"queries": queries[:, :, :4]}),
            ("queries", {"queries": queries[:, 0, 0]}),
            ("queries", {"queries": queries.astype(np.float16)}),
            ("softcap", {"softcap": 0.0}),
            ("sink_logits", {"sink_logits": np.zeros(2, np.float32)}),
        ],
    )
    for layer in (1, -1):
        with refused(InvalidArgument, "layer"):
            cache.gather("s", layer=layer)
    for length in (4, -1):
        with refused(InvalidArgument, "length"):
            cache.truncate("s", length)
    cache.truncate("s", 3)
    assert_identical(cache.gather("s", layer=0)[0], rows(3, 1)[0], "keys")
