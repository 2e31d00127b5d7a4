"""What the answers of right implementations of paged attention may differ in."""

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

    def ended(self, call, error):
        pass

    def name(self, block, num_blocks):
        if not isinstance(block, int) or not 0 <= block < num_blocks:
            return block
        return self.names.setdefault(block, len(self.names))
