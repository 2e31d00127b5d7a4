"""Usage and fragmentation."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal
from spec.paged_attention import Fragmentation, MemoryUse
from tests.week3.paged_attention.cases import HEAD_DIM, KV_HEADS, B, caching, rows, run


@requirement("PA-54")
@given(
    lens=st.lists(st.integers(0, 9), min_size=1, max_size=3), forks=st.integers(0, 2), cut=st.integers(0, 9)
)
def test_every_block_is_accounted_for(impl, lens, forks, cut):
    cache = impl.PagedKVCache(30, 4, KV_HEADS, HEAD_DIM)
    for name, n in enumerate(lens):
        cache.add(name)
        cache.append(name, *rows(n, name))
    for child in range(forks):
        cache.fork(0, f"fork {child}")
    if forks:
        cache.truncate("fork 0", min(cut, lens[0]))
    kept = min(cut, lens[0]) if forks == 1 else lens[0]
    used = sum(-(-n // 4) for n in lens)
    usage = cache.usage()
    assert_equal((usage.num_blocks, usage.free, usage.used, usage.cached), (30, 30 - used, used, 0), "blocks")
    assert_equal(usage.shared, -(-kept // 4) if forks else 0, "usage().shared")
    assert_equal((usage.slots_used, usage.slots_wasted), (sum(lens), used * 4 - sum(lens)), "slots")
    assert_equal(
        (usage.copies, usage.evictions, usage.prefix_tokens_queried, usage.prefix_tokens_hit),
        (0, 0, 0, 0),
        "events",
    )


@requirement("PA-54")
@given(n=st.integers(0, 11), alive=st.booleans())
def test_cached_blocks_are_counted_apart(impl, n, alive):
    cache = caching(impl)
    run(cache, "s", list(range(n)))
    if not alive:
        cache.free("s")
    usage = cache.usage()
    used = -(-n // B) if alive else 0
    cached = 0 if alive else n // B
    assert_equal((usage.free, usage.used, usage.cached), (20 - used - cached, used, cached), "blocks")
    slots = n if alive else 0
    assert_equal((usage.slots_used, usage.slots_wasted), (slots, used * B - slots), "slots")


@requirement("PA-55")
@given(lens=st.lists(st.integers(0, 40), max_size=5), block_size=st.integers(1, 9), spare=st.integers(0, 9))
@example(lens=[2**53 + 1, 3], block_size=2, spare=0)  # a float cannot hold it
def test_fragmentation_paged_and_contiguous(impl, lens, block_size, spare):
    max_length = max([1, *lens]) + spare
    paged = sum(-(-n // block_size) * block_size for n in lens)
    expected = Fragmentation(
        paged=MemoryUse(sum(lens), paged, paged - sum(lens)),
        contiguous=MemoryUse(sum(lens), len(lens) * max_length, len(lens) * max_length - sum(lens)),
    )
    assert_equal(impl.fragmentation(lens, block_size, max_length), expected, "fragmentation()")


@requirement("PA-56")
def test_paging_wastes_under_four_percent(impl):
    # Lengths as the vLLM paper reports them for ShareGPT (Fig. 11: prompts of 161 and answers of 338 tokens
    # on average), each request caught at a random moment of its life.
    rng = np.random.default_rng(2023)
    lengths = (1 + rng.exponential(160, 48) + rng.random(48) * rng.exponential(338, 48)).astype(int)
    cache = impl.PagedKVCache(2000, 16, 1, 1)
    blocks_before = 0
    for name, n in enumerate(lengths.tolist()):
        cache.add(name)
        cache.append(name, np.zeros((n, 1, 1), np.float32), np.zeros((n, 1, 1), np.float32))
        blocks = cache.usage().used - blocks_before
        assert blocks * 16 - n < 16, (
            f"expected less than one block of waste for {n} tokens, got {blocks} blocks"
        )
        blocks_before += blocks
    usage = cache.usage()
    assert_equal(usage.slots_used, int(lengths.sum()), "usage().slots_used")
    waste = usage.slots_wasted / (usage.slots_used + usage.slots_wasted)
    assert waste < 0.04, f"expected under 4 % of the slots wasted, got {waste:.1%}"
