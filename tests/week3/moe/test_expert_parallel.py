"""Experts spread over ranks: the plan, and the layer itself on one thread a rank."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_integers, assert_matches, check_refusals, refused
from grading.ranks import Ranks
from grading.truth import GroundTruth
from spec import NotSupported
from spec.moe import QuantizedMatrix, RouterConfig
from tests.week3.moe.cases import SEEDS, Size, assert_output, layer, part
from tests.week3.moe.cases_quantized import quantized
from tests.week3.moe.test_dispatch import choices

reference = GroundTruth("moe")

SIZE = Size(6, 5, 7)
RANKS = st.sampled_from([1, 2, 3, 6])


def lengths(seed, ranks, tokens):
    """Tokens of each rank, some without any."""
    return np.random.default_rng(seed).multinomial(tokens, np.full(ranks, 1 / ranks)).tolist()


def experts_of(experts, rank, ranks):
    """A rank's share of the experts."""
    count = len(experts.up.codes if isinstance(experts.up, QuantizedMatrix) else experts.up) // ranks
    mine = slice(rank * count, (rank + 1) * count)

    def share(value):
        if isinstance(value, QuantizedMatrix):
            return QuantizedMatrix(*(getattr(value, f.name)[mine] for f in fields(value)))
        return value[mine] if isinstance(value, np.ndarray) else value

    return type(experts)(**{f.name: share(getattr(experts, f.name)) for f in fields(experts)})


def run(impl, case, source_lens, ranks=None):
    """Each rank's output."""
    ranks = Ranks(len(source_lens)) if ranks is None else ranks
    bounds = np.cumsum([0, *source_lens])
    options = dict(case.options)
    mask = options.pop("mask", None)

    def call(rank, collective):
        rows = slice(bounds[rank], bounds[rank + 1])
        return impl.expert_parallel_ffn(
            case.x[rows],
            case.router_weight,
            experts_of(case.experts, rank, ranks.size),
            case.config,
            collective=collective,
            mask=None if mask is None else mask[rows],
            **options,
        )

    return ranks.run(call)


def check(impl, case, source_lens, ranks=None, expected=None):
    expected = case.run(reference) if expected is None else expected
    mask = case.options.get("mask", np.ones(len(case.x), bool))
    outputs = run(impl, case, source_lens, ranks)
    joined = replace(
        outputs[0],
        y=np.concatenate([each.y for each in outputs]),
        logits=np.concatenate([each.logits for each in outputs]),
        routing=replace(
            outputs[0].routing,
            experts=np.concatenate([each.routing.experts for each in outputs]),
            weights=np.concatenate([each.routing.weights for each in outputs]),
        ),
    )
    assert_output(joined, expected, mask)
    assert (joined.y[~mask] == 0).all(), f"y of padding: expected exactly 0, got {joined.y[~mask]}"


@requirement("MOE-52")
@given(seed=SEEDS, ranks=RANKS, tokens=st.sampled_from([0, 1, 8]), k=st.sampled_from([1, 2, 6]))
@example(seed=1, ranks=3, tokens=8, k=2)
@example(seed=1, ranks=3, tokens=8, k=1)
def test_the_plan_says_who_sends_what(impl, seed, ranks, tokens, k):
    experts, source_lens = choices(seed, tokens, k=k), lengths(seed, ranks, tokens)
    actual = impl.expert_parallel_plan(experts, 6, ranks, source_lens)
    expected = reference.expert_parallel_plan(experts, 6, ranks, source_lens)
    for f in fields(expected):
        assert_integers(getattr(actual, f.name), getattr(expected, f.name), f.name)


@requirement("MOE-53")
@given(seed=SEEDS, ranks=RANKS, shared=st.sampled_from([None, "plain", "gated"]))
@example(seed=1, ranks=3, shared="gated")
@example(seed=1, ranks=2, shared="plain")
def test_any_number_of_ranks_gives_the_result_of_one(impl, seed, ranks, shared):
    config = RouterConfig(2, "sigmoid", True, scale=2.5)
    case = layer(seed, config, 9, SIZE, shared=shared, biases=True, selection_bias=True)
    check(impl, case, lengths(seed, ranks, 9))


@requirement("MOE-53")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_ranks_work_in_half_precision(impl, dtype):
    config = RouterConfig(3, router_dtype="activations")
    check(impl, layer(1, config, 7, SIZE, dtype=dtype, shared="plain"), [2, 4, 1])


@requirement("MOE-53")
@pytest.mark.parametrize(
    ("config", "options"),
    [
        (RouterConfig(1), {"gate": False, "activation": "relu"}),
        (RouterConfig(2), {"activation": "relu", "shared": "plain"}),
        (RouterConfig(2, "softmax_of_topk"), {"activation": "swigluoai", "router_bias": True, "limit": 1.0}),
        (RouterConfig(2, n_groups=2, top_groups=1, scale=16.0), {"selection_bias": True}),
    ],
)
def test_ranks_take_every_router_and_activation(impl, config, options):
    check(impl, layer(1, config, 9, SIZE, **options), [5, 0, 4])


@requirement("MOE-53")
def test_ranks_keep_nan_in_its_row(impl):
    case = layer(1, RouterConfig(2), 5, SIZE)
    expected, x = case.run(reference), case.x.copy()
    x[3, 0] = np.nan
    first, second = run(impl, replace(case, x=x), [2, 3])
    assert np.isnan(second.y[1]).all(), f"y of NaN: expected NaN, got {second.y[1]}"
    assert_matches(first.y, part(expected.y, slice(2)), "y of the first rank")
    assert_matches(second.y[[0, 2]], part(expected.y, [2, 4]), "y of the second rank")


