"""Known bugs of paged attention: each an edit of reference/paged_attention.py, killed by its requirement's tests.

A title completes the sentence "This is what happens when an implementation …".
"""

from grading.bugs import Bug


def bug(requirement, title, *, old, new, hint, also=()):
    BUGS.append(Bug(requirement, title, old, new, hint, tuple(also)))


BUGS = []

GIVES_IDS = ("BlockAllocator.allocate", "PagedKVCache.block_table")
TAKES_IDS = ("BlockAllocator.share", "BlockAllocator.release", "BlockAllocator.ref_count")
CHANGES_NOTHING = (
    "PagedKVCache.block_table",
    "PagedKVCache.length",
    "PagedKVCache.gather",
    "PagedKVCache.usage",
)


class FreeChoices:
    """Which of the free blocks is taken is the implementation's choice; which blocks are the same is not."""

    def __init__(self):
        self.own = {}  # the submission's block id -> this implementation's
        self.names = {}  # block id -> how many others were seen before it since the last change
        self.pools = {}  # object -> number of blocks

    def arguments(self, call):
        if call.name not in TAKES_IDS or not call.args:
            return call.args, call.kwargs
        blocks, *others = call.args
        if isinstance(blocks, int):
            return (self.own.get(blocks, blocks), *others), call.kwargs
        return ([self.own.get(block, block) for block in blocks], *others), call.kwargs

    def answer(self, call, answer):
        if call.name in ("BlockAllocator", "PagedKVCache"):
            self.pools[call.object_id] = call.args[0] if call.args else call.kwargs["num_blocks"]
        if call.name not in CHANGES_NOTHING:
            self.names = {}
        if call.name not in GIVES_IDS or not isinstance(answer, list):
            return answer
        if isinstance(call.value, list):
            self.own.update(zip(call.value, answer, strict=False))
        return [self.name(block, self.pools[call.object_id]) for block in answer]

    def name(self, block, num_blocks):
        if not isinstance(block, int) or not 0 <= block < num_blocks:
            return block
        return self.names.setdefault(block, len(self.names))


# Addresses

bug(
    "PA-01",
    "forgets the offset inside the block",
    old="slots.append(block * block_size + position % block_size)",
    new="slots.append(block * block_size)",
    hint="A slot is block · B + offset.",
)
bug(
    "PA-01",
    "takes the logical block for the physical one",
    old="slots.append(block * block_size + position % block_size)",
    new="slots.append(position)",
    hint="Look the block up in the table first.",
)
bug(
    "PA-01",
    "starts counting at the first position of the table",
    old="for position in range(start, start + count):\n        capacity",
    new="for position in range(count):\n        capacity",
    hint="The first slot belongs to the position `start`.",
)
bug(
    "PA-02",
    "writes the keys into both pools",
    old="value_blocks[block, :, offset] = values[row]\n    return",
    new="value_blocks[block, :, offset] = keys[row]\n    return",
    hint="Keys and values have a pool each.",
)
bug(
    "PA-02",
    "takes the number of blocks for the block size",
    old="block, offset = slot // block_size, slot % block_size\n        key_blocks[",
    new="block, offset = slot // block_size, slot % kv_heads\n        key_blocks[",
    hint="The pool is (num_blocks, kv_heads, B, head_dim): B is its third axis.",
)
bug(
    "PA-02",
    "leaves out the last row",
    old="for row, slot in enumerate(slots):",
    new="for row, slot in enumerate(slots[:-1]):",
    hint="Every row has a slot.",
)
bug(
    "PA-03",
    "lets a negative slot count from the end of the pool",
    old="        if slot < 0:\n            continue\n",
    new="",
    hint="−1 is no address: skip the row. NumPy and PyTorch would write into the last slot.",
)
bug(
    "PA-03",
    "stops at the first padding row",
    old="        if slot < 0:\n            continue\n",
    new="        if slot < 0:\n            break\n",
    hint="Real rows may follow padding.",
)
bug(
    "PA-04",
    "calls a full last page empty",
    old="last_page_len.append(length - (pages - 1) * block_size)",
    new="last_page_len.append(length % block_size)",
    hint="A last page holds between 1 and B tokens: (n − 1) mod B + 1.",
)
bug(
    "PA-04",
    "leaves the 0 at the start of indptr out",
    old="indptr, indices, last_page_len = [0], [], []",
    new="indptr, indices, last_page_len = [], [], []",
    hint="indptr has one entry more than there are sequences.",
)
bug(
    "PA-04",
    "lists table entries past the length",
    old="indices.extend(table[:pages])",
    new="indices.extend(table)",
    hint="Only ⌈n/B⌉ entries belong to the sequence.",
)
bug(
    "PA-04",
    "returns 64-bit indices",
    old="np.array(indptr, np.int32), np.array(indices, np.int32)",
    new="np.array(indptr, np.int64), np.array(indices, np.int64)",
    hint="FlashInfer's kernels read int32.",
)

# Attention over blocks

