"""Paged attention in PyTorch: right, and built unlike the reference, so that the suite can be held to it.

What differs, all of it free by the contract:

- attention in float32, over the blocks from the newest to the oldest, with a running softmax;
- a pool of token slots instead of blocks, block ids handed out in a scrambled order;
- reserved keys wait in a buffer and enter the pool at commit;
- the prefix cache is a tree of token blocks, so that a lookup needs no hash.
"""

import hashlib
import heapq
from collections import Counter
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch.nn.functional import scaled_dot_product_attention

from spec import CannotTruncate, InvalidArgument, NotSupported, OutOfBlocks, UnknownSequence
from spec.paged_attention import CacheUsage, Fragmentation, MemoryUse, PageTable

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SCRAMBLE = 2654435761  # Knuth's multiplicative hash: neighbours end up far apart


def require(condition, sentence):
    if not condition:
        raise InvalidArgument(sentence)


# Attention ------------------------------------------------------------------------------------------------


def attention(queries, keys, values, scale, window, softcap, sink_logits, step):
    """The last positions of one sequence; every key given here is visible to one of them at least."""
    m, heads, head_dim = queries.shape
    n, kv_heads, _ = keys.shape
    scale = head_dim**-0.5 if scale is None else scale
    q = queries.float().transpose(0, 1)  # (heads, m, head_dim)
    k = keys.float().repeat_interleave(heads // kv_heads, dim=1).transpose(0, 1)  # (heads, n, head_dim)
    v = values.float().repeat_interleave(heads // kv_heads, dim=1).transpose(0, 1)
    own, position = torch.arange(n - m, n)[:, None], torch.arange(n)
    visible = position <= own  # (m, n)
    if window is not None:
        visible &= position > own - window
    if m == 0:
        out = q
    elif window is None and softcap is None and sink_logits is None:
        out = scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=visible, scale=scale)[0]
    else:
        out = running_softmax(q, k, v, visible, scale, softcap, sink_logits, step)
    return out.transpose(0, 1).to(queries.dtype)


def running_softmax(q, k, v, visible, scale, softcap, sink_logits, step):
    top = torch.full((*q.shape[:2], 1), -torch.inf)  # the largest logit so far, (heads, m, 1)
    total = torch.zeros_like(top)
    if sink_logits is not None:  # a key seen before all others, whose value is zero
        top = sink_logits.float()[:, None, None].expand_as(top)
        total = torch.ones_like(top)
    out = torch.zeros_like(q)
    for end in range(k.shape[1], 0, -step):
        part = slice(max(0, end - step), end)
        scores = q @ k[:, part].mT * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(~visible[:, part], -torch.inf)
        new_top = torch.maximum(top, scores.amax(-1, keepdim=True))
        shift = new_top.masked_fill(new_top == -torch.inf, 0)  # a query that has seen no key yet
        weights, kept = torch.exp(scores - shift), torch.exp(top - shift)
        total = total * kept + weights.sum(-1, keepdim=True)
        out = out * kept + weights @ v[:, part]
        top = new_top
    return out / total


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
    blocks_per_step=1,
):
    check_batch(queries, key_blocks, value_blocks, block_tables, context_lens, query_lens)
    check_options(queries.shape[1], window, softcap, sink_logits)
    num_blocks, _, block_size, _ = key_blocks.shape
    counts = query_lens.tolist()
    pieces = [queries[:0]]
    for table, context, m, rows in zip(
        block_tables.tolist(), context_lens.tolist(), counts, queries.split(counts), strict=True
    ):
        if m == 0:
            continue
        oldest = 0 if window is None else max(0, context - m - window + 1)
        pages = range(oldest // block_size, -(-context // block_size))
        require(pages.stop <= len(table), f"block_tables: expected {pages.stop} entries, got {len(table)}")
        blocks = table[pages.start : pages.stop]
        outside = [block for block in blocks if not 0 <= block < num_blocks]
        require(not outside, f"block_tables: expected ids below {num_blocks}, got {outside}")
        needed = slice(oldest - pages.start * block_size, context - pages.start * block_size)
        keys = key_blocks[blocks].transpose(1, 2).flatten(0, 1)[needed]  # (tokens, kv_heads, head_dim)
        values = value_blocks[blocks].transpose(1, 2).flatten(0, 1)[needed]
        step = blocks_per_step * block_size
        pieces.append(attention(rows, keys, values, scale, window, softcap, sink_logits, step))
    return torch.cat(pieces)


def check_batch(queries, key_blocks, value_blocks, block_tables, context_lens, query_lens):
    require(queries.dim() == 3, f"queries: expected 3 axes, got {queries.dim()}")
    require(key_blocks.dim() == 4, f"key_blocks: expected 4 axes, got {key_blocks.dim()}")
    for name, pool in (("key_blocks", key_blocks), ("value_blocks", value_blocks)):
        require(pool.shape == key_blocks.shape, f"{name}: expected {key_blocks.shape}, got {pool.shape}")
        require(pool.dtype == queries.dtype, f"{name}: expected {queries.dtype}, got {pool.dtype}")
    tokens, heads, head_dim = queries.shape
    _, kv_heads, _, width = key_blocks.shape
    require(width == head_dim, f"key_blocks: expected head_dim {head_dim}, got {width}")
    require(
        kv_heads > 0 and heads % kv_heads == 0,
        f"queries: expected a multiple of {kv_heads} heads, got {heads}",
    )
    require(block_tables.dim() == 2, f"block_tables: expected 2 axes, got {block_tables.dim()}")
    for name, lens in (("context_lens", context_lens), ("query_lens", query_lens)):
        expected = block_tables.shape[:1]
        require(lens.shape == expected, f"{name}: expected shape {expected}, got {lens.shape}")
    fits = bool(((query_lens >= 0) & (query_lens <= context_lens)).all())
    require(fits, f"query_lens: expected 0 to {context_lens.tolist()}, got {query_lens.tolist()}")
    require(int(query_lens.sum()) == tokens, f"queries: expected {int(query_lens.sum())} rows, got {tokens}")


def check_options(heads, window, softcap, sink_logits):
    require(window is None or window >= 1, f"window: expected at least 1, got {window}")
    require(softcap is None or softcap > 0, f"softcap: expected above 0, got {softcap}")
    if sink_logits is not None:
        shape = tuple(sink_logits.shape)
        require(shape == (heads,), f"sink_logits: expected shape ({heads},), got {shape}")


# Addresses and measures -----------------------------------------------------------------------------------


def slot_mapping(block_table, start, count, block_size):
    require(block_size >= 1, f"block_size: expected at least 1, got {block_size}")
    require(start >= 0, f"start: expected at least 0, got {start}")
    require(count >= 0, f"count: expected at least 0, got {count}")
    slots = []
    for position in range(start, start + count):
        page, offset = divmod(position, block_size)
        held = page < len(block_table) and block_table[page] is not None
        require(held, f"block_table: expected a block for position {position}, got none")
        slots.append(block_table[page] * block_size + offset)
    return torch.tensor(slots, dtype=torch.int32)


def write_slots(keys, values, slots, key_blocks, value_blocks):
    require(key_blocks.dim() == 4, f"key_blocks: expected 4 axes, got {key_blocks.dim()}")
    num_blocks, kv_heads, block_size, head_dim = key_blocks.shape
    expected = (*slots.shape, kv_heads, head_dim)
    require(value_blocks.shape == key_blocks.shape, f"value_blocks: expected {key_blocks.shape}")
    for name, rows, pool in (("keys", keys, key_blocks), ("values", values, value_blocks)):
        require(tuple(rows.shape) == expected, f"{name}: expected {expected}, got {tuple(rows.shape)}")
        require(rows.dtype == pool.dtype, f"{name}: expected {pool.dtype}, got {rows.dtype}")
    spare = num_blocks * block_size
    require(bool((slots < spare).all()), f"slots: expected below {spare}, got {slots.tolist()}")
    index = torch.where(slots < 0, spare, slots).long()  # padding lands in a row that is then cut off
    written = []
    for rows, pool in ((keys, key_blocks), (values, value_blocks)):
        flat = torch.cat([pool.transpose(1, 2).flatten(0, 1), pool.new_empty(1, kv_heads, head_dim)])
        flat[index] = rows
        blocks = flat[:spare].unflatten(0, (num_blocks, block_size))
        written.append(blocks.transpose(1, 2).contiguous())
    return tuple(written)


def to_csr(block_tables, lengths, block_size):
    require(block_size >= 1, f"block_size: expected at least 1, got {block_size}")
    same = len(lengths) == len(block_tables)
    require(same, f"lengths: expected {len(block_tables)} entries, got {len(lengths)}")
    require(all(n > 0 for n in lengths), f"lengths: expected at least 1, got {list(lengths)}")
    rows = [list(table[: (n - 1) // block_size + 1]) for table, n in zip(block_tables, lengths, strict=True)]
    for row, n in zip(rows, lengths, strict=True):
        require(len(row) * block_size >= n, f"block_tables: expected room for {n} tokens, got {len(row)} ids")
    starts = [0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()]
    return PageTable(
        indptr=torch.tensor(starts, dtype=torch.int32),
        indices=torch.tensor(sum(rows, []), dtype=torch.int32),
        last_page_len=torch.tensor([(n - 1) % block_size + 1 for n in lengths], dtype=torch.int32),
    )


def fragmentation(lengths, block_size, max_length):
    require(block_size >= 1, f"block_size: expected at least 1, got {block_size}")
    require(max_length >= 1, f"max_length: expected at least 1, got {max_length}")
    fits = all(0 <= n <= max_length for n in lengths)
    require(fits, f"lengths: expected 0 to {max_length}, got {list(lengths)}")
    empty_slots = [-n % block_size for n in lengths]  # of each last block
    used, unused = sum(lengths), [max_length - n for n in lengths]
    return Fragmentation(
        paged=MemoryUse(used, used + sum(empty_slots), sum(empty_slots)),
        contiguous=MemoryUse(used, used + sum(unused), sum(unused)),
    )


# The pool -------------------------------------------------------------------------------------------------


class BlockAllocator:
    def __init__(self, num_blocks, block_size):
        require(num_blocks >= 1, f"num_blocks: expected at least 1, got {num_blocks}")
        require(block_size >= 1, f"block_size: expected at least 1, got {block_size}")
        self._size = num_blocks
        self._free = sorted(range(num_blocks), key=scrambled)  # a stack: the block freed last goes first
        self._refs = Counter()

    def num_free(self):
        return len(self._free)

    def allocate(self, n=1):
        require(n >= 0, f"n: expected at least 0, got {n}")
        if n > len(self._free):
            raise OutOfBlocks(f"n: expected at most {len(self._free)}, got {n}")
        blocks = [self._free.pop() for _ in range(n)]
        self._refs.update(blocks)
        return blocks

    def share(self, blocks):
        for block in blocks:
            require(self.ref_count(block) > 0, f"blocks: expected allocated blocks, got {block}, free")
        self._refs.update(blocks)

    def release(self, blocks):
        dropped = Counter(blocks)
        for block, times in dropped.items():
            held = self.ref_count(block)
            require(times <= held, f"blocks: expected {block} at most {held} times, got {times}")
        self._refs -= dropped  # drops the entries that reach 0
        self._free += [block for block in dropped if block not in self._refs]

    def ref_count(self, block):
        require(0 <= block < self._size, f"block: expected an id below {self._size}, got {block}")
        return self._refs[block]


def scrambled(block):
    return block * SCRAMBLE % 2**32


class Blocks:
    """Who uses which block of a cache, and which unused ones still hold a published prefix."""

    def __init__(self, num_blocks):
        self.blank = [(scrambled(block), block) for block in range(num_blocks)]  # a heap
        heapq.heapify(self.blank)
        self.refs = Counter()
        self.released = {}  # published blocks that nobody refers to -> when that began
        self.node = {}  # published blocks -> their place in the prefix tree
        self.time = 0
        self.evictions = 0

    def room(self):
        return len(self.blank) + len(self.released)

    def take(self):
        if self.blank:
            block = heapq.heappop(self.blank)[1]
        else:
            block = min(self.released, key=self.released.get)
            del self.released[block]
            self.withdraw(block)
            self.evictions += 1
        self.refs[block] = 1
        return block

    def hold(self, blocks):
        for block in blocks:
            self.released.pop(block, None)
            self.refs[block] += 1

    def drop(self, blocks):
        """Drops one reference to each, the last of the list first: deeper blocks are given up earlier."""
        for block in reversed(blocks):
            self.refs[block] -= 1
            if self.refs[block] == 0 and block in self.node:
                self.time += 1
                self.released[block] = self.time
            elif self.refs[block] == 0:
                heapq.heappush(self.blank, (scrambled(block), block))

    def publish(self, block, node):
        node.blocks.append(block)
        self.node[block] = node

    def withdraw(self, block):
        node = self.node.pop(block)
        node.blocks.remove(block)
        while node.parent is not None and not node.blocks and not node.children:
            del node.parent.children[node.name]
            node = node.parent

    def forget_prefixes(self):
        for block in list(self.released):
            del self.released[block]
            self.withdraw(block)
            heapq.heappush(self.blank, (scrambled(block), block))


@dataclass
class Node:
    """One block of tokens behind the same prefix; the root has a child for each salt and adapter."""

    parent: "Node | None" = None
    name: tuple = ()
    hash: bytes = b""
    children: dict = field(default_factory=dict)
    blocks: list = field(default_factory=list)  # that hold it, in the order of publication

    def child(self, name):
        return self.children.setdefault(name, Node(self, name))


# The cache ------------------------------------------------------------------------------------------------


@dataclass
class Sequence:
    salt: str | None
    adapter: str | None
    length: int = 0
    table: list = field(default_factory=list)
    known: list = field(default_factory=list)  # token ids from the start on, as far as the caller told
    hashes: list = field(default_factory=list)  # of the published blocks
    gang: "Gang | None" = None


@dataclass
class Reservation:
    length: int
    tokens: list
    table: list  # as it was before
    staged: dict = field(default_factory=dict)  # layer -> (keys, values)


@dataclass
class Gang:
    members: set
    content: dict  # block that was left -> its slots


def default_hash(parent, tokens, extras):
    digest = hashlib.blake2b(parent or b"")
    digest.update(repr((tokens, extras)).encode("utf-8", "backslashreplace"))
    return digest.digest()


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
        sizes = ("num_blocks", num_blocks), ("block_size", block_size), ("layers", layers)
        for name, size in (*sizes, ("kv_heads", kv_heads), ("head_dim", head_dim)):
            require(size >= 1, f"{name}: expected at least 1, got {size}")
        require(dtype in DTYPES, f"dtype: expected one of {list(DTYPES)}, got {dtype}")
        require(window is None or window >= 1, f"window: expected at least 1, got {window}")
        if prefix_caching and window is not None:
            raise NotSupported(f"window: expected None with prefix_caching, got {window}")
        self._num_blocks, self._block_size, self._window = num_blocks, block_size, window
        self._row_shape = (layers, kv_heads, head_dim)
        # Slot by slot, (slots, layers, keys and values, kv_heads, head_dim).
        shape = (num_blocks * block_size, layers, 2, kv_heads, head_dim)
        self._slots = torch.full(shape, torch.nan, dtype=DTYPES[dtype])
        self._blocks = Blocks(num_blocks)
        self._prefixes = Node() if prefix_caching else None
        self._block_hash = block_hash or default_hash
        self._sequences = {}
        self._reserved = {}
        self._copies = self._queried = self._hit = 0

    # Looking up

    def _sequence(self, seq_id):
        if seq_id not in self._sequences:
            raise UnknownSequence(f"seq_id: expected a sequence of this cache, got {seq_id!r}")
        return self._sequences[seq_id]

    def _present(self, seq_id):
        sequence = self._sequence(seq_id)
        require(sequence.gang is None, f"seq_id: expected one in the pool, got {seq_id!r}, swapped out")
        return sequence

    def _idle(self, seq_id):
        sequence = self._present(seq_id)
        require(seq_id not in self._reserved, f"seq_id: expected no reservation, got one of {seq_id!r}")
        return sequence

    def _check_layer(self, layer):
        layers = self._row_shape[0]
        require(0 <= layer < layers, f"layer: expected 0 to {layers - 1}, got {layer}")

    def _slots_of(self, block):
        return self._slots[block * self._block_size : (block + 1) * self._block_size]

    def _slot_ids(self, table, start, end):
        size = self._block_size
        return [table[position // size] * size + position % size for position in range(start, end)]

    def _chunk(self, tokens, index):
        return tuple(tokens[index * self._block_size : (index + 1) * self._block_size])

    # Sequences and the prefix cache

    def add(self, seq_id, tokens=None, *, salt=None, adapter=None):
        require(seq_id not in self._sequences, f"seq_id: expected a new id, got {seq_id!r}, which exists")
        sequence = Sequence(salt, adapter)
        if self._prefixes is not None and tokens is not None:
            found = self._find(tokens, salt, adapter)
            sequence.table = [node.blocks[0] for node in found]
            sequence.hashes = [node.hash for node in found]
            sequence.length = len(found) * self._block_size
            sequence.known = list(tokens[: sequence.length])
            self._blocks.hold(sequence.table)
            self._queried += len(tokens)
            self._hit += sequence.length
        self._sequences[seq_id] = sequence
        return sequence.length

    def cached_prefix(self, tokens, *, salt=None, adapter=None):
        if self._prefixes is None:
            return 0
        return len(self._find(tokens, salt, adapter)) * self._block_size

    def _find(self, tokens, salt, adapter):
        """The nodes of the longest cached prefix, short of the last token, which is always computed."""
        found = []
        node = self._prefixes.children.get((salt, adapter), Node())
        for index in range((len(tokens) - 1) // self._block_size):
            node = node.children.get(self._chunk(tokens, index))
            if node is None or not node.blocks:
                break
            found.append(node)
        return found

    def _hashes(self, sequence, tokens):
        """The sequence's hashes and those of the further full blocks of `tokens`."""
        hashes = list(sequence.hashes)
        for index in range(len(hashes), len(tokens) // self._block_size):
            extras = [] if sequence.adapter is None else [("adapter", sequence.adapter)]
            if index == 0 and sequence.salt is not None:
                extras.append(("salt", sequence.salt))
            parent = hashes[-1] if hashes else None
            hashes.append(self._block_hash(parent, self._chunk(tokens, index), tuple(extras)))
        return hashes

    def reset_prefix_cache(self):
        if self._reserved or any(sequence.length for sequence in self._sequences.values()):
            return False
        self._blocks.forget_prefixes()
        return True

    # Writing

    def reserve(self, seq_ids, lens, tokens=None):
        self._open(self._plan(seq_ids, lens, tokens))

    def _plan(self, seq_ids, lens, tokens):
        """What to do for each sequence: (its id, length, tokens, new blocks, whether it copies its tail)."""
        require(not self._reserved, f"seq_ids: expected no open reservation, got {list(self._reserved)}")
        require(len(set(seq_ids)) == len(seq_ids), f"seq_ids: expected each once, got {list(seq_ids)}")
        require(len(lens) == len(seq_ids), f"lens: expected {len(seq_ids)} entries, got {len(lens)}")
        require(all(m >= 0 for m in lens), f"lens: expected at least 0, got {list(lens)}")
        tokens = [None] * len(seq_ids) if tokens is None else tokens
        require(len(tokens) == len(seq_ids), f"tokens: expected {len(seq_ids)} entries, got {len(tokens)}")
        for seq_id, m, ids in zip(seq_ids, lens, tokens, strict=True):
            self._idle(seq_id)
            require(ids is None or len(ids) == m, f"tokens: expected {m} ids for {seq_id!r}, got {ids}")
        copying, plan = self._copying(seq_ids, lens), []
        for seq_id, m, ids in zip(seq_ids, lens, tokens, strict=True):
            sequence = self._sequences[seq_id]
            extra = -(-(sequence.length + m) // self._block_size) - len(sequence.table)
            plan.append((seq_id, m, [] if ids is None else list(ids), extra, seq_id in copying))
        needed, room = sum(extra + copies for *_, extra, copies in plan), self._blocks.room()
        if needed > room:
            raise OutOfBlocks(f"lens: expected at most {room} new blocks, got {needed}")
        return plan

    def _copying(self, seq_ids, lens):
        """Those who cannot write into their tail as it is."""
        writers = {}  # tail -> those who will write into it
        for seq_id, m in zip(seq_ids, lens, strict=True):
            sequence = self._sequences[seq_id]
            if m > 0 and sequence.length % self._block_size > 0:
                writers.setdefault(sequence.table[-1], []).append(seq_id)
        copying = set()
        for tail, group in writers.items():
            copying.update(group)
            if self._blocks.refs[tail] == len(group) and tail not in self._blocks.node:
                # One may stay: the longest, or a rollback of a longer one would find its tokens overwritten.
                copying.remove(max(reversed(group), key=self.length))
        return copying

    def _open(self, plan):
        for seq_id, m, ids, extra, copies in plan:
            table = self._sequences[seq_id].table
            self._reserved[seq_id] = Reservation(m, ids, list(table))
            if copies:
                original, table[-1] = table[-1], self._blocks.take()
                self._slots_of(table[-1]).copy_(self._slots_of(original))
                self._copies += 1
            table += [self._blocks.take() for _ in range(extra)]

    def write(self, layer, keys, values):
        require(self._reserved, "layer: expected an open reservation, got none")
        self._check_layer(layer)
        lens = [reservation.length for reservation in self._reserved.values()]
        self._check_rows(sum(lens), keys, values)
        parts = zip(keys.split(lens), values.split(lens), strict=True)
        for reservation, (k, v) in zip(self._reserved.values(), parts, strict=True):
            reservation.staged[layer] = (k.clone(), v.clone())

    def _check_rows(self, rows, keys, values):
        expected = (rows, *self._row_shape[1:])
        for name, array in (("keys", keys), ("values", values)):
            require(tuple(array.shape) == expected, f"{name}: expected {expected}, got {tuple(array.shape)}")
            dtype = self._slots.dtype
            require(array.dtype == dtype, f"{name}: expected {dtype}, got {array.dtype}")

    def commit(self, seq_ids):
        self._check_reserved(seq_ids)
        for seq_id in seq_ids:
            reservation = self._reserved[seq_id]
            complete = reservation.length == 0 or len(reservation.staged) == self._row_shape[0]
            require(complete, f"seq_ids: expected all layers of {seq_id!r} written")
        known = [self._known_after(seq_id, self._reserved[seq_id].tokens) for seq_id in seq_ids]
        hashes = [self._hashes_after(*pair) for pair in zip(seq_ids, known, strict=True)]
        for entry in zip(seq_ids, known, hashes, strict=True):
            self._close(*entry)

    def _known_after(self, seq_id, tokens):
        sequence = self._sequences[seq_id]
        if len(sequence.known) < sequence.length:
            return sequence.known
        return sequence.known + list(takewhile(lambda token: token is not None, tokens))

    def _hashes_after(self, seq_id, known):
        return [] if self._prefixes is None else self._hashes(self._sequences[seq_id], known)

    def _close(self, seq_id, known, hashes):
        """Moves the staged rows into the pool, publishes, and gives back what fell behind the window."""
        sequence, reservation = self._sequences[seq_id], self._reserved.pop(seq_id)
        start, sequence.length = sequence.length, sequence.length + reservation.length
        slots = self._slot_ids(sequence.table, start, sequence.length)
        for layer, (keys, values) in reservation.staged.items():
            self._slots[slots, layer, 0] = keys
            self._slots[slots, layer, 1] = values
        self._blocks.drop(self._replaced(sequence, reservation))
        already, sequence.hashes, sequence.known = len(sequence.hashes), hashes, known
        self._publish(sequence, already)
        if self._window is not None:
            behind = max(0, sequence.length - self._window) // self._block_size
            self._blocks.drop([block for block in sequence.table[:behind] if block is not None])
            sequence.table[:behind] = [None] * behind

    def _replaced(self, sequence, reservation):
        """The tail that was copied, as a list of one or none."""
        kept = len(reservation.table)
        return [old for old, new in zip(reservation.table, sequence.table[:kept], strict=True) if old != new]

    def _publish(self, sequence, already):
        if len(sequence.hashes) == already:
            return
        node = self._prefixes.child((sequence.salt, sequence.adapter))
        for index, key in enumerate(sequence.hashes):
            node = node.child(self._chunk(sequence.known, index))
            node.hash = key
            if index >= already:
                self._blocks.publish(sequence.table[index], node)

    def rollback(self, seq_ids):
        self._check_reserved(seq_ids)
        for seq_id in seq_ids:
            sequence, reservation = self._sequences[seq_id], self._reserved.pop(seq_id)
            pairs = zip(sequence.table, reservation.table + [None] * len(sequence.table), strict=False)
            self._blocks.drop([new for new, old in pairs if new != old])
            sequence.table = reservation.table

    def _check_reserved(self, seq_ids):
        require(len(set(seq_ids)) == len(seq_ids), f"seq_ids: expected each once, got {list(seq_ids)}")
        for seq_id in seq_ids:
            self._sequence(seq_id)
            require(seq_id in self._reserved, f"seq_ids: expected reserved sequences, got {seq_id!r}")

    def append(self, seq_id, keys, values, tokens=None):
        if self._row_shape[0] > 1:
            raise NotSupported(f"layers: expected 1 for append, got {self._row_shape[0]}")
        require(keys.dim() == 3, f"keys: expected 3 axes, got {keys.dim()}")
        # Everything that can fail comes before the first change.
        self._sequence(seq_id)
        plan = self._plan([seq_id], [len(keys)], [tokens])
        self._check_rows(len(keys), keys, values)
        known = self._known_after(seq_id, [] if tokens is None else tokens)
        hashes = self._hashes_after(seq_id, known)
        self._open(plan)
        self.write(0, keys, values)
        self._close(seq_id, known, hashes)

    # Reading

    def attend(
        self,
        seq_ids,
        queries,
        query_lens,
        *,
        layer=0,
        scale=None,
        softcap=None,
        sink_logits=None,
        blocks_per_step=1,
    ):
        self._check_layer(layer)
        _, kv_heads, head_dim = self._row_shape
        same = len(query_lens) == len(seq_ids)
        require(same, f"query_lens: expected {len(seq_ids)} entries, got {len(query_lens)}")
        require(all(m >= 0 for m in query_lens), f"query_lens: expected at least 0, got {list(query_lens)}")
        shape = tuple(queries.shape)
        fits = len(shape) == 3 and shape[0] == sum(query_lens) and shape[2] == head_dim
        require(fits, f"queries: expected ({sum(query_lens)}, heads, {head_dim}), got {shape}")
        require(shape[1] % kv_heads == 0, f"queries: expected a multiple of {kv_heads} heads, got {shape[1]}")
        dtype = self._slots.dtype
        require(queries.dtype == dtype, f"queries: expected {dtype}, got {queries.dtype}")
        check_options(shape[1], None, softcap, sink_logits)
        visible = [self._visible(*pair, layer) for pair in zip(seq_ids, query_lens, strict=True)]
        step = blocks_per_step * self._block_size
        pieces = [queries[:0]]
        for rows, (keys, values) in zip(queries.split(list(query_lens)), visible, strict=True):
            pieces.append(attention(rows, keys, values, scale, self._window, softcap, sink_logits, step))
        return torch.cat(pieces)

    def _visible(self, seq_id, m, layer):
        """Keys and values of the last m positions: those of the pool, then those that wait for commit."""
        sequence, reservation = self._present(seq_id), self._reserved.get(seq_id)
        end = sequence.length
        if reservation is not None and reservation.length > 0:
            require(layer in reservation.staged, f"layer: expected a written layer, got {layer}")
            end += reservation.length
        require(m <= end, f"query_lens: expected at most {end} for {seq_id!r}, got {m}")
        if m == 0:
            return self._read(sequence, layer, sequence.length)
        first = 0 if self._window is None else max(0, end - m - self._window + 1)
        held = sequence.table[first // self._block_size] is not None
        require(held, f"query_lens: expected keys from position {first} on, got blocks given back")
        keys, values = self._read(sequence, layer, min(first, sequence.length))
        if end > sequence.length:
            late = max(0, first - sequence.length)
            staged_keys, staged_values = reservation.staged[layer]
            keys = torch.cat([keys, staged_keys[late:]])
            values = torch.cat([values, staged_values[late:]])
        return keys, values

    def _read(self, sequence, layer, start):
        slots = self._slot_ids(sequence.table, start, sequence.length)
        rows = self._slots[slots, layer]  # (tokens, 2, kv_heads, head_dim), a copy
        return rows[:, 0], rows[:, 1]

    def gather(self, seq_id, *, layer=0):
        sequence = self._present(seq_id)
        self._check_layer(layer)
        return self._read(sequence, layer, max(0, sequence.length - (self._window or sequence.length)))

    # Sharing, shortening, leaving

    def fork(self, parent, child):
        source = self._idle(parent)
        require(child not in self._sequences, f"child: expected a new id, got {child!r}, which exists")
        self._blocks.hold([block for block in source.table if block is not None])
        copies = {name: list(getattr(source, name)) for name in ("table", "known", "hashes")}
        self._sequences[child] = Sequence(source.salt, source.adapter, source.length, **copies)

    def truncate(self, seq_id, length):
        sequence = self._idle(seq_id)
        fits = 0 <= length <= sequence.length
        require(fits, f"length: expected 0 to {sequence.length}, got {length}")
        kept = -(-length // self._block_size)
        first = max(0, length - (self._window or length))
        if any(block is None for block in sequence.table[first // self._block_size : kept]):
            raise CannotTruncate(f"length: expected keys from position {first} on, got blocks given back")
        self._blocks.drop([block for block in sequence.table[kept:] if block is not None])
        del sequence.table[kept:], sequence.known[length:], sequence.hashes[length // self._block_size :]
        sequence.length = length

    def free(self, seq_id):
        sequence = self._sequence(seq_id)
        if seq_id in self._reserved:
            self.rollback([seq_id])
        if sequence.gang is None:
            self._blocks.drop([block for block in sequence.table if block is not None])
        else:
            sequence.gang.members.remove(seq_id)
        del self._sequences[seq_id]

    def swap_out(self, seq_ids):
        require(len(set(seq_ids)) == len(seq_ids), f"seq_ids: expected each once, got {list(seq_ids)}")
        gang = Gang(set(seq_ids), {})
        sequences = [self._idle(seq_id) for seq_id in seq_ids]
        for sequence in sequences:
            blocks = [block for block in sequence.table if block is not None]
            gang.content.update({block: self._slots_of(block).clone() for block in blocks})
            self._blocks.drop(blocks)
            sequence.gang = gang

    def swap_in(self, seq_ids):
        require(len(set(seq_ids)) == len(seq_ids), f"seq_ids: expected each once, got {list(seq_ids)}")
        sequences = [self._sequence(seq_id) for seq_id in seq_ids]
        for sequence in sequences:
            whole = sequence.gang is not None and sequence.gang.members == set(seq_ids)
            require(whole, f"seq_ids: expected one whole gang, got {list(seq_ids)}")
        left = {block for sequence in sequences for block in sequence.table} - {None}
        if len(left) > self._blocks.room():
            raise OutOfBlocks(f"seq_ids: expected at most {self._blocks.room()} blocks, got {len(left)}")
        place = {block: self._blocks.take() for block in left}
        for block in left:
            self._slots_of(place[block]).copy_(sequences[0].gang.content[block])
            del self._blocks.refs[place[block]]  # counted once for each table below
        for sequence in sequences:
            sequence.table = [place.get(block) for block in sequence.table]
            self._blocks.hold([block for block in sequence.table if block is not None])
            sequence.gang = None

    # Measures

    def length(self, seq_id):
        return self._sequence(seq_id).length

    def block_table(self, seq_id):
        sequence = self._sequence(seq_id)
        return [] if sequence.gang is not None else list(sequence.table)

    def usage(self):
        filled = {}  # block -> the slots of it that hold a committed token
        for sequence in self._sequences.values():
            for position in range(sequence.length if sequence.gang is None else 0):
                block, offset = sequence.table[position // self._block_size], position % self._block_size
                if block is not None:
                    filled.setdefault(block, set()).add(offset)
        used = self._num_blocks - self._blocks.room()
        slots_used = sum(len(offsets) for offsets in filled.values())
        return CacheUsage(
            num_blocks=self._num_blocks,
            free=len(self._blocks.blank),
            used=used,
            cached=len(self._blocks.released),
            shared=sum(count > 1 for count in self._blocks.refs.values()),
            copies=self._copies,
            evictions=self._blocks.evictions,
            prefix_tokens_queried=self._queried,
            prefix_tokens_hit=self._hit,
            slots_used=slots_used,
            slots_wasted=used * self._block_size - slots_used,
        )
