"""Ground truth of paged attention: NumPy, float64 inside, one loop for each idea.

The rules are in spec/paged_attention.md.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from spec import CannotTruncate, InvalidArgument, NotSupported, OutOfBlocks, UnknownSequence
from spec.paged_attention import CacheUsage, Fragmentation, MemoryUse, PageTable

WORK = np.float64  # all arithmetic; the suite also runs this file with float32 here, to derive its tolerances

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def expect(condition, argument, expected, got):
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")


def blocks_for(tokens, block_size):
    return -(-tokens // block_size)  # rounded up


# Attention ------------------------------------------------------------------------------------------------


def attention(queries, keys, values, *, scale=None, window=None, softcap=None, sink_logits=None):
    """Causal attention of the last positions of one contiguous sequence.

    queries (m, heads, head_dim) sit at the last m positions of keys and values (n, kv_heads, head_dim).
    """
    m, heads, head_dim = queries.shape
    n, kv_heads, _ = keys.shape
    scale = 1 / np.sqrt(head_dim) if scale is None else scale
    q, k, v = queries.astype(WORK), keys.astype(WORK), values.astype(WORK)
    out = np.zeros(q.shape, WORK)
    for i in range(m):
        last = n - m + i  # the query's own position: a causal mask aligned to the bottom right
        first = 0 if window is None else max(0, last - window + 1)
        for h in range(heads):
            kv = h // (heads // kv_heads)
            scores = k[first : last + 1, kv] @ q[i, h] * WORK(scale)
            if softcap is not None:
                scores = WORK(softcap) * np.tanh(scores / WORK(softcap))
            logits = scores if sink_logits is None else np.append(scores, WORK(sink_logits[h]))
            weights = np.exp(logits - logits.max())
            weights = weights / weights.sum()
            out[i, h] = weights[: len(scores)] @ v[first : last + 1, kv]
    return out.astype(queries.dtype)


def paged_attention(
    queries,
    key_blocks,
    value_blocks,
    block_tables,
    context_lens,
    query_lens,
    *,
    scale=None,
    window=None,
    softcap=None,
    sink_logits=None,
):
    check_batch(queries, key_blocks, value_blocks, block_tables, context_lens, query_lens)
    check_options(queries.shape[1], window, softcap, sink_logits)
    num_blocks, _, block_size, _ = key_blocks.shape
    out = np.zeros_like(queries)
    start = 0
    for row, context, count in zip(block_tables, context_lens, query_lens, strict=True):
        if count == 0:
            continue
        oldest = 0 if window is None else max(0, context - count - window + 1)  # the first query's first key
        first_block, end_block = oldest // block_size, blocks_for(context, block_size)
        expect(end_block <= len(row), "block_tables", f"{end_block} entries for {context} keys", len(row))
        keys, values = [], []
        for block in row[first_block:end_block]:
            expect(0 <= block < num_blocks, "block_tables", f"ids below {num_blocks}", block)
            keys.append(key_blocks[block].swapaxes(0, 1))  # (block_size, kv_heads, head_dim)
            values.append(value_blocks[block].swapaxes(0, 1))
        held = context - first_block * block_size
        out[start : start + count] = attention(
            queries[start : start + count],
            np.concatenate(keys)[:held],
            np.concatenate(values)[:held],
            scale=scale,
            window=window,
            softcap=softcap,
            sink_logits=sink_logits,
        )
        start += count
    return out


def check_batch(queries, key_blocks, value_blocks, block_tables, context_lens, query_lens):
    expect(queries.ndim == 3, "queries", "3 axes", queries.shape)
    expect(key_blocks.ndim == 4, "key_blocks", "4 axes", key_blocks.shape)
    expect(value_blocks.shape == key_blocks.shape, "value_blocks", key_blocks.shape, value_blocks.shape)
    expect(key_blocks.dtype == queries.dtype, "key_blocks", queries.dtype, key_blocks.dtype)
    expect(value_blocks.dtype == queries.dtype, "value_blocks", queries.dtype, value_blocks.dtype)
    tokens, heads, head_dim = queries.shape
    kv_heads = key_blocks.shape[1]
    expect(key_blocks.shape[3] == head_dim, "key_blocks", f"head_dim {head_dim}", key_blocks.shape[3])
    expect(kv_heads > 0 and heads % kv_heads == 0, "queries", f"a multiple of {kv_heads} heads", heads)
    rows = len(block_tables)
    expect(block_tables.ndim == 2, "block_tables", "2 axes", block_tables.shape)
    expect(context_lens.shape == (rows,), "context_lens", (rows,), context_lens.shape)
    expect(query_lens.shape == (rows,), "query_lens", (rows,), query_lens.shape)
    expect((query_lens >= 0).all(), "query_lens", "at least 0", query_lens)
    expect((query_lens <= context_lens).all(), "query_lens", f"at most {context_lens}", query_lens)
    expect(query_lens.sum() == tokens, "queries", f"{query_lens.sum()} rows", tokens)


def check_options(heads, window, softcap, sink_logits):
    expect(window is None or window >= 1, "window", "at least 1", window)
    expect(softcap is None or softcap > 0, "softcap", "above 0", softcap)
    expect(
        sink_logits is None or sink_logits.shape == (heads,), "sink_logits", f"shape ({heads},)", sink_logits
    )


# Addresses and measures -----------------------------------------------------------------------------------


def slot_mapping(block_table, start, count, block_size):
    expect(block_size >= 1, "block_size", "at least 1", block_size)
    expect(start >= 0, "start", "at least 0", start)
    expect(count >= 0, "count", "at least 0", count)
    slots = []
    for position in range(start, start + count):
        capacity = len(block_table) * block_size
        expect(position < capacity, "block_table", f"room for position {position}", capacity)
        block = block_table[position // block_size]
        expect(block is not None, "block_table", f"a block for position {position}", block)
        slots.append(block * block_size + position % block_size)
    return np.array(slots, np.int64)


def write_slots(keys, values, slots, key_blocks, value_blocks):
    expect(key_blocks.ndim == 4, "key_blocks", "4 axes", key_blocks.shape)
    num_blocks, kv_heads, block_size, head_dim = key_blocks.shape
    expect(value_blocks.shape == key_blocks.shape, "value_blocks", key_blocks.shape, value_blocks.shape)
    expect(
        keys.shape == (len(slots), kv_heads, head_dim), "keys", (len(slots), kv_heads, head_dim), keys.shape
    )
    expect(values.shape == keys.shape, "values", keys.shape, values.shape)
    expect(keys.dtype == key_blocks.dtype, "keys", key_blocks.dtype, keys.dtype)
    expect(values.dtype == value_blocks.dtype, "values", value_blocks.dtype, values.dtype)
    expect((slots < num_blocks * block_size).all(), "slots", f"below {num_blocks * block_size}", slots)
    key_blocks, value_blocks = key_blocks.copy(), value_blocks.copy()
    for row, slot in enumerate(slots):
        if slot < 0:
            continue
        block, offset = slot // block_size, slot % block_size
        key_blocks[block, :, offset] = keys[row]
        value_blocks[block, :, offset] = values[row]
    return key_blocks, value_blocks


def to_csr(block_tables, lengths, block_size):
    expect(block_size >= 1, "block_size", "at least 1", block_size)
    expect(len(lengths) == len(block_tables), "lengths", len(block_tables), len(lengths))
    indptr, indices, last_page_len = [0], [], []
    for table, length in zip(block_tables, lengths, strict=True):
        expect(length >= 1, "lengths", "at least 1", length)
        pages = blocks_for(length, block_size)
        expect(pages <= len(table), "block_tables", f"{pages} blocks for {length} tokens", len(table))
        indices.extend(table[:pages])
        indptr.append(len(indices))
        last_page_len.append(length - (pages - 1) * block_size)
    return PageTable(
        np.array(indptr, np.int32), np.array(indices, np.int32), np.array(last_page_len, np.int32)
    )


def fragmentation(lengths, block_size, max_length):
    expect(block_size >= 1, "block_size", "at least 1", block_size)
    expect(max_length >= 1, "max_length", "at least 1", max_length)
    expect(all(n >= 0 for n in lengths), "lengths", "at least 0", lengths)
    expect(all(n <= max_length for n in lengths), "lengths", f"at most {max_length}", lengths)
    used = sum(lengths)
    paged = sum(blocks_for(n, block_size) * block_size for n in lengths)
    contiguous = len(lengths) * max_length
    return Fragmentation(
        paged=MemoryUse(used=used, reserved=paged, internal=paged - used),
        contiguous=MemoryUse(used=used, reserved=contiguous, internal=contiguous - used),
    )


# The pool -------------------------------------------------------------------------------------------------


class BlockAllocator:
    def __init__(self, num_blocks, block_size):
        expect(num_blocks >= 1, "num_blocks", "at least 1", num_blocks)
        expect(block_size >= 1, "block_size", "at least 1", block_size)
        self.refs = [0] * num_blocks

    def num_free(self):
        return self.refs.count(0)

    def allocate(self, n=1):
        expect(n >= 0, "n", "at least 0", n)
        free = [block for block, refs in enumerate(self.refs) if refs == 0]
        if n > len(free):
            raise OutOfBlocks(f"n: expected at most {len(free)} free blocks, got {n}")
        for block in free[:n]:
            self.refs[block] = 1
        return free[:n]

    def share(self, blocks):
        for block in blocks:
            self.check_block(block)
            expect(self.refs[block] > 0, "blocks", "allocated blocks", f"free block {block}")
        for block in blocks:
            self.refs[block] += 1

    def release(self, blocks):
        for block, times in Counter(blocks).items():
            self.check_block(block)
            expect(times <= self.refs[block], "blocks", f"block {block} {self.refs[block]} times", times)
        for block in blocks:
            self.refs[block] -= 1

    def ref_count(self, block):
        self.check_block(block)
        return self.refs[block]

    def check_block(self, block):
        expect(0 <= block < len(self.refs), "block", f"an id below {len(self.refs)}", block)


# The cache ------------------------------------------------------------------------------------------------


@dataclass
class Sequence:
    salt: str | None
    adapter: str | None
    tokens: list = field(default_factory=list)  # ids, None where the caller gave none
    table: list = field(default_factory=list)  # block ids, None behind the window
    hashes: list = field(default_factory=list)  # of the full blocks with known tokens
    length: int = 0
    gang: "Gang | None" = None  # while swapped out


@dataclass
class Reservation:
    length: int
    tokens: list
    fresh: int  # blocks added at the end of the table
    original: int | None  # the tail before it was copied; kept referenced until commit or rollback


@dataclass
class Published:
    hash: bytes
    prefix: tuple  # salt, adapter, and every token up to the end of the block


@dataclass
class Gang:
    members: set
    contents: dict  # block id at the time of swap_out -> its keys and values


def sha256_block_hash(parent, tokens, extras):
    return hashlib.sha256(repr((parent, tokens, extras)).encode("utf-8", "surrogatepass")).digest()


class PagedKVCache:
    def __init__(
        self,
        num_blocks,
        block_size,
        kv_heads,
        head_dim,
        *,
        layers=1,
        dtype="float32",
        window=None,
        prefix_caching=False,
        block_hash=None,
    ):
        expect(num_blocks >= 1, "num_blocks", "at least 1", num_blocks)
        expect(block_size >= 1, "block_size", "at least 1", block_size)
        expect(kv_heads >= 1, "kv_heads", "at least 1", kv_heads)
        expect(head_dim >= 1, "head_dim", "at least 1", head_dim)
        expect(layers >= 1, "layers", "at least 1", layers)
        expect(dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}", dtype)
        expect(window is None or window >= 1, "window", "at least 1", window)
        if window is not None and prefix_caching:
            raise NotSupported("prefix_caching: expected False with a window, got True")
        self.block_size, self.layers, self.window = block_size, layers, window
        self.token_shape, self.dtype = (kv_heads, head_dim), DTYPES[dtype]
        self.prefix_caching = prefix_caching
        self.block_hash = block_hash or sha256_block_hash
        shape = (num_blocks, layers, block_size, kv_heads, head_dim)
        self.keys = np.full(shape, np.nan, self.dtype)  # nothing may depend on a slot never written
        self.values = np.full(shape, np.nan, self.dtype)
        self.refs = [0] * num_blocks
        self.plain = list(range(num_blocks))  # free blocks without content
        self.cached = []  # published and unreferenced, least recently released first
        self.published = {}  # block -> Published, earliest first
        self.sequences = {}
        self.reservations = {}
        self.written = set()  # layers written since reserve
        self.copies = self.evictions = self.queried = self.hit = 0

    # Blocks

    def take(self):
        if self.plain:
            block = self.plain.pop(0)
        else:
            block = self.cached.pop(0)
            del self.published[block]
            self.evictions += 1
        self.refs[block] = 1
        return block

    def pin(self, block):
        if self.refs[block] == 0:
            self.cached.remove(block)
        self.refs[block] += 1

    def release(self, block):
        self.refs[block] -= 1
        if self.refs[block] == 0:
            (self.cached if block in self.published else self.plain).append(block)

    def release_all(self, blocks):
        for block in reversed(blocks):  # deeper blocks are evicted first
            if block is not None:
                self.release(block)

    def expect_room(self, needed):
        room = len(self.plain) + len(self.cached)
        if needed > room:
            raise OutOfBlocks(f"num_blocks: expected {needed} free blocks, got {room}")

    # Sequences and the prefix cache

    def sequence(self, seq_id):
        if seq_id not in self.sequences:
            raise UnknownSequence(f"seq_id: expected a sequence of this cache, got {seq_id!r}")
        return self.sequences[seq_id]

    def settled(self, seq_id):
        """The sequence, if it is in the pool and has no open reservation."""
        sequence = self.sequence(seq_id)
        expect(sequence.gang is None, "seq_id", "a sequence in the pool", f"{seq_id!r}, swapped out")
        expect(seq_id not in self.reservations, "seq_id", "no open reservation", f"{seq_id!r}, reserved")
        return sequence

    def add(self, seq_id, tokens=None, *, salt=None, adapter=None):
        expect(seq_id not in self.sequences, "seq_id", "a new id", f"{seq_id!r}, which exists")
        sequence = Sequence(salt, adapter)
        if self.prefix_caching and tokens is not None:
            blocks, sequence.hashes = self.find(tokens, salt, adapter)
            for block in blocks:
                self.pin(block)
            sequence.table = blocks
            sequence.length = len(blocks) * self.block_size
            sequence.tokens = list(tokens[: sequence.length])
            self.queried += len(tokens)
            self.hit += sequence.length
        self.sequences[seq_id] = sequence
        return sequence.length

    def cached_prefix(self, tokens, *, salt=None, adapter=None):
        blocks, _ = self.find(tokens, salt, adapter)
        return len(blocks) * self.block_size

    def find(self, tokens, salt, adapter):
        """Published blocks that hold the longest prefix, leaving at least one token to compute."""
        blocks, hashes = [], []
        for index in range((len(tokens) - 1) // self.block_size):
            key = self.hash_of(index, tokens, hashes, salt, adapter)
            prefix = self.prefix_of(index, tokens, salt, adapter)
            holders = [b for b, p in self.published.items() if p.hash == key and p.prefix == prefix]
            if not holders:
                break
            blocks.append(holders[0])
            hashes.append(key)
        return blocks, hashes

    def hash_of(self, index, tokens, hashes, salt, adapter):
        parent = hashes[index - 1] if index > 0 else None
        chunk = tuple(tokens[index * self.block_size : (index + 1) * self.block_size])
        extras = []
        if adapter is not None:
            extras.append(("adapter", adapter))
        if salt is not None and index == 0:
            extras.append(("salt", salt))
        return self.block_hash(parent, chunk, tuple(extras))

    def prefix_of(self, index, tokens, salt, adapter):
        """What a block is known by: hashes may collide, this cannot."""
        return (salt, adapter, tuple(tokens[: (index + 1) * self.block_size]))

    def new_hashes(self, sequence, new_tokens):
        """Of the blocks that are full, with every token known, once the new tokens are there.

        Called before anything changes, since block_hash may raise.
        """
        tokens = sequence.tokens + new_tokens
        hashes = list(sequence.hashes)
        for index in range(len(hashes), len(tokens) // self.block_size if self.prefix_caching else 0):
            if None in tokens[: (index + 1) * self.block_size]:
                break
            hashes.append(self.hash_of(index, tokens, hashes, sequence.salt, sequence.adapter))
        return hashes[len(sequence.hashes) :]

    def publish(self, sequence, hashes):
        for key in hashes:
            index = len(sequence.hashes)
            prefix = self.prefix_of(index, sequence.tokens, sequence.salt, sequence.adapter)
            self.published[sequence.table[index]] = Published(key, prefix)
            sequence.hashes.append(key)

    def reset_prefix_cache(self):
        if self.reservations or any(sequence.length > 0 for sequence in self.sequences.values()):
            return False
        self.published.clear()
        self.plain += self.cached
        self.cached = []
        return True

    # Writing

    def check_reservation(self, seq_ids, lens, tokens):
        """The sequences, and a list of token ids for each: None where the caller gave none."""
        expect(not self.reservations, "seq_ids", "no open reservation", list(self.reservations))
        expect(len(set(seq_ids)) == len(seq_ids), "seq_ids", "each sequence once", seq_ids)
        expect(len(lens) == len(seq_ids), "lens", f"{len(seq_ids)} lengths", len(lens))
        expect(all(m >= 0 for m in lens), "lens", "at least 0", lens)
        tokens = [None] * len(seq_ids) if tokens is None else tokens
        expect(len(tokens) == len(seq_ids), "tokens", f"{len(seq_ids)} lists", len(tokens))
        for ids, m in zip(tokens, lens, strict=True):
            expect(ids is None or len(ids) == m, "tokens", f"{m} ids", ids)
        known = [[None] * m if ids is None else list(ids) for ids, m in zip(tokens, lens, strict=True)]
        return [self.settled(seq_id) for seq_id in seq_ids], known

    def reserve(self, seq_ids, lens, tokens=None):
        sequences, tokens = self.check_reservation(seq_ids, lens, tokens)
        writers = {}  # tail -> the sequences that will write into it
        for sequence, m in zip(sequences, lens, strict=True):
            if self.writes_into_tail(sequence, m):
                writers.setdefault(sequence.table[-1], []).append(sequence)
        plan = []
        for sequence, m in zip(sequences, lens, strict=True):
            fresh = blocks_for(sequence.length + m, self.block_size) - len(sequence.table)
            copy = False
            if self.writes_into_tail(sequence, m):
                tail = sequence.table[-1]
                alone = self.refs[tail] == len(writers[tail]) and tail not in self.published
                # The longest may write in place: behind the tokens that the others fall back on.
                stays = max(reversed(writers[tail]), key=lambda writer: writer.length)
                copy = not alone or sequence is not stays
            plan.append((fresh, copy))
        self.expect_room(sum(fresh + copy for fresh, copy in plan))

        self.written = set()
        for seq_id, sequence, m, ids, (fresh, copy) in zip(
            seq_ids, sequences, lens, tokens, plan, strict=True
        ):
            original = None
            if copy:
                original = sequence.table[-1]
                sequence.table[-1] = self.take()
                self.keys[sequence.table[-1]] = self.keys[original]
                self.values[sequence.table[-1]] = self.values[original]
                self.copies += 1
            sequence.table += [self.take() for _ in range(fresh)]
            self.reservations[seq_id] = Reservation(m, ids, fresh, original)

    def writes_into_tail(self, sequence, m):
        return m > 0 and sequence.length % self.block_size != 0

    def write(self, layer, keys, values):
        self.check_layer(layer)
        expect(len(self.reservations) > 0, "layer", "an open reservation", "none")
        self.check_rows(sum(reserved.length for reserved in self.reservations.values()), keys, values)
        row = 0
        for seq_id, reserved in self.reservations.items():
            sequence = self.sequences[seq_id]
            for position in range(sequence.length, sequence.length + reserved.length):
                block, offset = sequence.table[position // self.block_size], position % self.block_size
                self.keys[block, layer, offset] = keys[row]
                self.values[block, layer, offset] = values[row]
                row += 1
        self.written.add(layer)

    def commit(self, seq_ids):
        for seq_id in seq_ids:
            self.check_reserved(seq_id)
            complete = self.reservations[seq_id].length == 0 or len(self.written) == self.layers
            expect(complete, "seq_ids", f"{self.layers} written layers", sorted(self.written))
        expect(len(set(seq_ids)) == len(seq_ids), "seq_ids", "each sequence once", seq_ids)
        ending = [(self.sequences[seq_id], self.reservations[seq_id].tokens) for seq_id in seq_ids]
        self.finish(seq_ids, [self.new_hashes(*each) for each in ending])

    def finish(self, seq_ids, hashes):
        for seq_id, fresh in zip(seq_ids, hashes, strict=True):
            sequence, reserved = self.sequences[seq_id], self.reservations.pop(seq_id)
            if reserved.original is not None:
                self.release(reserved.original)
            sequence.length += reserved.length
            sequence.tokens += reserved.tokens
            self.publish(sequence, fresh)
            if self.window is not None:
                self.free_behind_window(sequence)

    def free_behind_window(self, sequence):
        for index in range(max(0, sequence.length - self.window) // self.block_size):
            if sequence.table[index] is not None:
                self.release(sequence.table[index])
                sequence.table[index] = None

    def rollback(self, seq_ids):
        expect(len(set(seq_ids)) == len(seq_ids), "seq_ids", "each sequence once", seq_ids)
        for seq_id in seq_ids:
            self.check_reserved(seq_id)
        for seq_id in seq_ids:
            sequence, reserved = self.sequences[seq_id], self.reservations.pop(seq_id)
            kept = len(sequence.table) - reserved.fresh
            self.release_all(sequence.table[kept:])
            sequence.table = sequence.table[:kept]
            if reserved.original is not None:
                self.release(sequence.table[-1])
                sequence.table[-1] = reserved.original

    def append(self, seq_id, keys, values, tokens=None):
        if self.layers > 1:
            raise NotSupported(f"layers: expected 1 for append, got {self.layers}")
        self.check_rows(len(keys), keys, values)
        (sequence,), (ids,) = self.check_reservation([seq_id], [len(keys)], [tokens])
        hashes = self.new_hashes(sequence, ids)
        self.reserve([seq_id], [len(keys)], [tokens])
        self.write(0, keys, values)
        self.finish([seq_id], [hashes])

    def check_rows(self, rows, keys, values):
        shape = (rows, *self.token_shape)
        expect(keys.shape == shape, "keys", shape, keys.shape)
        expect(values.shape == shape, "values", shape, values.shape)
        expect(keys.dtype == self.dtype, "keys", self.dtype, keys.dtype)
        expect(values.dtype == self.dtype, "values", self.dtype, values.dtype)

    def check_layer(self, layer):
        expect(0 <= layer < self.layers, "layer", f"0 to {self.layers - 1}", layer)

    def check_reserved(self, seq_id):
        self.sequence(seq_id)
        expect(seq_id in self.reservations, "seq_ids", "reserved sequences", repr(seq_id))

    # Reading

    def attend(self, seq_ids, queries, query_lens, *, layer=0, scale=None, softcap=None, sink_logits=None):
        self.check_layer(layer)
        expect(len(query_lens) == len(seq_ids), "query_lens", f"{len(seq_ids)} lengths", len(query_lens))
        expect(all(m >= 0 for m in query_lens), "query_lens", "at least 0", query_lens)
        expect(queries.ndim == 3, "queries", "3 axes", queries.shape)
        heads = queries.shape[1]
        shape = (sum(query_lens), heads, self.token_shape[1])
        expect(queries.shape == shape, "queries", shape, queries.shape)
        expect(queries.dtype == self.dtype, "queries", self.dtype, queries.dtype)
        expect(
            heads % self.token_shape[0] == 0, "queries", f"a multiple of {self.token_shape[0]} heads", heads
        )
        check_options(heads, None, softcap, sink_logits)
        out = np.zeros_like(queries)
        start = 0
        for seq_id, m in zip(seq_ids, query_lens, strict=True):
            keys, values = self.visible(seq_id, m, layer)
            rows = slice(start, start + m)
            out[rows] = attention(
                queries[rows],
                keys,
                values,
                scale=scale,
                window=self.window,
                softcap=softcap,
                sink_logits=sink_logits,
            )
            start += m
        return out

    def visible(self, seq_id, m, layer):
        """Keys and values that the last m positions of a sequence may see."""
        sequence = self.sequence(seq_id)
        expect(sequence.gang is None, "seq_ids", "a sequence in the pool", f"{seq_id!r}, swapped out")
        end = sequence.length
        if seq_id in self.reservations and self.reservations[seq_id].length > 0:
            expect(layer in self.written, "layer", "a written layer", layer)
            end += self.reservations[seq_id].length
        expect(m <= end, "query_lens", f"at most {end} for {seq_id!r}", m)
        first = 0 if self.window is None else max(0, end - m - self.window + 1)
        held = m == 0 or sequence.table[first // self.block_size] is not None
        expect(held, "query_lens", f"keys from position {first} of {seq_id!r}", "blocks given back")
        return self.read(sequence, layer, first if m > 0 else end, end)

    def read(self, sequence, layer, first, end):
        keys = np.zeros((end - first, *self.token_shape), self.dtype)
        values = np.zeros((end - first, *self.token_shape), self.dtype)
        for row, position in enumerate(range(first, end)):
            block, offset = sequence.table[position // self.block_size], position % self.block_size
            keys[row] = self.keys[block, layer, offset]
            values[row] = self.values[block, layer, offset]
        return keys, values

    def gather(self, seq_id, *, layer=0):
        sequence = self.sequence(seq_id)
        expect(sequence.gang is None, "seq_id", "a sequence in the pool", f"{seq_id!r}, swapped out")
        self.check_layer(layer)
        first = 0 if self.window is None else max(0, sequence.length - self.window)
        return self.read(sequence, layer, first, sequence.length)

    # Sharing, shortening, leaving

    def fork(self, parent, child):
        source = self.settled(parent)
        expect(child not in self.sequences, "child", "a new id", f"{child!r}, which exists")
        for block in source.table:
            if block is not None:
                self.pin(block)
        self.sequences[child] = Sequence(
            source.salt,
            source.adapter,
            list(source.tokens),
            list(source.table),
            list(source.hashes),
            source.length,
        )

    def truncate(self, seq_id, length):
        sequence = self.settled(seq_id)
        expect(0 <= length <= sequence.length, "length", f"0 to {sequence.length}", length)
        kept = blocks_for(length, self.block_size)
        if self.window is not None and length > 0:
            first = max(0, length - self.window)
            if None in sequence.table[first // self.block_size : kept]:
                raise CannotTruncate(f"length: expected keys from position {first} on, got blocks given back")
        self.release_all(sequence.table[kept:])
        sequence.table = sequence.table[:kept]
        sequence.tokens = sequence.tokens[:length]
        sequence.hashes = sequence.hashes[: length // self.block_size]
        sequence.length = length

    def free(self, seq_id):
        sequence = self.sequence(seq_id)
        if seq_id in self.reservations:
            self.rollback([seq_id])
        if sequence.gang is None:
            self.release_all(sequence.table)
        else:
            sequence.gang.members.remove(seq_id)
        del self.sequences[seq_id]

    def swap_out(self, seq_ids):
        expect(len(set(seq_ids)) == len(seq_ids), "seq_ids", "each sequence once", seq_ids)
        sequences = [self.settled(seq_id) for seq_id in seq_ids]
        blocks = {block for sequence in sequences for block in sequence.table if block is not None}
        gang = Gang(set(seq_ids), {b: (self.keys[b].copy(), self.values[b].copy()) for b in blocks})
        for sequence in sequences:
            self.release_all(sequence.table)
            sequence.gang = gang

    def swap_in(self, seq_ids):
        expect(len(set(seq_ids)) == len(seq_ids), "seq_ids", "each sequence once", seq_ids)
        sequences = [self.sequence(seq_id) for seq_id in seq_ids]
        for sequence in sequences:
            gang = sequence.gang
            expect(gang is not None and gang.members == set(seq_ids), "seq_ids", "one whole gang", seq_ids)
        owned = [block for sequence in sequences for block in sequence.table if block is not None]
        self.expect_room(len(set(owned)))
        moved = {}
        for sequence in sequences:
            for index, block in enumerate(sequence.table):
                if block is None:
                    continue
                if block in moved:
                    self.pin(moved[block])
                else:
                    moved[block] = self.take()
                    self.keys[moved[block]], self.values[moved[block]] = sequence.gang.contents[block]
                sequence.table[index] = moved[block]
            sequence.gang = None

    # Measures

    def length(self, seq_id):
        return self.sequence(seq_id).length

    def block_table(self, seq_id):
        sequence = self.sequence(seq_id)
        return list(sequence.table) if sequence.gang is None else []

    def usage(self):
        filled = Counter()  # block -> committed tokens in it
        for sequence in self.sequences.values():
            if sequence.gang is None:
                for index, block in enumerate(sequence.table):
                    if block is not None:
                        tokens = min(self.block_size, max(0, sequence.length - index * self.block_size))
                        filled[block] = max(filled[block], tokens)
        used = sum(refs > 0 for refs in self.refs)
        slots_used = sum(filled.values())
        return CacheUsage(
            num_blocks=len(self.refs),
            free=len(self.plain),
            used=used,
            cached=len(self.cached),
            shared=sum(refs > 1 for refs in self.refs),
            copies=self.copies,
            evictions=self.evictions,
            prefix_tokens_queried=self.queried,
            prefix_tokens_hit=self.hit,
            slots_used=slots_used,
            slots_wasted=used * self.block_size - slots_used,
        )
