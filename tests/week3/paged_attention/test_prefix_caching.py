"""What is published, found again, kept apart and never changed."""

from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, refused
from spec import InvalidArgument
from tests.week3.paged_attention.cases import (
    HEAD_DIM,
    KV_HEADS,
    B,
    assert_content,
    caching,
    joined,
    rows,
    rows_of,
    run,
)


@requirement("PA-36")
@given(n=st.integers(0, 14), m=st.integers(0, 14), shared=st.integers(0, 14), alive=st.booleans())
def test_a_known_prefix_is_not_computed_again(impl, n, m, shared, alive):
    first = [10 + i for i in range(n)]
    second = first[:shared] + [50 + i for i in range(m)]
    cache = caching(impl)
    assert_equal(run(cache, "first", first), 0, "add() of the first")
    if not alive:
        cache.free("first")
    common = min(shared, n)
    expected = max(0, min(common, len(second) - 1)) // B * B
    assert_equal(cache.cached_prefix(second), expected, "cached_prefix()")
    assert_equal(cache.add("second", second), expected, "add()")
    assert_equal(cache.length("second"), expected, "length() after add")
    cache.append("second", *rows_of(second[expected:], second[:expected]), tokens=second[expected:])
    assert_content(cache, "second", second)
    usage = cache.usage()
    assert_equal(
        (usage.prefix_tokens_queried, usage.prefix_tokens_hit),
        (n + len(second), expected),
        "tokens queried, hit",
    )


@requirement("PA-36")
def test_generated_tokens_are_found_too(impl):
    cache = caching(impl)
    run(cache, "turn 1", [1, 2, 3, 4, 5, 6])
    for token, history in ((7, [1, 2, 3, 4, 5, 6]), (8, [1, 2, 3, 4, 5, 6, 7])):
        cache.append("turn 1", *rows_of([token], history), tokens=[token])
    cache.fork("turn 1", "fork")
    cache.free("turn 1")
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert_equal(run(cache, "turn 2", tokens), 8, "add()")
    assert_content(cache, "turn 2", tokens)


@requirement("PA-36")
def test_without_prefix_caching_nothing_is_found(impl):
    cache = impl.PagedKVCache(20, B, KV_HEADS, HEAD_DIM)
    assert_equal(run(cache, "first", [1, 2, 3, 4, 5]), 0, "add() of the first")
    assert_equal(run(cache, "second", [1, 2, 3, 4, 5]), 0, "add() of the second")
    cache.free("first")
    assert_equal(cache.usage().cached, 0, "usage().cached")


@requirement("PA-36")
def test_two_caches_find_what_is_their_own(impl):
    seen = []

    def block_hash(parent, tokens, extras):
        seen.append(tokens)
        return repr((parent, tokens)).encode()

    first, second = caching(impl, block_hash=block_hash), caching(impl)
    run(first, "s", [1, 2, 3, 4, 5])
    asked = len(seen)
    assert asked > 0, "expected calls of the first one's block_hash, got none"
    assert_equal(second.cached_prefix([1, 2, 3, 4, 5]), 0, "cached_prefix() of the second")
    run(second, "s", [6, 7, 8, 9, 10])
    assert_equal(len(seen), asked, "calls of the first one's block_hash")
    assert_equal(first.cached_prefix([6, 7, 8, 9, 10]), 0, "cached_prefix() of the first")
    assert_equal(run(first, "again", [1, 2, 3, 4, 6]), 4, "add() to the first")


@requirement("PA-36")
def test_a_refused_add_asks_for_nothing(impl):
    cache = caching(impl)
    run(cache, "s", [1, 2, 3, 4, 5])
    before = cache.usage()
    with refused(InvalidArgument, "seq_id", got="s"):
        cache.add("s", [1, 2, 3, 4, 5])
    assert_equal(cache.usage(), before, "usage() after the refusal")


