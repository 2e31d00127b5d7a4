"""`router_config_from_hf` and `load_experts`: what a checkpoint says, and in which layout."""

from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical, refused
from grading.truth import GroundTruth
from spec import InvalidArgument, NotSupported
from spec.moe import RouterConfig

truth = GroundTruth("moe").exact  # nothing is computed here: weights come out bit for bit

E, D, F, S = 4, 5, 7, 6

CONFIGS = {
    "mixtral": {"num_experts_per_tok": 3},
    "qwen2_moe": {"num_experts_per_tok": 3, "norm_topk_prob": False},
    "qwen3_moe": {"num_experts_per_tok": 3, "norm_topk_prob": True},
    "deepseek_v2": {
        "num_experts_per_tok": 3,
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 3,
        "routed_scaling_factor": 16.0,
        "norm_topk_prob": True,  # which its router does not look at
    },
    "deepseek_v3": {
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.5,
        "first_k_dense_replace": 1,
    },
    "gpt_oss": {"num_experts_per_tok": 3, "swiglu_limit": 5.0},
}
ROUTERS = {
    "mixtral": RouterConfig(3, normalize=True, router_dtype="activations"),
    "qwen2_moe": RouterConfig(3, router_dtype="activations"),
    "qwen3_moe": RouterConfig(3, normalize=True, router_dtype="activations"),
    "deepseek_v2": RouterConfig(3, n_groups=4, top_groups=3, scale=16.0),
    "deepseek_v3": RouterConfig(2, "sigmoid", n_groups=2, top_groups=1, group_score="top2_sum", scale=1.5),
    "gpt_oss": RouterConfig(3, "softmax_of_topk", router_dtype="activations"),
}
ASSUMED = {  # where config.json says nothing
    "mixtral": RouterConfig(2, normalize=True, router_dtype="activations"),
    "qwen2_moe": RouterConfig(4, router_dtype="activations"),
    "qwen3_moe": RouterConfig(8, router_dtype="activations"),
    "deepseek_v2": RouterConfig(6),
    "deepseek_v3": RouterConfig(
        8, "sigmoid", True, n_groups=8, top_groups=4, group_score="top2_sum", scale=2.5
    ),
    "gpt_oss": RouterConfig(4, "softmax_of_topk", router_dtype="activations"),
}


SHARED = {"qwen2_moe": "shared_expert", "deepseek_v2": "shared_experts", "deepseek_v3": "shared_experts"}


def config_of(kind, **changes):
    return {"model_type": kind, "hidden_size": D, **CONFIGS[kind], **changes}


def checkpoint(kind, *, fused=False, old=True, layer=1, dtype="float32", count=E, inner=F):
    """The tensors of one layer, of its neighbour, and of one whose number begins with its own.

    count: experts; inner: their width. old: Mixtral's experts have the names that it came with.
    """
    rng = np.random.default_rng(7)
    tensors = {}

    def add(name, *shape):
        tensors[name] = rng.standard_normal(shape).astype(dtype)

    for number in (layer, layer + 1, 10 * layer + 5):
        block = f"model.layers.{number}.mlp"
        names = ("gate_proj", "up_proj", "down_proj")
        if kind == "mixtral" and old:
            block, names = f"model.layers.{number}.block_sparse_moe", ("w1", "w3", "w2")
        add("model.layers.0.mlp.gate_proj.weight", 9, D)
        if kind == "gpt_oss":
            add(f"{block}.router.weight", count, D)
            add(f"{block}.router.bias", count)
            add(f"{block}.experts.gate_up_proj", count, D, 2 * inner)
            add(f"{block}.experts.gate_up_proj_bias", count, 2 * inner)
            add(f"{block}.experts.down_proj", count, inner, D)
            add(f"{block}.experts.down_proj_bias", count, D)
            continue
        add(f"{block}.gate.weight", count, D)
        if fused:
            add(f"{block}.experts.gate_up_proj", count, 2 * inner, D)
            add(f"{block}.experts.down_proj", count, D, inner)
        else:
            for e in reversed(range(count)):
                for name, shape in zip(names, ((inner, D), (inner, D), (D, inner)), strict=True):
                    add(f"{block}.experts.{e}.{name}.weight", *shape)
        shared = {
            "qwen2_moe": "shared_expert",
            "deepseek_v2": "shared_experts",
            "deepseek_v3": "shared_experts",
        }
        if kind in shared:
            for name, shape in (("gate_proj", (S, D)), ("up_proj", (S, D)), ("down_proj", (D, S))):
                add(f"{block}.{shared[kind]}.{name}.weight", *shape)
        if kind == "qwen2_moe":
            add(f"{block}.shared_expert_gate.weight", 1, D)
        if kind == "deepseek_v3":
            add(f"{block}.gate.e_score_correction_bias", count)
    return tensors