bug(
    "PA-05",
    "reads physical blocks in order and never looks into the table",
    old="for block in row[first_block:end_block]:",
    new="for block in range(first_block, end_block):",
    hint="The table says where logical block i lies.",
)
bug(
    "PA-05",
    "takes the keys for the values",
    old="values.append(value_blocks[block].swapaxes(0, 1))",
    new="values.append(key_blocks[block].swapaxes(0, 1))",
    hint="Scores come from keys, the result from values.",
)
bug(
    "PA-05",
    "reads a block token-major that is stored head-major",
    old="keys.append(key_blocks[block].swapaxes(0, 1))  # (block_size, kv_heads, head_dim)",
    new="keys.append(key_blocks[block].reshape(block_size, -1, key_blocks.shape[3]))",
    hint="A block is (kv_heads, B, head_dim): transpose it, do not reshape it.",
)
bug(
    "PA-05",
    "does not attend to the query's own position",
    old="scores = k[first : last + 1, kv] @ q[i, h] * WORK(scale)",
    new="scores = np.where(np.arange(first, last + 1) == last, -1e30, k[first : last + 1, kv] @ q[i, h] * WORK(scale))",
    hint="Position p sees keys 0 … p, its own included.",
)
bug(
    "PA-05",
    "does not divide by the sum of the weights",
    old="weights = weights / weights.sum()",
    new="weights = weights / 1",
    hint="A softmax sums to 1.",
)
bug(
    "PA-06",
    "aligns the causal mask to the top left",
    old="last = n - m + i  #",
    new="last = i  #",
    hint="With c keys already there, query i sees keys 0 … c + i.",
)
bug(
    "PA-06",
    "lets every query see all keys",
    old="last = n - m + i  #",
    new="last = n - 1  #",
    hint="A query must not see keys after its own position.",
)
bug(
    "PA-06",
    "gives every sequence the first rows of the batch",
    old="queries[start : start + count],\n            np.concatenate(keys)",
    new="queries[:count],\n            np.concatenate(keys)",
    hint="Queries are laid out sequence after sequence.",
)
bug(
    "PA-07",
    "attends to all slots of the last block",
    old="np.concatenate(keys)[:held],\n            np.concatenate(values)[:held],",
    new="np.concatenate(keys)[: held + (count == 1)],\n            np.concatenate(values)[: held + (count == 1)],",
    hint="Of the last block only n mod B slots hold tokens, unless it is full.",
)
bug(
    "PA-07",
    "gives masked slots the weight 0 and multiplies",
    old="np.concatenate(values)[:held],",
    new="np.concatenate(values)[:held] + 0 * np.concatenate(values)[held:].sum(0),",
    hint="0 · NaN is NaN. Replace masked values, or leave them out; do not multiply them away.",
)
bug(
    "PA-08",
    "looks up every entry of the table, padding too",
    old="for block in row[first_block:end_block]:",
    new="for block in row[first_block:]:",
    hint="⌈context_len/B⌉ entries are real.",
)
bug(
    "PA-08",
    "looks up entries behind the window",
    old="first_block, end_block = oldest // block_size, blocks_for(context, block_size)",
    new="first_block, end_block = 0 * oldest // block_size, blocks_for(context, block_size)",
    hint="The cache puts None or anything where a block was given back.",
)
bug(
    "PA-09",
    "spreads query heads over key heads in turn",
    old="kv = h // (heads // kv_heads)",
    new="kv = h % kv_heads",
    hint="Heads that share a key head are neighbours: h // (heads // kv_heads).",
)
bug(
    "PA-09",
    "uses the first key head for all query heads",
    old="kv = h // (heads // kv_heads)",
    new="kv = 0",
    hint="There is one key head for each group of query heads.",
)
bug(
    "PA-10",
    "divides the scores by head_dim instead of its root",
    old="scale = 1 / np.sqrt(head_dim) if scale is None else scale",
    new="scale = 1 / head_dim if scale is None else scale",
    hint="The default is 1 / √head_dim.",
)
bug(
    "PA-10",
    "ignores the scale it is given",
    old="scale = 1 / np.sqrt(head_dim) if scale is None else scale",
    new="scale = 1 / np.sqrt(head_dim)",
    hint="Some models scale by something else.",
)
bug(
    "PA-10",
    "multiplies the given scale with the default",
    old="scale = 1 / np.sqrt(head_dim) if scale is None else scale",
    new="scale = (1 if scale is None else scale) / np.sqrt(head_dim)",
    hint="A given scale replaces the default.",
)
bug(
    "PA-11",
    "sees one key more than the window",
    old="first = 0 if window is None else max(0, last - window + 1)\n        for h",
    new="first = 0 if window is None else max(0, last - window)\n        for h",
    hint="A window of W keys includes the query's own.",
)
bug(
    "PA-11",
    "sees one key less than the window",
    old="first = 0 if window is None else max(0, last - window + 1)\n        for h",
    new="first = 0 if window is None else min(last, max(0, last - window + 2))\n        for h",
    hint="W = 1 sees the query's own key, W = 2 also the one before.",
)
bug(
    "PA-11",
    "ignores the window",
    old="first = 0 if window is None else max(0, last - window + 1)\n        for h",
    new="first = 0\n        for h",
    hint="Keys before the window are masked, for each query at its own place.",
)
bug(
    "PA-11",
    "uses the last query's window for all queries",
    old="first = 0 if window is None else max(0, last - window + 1)\n        for h",
    new="first = 0 if window is None else min(last, max(0, n - window))\n        for h",
    hint="The window moves with each query.",
)
bug(
    "PA-12",
    "ignores the soft cap",
    old="if softcap is not None:\n                scores",
    new="if False:\n                scores",
    hint="c · tanh(s / c).",
)
bug(
    "PA-12",
    "caps the scores before it scales them",
    old="scores = WORK(softcap) * np.tanh(scores / WORK(softcap))",
    new="scores = WORK(scale) * WORK(softcap) * np.tanh(scores / WORK(scale) / WORK(softcap))",
    hint="First the scale, then the cap.",
)
bug(
    "PA-12",
    "does not multiply by the cap again",
    old="scores = WORK(softcap) * np.tanh(scores / WORK(softcap))",
    new="scores = np.tanh(scores / WORK(softcap))",
    hint="Small scores must stay as they are: c · tanh(s / c) ≈ s.",
)
bug(
    "PA-13",
    "ignores the sink logits",
    old="logits = scores if sink_logits is None else np.append(scores, WORK(sink_logits[h]))",
    new="logits = scores",
    hint="Each head's denominator has one more term, exp(sink).",
)
bug(
    "PA-13",
    "scales the sink logits",
    old="np.append(scores, WORK(sink_logits[h]))",
    new="np.append(scores, WORK(sink_logits[h]) * WORK(scale))",
    hint="A sink is a logit already.",
)
bug(
    "PA-13",
    "caps the sink logits",
    old="np.append(scores, WORK(sink_logits[h]))",
    new="np.append(scores, WORK(sink_logits[h]) if softcap is None else softcap * np.tanh(WORK(sink_logits[h]) / softcap))",
    hint="The cap is for scores.",
)
bug(
    "PA-13",
    "takes one sink logit for each key head",
    old="np.append(scores, WORK(sink_logits[h]))",
    new="np.append(scores, WORK(sink_logits[kv]))",
    hint="Sinks belong to query heads.",
)
bug(
    "PA-14",
    "computes in half precision",
    old="q, k, v = queries.astype(WORK), keys.astype(WORK), values.astype(WORK)",
    new="global WORK\n    WORK = np.float64 if queries.dtype == np.float64 else queries.dtype.type\n"
    "    q, k, v = queries.astype(WORK), keys.astype(WORK), values.astype(WORK)",
    hint="Convert to float32 first and round the result once.",
)
bug(
    "PA-15",
    "computes exp of the bare scores",
    old="weights = np.exp(logits - logits.max())",
    new="weights = np.exp(logits.astype(np.float32))",
    hint="Subtract the largest logit first: exp(89) is infinite in float32.",
)
bug(
    "PA-16",
    "gives a sequence without queries a row",
    old="        if count == 0:\n            continue\n",
    new="        if count == 0 and context > 0:\n            count = 1\n",
    hint="query_len 0 takes no row of the batch.",
)
bug(
    "PA-16",
    "stops at the first empty sequence",
    old="        if count == 0:\n            continue\n",
    new="        if count == 0:\n            break\n",
    hint="Others may follow.",
)

