"""Attention of a sequence that lies on several ranks, one thread each."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_matches, check_refusals
from grading.ranks import Ranks
from tests.week3.long_context.cases import GROUPED, SEEDS, SIZES, Size, dense, part, reference

RANKS = st.sampled_from([1, 2, 3, 5])


def contiguous(lengths):
    """The positions of each rank."""
    return np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])


def uneven(rng, tokens, ranks):
    """At least one for each rank."""
    return 1 + rng.multinomial(tokens - ranks, np.full(ranks, 1 / ranks))


def shuffled(seed, tokens, ranks):
    """Any share of so many tokens for each rank, in any order."""
    rng = np.random.default_rng(seed)
    lengths = uneven(rng, tokens, ranks)
    return np.split(rng.permutation(tokens), np.cumsum(lengths)[:-1])


class Counted(Ranks):
    """Ranks that also count the messages between two of them, sent and received."""

    def __init__(self, size):
        super().__init__(size)
        self.messages = []
        self.taken = Counter()  # (source, destination) -> messages received

    def collective(self, rank):
        end = super().collective(rank)

        def send(array, to):
            self.messages.append((rank, to))
            end.send(array, to)

        def recv(shape, dtype, source):
            array = end.recv(shape, dtype, source)
            self.taken[source, rank] += 1
            return array

        return replace(end, send=send, recv=recv)


def run(impl, case, shares, ranks=None, first=0, dtype=np.int32, **options):
    """What each rank gets, where the sequence begins at the position `first`."""
    ranks = Ranks(len(shares)) if ranks is None else ranks

    def call(rank, collective):
        at = shares[rank]
        q, k, v = (array[:, :, at] for array in (case.q, case.k, case.v))
        return impl.ring_attention(q, k, v, (at + first).astype(dtype), collective=collective, **options)

    return ranks.run(call)


def check(impl, case, shares, ranks=None, first=0, dtype=np.int32, **options):
    __tracebackhide__ = True
    everything = np.arange(case.q.shape[2])
    expected = reference.whole_attention(case.q, case.k, case.v, everything, **options)
    for rank, actual in enumerate(run(impl, case, shares, ranks, first, dtype, **options)):
        assert_matches(actual, part(expected, np.s_[:, :, shares[rank]]), f"result of rank {rank}")


@requirement("LC-51")
@given(seed=SEEDS, size=SIZES, ranks=RANKS)
@example(seed=1, size=GROUPED, ranks=3)
def test_any_number_of_ranks_gives_what_one_gives(impl, seed, size, ranks):
    lengths = uneven(np.random.default_rng(seed), 9, ranks)
    check(impl, dense(seed, size, 9, 9, magnitude=1.5), contiguous(lengths))


@requirement("LC-51")
@pytest.mark.parametrize("lengths", [(10,), (4, 3, 3), (1, 5), (6, 1, 2)])
def test_shards_may_be_of_any_length(impl, lengths):
    check(impl, dense(1, GROUPED, sum(lengths), sum(lengths)), contiguous(lengths))


@requirement("LC-51")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_ranks_work_in_half_precision(impl, dtype):
    check(impl, dense(1, GROUPED, 9, 9, dtype=dtype, magnitude=1.5), contiguous([2, 4, 3]))


@requirement("LC-51")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scale", [0.0, 0.9, 100.0])
def test_ranks_work_with_another_scale(impl, causal, scale):
    check(impl, dense(1, GROUPED, 12, 12), contiguous([4, 4, 4]), scale=scale, causal=causal)


ORDERS = {
    "contiguous": [(0, 1, 2, 3), (4, 5, 6, 7)],
    "striped": [(0, 2, 4, 6), (1, 3, 5, 7)],
    "zigzag": [(0, 1, 6, 7), (2, 3, 4, 5)],
    "backwards": [(7, 6, 5, 4), (3, 2, 1, 0)],
}


@requirement("LC-52")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("causal", [True, False])
def test_tokens_may_be_shared_in_any_way(impl, order, causal):
    check(impl, dense(1, GROUPED, 8, 8), [np.array(at) for at in ORDERS[order]], causal=causal)


@requirement("LC-52")
@given(seed=SEEDS, ranks=RANKS, causal=st.booleans())
@example(seed=1, ranks=3, causal=True)
@example(seed=1, ranks=3, causal=False)
def test_a_query_sees_what_is_before_it_on_any_rank(impl, seed, ranks, causal):
    check(impl, dense(seed, GROUPED, 10, 10), shuffled(seed, 10, ranks), causal=causal)


@requirement("LC-52")
@pytest.mark.parametrize("first", [1000, 32_766, 1_000_000])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_a_sequence_may_begin_anywhere(impl, first, dtype):
    check(impl, dense(1, GROUPED, 6, 6), shuffled(1, 6, 2), first=first, dtype=dtype)


@requirement("LC-53")
@pytest.mark.parametrize("lengths", [(5, 0, 3), (0, 4), (4, 0, 0, 3), (0, 0)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rank_without_tokens_takes_part(impl, lengths, dtype):
    check(impl, dense(1, GROUPED, sum(lengths), sum(lengths), dtype=dtype), contiguous(lengths))


@requirement("LC-54")
@pytest.mark.parametrize("lengths", [(12, 12, 12), (12, 7, 16, 5), (20,)])
@pytest.mark.parametrize(
    ("size", "dtype", "causal"),
    [
        (GROUPED, "float32", True),
        (GROUPED, "bfloat16", True),
        (GROUPED, "float32", False),
        (Size(2, 4, 1, 7), "float16", True),
    ],
)
def test_shards_go_around(impl, lengths, size, dtype, causal):
    case, ranks = dense(1, size, sum(lengths), sum(lengths), dtype=dtype), Counted(len(lengths))
    check(impl, case, contiguous(lengths), ranks, causal=causal)
    row = 2 * case.k[:, :, 0].nbytes + 8  # key, value and position
    hops = len(lengths) - 1
    for rank in range(len(lengths)):
        following = (rank + 1) % len(lengths)
        others = {to for source, to in ranks.messages if source == rank} - {following}
        assert not others, f"rank {rank} sent to {sorted(others)}, expected to rank {following} alone"
        messages = ranks.messages.count((rank, following))
        assert messages <= 4 * hops, f"rank {rank} sent {messages} messages, expected at most {4 * hops}"
        sent, limit = ranks.sent[rank, following], hops * max(lengths) * row + 64 * messages
        assert sent <= limit, f"rank {rank} sent {sent} bytes, expected at most {limit}"
        left = messages - ranks.taken[rank, following]
        assert left == 0, f"rank {rank} sent {messages} messages, of which {left} were not received"
        gathered = ranks.gathered[rank]
        assert gathered <= 64, f"rank {rank} gave {gathered} bytes to all_gather, expected at most 64"


@requirement("LC-55")
def test_shards_that_do_not_fit_are_refused(impl):
    case, at = dense(1, GROUPED, 4, 4), np.arange(4, dtype=np.int32)
    check(impl, case, [at])
    q, k, v = case.q, case.k, case.v
    ranks = Ranks(2)
    alone = ranks.collective(0)  # whoever waits for the other fails
    check_refusals(
        impl.ring_attention,
        {"q": q, "k": k, "v": v, "positions": at, "collective": alone},
        [
            ("q", {"q": q[0]}),
            ("k", {"k": k[0]}),
            ("q/k/v", {"k": np.repeat(k, 2, axis=0), "v": np.repeat(v, 2, axis=0)}),
            ("q/k/v", {"k": k[..., 1:], "v": v[..., 1:]}),
            ("k/heads/q", {"q": q[:, :5]}),
            ("k/kv_heads", {"k": k[:, :0], "v": v[:, :0]}),
            ("k/v", {"v": v[:, :, 1:]}),
            ("q/k/v/dtype", {"q": q.astype(np.float16)}),
            ("q/k/v/dtype", {"v": v.astype(np.float16)}),
            ("q/k/v", {"k": k[:, :, 1:], "v": v[:, :, 1:]}),
            ("positions/q", {"positions": at[1:]}),
            ("positions", {"positions": at[None]}),
        ],
    )
    assert not ranks.sent, f"expected nothing to be sent, got {dict(ranks.sent)}"


@requirement("LC-55")
@pytest.mark.parametrize("tokens", [4, 0])
def test_a_ring_of_one_refuses_as_well(impl, tokens):
    case, at = dense(1, GROUPED, tokens, tokens), np.arange(tokens, dtype=np.int32)
    q, k, v = case.q, case.k, case.v
    check_refusals(
        impl.ring_attention,
        {"q": q, "k": k, "v": v, "positions": at, "collective": Ranks(1).collective(0)},
        [
            ("k/heads/q", {"q": q[:, :5]}),
            ("q/k/v/dtype", {"k": k.astype(np.float16), "v": v.astype(np.float16)}),
            ("q/k/v", {"k": np.repeat(k, 2, axis=0), "v": np.repeat(v, 2, axis=0)}),
            ("positions/q", {"positions": np.arange(tokens + 1, dtype=np.int32)}),
        ],
    )