def assert_same(actual, expected, what="weights"):
    """Two values of the contract, arrays bit for bit."""
    if is_dataclass(expected):
        assert type(actual) is type(expected), f"{what}: expected {type(expected).__name__}, got {actual!r}"
        for f in fields(expected):
            assert_same(getattr(actual, f.name), getattr(expected, f.name), f.name)
    elif isinstance(expected, np.ndarray):
        assert_identical(actual, expected, what)
    else:
        assert_equal(actual, expected, what)


def check(impl, kind, *, layer=1, changes=(), **layout):
    tensors, config = checkpoint(kind, layer=layer, **layout), config_of(kind, **dict(changes))
    assert_same(impl.load_experts(tensors, config, layer), truth.load_experts(tensors, config, layer))


@requirement("MOE-56")
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_router_is_read_from_the_config(impl, kind):
    assert_equal(impl.router_config_from_hf(config_of(kind)), ROUTERS[kind], "router_config_from_hf()")


@requirement("MOE-56")
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_the_config_leaves_out_is_the_default(impl, kind):
    config = {"model_type": kind, **({"num_experts_per_tok": 6} if kind == "deepseek_v2" else {})}
    assert_equal(impl.router_config_from_hf(config), ASSUMED[kind], "router_config_from_hf()")


@requirement("MOE-56")
@pytest.mark.parametrize("kind", ["qwen2_moe", "qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize("normalize", [False, True])
def test_normalisation_is_what_the_config_says(impl, kind, normalize):
    actual = impl.router_config_from_hf(config_of(kind, norm_topk_prob=normalize))
    assert_equal(actual.normalize, normalize, "normalize")


@requirement("MOE-57")
@pytest.mark.parametrize(("kind", "old"), [("mixtral", True), ("mixtral", False), ("qwen3_moe", False)])
@pytest.mark.parametrize("count", [1, E])
def test_experts_by_their_names(impl, kind, old, count):
    check(impl, kind, old=old, count=count)


@requirement("MOE-57")
def test_the_tenth_expert_comes_after_the_ninth(impl):
    check(impl, "qwen3_moe", count=11)


@requirement("MOE-57")
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("fused", [False, True])
def test_weights_in_half_precision_stay_so(impl, kind, fused):
    check(impl, kind, dtype="float16", fused=fused)


@requirement("MOE-58")
@pytest.mark.parametrize(("kind", "old"), [("mixtral", True), ("mixtral", False), ("qwen3_moe", False)])
def test_the_gate_is_the_first_half_of_a_fused_matrix(impl, kind, old):
    check(impl, kind, fused=True, old=old)


@requirement("MOE-59")
def test_gpt_oss_is_transposed_and_interleaved(impl):
    check(impl, "gpt_oss")
    check(impl, "gpt_oss", layer=0, changes={"swiglu_alpha": 1.5}.items())
    check(impl, "gpt_oss", inner=D)  # where a matrix that was not transposed still fits


@requirement("MOE-60")
@pytest.mark.parametrize("kind", ["qwen2_moe", "deepseek_v2", "deepseek_v3"])
@pytest.mark.parametrize("fused", [False, True])
def test_shared_experts_and_biases_come_along(impl, kind, fused):
    check(impl, kind, fused=fused)


@requirement("MOE-60")
@pytest.mark.parametrize("kind", ["deepseek_v2", "deepseek_v3"])
@pytest.mark.parametrize("count", [None, 0])
def test_a_model_may_have_no_shared_experts(impl, kind, count):
    check(impl, kind, changes={"n_shared_experts": count}.items())


@requirement("MOE-64")
@pytest.mark.parametrize("kind", ["llama", "switch_transformers", None])
def test_unknown_models_are_refused(impl, kind):
    assert_equal(impl.router_config_from_hf(config_of("mixtral")), ROUTERS["mixtral"], "the known model")
    with refused(NotSupported, "model_type"):
        impl.router_config_from_hf({**config_of("mixtral"), "model_type": kind})
    with refused(NotSupported, "model_type"):
        impl.load_experts(checkpoint("mixtral"), {**config_of("mixtral"), "model_type": kind}, 1)


@requirement("MOE-64")
def test_routers_that_a_config_does_not_settle_are_refused(impl):
    known = config_of("deepseek_v2")
    assert_equal(impl.router_config_from_hf(known), ROUTERS["deepseek_v2"], "the complete config")
    for key in ("num_experts_per_tok", "n_group", "topk_group"):
        with refused(InvalidArgument, key):
            impl.router_config_from_hf({k: v for k, v in known.items() if k != key})
        with refused(InvalidArgument, key):
            impl.router_config_from_hf({**known, key: None})
    for key in ("num_experts_per_tok", "n_group", "topk_group"):
        with refused(InvalidArgument, key):
            impl.router_config_from_hf({**config_of("deepseek_v3"), key: None})
    with refused(NotSupported, "topk_method"):
        impl.router_config_from_hf({**known, "topk_method": "noaux_tc"})


@requirement("MOE-64")
@pytest.mark.parametrize(
    ("kind", "changes", "dense", "sparse"),
    [
        ("qwen3_moe", {"mlp_only_layers": [2, 5]}, [2, 5], [1, 3]),
        ("qwen2_moe", {"decoder_sparse_step": 2}, [0, 2, 4], [1, 3]),
        ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [3]}, [0, 2, 3, 4], [1, 5]),
        ("qwen3_moe", {"mlp_only_layers": [0]}, [0], [1]),
        ("deepseek_v3", {"first_k_dense_replace": 3}, [0, 2], [3, 4]),
        ("deepseek_v2", {"first_k_dense_replace": 1}, [0], [1]),
        ("deepseek_v2", {}, [], [0]),
    ],
)
def test_dense_layers_are_refused(impl, kind, changes, dense, sparse):
    for layer in sparse:
        check(impl, kind, layer=layer, changes=changes.items())
    for layer in dense:
        with refused(InvalidArgument, "layer", "config", *changes):
            impl.load_experts(checkpoint(kind, layer=layer), config_of(kind, **changes), layer)


@requirement("MOE-64")
def test_three_layers_of_deepseek_v3_are_dense_where_the_config_is_silent(impl):
    config = {"model_type": "deepseek_v3"}
    tensors = checkpoint("deepseek_v3", layer=3)
    assert_same(impl.load_experts(tensors, config, 3), truth.load_experts(tensors, config, 3))
    with refused(InvalidArgument, "layer"):
        impl.load_experts(checkpoint("deepseek_v3", layer=2), config, 2)


@requirement("MOE-64")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_missing_tensors_are_refused_by_name(impl, kind, fused):
    config, tensors = config_of(kind), checkpoint(kind, fused=fused, old=not fused)
    assert_same(impl.load_experts(tensors, config, 1), truth.load_experts(tensors, config, 1))
    needed = [name for name in tensors if name.startswith("model.layers.1.")]
    for name in needed:
        part = name.rpartition("layers.1.")[2]
        if part.endswith(("experts.gate_up_proj", "block_sparse_moe.gate.weight")) and kind != "gpt_oss":
            continue  # without it the layout is another one, and other names are missing
        with refused(InvalidArgument, part):
            impl.load_experts({k: v for k, v in tensors.items() if k != name}, config, 1)