# The pool

bug(
    "PA-17",
    "hands the same block out again",
    old="for block in free[:n]:\n            self.refs[block] = 1",
    new="for block in free[:n]:\n            self.refs[block] = int(block % 2 == 0)",
    hint="A block that was handed out is not free.",
)
bug(
    "PA-17",
    "keeps one block to itself",
    old="free = [block for block, refs in enumerate(self.refs) if refs == 0]",
    new="free = [block for block, refs in enumerate(self.refs) if refs == 0 and block > 0]",
    hint="All num_blocks blocks can be used. A null block has to come on top.",
)
bug(
    "PA-17",
    "counts ids from 1",
    old="return free[:n]",
    new="return [block + 1 for block in free[:n]]",
    hint="Ids are 0 … num_blocks − 1.",
)
bug(
    "PA-18",
    "frees a block at the first release",
    old="for block in blocks:\n            self.refs[block] -= 1",
    new="for block in blocks:\n            self.refs[block] = 0",
    hint="A shared block has several readers.",
)
bug(
    "PA-18",
    "counts a block once however often the call shares it",
    old="for block in blocks:\n            self.refs[block] += 1",
    new="for block in set(blocks):\n            self.refs[block] += 1",
    hint="Each entry of the list adds a reference.",
)
bug(
    "PA-19",
    "takes what is left before it finds that it is not enough",
    old="        if n > len(free):\n",
    new="        if n > len(free):\n            self.refs = [1] * len(self.refs)\n",
    hint="Count first, then take.",
)
bug(
    "PA-19",
    "hands out fewer blocks than asked for",
    old="        if n > len(free):\n",
    new="        if not free:\n",
    hint="All n blocks or none.",
)
bug(
    "PA-20",
    "checks each entry of a release by itself",
    old="for block, times in Counter(blocks).items():",
    new="for block, times in ((block, 1) for block in blocks):",
    hint="A block named twice in one call loses two references.",
)
bug(
    "PA-20",
    "releases the first blocks of a call before it checks the others",
    old="        for block, times in Counter(blocks).items():\n            self.check_block(block)\n",
    new="        for block, times in Counter(blocks).items():\n            self.check_block(block)\n"
    "            self.refs[block] -= 1 if self.refs[block] > 0 and len(blocks) > 1 else 0\n"
    "            times -= 1 if len(blocks) > 1 and block == blocks[0] else 0\n",
    hint="Check all, then change.",
)
bug(
    "PA-21",
    "wants neighbouring blocks",
    old="        if n > len(free):\n",
    new="        if n > len(free) or (n > 0 and free[n - 1] - free[0] != n - 1):\n",
    hint="Any free blocks will do: that is the point of paging.",
)

# The cache