@requirement("PA-37")
@given(n=st.integers(1, 17))
def test_one_token_is_always_left_to_compute(impl, n):
    tokens = list(range(n))
    cache = caching(impl)
    run(cache, "first", tokens)
    assert_equal(cache.add("again", tokens), (n - 1) // B * B, f"add() of the same {n} tokens")


@requirement("PA-38")
def test_a_block_is_known_by_everything_before_it(impl):
    cache = caching(impl)
    run(cache, "first", [1, 1, 1, 1, 2, 2, 2, 2, 3])
    assert_equal(run(cache, "other start", [9, 9, 9, 9, 2, 2, 2, 2, 3]), 0, "add() behind another start")
    assert_equal(run(cache, "other place", [2, 2, 2, 2, 3, 3, 3, 3, 3]), 0, "add() at another place")
    assert_equal(run(cache, "gap", [1, 1, 1, 1, 7, 7, 7, 7, 2, 2, 2, 2, 3]), 4, "add() with a gap")
    assert_content(cache, "other start", [9, 9, 9, 9, 2, 2, 2, 2, 3])
    assert_content(cache, "gap", [1, 1, 1, 1, 7, 7, 7, 7, 2, 2, 2, 2, 3])


@requirement("PA-38")
def test_the_lookup_stops_at_the_first_miss(impl):
    cache = caching(impl, num_blocks=6)
    tokens = [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4]
    run(cache, "first", tokens)
    run(cache, "other", [5, 5, 5, 5])
    cache.truncate("first", 4)  # releases the second and third block; the deeper is evicted first
    cache.free("first")
    cache.free("other")
    cache.add("filler")
    cache.append("filler", *rows(3 * B, 1))  # two plain blocks and one eviction
    assert_equal(cache.cached_prefix(tokens), 8, "cached_prefix() after the third block went")
    cache.append("filler", *rows(B, 2))
    assert_equal(cache.cached_prefix(tokens), 4, "cached_prefix() after the second block went")


@requirement("PA-39")
@given(
    first=st.tuples(st.sampled_from([None, "", "x"]), st.sampled_from([None, "", "x"])),
    second=st.tuples(st.sampled_from([None, "", "x", "y"]), st.sampled_from([None, "", "x", "y"])),
)
@example(first=("", None), second=(None, None))
@example(first=("x", None), second=(None, "x"))
def test_salt_and_adapter_keep_prefixes_apart(impl, first, second):
    tokens = list(range(9))
    cache = caching(impl)
    run(cache, "first", tokens, salt=first[0], adapter=first[1])
    expected = 8 if first == second else 0
    assert_equal(cache.cached_prefix(tokens, salt=second[0], adapter=second[1]), expected, "cached_prefix()")
    assert_equal(cache.add("second", tokens, salt=second[0], adapter=second[1]), expected, "add()")


@requirement("PA-39")
def test_the_hash_is_told_salt_and_adapter_with_their_kind(impl):
    seen = []

    def block_hash(parent, tokens, extras):
        seen.append((parent, tuple(tokens), tuple(tuple(pair) for pair in extras)))
        return b"%d" % len(seen)

    cache = caching(impl, block_hash=block_hash)
    cache.add("s", salt="x", adapter="y")
    cache.append("s", *rows_of(range(8)), tokens=list(range(8)))
    expected = [
        (None, (0, 1, 2, 3), (("adapter", "y"), ("salt", "x"))),
        (b"1", (4, 5, 6, 7), (("adapter", "y"),)),
    ]
    assert_equal(seen, expected, "calls of block_hash")


@requirement("PA-40")
def test_nothing_is_found_before_it_is_committed(impl):
    cache = caching(impl)
    tokens = list(range(9))
    cache.add("s", tokens)
    cache.reserve(["s"], [9], [tokens])
    assert_equal(cache.cached_prefix(tokens), 0, "cached_prefix() after reserve")
    cache.write(0, *rows_of(tokens))
    assert_equal(cache.cached_prefix(tokens), 0, "cached_prefix() after write")
    cache.rollback(["s"])
    assert_equal(cache.cached_prefix(tokens), 0, "cached_prefix() after rollback")
    cache.free("s")
    assert_equal(cache.usage().cached, 0, "usage().cached after an abort")
    run(cache, "s", tokens)
    assert_equal(cache.cached_prefix(tokens), 8, "cached_prefix() after commit")


@requirement("PA-40")
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_only_full_blocks_are_published(impl, sizes):
    cache = caching(impl)
    tokens = list(range(sum(sizes)))
    cache.add("s", tokens)
    done = 0
    for m in sizes:
        cache.append("s", *rows_of(tokens[done : done + m], tokens[:done]), tokens=tokens[done : done + m])
        done += m
        assert_equal(
            cache.cached_prefix([*tokens, 99]), done // B * B, f"cached_prefix() after {done} tokens"
        )


@requirement("PA-40")
def test_blocks_with_unknown_tokens_are_not_published(impl):
    cache = caching(impl)
    cache.add("s")
    cache.append("s", *rows_of([0, 1, 2, 3]), tokens=[0, 1, 2, 3])
    cache.append("s", *rows_of([4], [0, 1, 2, 3]))
    cache.append("s", *rows_of(range(5, 12), range(5)), tokens=list(range(5, 12)))
    assert_equal(cache.cached_prefix(list(range(13))), 4, "cached_prefix()")
    cache.free("s")
    assert_equal(cache.usage().cached, 1, "usage().cached")


@requirement("PA-40")
def test_each_sequence_of_a_reservation_gives_its_own_ids(impl):
    cache = caching(impl)
    known, unknown = [1, 2, 3, 4, 5], [6, 7, 8, 9, 10]
    cache.add("known")
    cache.add("unknown")
    cache.reserve(["unknown", "known"], [5, 5], [None, known])
    cache.write(0, *joined(rows_of(unknown), rows_of(known)))
    cache.commit(["unknown", "known"])
    assert_equal(cache.cached_prefix(known), 4, "cached_prefix() of the tokens that were given")
    assert_equal(cache.cached_prefix(unknown), 0, "cached_prefix() of the tokens that were not")


@requirement("PA-40")
def test_what_follows_is_published_again_once_the_unknown_token_was_cut_off(impl):
    cache = caching(impl)
    tokens = list(range(9))
    cache.add("s")
    cache.append("s", *rows_of(tokens[:3]), tokens=tokens[:3])
    cache.append("s", *rows(3, 1))  # three tokens without ids
    cache.truncate("s", 3)
    cache.append("s", *rows_of(tokens[3:], tokens[:3]), tokens=tokens[3:])
    assert_equal(run(cache, "again", tokens), 8, "add()")
    assert_content(cache, "again", tokens)


@requirement("PA-41")
@given(cut=st.integers(1, 7), alive=st.booleans())
def test_a_published_block_never_changes(impl, cut, alive):
    cache = caching(impl)
    tokens, other = [1, 2, 3, 4, 5, 6, 7, 8, 9], [70, 71, 72, 73, 74, 75, 76, 77]
    run(cache, "s", tokens)
    if alive:
        run(cache, "reader", tokens)
    cache.truncate("s", cut)
    cache.append("s", *rows_of(other, tokens[:cut]), tokens=other)
    assert_equal(cache.usage().copies, int(cut % B > 0), "usage().copies")
    assert_content(cache, "s", tokens[:cut] + other)
    if alive:
        assert_content(cache, "reader", tokens)
    assert_equal(run(cache, "again", tokens), 8, "add() of the old tokens")
    assert_content(cache, "again", tokens)
    assert_equal(run(cache, "new", [*tokens[:cut], *other]), (cut + 7) // B * B, "add() of the new tokens")
    assert_content(cache, "new", tokens[:cut] + other)


@requirement("PA-41")
@given(k=st.integers(1, 4), cut=st.integers(1, 3))
def test_all_who_share_a_published_tail_copy_it(impl, k, cut):
    cache = caching(impl)
    tokens, names = [1, 2, 3, 4], list(range(k))
    run(cache, 0, tokens)
    cache.truncate(0, cut)
    for child in names[1:]:
        cache.fork(0, child)
    cache.reserve(names, [1] * k, [[9]] * k)
    cache.write(0, *joined(*[rows_of([9], tokens[:cut])] * k))
    cache.commit(names)
    assert_equal(cache.usage().copies, k, "usage().copies")
    assert_equal(run(cache, "again", [*tokens, 5]), 4, "add() of the old tokens")
    assert_content(cache, "again", [*tokens, 5])
    for name in names:
        assert_content(cache, name, [*tokens[:cut], 9])


@requirement("PA-42")
@given(
    prompts=st.lists(st.lists(st.integers(0, 1), min_size=9, max_size=13), min_size=2, max_size=4),
    weak=st.sampled_from(["constant", "empty", "without parent", "first token"]),
)
@example(prompts=[[0] * 13, [0] * 9 + [1] * 4], weak="empty")
def test_a_colliding_hash_is_harmless(impl, prompts, weak):
    def block_hash(parent, tokens, extras):
        if weak in ("constant", "empty"):
            return b"same" if weak == "constant" else b""
        return bytes(tokens) if weak == "without parent" else bytes(tokens[:1])

    cache = caching(impl, num_blocks=40, block_hash=block_hash)
    for name, tokens in enumerate(prompts):
        known = list(prompts[:name])
        common = max((common_prefix(tokens, p) for p in known), default=0)
        assert_equal(run(cache, name, tokens), min(common, len(tokens) - 1) // B * B, f"add() of {name}")
    for name, tokens in enumerate(prompts):
        assert_content(cache, name, tokens)


def common_prefix(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
