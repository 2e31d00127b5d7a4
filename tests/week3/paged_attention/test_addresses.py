"""Where a position lies, and what a write does to the pool."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_identical, assert_integers
from tests.week3.paged_attention.cases import DTYPES, SEEDS, SHAPES, normal, rare, written_by_hand


@st.composite
def tables_and_ranges(draw):
    block_size = draw(st.integers(1, 5))
    table = draw(st.permutations(range(draw(st.integers(0, 6)))))
    start = draw(st.integers(0, len(table) * block_size))
    return list(table), start, draw(st.integers(0, len(table) * block_size - start)), block_size


@requirement("PA-01")
@given(case=tables_and_ranges())
def test_every_position_has_one_slot(impl, case):
    table, start, count, block_size = case
    expected = [table[p // block_size] * block_size + p % block_size for p in range(start, start + count)]
    assert_integers(impl.slot_mapping(table, start, count, block_size), np.array(expected, np.int64))


@requirement("PA-01")
def test_no_positions_have_no_slots(impl):
    assert_integers(impl.slot_mapping([], 0, 0, 4), np.zeros(0, np.int64))
    assert_integers(impl.slot_mapping([2, 1], 8, 0, 4), np.zeros(0, np.int64))


@requirement("PA-01")
def test_slots_ignore_blocks_given_back_outside_the_range(impl):
    assert_integers(impl.slot_mapping([None, 7, 2], 3, 4, 3), np.array([21, 22, 23, 6]))


@st.composite
def writes(draw, dtype, negative=False):
    """New rows, their slots, and a pool to write them into."""
    shape, seed = draw(SHAPES), draw(SEEDS)
    rng = np.random.default_rng(seed)
    capacity = 4 * shape.block_size
    slots = rng.permutation(capacity)[: draw(st.integers(0, capacity))]
    if negative:
        padding = rng.choice([-1, -2, -capacity - 1], len(slots))
        slots = np.where(rng.random(len(slots)) < 0.5, padding, slots)
    rows, pool = (
        (len(slots), shape.kv_heads, shape.head_dim),
        (4, shape.kv_heads, shape.block_size, shape.head_dim),
    )
    arrays = [rare(normal(rng, size, dtype), seed + i) for i, size in enumerate((rows, rows, pool, pool))]
    for written in arrays[:2]:
        written[slots < 0] = np.nan
    integers = draw(st.sampled_from([np.int32, np.int64]))
    return *arrays[:2], slots.astype(integers), *arrays[2:]


@requirement("PA-02")
@given(cases=st.tuples(*map(writes, sorted(DTYPES))))
def test_a_write_fills_exactly_the_slots_it_names(impl, cases):
    for keys, values, slots, key_blocks, value_blocks in cases:
        written_keys, written_values = impl.write_slots(keys, values, slots, key_blocks, value_blocks)
        assert_identical(written_keys, written_by_hand(keys, slots, key_blocks), "key_blocks")
        assert_identical(written_values, written_by_hand(values, slots, value_blocks), "value_blocks")


@requirement("PA-03")
@given(case=st.sampled_from(sorted(DTYPES)).flatmap(lambda dtype: writes(dtype, negative=True)))
def test_negative_slots_are_padding(impl, case):
    keys, values, slots, key_blocks, value_blocks = case
    written_keys, written_values = impl.write_slots(*case)
    assert_identical(written_keys, written_by_hand(keys, slots, key_blocks), "key_blocks")
    assert_identical(written_values, written_by_hand(values, slots, value_blocks), "value_blocks")


@requirement("PA-04")
@given(
    block_size=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 16), min_size=0, max_size=4),
    extra=st.integers(0, 2),
)
@example(block_size=4, lengths=[8, 3, 9], extra=1)
def test_a_page_table_in_compressed_rows(impl, block_size, lengths, extra):
    tables, expected_indices, ends = [], [], [0]
    for row, n in enumerate(lengths):
        pages = -(-n // block_size)
        first = row // 2 * 100  # every two sequences share their blocks
        tables.append([first + 3 * page for page in range(pages + extra)])
        expected_indices += tables[-1][:pages]
        ends.append(len(expected_indices))
    table = impl.to_csr(tables, lengths, block_size)
    assert_identical(table.indptr, np.array(ends, np.int32), "indptr")
    assert_identical(table.indices, np.array(expected_indices, np.int32), "indices")
    last = np.array([(n - 1) % block_size + 1 for n in lengths], np.int32)
    assert_identical(table.last_page_len, last, "last_page_len")