bug(
    "PA-22",
    "passes keys and values through half precision",
    old="keys[row] = self.keys[block, layer, offset]",
    new="keys[row] = self.keys[block, layer, offset].astype(np.float16)",
    hint="Copies keep every bit.",
)
bug(
    "PA-22",
    "starts each append at the beginning of a block",
    old="block, offset = sequence.table[position // self.block_size], position % self.block_size\n"
    "                self.keys[block, layer, offset] = keys[row]",
    new="block, offset = sequence.table[position // self.block_size], "
    "(position - sequence.length) % self.block_size\n"
    "                self.keys[block, layer, offset] = keys[row]",
    hint="The last block may be partly filled.",
)
bug(
    "PA-23",
    "takes a new block when the last is just full",
    old="fresh = blocks_for(sequence.length + m, self.block_size) - len(sequence.table)",
    new="fresh = (sequence.length + m) // self.block_size + 1 - len(sequence.table)",
    hint="n = k·B tokens fit in k blocks: take the next one when a token needs it.",
)
bug(
    "PA-23",
    "takes a block for each append",
    old="fresh = blocks_for(sequence.length + m, self.block_size) - len(sequence.table)",
    new="fresh = max(\n                blocks_for(sequence.length + m, self.block_size) - len(sequence.table), min(m, 1)\n            )",
    hint="Fill the last block first.",
)
bug(
    "PA-24",
    "leaves the newest token out",
    old="        return self.read(sequence, layer, first if m > 0 else end, end)",
    new="        end -= m == 1 and end > 1\n        return self.read(sequence, layer, min(first, end) if m > 0 else end, end)",
    hint="A query attends to its own key.",
)
bug(
    "PA-24",
    "ignores scale and soft cap in the cache",
    old="                scale=scale,\n                window=self.window,\n                softcap=softcap,",
    new="                scale=None,\n                window=self.window,\n                softcap=None,",
    hint="`attend` passes its options on.",
)
bug(
    "PA-24",
    "ignores the sink logits in the cache",
    old="                softcap=softcap,\n                sink_logits=sink_logits,\n            )\n            start += m",
    new="                softcap=softcap,\n                sink_logits=None,\n            )\n            start += m",
    hint="`attend` passes its options on.",
)
bug(
    "PA-25",
    "writes every layer into the first",
    old="self.keys[block, layer, offset] = keys[row]",
    new="self.keys[block, 0, offset] = keys[row]",
    hint="Each layer has keys and values of its own in a block.",
)
bug(
    "PA-25",
    "reads the first layer for all",
    old="values[row] = self.values[block, layer, offset]\n        return",
    new="values[row] = self.values[block, 0, offset]\n        return",
    hint="Each layer has keys and values of its own in a block.",
)
bug(
    "PA-26",
    "counts reserved tokens before they are committed",
    old="    def length(self, seq_id):\n        return self.sequence(seq_id).length",
    new="    def length(self, seq_id):\n        reserved = self.reservations.get(seq_id)\n"
    "        return self.sequence(seq_id).length + (reserved.length if reserved else 0)",
    hint="Until commit a rollback may still come.",
)
bug(
    "PA-26",
    "does not attend to what was just written",
    old="            end += self.reservations[seq_id].length\n",
    new="            end += 0\n",
    hint="In each layer: write, then attend, then commit after the last.",
)
bug(
    "PA-26",
    "keeps the first version of a layer written twice",
    old="        row = 0\n        for seq_id, reserved in self.reservations.items():",
    new="        row = 0\n        if layer in self.written:\n            return\n"
    "        for seq_id, reserved in self.reservations.items():",
    hint="Writing a layer again replaces it.",
)
bug(
    "PA-26",
    "writes the rows in the order in which the sequences were added",
    old="        for seq_id, reserved in self.reservations.items():\n            sequence = self.sequences[seq_id]",
    new="        for seq_id in [name for name in self.sequences if name in self.reservations]:\n"
    "            sequence, reserved = self.sequences[seq_id], self.reservations[seq_id]",
    hint="Rows come in the order of `reserve`.",
)
bug(
    "PA-27",
    "keeps the blocks of a reservation that was rolled back",
    old="            self.release_all(sequence.table[kept:])\n            sequence.table = sequence.table[:kept]\n"
    "            if reserved.original",
    new="            if reserved.original",
    hint="What was taken for the reservation goes back.",
)
bug(
    "PA-27",
    "keeps the copy of a shared tail after a rollback",
    old="                self.release(sequence.table[-1])\n                sequence.table[-1] = reserved.original",
    new="                self.release(reserved.original)",
    hint="The sequence shares its old tail again.",
)
bug(
    "PA-28",
    "takes blocks until none is left and then gives up",
    old="        self.expect_room(sum(fresh + copy for fresh, copy in plan))\n",
    new="        try:\n            self.expect_room(sum(fresh + copy for fresh, copy in plan))\n"
    "        except OutOfBlocks:\n            sequences[0].table += [self.take() for _ in list(self.plain)]\n"
    "            raise\n",
    hint="Count what is needed before anything is taken.",
)
bug(
    "PA-28",
    "forgets the copy of a shared tail when it counts",
    old="        self.expect_room(sum(fresh + copy for fresh, copy in plan))\n",
    new="        self.expect_room(sum(fresh for fresh, copy in plan))\n",
    hint="Copy-on-write needs a block, too.",
)
bug(
    "PA-28",
    "checks the sequences one by one",
    old="        self.expect_room(sum(fresh + copy for fresh, copy in plan))\n",
    new="        self.expect_room(max(fresh + copy for fresh, copy in plan))\n",
    hint="All sequences of a reservation together must fit.",
)
bug(
    "PA-28",
    "keeps the last block in reserve",
    old="        if needed > room:",
    new="        if needed >= room and needed > 0:",
    hint="The whole pool can be used.",
)
bug(
    "PA-29",
    "does not give back the last block of a freed sequence",
    old="        if sequence.gang is None:\n            self.release_all(sequence.table)\n        else:",
    new="        if sequence.gang is None:\n            self.release_all(sequence.table[: sequence.length // self.block_size])\n        else:",
    hint="A partly filled block is a block.",
)
bug(
    "PA-29",
    "lets old content of a reused block into the result",
    old="        return self.read(sequence, layer, first if m > 0 else end, end)",
    new="        keys, values = self.read(sequence, layer, first if m > 0 else end, end)\n"
    "        if sequence.table:\n            values = values + 0 * self.values[sequence.table[-1], layer, end % self.block_size]\n"
    "        return keys, values.astype(self.dtype)",
    hint="Freed memory may hold NaN, and 0 · NaN is NaN.",
)
bug(
    "PA-29",
    "keeps the blocks of a reservation when its sequence is freed",
    old="        if seq_id in self.reservations:\n            self.rollback([seq_id])\n        if sequence.gang",
    new="        if seq_id in self.reservations:\n            kept = len(sequence.table) - self.reservations.pop(seq_id).fresh\n"
    "            sequence.table = sequence.table[:kept]\n        if sequence.gang",
    hint="An aborted prompt gives everything back.",
)
bug(
    "PA-30",
    "keeps all blocks of a truncated sequence",
    old="        self.release_all(sequence.table[kept:])\n        sequence.table = sequence.table[:kept]\n        sequence.tokens",
    new="        sequence.tokens",
    hint="⌈length/B⌉ blocks are left.",
)
bug(
    "PA-30",
    "gives back the block in which the cut lies",
    old="        kept = blocks_for(length, self.block_size)\n",
    new="        kept = length // self.block_size\n",
    hint="Round up: a partly filled block is still needed.",
)

# Sharing

