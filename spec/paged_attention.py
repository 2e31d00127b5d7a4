"""Contract of paged attention: what a module `paged_attention` must offer.

The rules are in `paged_attention.md`; the ids in the docstrings (PA-01 …) point there. Signatures and
values only: nothing here computes.

Symbols used throughout: B is the block size in tokens, n the length of a sequence, W the window. An
`Array` is an array of the implementation's framework (MLX, PyTorch or NumPy). `SequenceId` is chosen by
the caller. Positions, slots and block ids count from 0.

Sources: vLLM paper (Kwon et al., SOSP 2023, arXiv 2309.06180), §4; vLLM `vllm/v1/core/block_pool.py` and
`kv_cache_manager.py`; FlashInfer `docs/tutorials/kv_layout.rst`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "BlockAllocator",
    "BlockHash",
    "CacheUsage",
    "Fragmentation",
    "MemoryUse",
    "PageTable",
    "PagedKVCache",
    "fragmentation",
    "paged_attention",
    "slot_mapping",
    "to_csr",
    "write_slots",
]

Array = Any
SequenceId = int | str

BlockHash = Callable[[bytes | None, tuple[int, ...], tuple[tuple[str, str], ...]], bytes]
"""`block_hash(parent, tokens, extras)`: the hash of a full block. `parent` is the hash of the block before
it, or None; `tokens` are the block's B token ids; `extras` are tagged pairs such as ("salt", "tenant-7"),
sorted, empty where there are none."""


@dataclass(frozen=True)
class PageTable:
    """Block tables of R sequences in compressed sparse rows, as FlashInfer takes them. PA-04.

    indptr: (R + 1,) int32, starts at 0; sequence r owns indices[indptr[r]:indptr[r + 1]].
    indices: (indptr[R],) int32, block ids in logical order.
    last_page_len: (R,) int32, tokens in the last block, between 1 and B.
    """

    indptr: Array
    indices: Array
    last_page_len: Array


@dataclass(frozen=True)
class MemoryUse:
    """Slots for one token each. used: hold a token; reserved: set aside; internal: reserved but unused."""

    used: int
    reserved: int
    internal: int


@dataclass(frozen=True)
class Fragmentation:
    """The same sequences in pages, and in one contiguous reservation of `max_length` each. PA-55."""

    paged: MemoryUse
    contiguous: MemoryUse


@dataclass(frozen=True)
class CacheUsage:
    """Where the blocks of a `PagedKVCache` are at this instant, and what happened so far. PA-54.

    num_blocks: size of the pool; always free + used + cached.
    free: blocks that hold nothing of value.
    used: blocks that at least one sequence refers to.
    cached: published blocks that no sequence refers to. They can be hit, or evicted when space is needed.
    shared: blocks that two or more sequences refer to; each is also in `used`.
    copies: copy-on-write copies made since the start.
    evictions: cached blocks given up for new content since the start.
    prefix_tokens_queried, prefix_tokens_hit: with prefix caching, tokens passed to `add` and tokens it
        found, since the start.
    slots_used: slots of used blocks that hold a committed token; a shared slot counts once.
    slots_wasted: the other slots of used blocks.
    """

    num_blocks: int
    free: int
    used: int
    cached: int
    shared: int
    copies: int
    evictions: int
    prefix_tokens_queried: int
    prefix_tokens_hit: int
    slots_used: int
    slots_wasted: int


class BlockAllocator:
    """A pool of interchangeable blocks with reference counts. PA-17 to PA-21.

    Raises InvalidArgument when `num_blocks` or `block_size` is below 1.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """All `num_blocks` blocks are free; their ids are 0 … num_blocks − 1. PA-17."""
        ...

    def num_free(self) -> int:
        """Blocks with a reference count of 0. PA-17."""
        ...

    def allocate(self, n: int = 1) -> list[int]:
        """Takes n free blocks and gives each the reference count 1. PA-17, PA-19.

        Raises OutOfBlocks when fewer than n are free (and takes none), InvalidArgument when n is negative.
        """
        ...

    def share(self, blocks: Sequence[int]) -> None:
        """Adds one reference for each entry of `blocks`. PA-18.

        Raises InvalidArgument, and changes nothing, when an entry is out of range or not allocated.
        """
        ...

    def release(self, blocks: Sequence[int]) -> None:
        """Drops one reference for each entry of `blocks`; a block at 0 is free again. PA-18, PA-20.

        Raises InvalidArgument, and changes nothing, when an entry is out of range, or `blocks` names a
        block more often than it is referenced.
        """
        ...

    def ref_count(self, block: int) -> int:
        """References to `block`, 0 when it is free. Raises InvalidArgument when out of range. PA-18."""
        ...


