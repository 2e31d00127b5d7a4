"""What is found again, kept apart, evicted and never changed."""

from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, passed_through, refused
from spec import OutOfBlocks
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
    assert_content(cache, "s", tokens[:cut] + other)
    if alive:
        assert_content(cache, "reader", tokens)
    assert_equal(run(cache, "again", tokens), 8, "add() of the old tokens")
    assert_content(cache, "again", tokens)
    assert_equal(run(cache, "new", [*tokens[:cut], *other]), (cut + 7) // B * B, "add() of the new tokens")
    assert_content(cache, "new", tokens[:cut] + other)


@requirement("PA-42")
@given(
    prompts=st.lists(st.lists(st.integers(0, 1), min_size=9, max_size=13), min_size=2, max_size=4),
    weak=st.sampled_from(["constant", "without parent", "first token"]),
)
def test_a_colliding_hash_is_harmless(impl, prompts, weak):
    def block_hash(parent, tokens, extras):
        if weak == "constant":
            return b"same"
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


@requirement("PA-43")
@given(order=st.permutations([0, 1, 2]), evictions=st.integers(0, 6))
def test_the_least_recently_released_goes_first_the_deeper_before_its_parent(impl, order, evictions):
    cache = caching(impl, num_blocks=6)
    prompts = [[name] * 4 + [name + 10] * 4 for name in range(3)]
    for name, tokens in enumerate(prompts):
        run(cache, name, tokens)
    for name in order:
        cache.free(name)
    assert_equal(cache.usage().cached, 6, "usage().cached")
    cache.add("filler")
    cache.append("filler", *rows(B * evictions, 1))
    assert_equal(cache.usage().evictions, evictions, "usage().evictions")
    left = dict.fromkeys(order, 2)
    for i in range(evictions):
        left[order[i // 2]] -= 1
    for name, tokens in enumerate(prompts):
        assert_equal(cache.cached_prefix([*tokens, 99]), left[name] * B, f"cached_prefix() of prompt {name}")


@requirement("PA-43")
def test_blocks_without_content_are_taken_before_cached_ones(impl):
    cache = caching(impl, num_blocks=4)
    run(cache, "s", list(range(10)))
    cache.free("s")
    cache.add("filler")
    cache.append("filler", *rows(2 * B, 1))
    assert_equal(cache.cached_prefix(list(range(10))), 8, "cached_prefix()")
    assert_equal(cache.usage().evictions, 0, "usage().evictions")
    cache.append("filler", *rows(2 * B, 2))
    assert_equal(cache.cached_prefix(list(range(10))), 0, "cached_prefix() when both were needed")
    assert_equal(cache.usage().evictions, 2, "usage().evictions")


@requirement("PA-43")
def test_a_hit_makes_a_block_recent_again(impl):
    cache = caching(impl, num_blocks=2)
    for name in (0, 1):
        run(cache, name, [name] * B)
    for name in (0, 1):
        cache.free(name)
    assert_equal(cache.add("hit", [0] * B + [9]), B, "add()")
    cache.free("hit")
    cache.add("filler")
    cache.append("filler", *rows(B, 1))
    assert_equal(cache.cached_prefix([0] * B + [9]), B, "cached_prefix() of the one hit")
    assert_equal(cache.cached_prefix([1] * B + [9]), 0, "cached_prefix() of the other")


@requirement("PA-44")
def test_a_hit_is_held_at_once(impl):
    cache = caching(impl, num_blocks=3)
    tokens = list(range(8))
    run(cache, "s", tokens)
    cache.free("s")
    assert_equal(cache.add("hit", [*tokens, 99]), 8, "add()")
    cache.append("hit", *rows_of([99], tokens), tokens=[99])
    assert_content(cache, "hit", [*tokens, 99])
    cache.add("other")
    with refused(OutOfBlocks):
        cache.append("other", *rows(1, 1))
    assert_content(cache, "hit", [*tokens, 99])


@requirement("PA-45")
@given(first_out=st.booleans())
def test_the_same_content_may_be_published_twice(impl, first_out):
    cache = caching(impl, num_blocks=4)
    tokens = [5] * B
    for name in ("a", "b"):
        cache.add(name, tokens)
    for name in ("a", "b"):  # both added before either was computed
        cache.append(name, *rows_of(tokens), tokens=tokens)
    for name in ("a", "b") if first_out else ("b", "a"):
        cache.free(name)
    assert_equal(cache.usage().cached, 2, "usage().cached")
    cache.add("filler")
    cache.append("filler", *rows(3 * B, 1))  # evicts one of the two
    assert_equal(cache.usage().evictions, 1, "usage().evictions")
    assert_equal(cache.add("again", [*tokens, 6]), B, "add()")
    assert_content(cache, "again", tokens)


@requirement("PA-46")
def test_asking_is_free_of_effects(impl):
    cache = caching(impl, num_blocks=2)
    for name in (0, 1):
        run(cache, name, [name] * B)
    for name in (0, 1):
        cache.free(name)
    before = cache.usage()
    assert_equal(cache.cached_prefix([0] * B + [9]), B, "cached_prefix()")
    assert_equal(cache.usage(), before, "usage()")
    cache.add("filler")
    cache.append("filler", *rows(B, 1))
    assert_equal(cache.cached_prefix([0] * B + [9]), 0, "cached_prefix() of the oldest")
    assert_equal(cache.cached_prefix([1] * B + [9]), B, "cached_prefix() of the newest")


@requirement("PA-47")
def test_no_reset_while_in_use(impl):
    cache = caching(impl)
    tokens = list(range(9))
    run(cache, "s", tokens)
    assert_equal(cache.reset_prefix_cache(), False, "reset_prefix_cache() in use")
    assert_equal(cache.cached_prefix(tokens), 8, "cached_prefix() after the refusal")
    cache.swap_out(["s"])
    assert_equal(cache.reset_prefix_cache(), False, "reset_prefix_cache() with a sequence swapped out")
    cache.swap_in(["s"])
    cache.free("s")
    cache.add("empty")
    cache.reserve(["empty"], [1])
    assert_equal(cache.reset_prefix_cache(), False, "reset_prefix_cache() with a reservation")
    cache.rollback(["empty"])
    assert_equal(cache.cached_prefix(tokens), 8, "cached_prefix() before the reset")
    assert_equal(cache.reset_prefix_cache(), True, "reset_prefix_cache()")
    assert_equal(cache.cached_prefix(tokens), 0, "cached_prefix() after the reset")
    assert_equal((cache.usage().cached, cache.usage().free), (0, 20), "blocks cached, free")


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
    lookups = len(calls) - blocks
    assert lookups <= blocks, f"expected at most {blocks} calls of block_hash to find them, got {lookups}"


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