bug(
    "PA-31",
    "copies the last block at the fork",
    old="        self.sequences[child] = Sequence(\n",
    new="        if source.table and source.length % self.block_size:\n"
    "            self.refs[source.table[-1]] -= 1\n"
    "            tail = self.take()\n"
    "            self.keys[tail], self.values[tail] = self.keys[source.table[-1]], self.values[source.table[-1]]\n"
    "            source = Sequence(\n"
    "                source.salt, source.adapter, source.tokens, [*source.table[:-1], tail], source.hashes, "
    "source.length\n            )\n"
    "        self.sequences[child] = Sequence(\n",
    hint="A fork shares every block, the partly filled one too. Copy when somebody writes.",
)
bug(
    "PA-31",
    "does not count the child as a reader",
    old="            if block is not None:\n                self.pin(block)\n        self.sequences[child]",
    new="            pass\n        self.sequences[child]",
    hint="Each block of the parent has one more reader.",
)
bug(
    "PA-32",
    "writes into a shared block",
    old="alone = self.refs[tail] == len(writers[tail]) and tail not in self.published",
    new="alone = tail not in self.published",
    also=[("copy = not alone or sequence is not stays", "copy = not alone")],
    hint="Copy the block before the first write while somebody else reads it.",
)
bug(
    "PA-32",
    "takes a new block for a shared one but does not copy its content",
    old="                self.keys[sequence.table[-1]] = self.keys[original]\n"
    "                self.values[sequence.table[-1]] = self.values[original]\n",
    new="",
    hint="The tokens before the new one are needed, too.",
)
bug(
    "PA-32",
    "copies only the first layer of a shared block",
    old="                self.keys[sequence.table[-1]] = self.keys[original]\n"
    "                self.values[sequence.table[-1]] = self.values[original]\n",
    new="                self.keys[sequence.table[-1], 0] = self.keys[original, 0]\n"
    "                self.values[sequence.table[-1], 0] = self.values[original, 0]\n",
    hint="A block holds every layer.",
)
bug(
    "PA-32",
    "lets parent and child share one table",
    old="            list(source.table),\n",
    new="            source.table,\n",
    hint="The child needs a list of its own.",
)
bug(
    "PA-33",
    "copies for the last reader, too",
    old="alone = self.refs[tail] == len(writers[tail]) and tail not in self.published",
    new="alone = self.refs[tail] == 1 and tail not in self.published",
    hint="When k − 1 of k have copied, the last one is alone and writes in place.",
)
bug(
    "PA-33",
    "counts no copies",
    old="                self.copies += 1\n",
    new="",
    hint="usage().copies is how a team sees what forks cost.",
)
bug(
    "PA-34",
    "copies full blocks as well",
    old="return m > 0 and sequence.length % self.block_size != 0",
    new="return m > 0 and sequence.length > 0",
    hint="Nothing is ever written into a full block.",
)
bug(
    "PA-34",
    "copies though nothing is written",
    old="return m > 0 and sequence.length % self.block_size != 0",
    new="return sequence.length % self.block_size != 0",
    hint="No new token, no copy.",
)
bug(
    "PA-35",
    "frees shared blocks with the first of their readers",
    old="        self.refs[block] -= 1\n        if self.refs[block] == 0:\n            (self.cached",
    new="        self.refs[block] = 0\n        if self.refs[block] == 0:\n            (self.cached",
    hint="A block is free when its last reader leaves.",
)

# Prefix caching

bug(
    "PA-36",
    "never finds anything",
    old="            if not holders:\n                break\n",
    new="            break\n",
    hint="Published full blocks with the same tokens and the same prefix are hits.",
)
bug(
    "PA-36",
    "finds only the first block",
    old="for index in range((len(tokens) - 1) // self.block_size):",
    new="for index in range(min(1, (len(tokens) - 1) // self.block_size)):",
    hint="Go on until the first miss.",
)
bug(
    "PA-36",
    "caches prefixes though it was not asked to",
    old="        self.prefix_caching = prefix_caching\n",
    new="        self.prefix_caching = window is None\n",
    hint="prefix_caching is off by default.",
)
bug(
    "PA-36",
    "publishes prompts but not generated tokens",
    old="        tokens = sequence.tokens + new_tokens\n",
    new="        tokens = sequence.tokens + (new_tokens if len(new_tokens) != 1 else [None])\n",
    hint="The next turn of a conversation starts with this turn's answer.",
)
bug(
    "PA-36",
    "counts requests instead of tokens",
    old="            self.queried += len(tokens)\n",
    new="            self.queried += 1\n",
    hint="A hit rate is about tokens.",
)
bug(
    "PA-37",
    "lets a whole prompt come from the cache",
    old="for index in range((len(tokens) - 1) // self.block_size):",
    new="for index in range(len(tokens) // self.block_size):",
    hint="The logits of the last token must be computed by somebody.",
)
bug(
    "PA-38",
    "knows a block by its own tokens alone",
    old="return (salt, adapter, tuple(tokens[: (index + 1) * self.block_size]))",
    new="return (salt, adapter, tuple(tokens[index * self.block_size : (index + 1) * self.block_size]))",
    hint="Keys and values depend on all tokens before: chain the hash of the block before.",
    also=[("parent = hashes[index - 1] if index > 0 else None", "parent = None")],
)
bug(
    "PA-38",
    "goes on after a miss",
    old="            if not holders:\n                break\n",
    new="            if not holders:\n                hashes.append(key)\n                continue\n",
    hint="Blocks behind a gap belong to positions whose keys are not there.",
)
bug(
    "PA-39",
    "ignores the salt",
    old="return (salt, adapter, tuple(",
    new="return (None, adapter, tuple(",
    hint="A salt separates tenants: it enters the first block and, through the chain, all others.",
    also=[("if salt is not None and index == 0:", "if False:")],
)
bug(
    "PA-39",
    "ignores the adapter",
    old="return (salt, adapter, tuple(",
    new="return (salt, None, tuple(",
    hint="Another adapter computes other keys and values from the same tokens.",
    also=[("if adapter is not None:", "if False:")],
)
bug(
    "PA-39",
    "takes an adapter for a salt of the same name",
    old="return (salt, adapter, tuple(",
    new="return (salt or adapter, salt and adapter, tuple(",
    hint="Tag each extra key with its kind.",
    also=[
        ('extras.append(("adapter", adapter))', 'extras.append(("", adapter))'),
        ('extras.append(("salt", salt))', 'extras.append(("", salt))'),
    ],
)
bug(
    "PA-39",
    "takes an empty salt for none",
    old="return (salt, adapter, tuple(",
    new="return (salt or None, adapter, tuple(",
    hint="Only None means no salt: compare with `is None`.",
    also=[("if salt is not None and index == 0:", "if salt and index == 0:")],
)
bug(
    "PA-39",
    "hands the hash salt and adapter without their kind",
    old='extras.append(("salt", salt))',
    new='extras.append(("", salt))',
    hint="extras are pairs of kind and value: (salt, tenant-7).",
)

