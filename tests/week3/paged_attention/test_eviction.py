"""What is kept after use, for how long, and what is found of it."""

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, refused
from spec import OutOfBlocks
from tests.week3.paged_attention.cases import (
    B,
    assert_content,
    caching,
    joined,
    rows,
    rows_of,
    run,
)


@requirement("PA-43")
@given(
    order=st.permutations([0, 1, 2]),
    evictions=st.integers(0, 6),
    way=st.sampled_from(["free", "truncate", "swap_out"]),
)
@example(order=[2, 0, 1], evictions=3, way="free")
@example(order=[2, 0, 1], evictions=3, way="truncate")
@example(order=[2, 0, 1], evictions=3, way="swap_out")
def test_the_least_recently_released_goes_first_the_deeper_before_its_parent(impl, order, evictions, way):
    cache = caching(impl, num_blocks=6)
    prompts = [[name] * 4 + [name + 10] * 4 for name in range(3)]
    for name, tokens in enumerate(prompts):
        run(cache, name, tokens)
    if way == "swap_out":
        cache.swap_out(order)
    for name in order if way != "swap_out" else []:
        cache.free(name) if way == "free" else cache.truncate(name, 0)
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
@given(needed=st.integers(1, 5))
def test_a_block_without_content_goes_first_even_if_it_was_freed_last(impl, needed):
    cache = caching(impl, num_blocks=5)
    tokens = list(range(8))
    run(cache, "cached", tokens)
    run(cache, "empty", [50, 51, 52])
    cache.free("cached")
    cache.free("empty")
    cache.add("filler")
    cache.append("filler", *rows(B * needed, 1))
    evicted = max(0, needed - 3)
    assert_equal(cache.usage().evictions, evicted, "usage().evictions")
    assert_equal(cache.cached_prefix([*tokens, 99]), 8 - B * evicted, "cached_prefix()")


@requirement("PA-43")
@given(rounds=st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_what_was_hit_last_stays_longest(impl, rounds):
    cache = caching(impl, num_blocks=3)
    for name in range(3):
        run(cache, name, [name] * B)
    for name in range(3):
        cache.free(name)
    order = [0, 1, 2]
    for name in rounds:
        assert_equal(cache.add("hit", [name] * B + [9]), B, f"add() of prompt {name}")
        cache.free("hit")
        order = [other for other in order if other != name] + [name]
    cache.add("filler")
    for gone in order:
        assert_equal(cache.cached_prefix([gone] * B + [9]), B, f"cached_prefix() of prompt {gone}")
        cache.append("filler", *rows(B, 1))
        assert_equal(cache.cached_prefix([gone] * B + [9]), 0, f"cached_prefix() of prompt {gone}, evicted")


@requirement("PA-43")
def test_a_block_is_found_again_once_those_before_it_are_back(impl):
    cache = caching(impl, num_blocks=6)
    tokens = list(range(12))
    run(cache, "s", tokens[:8])
    cache.swap_out(["s"])
    cache.swap_in(["s"])  # into blocks of its own; the two that were published are cached
    cache.append("s", *rows_of(tokens[8:], tokens[:8]), tokens=tokens[8:])
    cache.add("filler")
    cache.append("filler", *rows(3 * B, 1))  # evicts these two
    assert_equal(cache.usage().evictions, 2, "usage().evictions")
    assert_equal(cache.cached_prefix([*tokens, 99]), 0, "cached_prefix() without the first blocks")
    cache.free("filler")
    run(cache, "again", tokens[:8])
    assert_equal(cache.cached_prefix([*tokens, 99]), 12, "cached_prefix() when they are back")


@requirement("PA-43")
def test_a_reservation_that_is_refused_evicts_nothing(impl):
    cache = caching(impl, num_blocks=4)
    for name in (0, 1):
        run(cache, name, [name] * B)
    for name in (0, 1):
        cache.free(name)
    cache.add("s")
    before = cache.usage()
    for _ in range(3):
        with refused(OutOfBlocks):
            cache.reserve(["s"], [4 * B + 1])
    assert_equal(cache.usage(), before, "usage() after the refusals")
    cache.reserve(["s"], [3 * B])
    assert_equal(cache.cached_prefix([0] * B + [9]), 0, "cached_prefix() of the oldest")
    assert_equal(cache.cached_prefix([1] * B + [9]), B, "cached_prefix() of the newest")


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


@requirement("PA-45")
@given(first=st.integers(0, 2), second=st.integers(0, 2))
def test_the_block_published_earliest_is_found(impl, first, second):
    cache = caching(impl)
    tokens = [5] * B
    names = [0, 1, 2]
    for name in names:
        cache.add(name, tokens)
    cache.reserve(names, [B] * 3, [tokens] * 3)
    cache.write(0, *joined(*[rows_of(tokens)] * 3))
    for name in sorted(names, key=lambda name: (name != first, name != second)):
        cache.commit([name])
    cache.add("again", [*tokens, 6])
    assert_equal(cache.block_table("again"), cache.block_table(first), "block_table()")


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
    for m in (1, 0):
        cache.reserve(["empty"], [m])
        assert_equal(cache.reset_prefix_cache(), False, f"reset_prefix_cache(), {m} tokens reserved")
        cache.rollback(["empty"])
    assert_equal(cache.cached_prefix(tokens), 8, "cached_prefix() before the reset")
    cache.append("empty", *rows(19 * B, 1))  # evicts one
    cache.truncate("empty", 0)
    before = cache.usage()
    assert_equal(before.evictions, 1, "usage().evictions")
    assert_equal(cache.reset_prefix_cache(), True, "reset_prefix_cache()")
    assert_equal(cache.usage(), replace(before, cached=0, free=20), "usage() after the reset")
    assert_equal(cache.cached_prefix(tokens), 0, "cached_prefix() after the reset")
    assert_equal(run(cache, "s", tokens), 0, "add() after the reset")
    assert_equal(cache.cached_prefix(tokens), 8, "cached_prefix() of what came after it")
