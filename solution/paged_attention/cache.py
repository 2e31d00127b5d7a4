"""Keys and values of many sequences in one pool of blocks.

Everything that can fail is decided before anything changes, so a call that raises has changed nothing. The
pool is written in place: MLX does that while the pool has one owner, so every result is evaluated before it
is handed out, and content is read out before it is written elsewhere.
"""

from collections import OrderedDict
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import mlx.core as mx

from spec import CannotTruncate, NotSupported, OutOfBlocks, UnknownSequence
from spec.paged_attention import BlockHash, CacheUsage, SequenceId

from .allocator import BlockAllocator
from .checks import blocks_for, expect
from .kernels import Reach, attend
from .pages import DTYPES, check_options
from .prefixes import Prefix, PrefixIndex


@dataclass(eq=False)  # equal is identical
class Sequence:
    salt: str | None
    adapter: str | None
    table: list[int | None] = field(default_factory=list)  # None behind the window
    tokens: list[int | None] = field(default_factory=list)  # ids, None where the caller gave none
    prefixes: list[Prefix] = field(default_factory=list)  # of the full blocks whose tokens are all known
    length: int = 0
    gang: "Gang | None" = None  # while swapped out


@dataclass
class Demand:
    """What a reservation needs for one sequence."""

    seq_id: SequenceId
    tokens: list[int | None]
    fresh: int  # blocks to add at the end of the table
    copy: bool  # whether others see the tail that it would write to


@dataclass
class Reservation:
    tokens: list[int | None]
    fresh: int  # blocks added at the end of the table
    original: int | None  # the tail before it was copied, referenced until commit or rollback

    @property
    def length(self) -> int:
        return len(self.tokens)


@dataclass
class Gang:
    """Sequences that left the pool together, and the content of their blocks."""

    members: set[SequenceId]
    row: dict[int, int]  # block id at that time -> row of the content
    keys: list[mx.array]  # of each layer: (rows, kv_heads, block_size, head_dim)
    values: list[mx.array]