bug(
    "PA-40",
    "publishes blocks when they are reserved",
    old="            self.reservations[seq_id] = Reservation(m, ids, fresh, original)\n",
    new="            self.reservations[seq_id] = Reservation(m, ids, fresh, original)\n"
    "            new, known = self.new_hashes(sequence, ids), sequence.tokens\n"
    "            sequence.tokens = known + ids\n"
    "            self.publish(sequence, new)\n"
    "            sequence.tokens = known\n",
    hint="Keys and values are not there yet. Publish at commit.",
)
bug(
    "PA-40",
    "publishes a block before it is full",
    old="for index in range(len(hashes), len(tokens) // self.block_size if self.prefix_caching else 0):",
    new="for index in range(len(hashes), -(-len(tokens) // self.block_size) if self.prefix_caching else 0):",
    hint="Only full blocks are published: ⌊n/B⌋ of them.",
)
bug(
    "PA-40",
    "publishes blocks whose tokens it does not know",
    old="            if None in tokens[: (index + 1) * self.block_size]:\n                break\n",
    new="",
    hint="Without the tokens nobody can tell what a block holds.",
)
bug(
    "PA-40",
    "publishes blocks behind one whose tokens it does not know",
    old="            if None in tokens[: (index + 1) * self.block_size]:\n                break\n",
    new="            if None in tokens[index * self.block_size : (index + 1) * self.block_size]:\n"
    '                hashes.append(b"")\n'
    "                continue\n",
    hint="A block is known by everything before it: stop at the first unknown token.",
)
bug(
    "PA-41",
    "writes into a published block",
    old="alone = self.refs[tail] == len(writers[tail]) and tail not in self.published",
    new="alone = self.refs[tail] == len(writers[tail])",
    hint="After a truncation the tail may be published: copy it before writing, as if it were shared.",
)
bug(
    "PA-41",
    "leaves a truncated sequence the hashes of what it cut off",
    old="        sequence.hashes = sequence.hashes[: length // self.block_size]\n",
    new="",
    hint="New tokens make new blocks, with new hashes.",
)
bug(
    "PA-42",
    "trusts the hash",
    old="if p.hash == key and p.prefix == prefix]",
    new="if p.hash == key]",
    hint="Hashes may collide. Compare what the block stands for.",
)
bug(
    "PA-42",
    "compares the tokens of a block but trusts the hash of its parent",
    old="if p.hash == key and p.prefix == prefix]",
    new="if p.hash == key and p.prefix[2][-self.block_size :] == prefix[2][-self.block_size :]]",
    hint="The parent's hash may have collided, too.",
)
bug(
    "PA-42",
    "keeps one block for each hash",
    old="            self.published[sequence.table[index]] = Published(key, prefix)\n",
    new="            for block in [b for b, p in self.published.items() if p.hash == key and p.prefix != prefix]:\n"
    '                self.published[block] = Published(b"", ())\n'
    "            self.published[sequence.table[index]] = Published(key, prefix)\n",
    hint="Under one hash there may be several blocks: keep them all.",
)
bug(
    "PA-43",
    "evicts parents before their children",
    old="        for block in reversed(blocks):  # deeper blocks are evicted first",
    new="        for block in blocks:",
    hint="A block without its parent cannot be found: release in reverse order.",
)
bug(
    "PA-43",
    "evicts the most recently released block",
    old="block = self.cached.pop(0)",
    new="block = self.cached.pop()",
    hint="Least recently used goes first.",
)
bug(
    "PA-43",
    "evicts in the order of publication",
    old="block = self.cached.pop(0)",
    new="block = next(b for b in self.published if b in self.cached)\n            self.cached.remove(block)",
    hint="What counts is when a block lost its last reader.",
)
bug(
    "PA-43",
    "evicts cached blocks while others are free",
    old="        if self.plain:\n",
    new="        if self.plain and not self.cached:\n",
    hint="Take blocks that hold nothing of value first.",
)
bug(
    "PA-44",
    "takes a hit off the list of evictable blocks only later",
    old="            for block in blocks:\n                self.pin(block)\n            sequence.table",
    new="            for block in blocks:\n                self.refs[block] += 1\n            sequence.table",
    hint="Pin what was found before anything is taken, or the next allocation evicts it.",
)
bug(
    "PA-45",
    "forgets all blocks of the same content when it evicts one",
    old="            del self.published[block]\n            self.evictions += 1",
    new="            gone = self.published[block].prefix\n"
    "            self.published = {b: p for b, p in self.published.items() if p.prefix != gone}\n"
    "            self.evictions += 1",
    hint="Remove the entry only if it leads to the evicted block.",
)
bug(
    "PA-45",
    "publishes the same content only once",
    old="            self.published[sequence.table[index]] = Published(key, prefix)\n",
    new="            if all(p.prefix != prefix for p in self.published.values()):\n"
    "                self.published[sequence.table[index]] = Published(key, prefix)\n",
    hint="The first one may be evicted while the second is still there.",
)
bug(
    "PA-46",
    "makes a block recent when it is only asked for",
    old="        blocks, _ = self.find(tokens, salt, adapter)\n        return",
    new="        blocks, _ = self.find(tokens, salt, adapter)\n"
    "        self.cached = [b for b in self.cached if b not in blocks] + [b for b in self.cached if b in blocks]\n"
    "        return",
    hint="cached_prefix only looks.",
)
bug(
    "PA-46",
    "counts a question as a use",
    old="        blocks, _ = self.find(tokens, salt, adapter)\n        return",
    new="        blocks, _ = self.find(tokens, salt, adapter)\n        self.queried += len(tokens)\n        return",
    hint="cached_prefix only looks.",
)
bug(
    "PA-47",
    "resets while blocks are in use",
    old="        if self.reservations or any(sequence.length > 0 for sequence in self.sequences.values()):\n"
    "            return False\n",
    new="",
    hint="A running sequence would publish blocks computed with the old weights.",
)
bug(
    "PA-47",
    "does not count swapped-out sequences as users",
    old="if self.reservations or any(sequence.length > 0 for sequence in self.sequences.values()):",
    new="if self.reservations or any(refs > 0 for refs in self.refs):",
    hint="They come back and go on publishing.",
)
bug(
    "PA-47",
    "empties the prefix cache but keeps its blocks",
    old="        self.plain += self.cached\n",
    new="",
    hint="They are free now.",
)
bug(
    "PA-48",
    "hashes the whole sequence again at each commit",
    old="        return hashes[len(sequence.hashes) :]\n",
    new="        again = []\n"
    "        for index in range(len(hashes) if self.prefix_caching else 0):\n"
    "            again.append(self.hash_of(index, tokens, again, sequence.salt, sequence.adapter))\n"
    "        return hashes[len(sequence.hashes) :]\n",
    hint="Keep the hash of the last full block: n tokens one by one would cost n²/2B hashes.",
)
bug(
    "PA-61",
    "commits some sequences before the hash of another raises",
    old="        self.finish(seq_ids, [self.new_hashes(*each) for each in ending])\n",
    new="        for seq_id, each in zip(seq_ids, ending, strict=True):\n"
    "            self.finish([seq_id], [self.new_hashes(*each)])\n",
    hint="Compute all hashes first, then change anything.",
)
bug(
    "PA-61",
    "leaves the reservation of a failed append open",
    old="        hashes = self.new_hashes(sequence, ids)\n        self.reserve([seq_id], [len(keys)], [tokens])\n",
    new="        self.reserve([seq_id], [len(keys)], [tokens])\n        hashes = self.new_hashes(sequence, ids)\n",
    hint="append is all or nothing.",
)
bug(
    "PA-61",
    "rolls a failed append back, after it has copied and evicted for it",
    old="        hashes = self.new_hashes(sequence, ids)\n        self.reserve([seq_id], [len(keys)], [tokens])\n",
    new="        self.reserve([seq_id], [len(keys)], [tokens])\n"
    "        try:\n            hashes = self.new_hashes(sequence, ids)\n"
    "        except ValueError:\n            self.rollback([seq_id])\n            raise\n",
    hint="Compute the hashes before any block is taken.",
)
bug(
    "PA-27",
    "lets the shorter of two sequences write into a shared tail",
    old="key=lambda writer: writer.length)",
    new="key=lambda writer: -writer.length)",
    hint="Its new token overwrites one that the longer sequence needs again after a rollback.",
)