class PagedKVCache:
    """Keys and values of many sequences in one pool of blocks. PA-22 to PA-54.

    A call that raises has changed nothing. Every method that takes a `seq_id` raises UnknownSequence when
    the cache does not hold it.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        *,
        layers: int = 1,
        dtype: str = "float32",
        window: int | None = None,
        prefix_caching: bool = False,
        block_hash: BlockHash | None = None,
    ) -> None:
        """An empty pool. A block holds B tokens of every layer. PA-22, PA-60.

        dtype: "float32", "float16" or "bfloat16", of keys, values and queries alike.
        window: attend to the last W keys, the query's own included; blocks behind it are given back.
        block_hash: replaces the default hash of prefix caching. It may collide (PA-42).

        Raises InvalidArgument when a size or the window is below 1 or the dtype is unknown; NotSupported
        when `window` and `prefix_caching` are combined.
        """
        ...

    def add(
        self,
        seq_id: SequenceId,
        tokens: Sequence[int] | None = None,
        *,
        salt: str | None = None,
        adapter: str | None = None,
    ) -> int:
        """Starts a sequence (PA-22). Returns its length: the tokens already cached. PA-36 to PA-39, PA-58.

        Without `prefix_caching`, or without `tokens`, that is 0. The caller computes the remaining tokens
        and appends them. Raises InvalidArgument when `seq_id` exists.
        """
        ...

    def cached_prefix(
        self, tokens: Sequence[int], *, salt: str | None = None, adapter: str | None = None
    ) -> int:
        """What `add` would return, without any effect, not even on the order of eviction. PA-46."""
        ...

    def reserve(
        self,
        seq_ids: Sequence[SequenceId],
        lens: Sequence[int],
        tokens: Sequence[Sequence[int] | None] | None = None,
    ) -> None:
        """Makes room for lens[i] new tokens of each sequence, all or nothing. PA-26, PA-28.

        Tails that are shared or published are copied here. `tokens[i]` are the ids of the new tokens; where
        they are None, nothing is published from there on. At most one reservation is open at a time.

        Raises OutOfBlocks when the pool cannot hold them all; InvalidArgument when a reservation is open,
        a sequence is named twice or swapped out, a length is negative, or the lists disagree in length.
        """
        ...

    def write(self, layer: int, keys: Array, values: Array) -> None:
        """Fills the reserved slots of one layer. PA-25, PA-26.

        keys, values: (sum of the reserved lens, kv_heads, head_dim) in the cache's dtype, the sequences in
        the order of `reserve` (those that ended since are left out). Writing a layer again
        replaces it. Raises InvalidArgument when nothing is reserved, or the layer, a shape or a dtype is
        wrong.
        """
        ...

    def commit(self, seq_ids: Sequence[SequenceId]) -> None:
        """Adds the reserved tokens to the length of these sequences. PA-26, PA-40.

        Blocks that are now full are published, blocks behind the window are given back. What `block_hash`
        raises passes through, with nothing changed (PA-61). Raises InvalidArgument when a sequence has no
        reservation or is named twice, or a layer of reserved tokens was not written.
        """
        ...

    def rollback(self, seq_ids: Sequence[SequenceId]) -> None:
        """Undoes the reservation of these sequences: their blocks are as before `reserve`. PA-27.

        Raises InvalidArgument when a sequence has no reservation or is named twice.
        """
        ...

    def append(
        self, seq_id: SequenceId, keys: Array, values: Array, tokens: Sequence[int] | None = None
    ) -> None:
        """`reserve`, `write` and `commit` for one sequence of a cache with one layer. PA-22.

        keys, values: (m, kv_heads, head_dim), m ≥ 0. Raises what these raise, with nothing changed;
        NotSupported when the cache has several layers.
        """
        ...

    def attend(
        self,
        seq_ids: Sequence[SequenceId],
        queries: Array,
        query_lens: Sequence[int],
        *,
        layer: int = 0,
        scale: float | None = None,
        softcap: float | None = None,
        sink_logits: Array | None = None,
    ) -> Array:
        """Attention of each sequence's last query_lens[i] positions over its keys. PA-24 to PA-26, PA-53.

        queries: (sum(query_lens), heads, head_dim), in the cache's dtype; so is the result. Reserved tokens
        count as keys once `write` has filled this layer. The other arguments are as in `paged_attention`.

        Raises InvalidArgument when a shape, a dtype, the layer or an option is wrong, when a query has no
        key of its own, when the layer of a reservation was not written, when a sequence is swapped out, or
        when a query's window reaches into blocks given back.
        """
        ...

    def gather(self, seq_id: SequenceId, *, layer: int = 0) -> tuple[Array, Array]:
        """Committed keys and values in order, each (n, kv_heads, head_dim), bit for bit. PA-22.

        With a window, only the last min(n, W). Raises InvalidArgument when the sequence is swapped out or
        the layer does not exist.
        """
        ...

    def fork(self, parent: SequenceId, child: SequenceId) -> None:
        """Starts `child` with the content of `parent`; every block is shared, none copied. PA-31.

        Raises InvalidArgument when `child` exists, or `parent` is swapped out or has a reservation.
        """
        ...

    def truncate(self, seq_id: SequenceId, length: int) -> None:
        """Keeps the first `length` tokens and gives back blocks that hold none of them. PA-30.

        Raises InvalidArgument when `length` is negative or above the present one, or the sequence is
        swapped out or has a reservation; CannotTruncate when the window of the shorter sequence reaches
        into blocks given back (PA-53).
        """
        ...

    def free(self, seq_id: SequenceId) -> None:
        """Forgets the sequence and its reservation, and drops its references. PA-29, PA-35."""
        ...

    def swap_out(self, seq_ids: Sequence[SequenceId]) -> None:
        """Moves these sequences out of the pool as one gang. PA-49, PA-50.

        Raises InvalidArgument when one is named twice, swapped out already, or has a reservation.
        """
        ...

    def swap_in(self, seq_ids: Sequence[SequenceId]) -> None:
        """Brings a gang back, all or nothing, into any free blocks. PA-49 to PA-51.

        Raises OutOfBlocks when they do not fit; InvalidArgument when `seq_ids` are not exactly the
        sequences that were swapped out together and still exist.
        """
        ...

    def reset_prefix_cache(self) -> bool:
        """Empties the prefix cache, for example after new weights. PA-47.

        Returns False and does nothing while any sequence has tokens, in the pool or swapped out, or a
        reservation is open.
        """
        ...

    def length(self, seq_id: SequenceId) -> int:
        """Committed tokens. PA-23."""
        ...

    def block_table(self, seq_id: SequenceId) -> list[int | None]:
        """Block ids in logical order; None for one given back behind the window. PA-23, PA-52.

        Empty while the sequence is swapped out. An open reservation's blocks are included.
        """
        ...

    def usage(self) -> CacheUsage:
        """Where the blocks are. PA-54."""
        ...


def slot_mapping(block_table: Sequence[int | None], start: int, count: int, block_size: int) -> Array:
    """Slots of the positions start … start + count − 1, (count,) integers. PA-01.

    Raises InvalidArgument when block_size < 1, start or count is negative, or a position lies outside the
    table or in a block given back (None).
    """
    ...


def write_slots(
    keys: Array, values: Array, slots: Array, key_blocks: Array, value_blocks: Array
) -> tuple[Array, Array]:
    """The pool with row i of `keys` and `values` at slots[i]. PA-02, PA-03.

    keys, values: (tokens, kv_heads, head_dim); slots: (tokens,) integers, those below 0 are skipped and the
    others distinct; key_blocks, value_blocks: (num_blocks, kv_heads, B, head_dim), all of one dtype. Results
    as the pool. Raises InvalidArgument when shapes or dtypes disagree or a slot is num_blocks · B or more.
    """
    ...


def paged_attention(
    queries: Array,
    key_blocks: Array,
    value_blocks: Array,
    block_tables: Array,
    context_lens: Array,
    query_lens: Array,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sink_logits: Array | None = None,
) -> Array:
    """Causal attention of a ragged batch over keys and values in blocks. PA-05 to PA-16, PA-59.

    queries: (sum(query_lens), heads, head_dim), sequence after sequence.
    key_blocks, value_blocks: (num_blocks, kv_heads, B, head_dim), of the queries' dtype: float32, float16
        or bfloat16.
    block_tables: (sequences, max_blocks) int32; entries that no visible key needs may hold anything.
    context_lens: (sequences,) int32, keys of each sequence, its queries' own included.
    query_lens: (sequences,) int32; the queries sit at the last positions of the context.
    scale: factor on the scores, 1 / sqrt(head_dim) by default.
    window: visible keys, the query's own included; None for all.
    softcap: c > 0 replaces each scaled score s by c · tanh(s / c).
    sink_logits: (heads,) float32, one more logit in each head's softmax denominator; never capped.

    Returns (sum(query_lens), heads, head_dim) in the queries' dtype.
    Raises InvalidArgument when shapes or dtypes disagree, heads is no multiple of kv_heads, window < 1,
    softcap ≤ 0, a query_len is negative or above its context_len, a table is too short, or an entry that is
    needed is not in 0 … num_blocks − 1.
    """
    ...


def to_csr(block_tables: Sequence[Sequence[int]], lengths: Sequence[int], block_size: int) -> PageTable:
    """The page table of these sequences; table entries past a length are left out. PA-04.

    Raises InvalidArgument when block_size < 1, the lists disagree in length, a length is below 1 (an empty
    sequence has no encoding: its last page would hold 0 tokens) or a table is too short for its length.
    """
    ...


def fragmentation(lengths: Sequence[int], block_size: int, max_length: int) -> Fragmentation:
    """Slots used, reserved and unused, paged and contiguous. PA-55.

    Raises InvalidArgument when block_size or max_length is below 1, or a length is negative or above
    max_length.
    """
    ...
