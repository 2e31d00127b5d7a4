"""`BlockAllocator`: who owns which block."""

from hypothesis import given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, refused
from spec import InvalidArgument, OutOfBlocks


@requirement("PA-17")
@given(num_blocks=st.integers(1, 9), sizes=st.lists(st.integers(0, 4), max_size=4))
def test_a_block_is_handed_out_once(impl, num_blocks, sizes):
    pool = impl.BlockAllocator(num_blocks, 4)
    taken = []
    for n in sizes:
        if len(taken) + n <= num_blocks:
            blocks = pool.allocate(n)
            assert_equal(len(blocks), n, "blocks handed out")
            taken += blocks
    assert len(set(taken)) == len(taken), f"handed out twice: {sorted(taken)}"
    assert set(taken) <= set(range(num_blocks)), f"expected ids below {num_blocks}, got {sorted(taken)}"
    assert_equal(pool.num_free(), num_blocks - len(taken), "num_free()")


@requirement("PA-17")
def test_the_whole_pool_can_be_handed_out(impl):
    pool = impl.BlockAllocator(5, 4)
    assert_equal(sorted(pool.allocate(5)), [0, 1, 2, 3, 4], "all blocks")
    assert_equal(pool.num_free(), 0, "num_free()")


@requirement("PA-17")
def test_two_pools_know_nothing_of_each_other(impl):
    first, second = impl.BlockAllocator(3, 4), impl.BlockAllocator(5, 4)
    first.allocate(2)
    assert_equal((first.num_free(), second.num_free()), (1, 5), "num_free() of both")
    second.allocate(5)
    assert_equal((first.num_free(), second.num_free()), (1, 0), "num_free() of both")
    assert_equal(len(first.allocate(1)), 1, "blocks handed out")


@requirement("PA-18")
def test_a_block_that_was_never_handed_out_has_no_references(impl):
    pool = impl.BlockAllocator(3, 4)
    assert_equal([pool.ref_count(block) for block in range(3)], [0, 0, 0], "reference counts of a new pool")
    (taken,) = pool.allocate()
    pool.share([])
    pool.release([])
    expected = [int(block == taken) for block in range(3)]
    assert_equal([pool.ref_count(block) for block in range(3)], expected, "reference counts")


@requirement("PA-18")
@given(extra=st.integers(0, 4))
def test_a_block_is_free_when_its_last_reader_lets_go(impl, extra):
    pool = impl.BlockAllocator(4, 2)
    first, second = pool.allocate(2)
    pool.share([first] * extra)
    assert_equal(pool.ref_count(first), 1 + extra, "ref_count(first)")
    assert_equal(pool.ref_count(second), 1, "ref_count(second)")
    for left in range(extra, 0, -1):
        pool.release([first])
        assert_equal(pool.ref_count(first), left, "ref_count(first)")
        assert_equal(pool.num_free(), 2, "num_free() while the block has readers")
    pool.release([first])
    assert_equal(pool.ref_count(first), 0, "ref_count(first)")
    assert_equal(pool.num_free(), 3, "num_free()")
    assert second not in pool.allocate(3), "a block still in use was handed out"


@requirement("PA-19")
@given(taken=st.integers(0, 4), wanted=st.integers(1, 6))
def test_allocation_is_all_or_nothing(impl, taken, wanted):
    pool = impl.BlockAllocator(4, 2)
    pool.allocate(taken)
    left = 4 - taken
    with refused(OutOfBlocks, got=left + wanted):
        pool.allocate(left + wanted)
    assert_equal(pool.num_free(), left, "num_free() after the refusal")
    assert_equal(len(pool.allocate(left)), left, "blocks handed out after the refusal")


@requirement("PA-20")
def test_nothing_is_released_twice(impl):
    pool = impl.BlockAllocator(3, 2)
    first, second = pool.allocate(2)
    pool.release([first])
    with refused(InvalidArgument, "block"):
        pool.release([second, first])
    assert_equal(pool.ref_count(second), 1, "ref_count(second) after the refusal")
    assert_equal(pool.num_free(), 2, "num_free() after the refusal")
    pool.release([second])
    assert_equal(sorted(pool.allocate(3)), [0, 1, 2], "all blocks")


@requirement("PA-20")
def test_one_call_cannot_release_a_block_more_often_than_it_is_held(impl):
    pool = impl.BlockAllocator(3, 2)
    block, other = pool.allocate(2)
    pool.share([block])
    for names in ([block, block, block], [block, block, other, block], [other, block, other]):
        with refused(InvalidArgument, "block"):
            pool.release(names)
        assert_equal((pool.ref_count(block), pool.ref_count(other)), (2, 1), "counts after the refusal")
    pool.release([block, other, block])
    assert_equal(pool.num_free(), 3, "num_free()")


@requirement("PA-20")
def test_a_block_that_nobody_took_is_neither_released_nor_shared(impl):
    pool = impl.BlockAllocator(3, 2)
    (taken,) = pool.allocate()
    untouched = [block for block in range(3) if block != taken]
    for use in (pool.release, pool.share):
        for block in untouched:
            with refused(InvalidArgument, "block"):
                use([taken, block])
    assert_equal((pool.ref_count(taken), pool.num_free()), (1, 2), "ref_count, num_free() after the refusals")
    assert_equal(sorted(pool.allocate(2)), untouched, "the other blocks")


@requirement("PA-20")
def test_a_free_block_cannot_be_shared(impl):
    pool = impl.BlockAllocator(3, 2)
    first, second = pool.allocate(2)
    pool.release([first])
    with refused(InvalidArgument, "block"):
        pool.share([second, first])
    assert_equal(pool.ref_count(second), 1, "ref_count(second) after the refusal")
    pool.share([second])
    assert_equal(pool.ref_count(second), 2, "ref_count(second)")


@requirement("PA-21")
@given(keep=st.sets(st.integers(0, 7)))
def test_any_free_blocks_will_do(impl, keep):
    pool = impl.BlockAllocator(8, 2)
    blocks = pool.allocate(8)
    assert_equal(len(blocks), 8, "blocks handed out")
    released = [block for i, block in enumerate(blocks) if i not in keep]
    pool.release(released)
    assert_equal(sorted(pool.allocate(len(released))), sorted(released), "the free blocks")