# Swapping

bug(
    "PA-49",
    "swaps the keys but not the values",
    old="self.keys[moved[block]], self.values[moved[block]] = sequence.gang.contents[block]",
    new="self.keys[moved[block]], _ = sequence.gang.contents[block]",
    hint="A block holds both.",
)
bug(
    "PA-49",
    "keeps the blocks of a swapped-out gang",
    old="            self.release_all(sequence.table)\n            sequence.gang = gang",
    new="            sequence.gang = gang",
    hint="The point of swapping is that others can use them.",
)
bug(
    "PA-49",
    "remembers where the blocks were, not what they held",
    old="{b: (self.keys[b].copy(), self.values[b].copy()) for b in blocks}",
    new="{b: (self.keys[b], self.values[b]) for b in blocks}",
    hint="Copy the content: the blocks are written by others meanwhile.",
)
bug(
    "PA-49",
    "keeps a freed sequence in its gang",
    old="            sequence.gang.members.remove(seq_id)\n",
    new="            pass\n",
    hint="The others must be able to come back without it.",
)
bug(
    "PA-50",
    "gives each sequence of the gang its own copy of shared blocks",
    old="                if block in moved:",
    new="                if block in moved and False:",
    hint="Remember which block became which.",
)
bug(
    "PA-50",
    "drops blocks that a staying sequence still reads",
    old="            self.release_all(sequence.table)\n            sequence.gang = gang",
    new="            for block in set(sequence.table) - {None}:\n"
    "                self.refs[block] = 1\n"
    "            self.release_all(sequence.table)\n"
    "            sequence.gang = gang",
    hint="Drop the gang's references, no more.",
)
bug(
    "PA-50",
    "publishes what comes back",
    old="                    moved[block] = self.take()\n",
    new="                    moved[block] = self.take()\n"
    "                    if index < len(sequence.hashes):\n"
    "                        known = self.prefix_of(index, sequence.tokens, sequence.salt, sequence.adapter)\n"
    "                        self.published[moved[block]] = Published(sequence.hashes[index], known)\n",
    hint="swap_in publishes nothing.",
)
bug(
    "PA-51",
    "brings back as many sequences as fit",
    old="        self.expect_room(len(set(owned)))\n",
    new="        self.expect_room(len(set(sequences[0].table) - {None}) if sequences else 0)\n",
    hint="Count the blocks of the whole gang before the first is taken.",
)
bug(
    "PA-51",
    "lets a part of a gang come back",
    old="expect(gang is not None and gang.members == set(seq_ids), ",
    new="expect(gang is not None and set(seq_ids) <= gang.members, ",
    hint="A gang is preempted and resumed as one.",
)

# Window

bug(
    "PA-52",
    "never gives blocks back",
    old="for index in range(max(0, sequence.length - self.window) // self.block_size):",
    new="for index in range(0):",
    hint="A block whose last position is below n − W is of no use to anyone.",
)
bug(
    "PA-52",
    "gives back a block that the last query still sees",
    old="for index in range(max(0, sequence.length - self.window) // self.block_size):",
    new="for index in range(max(0, sequence.length - self.window + 1) // self.block_size):",
    hint="Position n − W is still held: the newest token may be attended again after commit.",
)
bug(
    "PA-52",
    "removes table entries instead of emptying them",
    old="    def block_table(self, seq_id):\n        sequence = self.sequence(seq_id)\n"
    "        return list(sequence.table) if",
    new="    def block_table(self, seq_id):\n        sequence = self.sequence(seq_id)\n"
    "        return [block for block in sequence.table if block is not None] if",
    hint="Logical block i stays at place i of the table.",
)
bug(
    "PA-53",
    "guesses keys that were given back",
    old='        expect(held, "query_lens", f"keys from position {first} of {seq_id!r}", "blocks given back")\n',
    new="        while not held and sequence.table[first // self.block_size] is None:\n            first += 1\n",
    hint="A result without keys that the window covers is wrong, and nobody would notice.",
)
bug(
    "PA-53",
    "truncates though the window would reach into blocks given back",
    old="            if None in sequence.table[first // self.block_size : kept]:\n",
    new="            if first < 0:\n",
    hint="Refuse: the next query would need keys that are gone.",
)
bug(
    "PA-53",
    "never truncates with a window",
    old="            if None in sequence.table[first // self.block_size : kept]:\n",
    new="            if length < sequence.length:\n",
    hint="It can, as long as the keys of the shorter sequence's window are held.",
)