class Blocks:
    """Blocks in use, free, or cached: published, unreferenced, and kept until space is needed.

    A cached block keeps one reference in the allocator, which stands for the cache itself.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self._allocator = BlockAllocator(num_blocks, block_size)
        self._published: dict[int, Prefix] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently released first
        self.evictions = 0

    def num_free(self) -> int:
        return self._allocator.num_free()

    def num_cached(self) -> int:
        return len(self._cached)

    def references(self, block: int) -> int:
        return 0 if block in self._cached else self._allocator.ref_count(block)

    def is_published(self, block: int) -> bool:
        return block in self._published

    def expect_room(self, needed: int) -> None:
        room = self.num_free() + len(self._cached)
        if needed > room:
            raise OutOfBlocks(f"num_blocks: expected {needed} free blocks, got {room}")

    def take(self) -> int:
        if self.num_free() > 0:
            return self._allocator.allocate()[0]
        block, _ = self._cached.popitem(last=False)
        self._unpublish(block)
        self.evictions += 1
        return block

    def pin(self, block: int) -> None:
        if block in self._cached:
            del self._cached[block]  # the cache's reference is the sequence's now
        else:
            self._allocator.share([block])

    def release(self, block: int) -> None:
        if block in self._published and self._allocator.ref_count(block) == 1:
            self._cached[block] = None
        else:
            self._allocator.release([block])

    def release_all(self, blocks: Seq[int | None]) -> None:
        for block in reversed(blocks):  # deeper blocks are evicted first
            if block is not None:
                self.release(block)

    def publish(self, block: int, prefix: Prefix) -> None:
        self._published[block] = prefix
        prefix.blocks[block] = None

    def _unpublish(self, block: int) -> None:
        del self._published.pop(block).blocks[block]

    def forget_cached(self) -> None:
        for block in self._cached:
            self._unpublish(block)
        self._allocator.release(list(self._cached))
        self._cached.clear()


class PagedKVCache:
    """Keys and values of many sequences in one pool of blocks.

    The pool of a layer is (num_blocks, kv_heads, block_size, head_dim), for keys and for values: the order
    that lets attention read it in place. A call that raises has changed nothing.
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
        """An empty pool. A block holds `block_size` tokens of every layer."""
        expect(num_blocks >= 1, "num_blocks", "at least 1", num_blocks)
        expect(block_size >= 1, "block_size", "at least 1", block_size)
        expect(kv_heads >= 1, "kv_heads", "at least 1", kv_heads)
        expect(head_dim >= 1, "head_dim", "at least 1", head_dim)
        expect(layers >= 1, "layers", "at least 1", layers)
        expect(dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}", dtype)
        expect(window is None or window >= 1, "window", "at least 1", window)
        if window is not None and prefix_caching:
            raise NotSupported("prefix_caching: expected False with a window, got True")
        self._num_blocks, self._block_size, self._layers = num_blocks, block_size, layers
        self._token_shape, self._dtype = (kv_heads, head_dim), DTYPES[dtype]
        self._window, self._prefix_caching = window, prefix_caching
        shape = (num_blocks, kv_heads, block_size, head_dim)
        self._keys = [mx.zeros(shape, self._dtype) for _ in range(layers)]
        self._values = [mx.zeros(shape, self._dtype) for _ in range(layers)]
        mx.eval(self._keys, self._values)
        self._blocks = Blocks(num_blocks, block_size)
        self._index = PrefixIndex(block_hash)
        self._sequences: dict[SequenceId, Sequence] = {}
        self._reservations: dict[SequenceId, Reservation] = {}
        self._written: set[int] = set()  # layers written since reserve
        self._copies = self._queried = self._hit = 0

    # Sequences and the prefix cache

    def add(
        self,
        seq_id: SequenceId,
        tokens: Seq[int] | None = None,
        *,
        salt: str | None = None,
        adapter: str | None = None,
    ) -> int:
        """Starts a sequence and returns its length: the tokens already cached."""
        expect(seq_id not in self._sequences, "seq_id", "a new id", f"{seq_id!r}, which exists")
        sequence = Sequence(salt, adapter)
        if self._prefix_caching and tokens is not None:
            sequence.prefixes, sequence.table = self._find(tokens, salt, adapter)
            for block in sequence.table:
                self._blocks.pin(block)
            sequence.length = len(sequence.table) * self._block_size
            sequence.tokens = list(tokens[: sequence.length])
            self._queried += len(tokens)
            self._hit += sequence.length
        self._sequences[seq_id] = sequence
        return sequence.length

    def cached_prefix(self, tokens: Seq[int], *, salt: str | None = None, adapter: str | None = None) -> int:
        """What `add` would return, without any effect."""
        _, blocks = self._find(tokens, salt, adapter)
        return len(blocks) * self._block_size

    def _find(
        self, tokens: Seq[int], salt: str | None, adapter: str | None
    ) -> tuple[list[Prefix], list[int | None]]:
        """The longest published prefix and blocks that hold it, leaving at least one token to compute."""
        prefixes, blocks = [], []
        prefix = None
        for start in range(0, len(tokens) - self._block_size, self._block_size):
            chunk = tuple(tokens[start : start + self._block_size])
            prefix = self._index.find(prefix, chunk, salt, adapter)
            if prefix is None or not prefix.blocks:
                break
            prefixes.append(prefix)
            blocks.append(next(iter(prefix.blocks)))
        return prefixes, blocks

    def _completed(self, sequence: Sequence, added: list[int | None]) -> list[Prefix]:
        """Prefixes of the blocks that these further tokens fill and whose tokens are all known."""
        if not self._prefix_caching:
            return []
        prefixes = []
        prefix = sequence.prefixes[-1] if sequence.prefixes else None
        done, old = len(sequence.prefixes) * self._block_size, sequence.length
        for start in range(done, old + len(added) - self._block_size + 1, self._block_size):
            end = start + self._block_size
            chunk = (*sequence.tokens[start:end], *added[max(0, start - old) : max(0, end - old)])
            if None in chunk:
                break
            prefix = self._index.intern(prefix, chunk, sequence.salt, sequence.adapter)
            prefixes.append(prefix)
        return prefixes

    def reset_prefix_cache(self) -> bool:
        """Empties the prefix cache; does nothing and returns False while any sequence has tokens or room."""
        if self._reservations or any(sequence.length > 0 for sequence in self._sequences.values()):
            return False
        self._blocks.forget_cached()
        return True

    def _sequence(self, seq_id: SequenceId) -> Sequence:
        if seq_id not in self._sequences:
            raise UnknownSequence(f"seq_id: expected a sequence of this cache, got {seq_id!r}")
        return self._sequences[seq_id]

    def _pooled(self, seq_id: SequenceId) -> Sequence:
        sequence = self._sequence(seq_id)
        expect(sequence.gang is None, "seq_id", "a sequence in the pool", f"{seq_id!r}, swapped out")
        return sequence

    def _settled(self, seq_id: SequenceId) -> Sequence:
        """The sequence, if it is in the pool and has no open reservation."""
        sequence = self._pooled(seq_id)
        expect(seq_id not in self._reservations, "seq_id", "no open reservation", f"{seq_id!r}, reserved")
        return sequence

    # Writing

    def reserve(
        self,
        seq_ids: Seq[SequenceId],
        lens: Seq[int],
        tokens: Seq[Seq[int] | None] | None = None,
    ) -> None:
        """Makes room for lens[i] new tokens of each sequence, all or nothing; copies tails others see."""
        self._take(self._plan(seq_ids, lens, tokens))

    def _plan(
        self, seq_ids: Seq[SequenceId], lens: Seq[int], tokens: Seq[Seq[int] | None] | None
    ) -> list[Demand]:
        """What this reservation takes from the pool, without taking it; raises where that cannot be."""
        expect(not self._reservations, "seq_ids", "no open reservation", list(self._reservations))
        expect_distinct(seq_ids)
        expect(len(lens) == len(seq_ids), "lens", f"{len(seq_ids)} lengths", len(lens))
        expect(all(m >= 0 for m in lens), "lens", "at least 0", list(lens))
        tokens = [None] * len(seq_ids) if tokens is None else tokens
        expect(len(tokens) == len(seq_ids), "tokens", f"{len(seq_ids)} lists", len(tokens))
        for ids, m in zip(tokens, lens, strict=True):
            expect(ids is None or len(ids) == m, "tokens", f"{m} ids", ids)
        sequences = [self._settled(seq_id) for seq_id in seq_ids]

        copying = self._copying([sequence for sequence, m in zip(sequences, lens, strict=True) if m > 0])
        plan = []
        for seq_id, sequence, m, ids in zip(seq_ids, sequences, lens, tokens, strict=True):
            fresh = blocks_for(sequence.length + m, self._block_size) - len(sequence.table)
            copy = sequence in copying
            plan.append(Demand(seq_id, [None] * m if ids is None else list(ids), fresh, copy))
        self._blocks.expect_room(sum(demand.fresh + demand.copy for demand in plan))
        return plan

    def _copying(self, writing: list[Sequence]) -> set[Sequence]:
        """Those of the writing sequences that need a copy of their tail, because others see it."""
        writers: dict[int, list[Sequence]] = {}  # tail -> who writes into it
        for sequence in writing:
            if sequence.length % self._block_size != 0:
                writers.setdefault(sequence.table[-1], []).append(sequence)
        copying = set()
        for tail, sequences in writers.items():
            if self._blocks.references(tail) == len(sequences) and not self._blocks.is_published(tail):
                # Nobody else reads it: the longest stays, and writes behind what the others may fall back on.
                sequences = sorted(sequences, key=lambda sequence: sequence.length)[:-1]
            copying.update(sequences)
        return copying

    def _take(self, plan: list[Demand]) -> None:
        copies = {}  # new block -> original
        for demand in plan:
            table, original = self._sequences[demand.seq_id].table, None
            if demand.copy:
                original, table[-1] = table[-1], self._blocks.take()
                copies[table[-1]] = original
            table += [self._blocks.take() for _ in range(demand.fresh)]
            self._reservations[demand.seq_id] = Reservation(demand.tokens, demand.fresh, original)
        self._written = set()
        self._copies += len(copies)
        self._put(list(copies), *self._contents(list(copies.values())))

    def write(self, layer: int, keys: mx.array, values: mx.array) -> None:
        """Fills the reserved slots of one layer, in place.

        keys, values: (sum of the reserved lens, kv_heads, head_dim) in the order of `reserve`.
        """
        self._expect_layer(layer)
        expect(len(self._reservations) > 0, "layer", "an open reservation", "none")
        rows = sum(reserved.length for reserved in self._reservations.values())
        self._expect_rows(rows, keys, values)
        if rows > 0:
            blocks, offsets = self._reserved_slots()
            self._keys[layer][blocks, :, offsets] = keys
            self._values[layer][blocks, :, offsets] = values
            mx.eval(self._keys[layer], self._values[layer])
        self._written.add(layer)

    def _reserved_slots(self) -> tuple[mx.array, mx.array]:
        """Block and offset of every reserved position."""
        blocks, positions = [], []
        for seq_id, reserved in self._reservations.items():
            sequence = self._sequences[seq_id]
            for position in range(sequence.length, sequence.length + reserved.length):
                blocks.append(sequence.table[position // self._block_size])
                positions.append(position)
        return mx.array(blocks), mx.array([position % self._block_size for position in positions])

    def commit(self, seq_ids: Seq[SequenceId]) -> None:
        """Adds the reserved tokens to the length of these sequences, and publishes the blocks they filled."""
        for seq_id in seq_ids:
            written = self._reserved(seq_id).length == 0 or len(self._written) == self._layers
            expect(written, "seq_ids", f"{self._layers} written layers", sorted(self._written))
        expect_distinct(seq_ids)
        # The caller's hash runs in here, and may raise: nothing has changed yet.
        completed = [self._completed(self._sequences[s], self._reservations[s].tokens) for s in seq_ids]
        self._settle(seq_ids, completed)

    def _settle(self, seq_ids: Seq[SequenceId], completed: list[list[Prefix]]) -> None:
        for seq_id, prefixes in zip(seq_ids, completed, strict=True):
            sequence, reserved = self._sequences[seq_id], self._reservations.pop(seq_id)
            if reserved.original is not None:
                self._blocks.release(reserved.original)
            sequence.length += reserved.length
            sequence.tokens += reserved.tokens
            for prefix in prefixes:
                self._blocks.publish(sequence.table[len(sequence.prefixes)], prefix)
                sequence.prefixes.append(prefix)
            if self._window is not None:
                self._free_behind_window(sequence)

    def _free_behind_window(self, sequence: Sequence) -> None:
        for index in reversed(range(max(0, sequence.length - self._window) // self._block_size)):
            if sequence.table[index] is None:  # and so are all before it
                break
            self._blocks.release(sequence.table[index])
            sequence.table[index] = None

    def rollback(self, seq_ids: Seq[SequenceId]) -> None:
        """Undoes the reservation of these sequences: their blocks are as before `reserve`."""
        expect_distinct(seq_ids)
        for seq_id in seq_ids:
            self._reserved(seq_id)
        for seq_id in seq_ids:
            sequence, reserved = self._sequences[seq_id], self._reservations.pop(seq_id)
            self._shorten(sequence, len(sequence.table) - reserved.fresh)
            if reserved.original is not None:
                self._blocks.release(sequence.table[-1])
                sequence.table[-1] = reserved.original

    def append(
        self, seq_id: SequenceId, keys: mx.array, values: mx.array, tokens: Seq[int] | None = None
    ) -> None:
        """`reserve`, `write` and `commit` for one sequence of a cache with one layer.

        keys, values: (m, kv_heads, head_dim).
        """
        if self._layers > 1:
            raise NotSupported(f"layers: expected 1 for append, got {self._layers}")
        rows = len(keys)
        self._expect_rows(rows, keys, values)
        plan = self._plan([seq_id], [rows], [tokens])
        completed = self._completed(self._sequences[seq_id], plan[0].tokens)  # the caller's hash may raise
        self._take(plan)
        self.write(0, keys, values)
        self._settle([seq_id], [completed])

    def _reserved(self, seq_id: SequenceId) -> Reservation:
        self._sequence(seq_id)
        expect(seq_id in self._reservations, "seq_ids", "reserved sequences", repr(seq_id))
        return self._reservations[seq_id]

    def _expect_rows(self, rows: int, keys: mx.array, values: mx.array) -> None:
        shape = (rows, *self._token_shape)
        for name, array in (("keys", keys), ("values", values)):
            expect(array.shape == shape, name, shape, array.shape)
            expect(array.dtype == self._dtype, name, self._dtype, array.dtype)

    def _expect_layer(self, layer: int) -> None:
        expect(0 <= layer < self._layers, "layer", f"0 to {self._layers - 1}", layer)

    # Reading

    def attend(
        self,
        seq_ids: Seq[SequenceId],
        queries: mx.array,
        query_lens: Seq[int],
        *,
        layer: int = 0,
        scale: float | None = None,
        softcap: float | None = None,
        sink_logits: mx.array | None = None,
    ) -> mx.array:
        """Attention of each sequence's last query_lens[i] positions over its keys.

        queries: (sum(query_lens), heads, head_dim) in the cache's dtype; so is the result.
        """
        self._expect_layer(layer)
        expect(len(query_lens) == len(seq_ids), "query_lens", f"{len(seq_ids)} lengths", len(query_lens))
        expect(all(m >= 0 for m in query_lens), "query_lens", "at least 0", list(query_lens))
        kv_heads, head_dim = self._token_shape
        expect(queries.ndim == 3, "queries", "3 axes", queries.shape)
        heads = queries.shape[1]
        shape = (sum(query_lens), heads, head_dim)
        expect(queries.shape == shape, "queries", shape, queries.shape)
        expect(queries.dtype == self._dtype, "queries", self._dtype, queries.dtype)
        expect(heads % kv_heads == 0, "queries", f"a multiple of {kv_heads} heads", heads)
        check_options(heads, None, softcap, sink_logits)
        return attend(
            queries,
            self._keys[layer],
            self._values[layer],
            [self._reach(seq_id, m, layer) for seq_id, m in zip(seq_ids, query_lens, strict=True)],
            scale=scale,
            window=self._window,
            softcap=softcap,
            sink_logits=sink_logits,
        )

    def _reach(self, seq_id: SequenceId, count: int, layer: int) -> Reach:
        """What the last `count` positions of a sequence may read."""
        sequence = self._pooled(seq_id)
        context = sequence.length
        if seq_id in self._reservations and self._reservations[seq_id].length > 0:
            expect(layer in self._written, "layer", "a written layer", layer)
            context += self._reservations[seq_id].length
        expect(count <= context, "query_lens", f"at most {context} for {seq_id!r}", count)
        reach = Reach(sequence.table, context, count)
        first, _ = reach.blocks(self._block_size, self._window)
        held = count == 0 or sequence.table[first] is not None
        expect(held, "query_lens", f"keys of {seq_id!r} not given back", f"{count}, which need older ones")
        return reach

    def gather(self, seq_id: SequenceId, *, layer: int = 0) -> tuple[mx.array, mx.array]:
        """Committed keys and values in order, each (n, kv_heads, head_dim); of a window's length with one."""
        sequence = self._pooled(seq_id)
        self._expect_layer(layer)
        first = 0 if self._window is None else max(0, sequence.length - self._window)
        first_block, end_block = first // self._block_size, blocks_for(sequence.length, self._block_size)
        if first_block == end_block:
            empty = mx.zeros((0, *self._token_shape), self._dtype)
            mx.eval(empty)
            return empty, empty
        blocks = mx.array(sequence.table[first_block:end_block])
        origin = first_block * self._block_size
        rows = slice(first - origin, sequence.length - origin)
        keys, values = (
            pool[layer][blocks].swapaxes(1, 2).flatten(0, 1)[rows] for pool in (self._keys, self._values)
        )
        mx.eval(keys, values)  # a snapshot, and no second owner of the pool
        return keys, values

    # Sharing, shortening, leaving

    def fork(self, parent: SequenceId, child: SequenceId) -> None:
        """Starts `child` with the content of `parent`; every block is shared, none copied."""
        source = self._settled(parent)
        expect(child not in self._sequences, "child", "a new id", f"{child!r}, which exists")
        for block in source.table:
            if block is not None:
                self._blocks.pin(block)
        self._sequences[child] = Sequence(
            source.salt,
            source.adapter,
            list(source.table),
            list(source.tokens),
            list(source.prefixes),
            source.length,
        )

    def truncate(self, seq_id: SequenceId, length: int) -> None:
        """Keeps the first `length` tokens and gives back blocks that hold none of them."""
        sequence = self._settled(seq_id)
        expect(0 <= length <= sequence.length, "length", f"0 to {sequence.length}", length)
        kept = blocks_for(length, self._block_size)
        if self._window is not None and length > 0:
            first = max(0, length - self._window)
            if None in sequence.table[first // self._block_size : kept]:
                raise CannotTruncate(f"length: expected keys from position {first} on, got blocks given back")
        self._shorten(sequence, kept)
        del sequence.tokens[length:]
        del sequence.prefixes[length // self._block_size :]
        sequence.length = length

    def _shorten(self, sequence: Sequence, kept: int) -> None:
        self._blocks.release_all(sequence.table[kept:])
        del sequence.table[kept:]

    def free(self, seq_id: SequenceId) -> None:
        """Forgets the sequence and its reservation, and drops its references."""
        sequence = self._sequence(seq_id)
        if seq_id in self._reservations:
            self.rollback([seq_id])
        if sequence.gang is None:
            self._blocks.release_all(sequence.table)
        else:
            sequence.gang.members.remove(seq_id)
        del self._sequences[seq_id]

    def swap_out(self, seq_ids: Seq[SequenceId]) -> None:
        """Moves these sequences out of the pool as one gang."""
        expect_distinct(seq_ids)
        sequences = [self._settled(seq_id) for seq_id in seq_ids]
        blocks = list(dict.fromkeys(b for sequence in sequences for b in sequence.table if b is not None))
        row = {block: i for i, block in enumerate(blocks)}
        gang = Gang(set(seq_ids), row, *self._contents(blocks))
        for sequence in sequences:
            self._blocks.release_all(sequence.table)
            sequence.gang = gang

    def swap_in(self, seq_ids: Seq[SequenceId]) -> None:
        """Brings a gang back, all or nothing, into any free blocks."""
        expect_distinct(seq_ids)
        sequences = [self._sequence(seq_id) for seq_id in seq_ids]
        for sequence in sequences:
            whole = sequence.gang is not None and sequence.gang.members == set(seq_ids)
            expect(whole, "seq_ids", "one whole gang", list(seq_ids))
        owned = dict.fromkeys(b for sequence in sequences for b in sequence.table if b is not None)
        self._blocks.expect_room(len(owned))
        if owned:
            gang = sequences[0].gang
            rows = mx.array([gang.row[block] for block in owned])
            keys, values = [layer[rows] for layer in gang.keys], [layer[rows] for layer in gang.values]
        else:
            keys, values = [], []
        moved = {}  # block id then -> now
        for sequence in sequences:
            for index, block in enumerate(sequence.table):
                if block is None:
                    continue
                if block in moved:
                    self._blocks.pin(moved[block])
                else:
                    moved[block] = self._blocks.take()
                sequence.table[index] = moved[block]
            sequence.gang = None
        self._put(list(moved.values()), keys, values)

    # Content of whole blocks, layer by layer

    def _contents(self, blocks: Seq[int]) -> tuple[list[mx.array], list[mx.array]]:
        """Copies of these blocks, (blocks, kv_heads, block_size, head_dim) for each layer."""
        if not blocks:
            return [], []
        rows = mx.array(blocks)
        keys, values = [layer[rows] for layer in self._keys], [layer[rows] for layer in self._values]
        mx.eval(keys, values)  # read before anything is written: the pool keeps one owner
        return keys, values

    def _put(self, blocks: Seq[int], keys: list[mx.array], values: list[mx.array]) -> None:
        if not blocks:
            return
        rows = mx.array(blocks)
        for layer in range(self._layers):
            self._keys[layer][rows] = keys[layer]
            self._values[layer][rows] = values[layer]
        mx.eval(self._keys, self._values)

    # Measures

    def length(self, seq_id: SequenceId) -> int:
        """Committed tokens."""
        return self._sequence(seq_id).length

    def block_table(self, seq_id: SequenceId) -> list[int | None]:
        """Block ids in logical order, None behind the window; empty while swapped out."""
        sequence = self._sequence(seq_id)
        return list(sequence.table) if sequence.gang is None else []

    def usage(self) -> CacheUsage:
        """Where the blocks are."""
        filled: dict[int, int] = {}  # block -> committed tokens in it
        for sequence in self._sequences.values():
            if sequence.gang is None:
                for index, block in enumerate(sequence.table):
                    if block is not None:
                        tokens = min(self._block_size, max(0, sequence.length - index * self._block_size))
                        filled[block] = max(filled.get(block, 0), tokens)
        free, cached = self._blocks.num_free(), self._blocks.num_cached()
        used, slots_used = self._num_blocks - free - cached, sum(filled.values())
        return CacheUsage(
            num_blocks=self._num_blocks,
            free=free,
            used=used,
            cached=cached,
            shared=sum(self._blocks.references(block) > 1 for block in range(self._num_blocks)),
            copies=self._copies,
            evictions=self._blocks.evictions,
            prefix_tokens_queried=self._queried,
            prefix_tokens_hit=self._hit,
            slots_used=slots_used,
            slots_wasted=used * self._block_size - slots_used,
        )


def expect_distinct(seq_ids: Seq[SequenceId]) -> None:
    expect(len(set(seq_ids)) == len(seq_ids), "seq_ids", "each sequence once", list(seq_ids))