@requirement("MOE-53")
def test_a_rank_never_reads_an_expert_that_nobody_chose(impl):
    case = layer(1, RouterConfig(1), 3, SIZE, biases=True)
    expected = case.run(reference)
    unread = np.setdiff1d(np.arange(6), expected.routing.experts)
    names = ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")
    poisoned = {name: getattr(case.experts, name).copy() for name in names}
    for matrix in poisoned.values():
        matrix[unread] = np.nan
    check(impl, replace(case, experts=replace(case.experts, **poisoned)), [2, 1], expected=expected)


@requirement("MOE-53")
@given(seed=SEEDS, ranks=RANKS)
@example(seed=1, ranks=2)
def test_padding_stays_at_home(impl, seed, ranks):
    case = layer(seed, RouterConfig(2), 9, SIZE, shared="plain")
    mask = np.random.default_rng(seed).random(9) < 0.6
    case = case.with_options(mask=mask)
    x = np.where(mask[:, None], case.x, np.float32(np.nan))
    check(impl, replace(case, x=x), lengths(seed, ranks, 9), expected=case.run(reference))


@requirement("MOE-53")
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_work_with_quantised_experts(impl, ranks):
    size = Size(4, 64, 32)
    case = layer(1, RouterConfig(2), 5, size)
    check(impl, replace(case, experts=quantized(case.experts, 4, 32)), lengths(1, ranks, 5))


@requirement("MOE-54")
@given(seed=SEEDS, busy=st.integers(0, 2), favourite=st.integers(0, 5))
@example(seed=1, busy=0, favourite=5)
@example(seed=1, busy=2, favourite=0)
def test_a_rank_without_work_takes_part(impl, seed, busy, favourite):
    source_lens = [0, 0, 0]
    source_lens[busy] = 4
    case = layer(seed, RouterConfig(1), 4, SIZE)
    bias = np.where(np.arange(6) == favourite, 50, 0).astype(np.float32)  # all tokens go to one expert
    check(impl, case.with_options(router_bias=bias), source_lens)


@requirement("MOE-54")
def test_ranks_without_any_token_come_back(impl):
    check(impl, layer(1, RouterConfig(2), 0, SIZE), [0, 0])


@requirement("MOE-55")
@pytest.mark.parametrize("at_home", [False, True])
def test_rows_go_only_where_they_are_needed(impl, at_home):
    size = Size(6, 40, 7)
    config = RouterConfig(2)
    case = layer(3, config, 36, size)
    if at_home:  # each token is sent to the rank whose two experts it wants
        owner = np.arange(36) // 12
        router_weight = np.zeros((6, 40), np.float32)
        router_weight[np.arange(6), np.arange(6) // 2] = 8 + np.arange(6) % 2
        x = case.x.copy()
        x[:, :3] = np.eye(3)[owner]
        case = replace(case, x=x, router_weight=router_weight)
    source_lens, ranks = [12, 12, 12], Ranks(3)
    check(impl, case, source_lens, ranks)
    experts = case.run(reference).routing.experts
    slots = reference.expert_parallel_plan(experts, 6, 3, source_lens).send_counts
    row, counts = 4 * size.width + 64, 64 * size.experts
    for rank in range(3):
        gathered = ranks.gathered[rank]
        assert gathered <= 4 * counts, (
            f"rank {rank} gave {gathered} bytes to all_gather, at most {4 * counts}"
        )
    for (source, to), sent in ranks.sent.items():
        limit = int(slots[source, to] + slots[to, source]) * row + counts
        assert sent <= limit, f"rank {source} sent {sent} bytes to rank {to}, expected at most {limit}"


@requirement("MOE-63")
def test_impossible_plans_are_refused(impl):
    valid = {"experts": choices(1, 5), "n_experts": 6, "ranks": 2, "source_lens": [3, 2]}
    actual = impl.expert_parallel_plan(**valid)
    assert_integers(actual.order, reference.expert_parallel_plan(**valid).order, "order")
    check_refusals(
        impl.expert_parallel_plan,
        valid,
        [
            ("ranks/n_experts", {"ranks": 4, "source_lens": [3, 2, 0, 0]}),
            ("ranks", {"ranks": 0, "source_lens": []}),
            ("source_lens/ranks", {"source_lens": [3, 1, 1]}),
            ("source_lens/experts", {"source_lens": [3, 3]}),
            ("source_lens", {"source_lens": [6, -1]}),
            ("experts/n_experts", {"experts": valid["experts"] + 4}),
            ("experts", {"experts": valid["experts"] - 4}),
            ("experts", {"experts": valid["experts"][0]}),
        ],
    )


@requirement("MOE-63")
def test_impossible_spreads_are_refused(impl):
    case = layer(1, RouterConfig(2), 3, SIZE)
    check(impl, case, [3])
    valid = {
        "x": case.x,
        "router_weight": case.router_weight,
        "experts": case.experts,
        "config": case.config,
        "collective": Ranks(1).collective(0),
    }
    with refused(NotSupported, "config", "capacity_factor"):
        impl.expert_parallel_ffn(**{**valid, "config": RouterConfig(2, capacity_factor=1.0)})
    alone_of_two = Ranks(2).collective(0)  # refused before it waits for the other
    odd = {"router_weight": case.router_weight[:5], "experts": experts_of(case.experts, 0, 3)}
    check_refusals(
        impl.expert_parallel_ffn,
        valid,
        [
            ("router_weight/experts/collective/size", {"collective": alone_of_two, **odd}),
            ("gate/up/down/experts/collective/size/router_weight", {"collective": alone_of_two}),
            ("router_weight/x", {"router_weight": case.router_weight[:, :4]}),
            ("mask/x", {"mask": np.ones(2, bool)}),
        ],
    )