# Measures

bug(
    "PA-54",
    "counts a shared slot once for each reader",
    old="filled[block] = max(filled[block], tokens)",
    new="filled[block] += tokens",
    hint="A slot is a piece of memory: it counts once.",
)
bug(
    "PA-54",
    "counts references instead of shared blocks",
    old="shared=sum(refs > 1 for refs in self.refs),",
    new="shared=sum(refs - 1 for refs in self.refs if refs > 1),",
    hint="A block with three readers is one shared block.",
)
bug(
    "PA-54",
    "counts cached blocks as free",
    old="            free=len(self.plain),\n",
    new="            free=len(self.plain) + len(self.cached),\n",
    hint="free + used + cached = num_blocks.",
)
bug(
    "PA-54",
    "counts free slots as wasted",
    old="slots_wasted=used * self.block_size - slots_used,",
    new="slots_wasted=len(self.refs) * self.block_size - slots_used,",
    hint="Only slots of used blocks can be wasted: free blocks are there for others.",
)
bug(
    "PA-55",
    "rounds down to whole blocks",
    old="paged = sum(blocks_for(n, block_size) * block_size for n in lengths)",
    new="paged = sum(n // block_size * block_size for n in lengths)",
    hint="⌈n/B⌉ blocks are reserved.",
)
bug(
    "PA-55",
    "reserves one block more than needed",
    old="paged = sum(blocks_for(n, block_size) * block_size for n in lengths)",
    new="paged = sum((n // block_size + 1) * block_size for n in lengths)",
    hint="⌈n/B⌉ blocks are reserved.",
)
bug(
    "PA-55",
    "reserves the longest present length instead of max_length",
    old="contiguous = len(lengths) * max_length",
    new="contiguous = len(lengths) * max(lengths, default=0)",
    hint="Nobody knows in advance how long a sequence will be.",
)
bug(
    "PA-56",
    "takes a block ahead for every sequence",
    old="fresh = blocks_for(sequence.length + m, self.block_size) - len(sequence.table)",
    new="fresh = 1 + blocks_for(sequence.length + m, self.block_size) - len(sequence.table)",
    hint="Take a block when its first token comes.",
)
bug(
    "PA-50",
    "brings a fork back without a reference to the gang's blocks",
    old="                    self.pin(moved[block])\n",
    new="                    pass\n",
    hint="Each member holds a reference of its own.",
)
bug(
    "PA-41",
    "keeps the tokens of a truncated sequence",
    old="        sequence.tokens = sequence.tokens[:length]\n",
    new="",
    hint="What was cut off is no part of the prefix of what comes next.",
)
bug(
    "PA-57",
    "lets a forked sequence write in place when it is alone in its reservation",
    old="alone = self.refs[tail] == len(writers[tail]) and tail not in self.published",
    new="alone = (len(writers) == 1 or self.refs[tail] == len(writers[tail])) and tail not in self.published",
    hint="Those who do not write now still read the block.",
)

# Errors

bug(
    "PA-58",
    "lets a new sequence replace an old one of the same id",
    old='        expect(child not in self.sequences, "child", "a new id", f"{child!r}, which exists")\n',
    new="        if child in self.sequences:\n            self.free(child)\n",
    hint="Two conversations under one id would read each other's keys.",
)
bug(
    "PA-58",
    "commits the sequences it knows before it meets one it does not",
    old="        for seq_id in seq_ids:\n            self.check_reserved(seq_id)\n            complete",
    new="        if len(seq_ids) > 1 and seq_ids[0] in self.reservations and seq_ids[-1] not in self.sequences:\n"
    "            self.commit(seq_ids[:1])\n"
    "        for seq_id in seq_ids:\n            self.check_reserved(seq_id)\n            complete",
    hint="Check all, then change.",
)


# More of the same topics, found by tests that killed nothing

bug(
    "PA-14",
    "returns float32 for half-precision input",
    old="    out = np.zeros_like(queries)\n    start = 0\n    for row,",
    new="    out = np.zeros(queries.shape, np.float32)\n    start = 0\n    for row,",
    hint="The result has the queries' dtype.",
)
bug(
    "PA-24",
    "returns float32 from a half-precision cache",
    old="        out = np.zeros_like(queries)\n        start = 0\n        for seq_id, m",
    new="        out = np.zeros(queries.shape, np.float32)\n        start = 0\n        for seq_id, m",
    hint="The result has the cache's dtype.",
)
bug(
    "PA-27",
    "rolls back every sequence of the reservation",
    old="        for seq_id in seq_ids:\n            self.check_reserved(seq_id)\n        for seq_id",
    new="        seq_ids = list(self.reservations)\n        for seq_id",
    hint="Only the sequences that are named.",
)
bug(
    "PA-48",
    "hashes the parent's blocks again for a fork",
    old="            list(source.hashes),\n            source.length,",
    new="            [],\n            source.length,",
    hint="The child inherits the hashes with the blocks.",
)
bug(
    "PA-52",
    "gives the window of the first query to all queries of a prompt",
    old="window=self.window,\n                softcap=softcap,",
    new="window=None,\n                softcap=softcap,",
    hint="Each query has a window of its own.",
)
bug(
    "PA-57",
    "gives back blocks behind the window before the tokens are committed",
    old="            sequence.table += [self.take() for _ in range(fresh)]\n",
    new="            sequence.table += [self.take() for _ in range(fresh)]\n"
    "            if self.window is not None:\n"
    "                sequence.length += m\n"
    "                self.free_behind_window(sequence)\n"
    "                sequence.length -= m\n",
    hint="After a rollback the window moves back, and its keys must be there.",
)
