"""The ground truth against the outside world: PyTorch, transformers, MLX and mlx-lm compute the same.

A reference that only its own suite has seen proves nothing: both may rest on one misreading. What computes in
float32 outside is judged as a submission is, by the allowance of its input.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from grading.matching import assert_identical, assert_integers, assert_matches
from grading.truth import Expected, GroundTruth
from reference import moe as reference
from spec.moe import (
    DEEPSEEK_V3,
    GPT_OSS,
    MIXTRAL,
    QWEN2_MOE,
    SWITCH,
    ExpertWeights,
    QuantizedExpertWeights,
    QuantizedMatrix,
    RouterConfig,
)
from tests.suite.outside import normal, outside

truth = GroundTruth("moe")

TOKENS, WIDTH, INNER = 12, 10, 7


@pytest.fixture(scope="module")
def torch():
    return outside("torch")


@pytest.fixture(scope="module")
def mx():
    return outside("mlx.core")


def randomize(torch, module):
    """Every parameter and buffer normal, so that nothing hides behind a zero."""
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(torch.from_numpy(rng.standard_normal(tuple(tensor.shape))))


def assert_same_in_float64(actual, expected):
    """Both sides computed in float64, whose rounding is 1e-16 for each of some hundred operations."""
    assert actual.dtype == np.float64
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max(initial=0))


def by_expert(experts, weights, n_experts):
    """Weights as a row of all experts, 0 for those not chosen: outside, the order of the k is free."""
    table = np.zeros((len(experts), n_experts), weights.dtype)
    np.put_along_axis(table, np.asarray(experts, np.int64), weights, axis=1)
    return table


def assert_routed_alike(experts, weights, expected, n_experts):
    """The same experts with the same weights."""
    chosen = by_expert(experts, np.ones_like(weights), n_experts)
    assert_identical(chosen, by_expert(expected.experts, np.ones_like(weights), n_experts), "chosen experts")
    table = by_expert(expected.experts, expected.weights.value, n_experts)
    allowed = Expected(table, expected.weights.dtype, expected.weights.allowed)
    assert_matches(by_expert(experts, weights, n_experts), allowed, "weights")


def run(weights, config, x):
    """`moe_ffn` with what `load_experts` gave."""
    return truth.moe_ffn(
        x,
        weights.router_weight,
        weights.experts,
        config,
        router_bias=weights.router_bias,
        selection_bias=weights.selection_bias,
        shared=weights.shared,
    )


# Layers and checkpoints of transformers -------------------------------------------------------------------

LAYER = 2

# Every model with sizes that are pairwise distinct, and with each way to choose that it knows.
MODELS = {
    "mixtral": {"model_type": "mixtral", "intermediate_size": INNER, "num_local_experts": 6},
    "qwen2_moe": {"model_type": "qwen2_moe", "num_experts": 6, "shared_expert_intermediate_size": 9},
    "qwen2_moe, normalised": {"model_type": "qwen2_moe", "num_experts": 6, "norm_topk_prob": True},
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 3},
    "qwen3_moe, normalised": {"model_type": "qwen3_moe", "num_experts": 6, "norm_topk_prob": True},
    "deepseek_v2, greedy": {
        "model_type": "deepseek_v2",
        "n_routed_experts": 6,
        "num_experts_per_tok": 3,
        "routed_scaling_factor": 2.5,
        "first_k_dense_replace": 1,
    },
    "deepseek_v2, groups": {
        "model_type": "deepseek_v2",
        "topk_method": "group_limited_greedy",
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 16.0,
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
    },
    "deepseek_v3, raw": {
        "model_type": "deepseek_v3",
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "norm_topk_prob": False,
        "first_k_dense_replace": 2,
    },
    "gpt_oss": {"model_type": "gpt_oss", "num_local_experts": 6, "intermediate_size": INNER},
    "gpt_oss, tight": {
        "model_type": "gpt_oss",
        "num_local_experts": 6,
        "intermediate_size": INNER,
        "num_experts_per_tok": 3,
        "swiglu_alpha": 1.3,
        "swiglu_limit": 2.5,
    },
}
REST = {  # of a model that is there for one of its layers
    "hidden_size": WIDTH,
    "moe_intermediate_size": INNER,
    "num_hidden_layers": LAYER + 1,
    "num_experts_per_tok": 2,
    "vocab_size": 11,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 4,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
}


@pytest.fixture(scope="module", params=MODELS)
def saved(request, torch, tmp_path_factory):
    """block: a layer's experts, as transformers runs them. config: the config.json that it writes.

    fused: the tensors as they lie in memory. released: as it writes them, under the names that were released.
    """
    transformers = outside("transformers")
    config = transformers.AutoConfig.for_model(**{**REST, **MODELS[request.param]})
    model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval()
    block = model.model.layers[LAYER].mlp
    randomize(torch, block)
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return SimpleNamespace(
        block=block,
        config=json.loads((folder / "config.json").read_text()),
        fused={name: tensor.numpy() for name, tensor in model.state_dict().items()},
        released=outside("safetensors.numpy").load_file(folder / "model.safetensors"),
    )


@pytest.mark.parametrize("layout", ["fused", "released"])
def test_a_loaded_layer_computes_what_transformers_computes(torch, saved, layout):
    x = normal(2, TOKENS, WIDTH)
    with torch.no_grad():
        theirs = saved.block(torch.from_numpy(x)[None])
    y = theirs[0] if isinstance(theirs, tuple) else theirs  # gpt-oss hands out its scores, too
    weights = reference.load_experts(getattr(saved, layout), saved.config, LAYER)
    output = run(weights, reference.router_config_from_hf(saved.config), x)
    assert_matches(y[0].numpy(), output.y, "y")


def test_a_router_chooses_what_transformers_chooses(torch, saved):
    x = normal(3, TOKENS, WIDTH)
    router = saved.block.router if saved.config["model_type"] == "gpt_oss" else saved.block.gate
    with torch.no_grad():
        logits, weights, experts = (each.numpy() for each in router(torch.from_numpy(x)))
    loaded = reference.load_experts(saved.fused, saved.config, LAYER)
    output = run(loaded, reference.router_config_from_hf(saved.config), x)
    assert_matches(logits, output.logits, "logits")
    assert_routed_alike(experts, weights, output.routing, logits.shape[1])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mixtral", {}),
        ("qwen2_moe", {"decoder_sparse_step": 2}),
        ("qwen3_moe", {"decoder_sparse_step": 3, "mlp_only_layers": [2]}),
        ("qwen3_moe", {"mlp_only_layers": [0, 3]}),
        ("deepseek_v2", {}),
        ("deepseek_v2", {"first_k_dense_replace": 2}),
        ("deepseek_v3", {}),
        ("gpt_oss", {}),
    ],
)
def test_dense_layers_are_those_of_transformers(torch, kind, changes):
    transformers = outside("transformers")
    config = transformers.AutoConfig.for_model(kind, **{**REST, "num_hidden_layers": 6, **changes})
    with torch.device("meta"):  # nothing but the structure
        layers = transformers.AutoModelForCausalLM.from_config(config).model.layers
    dense = [not hasattr(layer.mlp, "experts") for layer in layers]
    known = reference.known(config.to_dict())
    assert [reference.is_dense(known, layer) for layer in range(6)] == dense


@pytest.mark.parametrize("kind", reference.DEFAULTS)
def test_what_a_config_leaves_out_is_what_transformers_assumes(kind):
    theirs = outside("transformers").AutoConfig.for_model(kind)
    for key, value in reference.DEFAULTS[kind].items():
        assert getattr(theirs, key) == ([] if key == "mlp_only_layers" else value), key


@pytest.mark.parametrize(
    ("kind", "preset"),
    [("mixtral", MIXTRAL), ("qwen2_moe", QWEN2_MOE), ("deepseek_v3", DEEPSEEK_V3), ("gpt_oss", GPT_OSS)],
)
def test_presets_are_the_models_after_which_transformers_sets_its_defaults(kind, preset):
    config = outside("transformers").AutoConfig.for_model(kind).to_dict()
    assert reference.router_config_from_hf(config) == preset


# Switch: capacity, and the losses -------------------------------------------------------------------------


@pytest.mark.parametrize(("capacity", "factor"), [(1, 0.5), (2, 1.0), (3, 1.5), (8, 4.0)])
@pytest.mark.parametrize("bias", [False, True])
def test_what_a_full_expert_drops_is_what_switch_drops(torch, capacity, factor, bias):
    modeling = outside("transformers.models.switch_transformers.modeling_switch_transformers")
    config = modeling.SwitchTransformersConfig(
        d_model=WIDTH, d_ff=INNER, num_experts=4, expert_capacity=capacity, router_bias=bias
    )
    layer = modeling.SwitchTransformersSparseMLP(config).eval()
    randomize(torch, layer)
    x = normal(4, 3, 8, WIDTH)  # three sequences of eight tokens: the fair share of four experts is 2
    with torch.no_grad():
        kept, _, _ = layer.router(torch.from_numpy(x))
        y = layer(torch.from_numpy(x))
    dense = [layer.experts[f"expert_{e}"] for e in range(4)]
    experts = ExpertWeights(
        gate=None,
        up=np.stack([each.wi.weight.detach().numpy() for each in dense]),
        down=np.stack([each.wo.weight.detach().numpy() for each in dense]),
        activation="relu",
    )
    ours = replace(SWITCH, capacity_factor=factor, min_capacity=0)
    segments = np.repeat(np.arange(3), 8)
    router = layer.router.classifier
    output = truth.moe_ffn(
        x.reshape(24, WIDTH),
        router.weight.detach().numpy(),
        experts,
        ours,
        router_bias=router.bias.detach().numpy() if bias else None,
        segments=segments,
    )
    assert_matches(y.reshape(24, WIDTH).numpy(), output.y, "y")
    rooms = [reference.expert_capacity(8, 4, ours)] * 3
    assert rooms == [capacity] * 3
    slots = reference.dispatch(output.routing.experts, 4, rooms, segments=segments)
    np.testing.assert_array_equal(slots.kept[:, 0], kept.reshape(24, 4).any(dim=1))
    assert slots.kept.all() == (capacity == 8), "some tokens must be dropped, but not with room for all"


def test_the_losses_are_those_of_switch(torch):
    switch = outside("transformers.models.switch_transformers.modeling_switch_transformers")
    logits = normal(5, 3, TOKENS, 5)
    experts = logits.argmax(axis=2)
    theirs = switch.load_balancing_loss_func(
        torch.from_numpy(logits).softmax(dim=-1), torch.from_numpy(experts)
    )
    loss = truth.load_balancing_loss(logits, experts[..., None], 5, pooling="each")
    assert_matches(theirs.numpy(), loss, "balance loss")
    z_loss = truth.router_z_loss(logits.reshape(-1, 5))
    assert_matches(switch.router_z_loss_func(torch.from_numpy(logits)).numpy(), z_loss, "z-loss")


@pytest.mark.parametrize("module", ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("top_k", [1, 2])
def test_the_balance_loss_and_its_gradient_are_those_of_transformers(torch, module, layers, padded, top_k):
    theirs = outside(f"transformers.models.{module}.modeling_{module}").load_balancing_loss_func
    logits = normal(6, layers, TOKENS, 5)
    mask = np.arange(TOKENS) % 6 < 4 if padded else np.ones(TOKENS, bool)  # two sequences of 4 tokens and 2
    variables = [torch.from_numpy(each).requires_grad_() for each in logits]
    loss = theirs(
        tuple(variables), 5, top_k, torch.from_numpy(mask.reshape(2, 6).astype(int)) if padded else None
    )
    gradient = torch.stack(torch.autograd.grad(loss, variables))
    experts = np.stack([reference.route(each, RouterConfig(top_k)).experts for each in logits])
    arguments = logits, experts, 5
    options = {"mask": np.broadcast_to(mask, (layers, TOKENS)), "pooling": "all"}
    assert_matches(loss.detach().numpy(), truth.load_balancing_loss(*arguments, **options), "loss")
    assert_matches(gradient.numpy(), truth.load_balancing_loss_grad(*arguments, **options), "gradient")


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("pooling", ["all", "each"])
@pytest.mark.parametrize("divide_by_k", [False, True])
def test_the_gradient_of_every_balance_loss_is_that_of_autograd(torch, scoring, pooling, divide_by_k):
    """The loss of DeepSeek-V3, section 2.1.2, and its relatives, with numbers of tokens that differ."""
    logits = normal(7, 3, TOKENS, 5, dtype=np.float64)
    experts = np.argsort(-logits, axis=2)[..., :2]
    mask = np.arange(TOKENS) < np.array([[4], [TOKENS], [7]])
    variable = torch.from_numpy(logits).requires_grad_()
    groups = [(variable[g, : mask[g].sum()], experts[g, : mask[g].sum()]) for g in range(3)]
    if pooling == "all":
        groups = [(torch.cat([rows for rows, _ in groups]), np.concatenate([ids for _, ids in groups]))]
    losses = []
    for rows, ids in groups:
        scores = rows.softmax(dim=1) if scoring == "softmax" else rows.sigmoid()
        counts = torch.bincount(torch.from_numpy(ids.reshape(-1)), minlength=5)
        frequency = counts.double() / len(rows) / (2 if divide_by_k else 1)
        losses.append(5 * (frequency * (scores / scores.sum(dim=1, keepdim=True)).mean(dim=0)).sum())
    loss = sum(losses) / len(losses)
    options = {"mask": mask, "scoring": scoring, "pooling": pooling, "divide_by_k": divide_by_k}
    assert_same_in_float64(
        reference.load_balancing_loss(logits, experts, 5, **options), loss.detach().numpy()
    )
    (gradient,) = torch.autograd.grad(loss, variable)
    assert_same_in_float64(
        reference.load_balancing_loss_grad(logits, experts, 5, **options), gradient.numpy()
    )


@pytest.mark.parametrize("center", [-1e4, 0, 1e4])
def test_the_z_loss_is_that_of_pytorch(torch, center):
    logits = normal(8, TOKENS, 5, dtype=np.float64) + center
    expected = torch.from_numpy(logits).logsumexp(dim=1).square().mean()
    assert_same_in_float64(reference.router_z_loss(logits), expected.numpy())


def test_the_entropy_of_the_load_is_that_of_scipy():
    experts = reference.route(normal(9, TOKENS, 6), RouterConfig(2)).experts
    measured = truth.balance(experts, 6)
    load = np.bincount(experts.reshape(-1), minlength=6)
    entropy = outside("scipy.stats").entropy(load)
    assert_matches(np.asarray(entropy, np.float32), measured.entropy, "entropy")
    assert_integers(load, measured.load, "load")


# Routing and dispatch in PyTorch --------------------------------------------------------------------------


def test_slots_are_sorted_as_pytorch_sorts_them(torch):
    experts = reference.route(normal(10, TOKENS, 6), RouterConfig(3)).experts
    slots = reference.dispatch(experts, 6)
    ids, order = torch.from_numpy(experts.reshape(-1)).sort(stable=True)
    assert_integers(slots.order, order.numpy(), "order")
    offsets = torch.searchsorted(ids, torch.arange(7, dtype=ids.dtype))
    assert_integers(slots.offsets, offsets.numpy(), "offsets")


@pytest.mark.parametrize("capacity", [1, 4, TOKENS])
def test_experts_choose_the_tokens_that_pytorch_chooses(torch, capacity):
    """Expert Choice, section 3.2: S = softmax(X · W), and G, I = TopK(Sᵀ, k)."""
    logits = normal(11, TOKENS, 6, dtype=np.float64)
    weights, tokens = torch.from_numpy(logits).softmax(dim=1).T.topk(capacity, dim=1)
    chosen = reference.expert_choice(logits, capacity)
    assert_integers(chosen.tokens, tokens.numpy(), "tokens")
    assert_same_in_float64(chosen.weights, weights.numpy())


# Numbers worked out by hand, to the digits shown.
GOLDEN = {
    "softmax over the chosen two": (RouterConfig(2, "softmax_of_topk"), [2, 1, 0, -1], [0.731059, 0.268941]),
    "the same, divided by its sum": (RouterConfig(2, normalize=True), [2, 1, 0, -1], [0.731059, 0.268941]),
    "softmax over all four": (RouterConfig(2), [2, 1, 0, -1], [0.643914, 0.236883]),
    "one expert keeps its probability": (RouterConfig(1), [2, 1, 0, -1], [0.643914]),
    "equal logits": (RouterConfig(3), [0, 0, 0, 0], [0.25, 0.25, 0.25]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_weights_are_those_worked_out_by_hand(name):
    config, logits, weights = GOLDEN[name]
    routing = reference.route(np.array([logits], np.float64), config)
    assert_integers(routing.experts, [list(range(config.top_k))], "experts")
    assert np.abs(routing.weights[0] - weights).max() <= 0.5e-6


def test_a_closed_group_stays_closed_when_every_score_is_negative():
    """Group scores −1, −1, −1.5 and −1.15 open groups 0 and 1; a closed group at 0 would win with 4 and 5."""
    scores = np.array([0.9, 0.1, 0.5, 0.5, 0.2, 0.3, 0.8, 0.05])
    config = RouterConfig(2, "sigmoid", True, n_groups=4, top_groups=2, group_score="top2_sum")
    logits = np.log(scores / (1 - scores))[None]
    routing = reference.route(logits, config, selection_bias=np.full(8, -1.0))
    assert_integers(routing.experts, [[0, 2]], "experts")
    assert np.abs(routing.weights[0] - [0.9 / 1.4, 0.5 / 1.4]).max() <= 1e-12


def test_the_balance_loss_is_the_one_worked_out_by_hand():
    """f = (.9, .1) and P = (.459, .541): 2 · (.4131 + .0541). Uniform gives k, a collapse gives E."""
    logits = np.log([[[0.51, 0.49]] * 9 + [[1e-300, 1.0]]])
    experts = np.array([[[0]] * 9 + [[1]]])
    assert abs(reference.load_balancing_loss(logits, experts, 2) - 0.9344) <= 1e-12
    uniform = np.array([[[0, 1], [2, 3]]])
    assert reference.load_balancing_loss(np.zeros((1, 2, 4)), uniform, 4) == 2
    collapsed = np.array([[[800.0, 0, 0, 0]] * 3])
    assert reference.load_balancing_loss(collapsed, np.zeros((1, 3, 1), int), 4) == 4


# Experts in MLX, and its quantisation ---------------------------------------------------------------------

BEST_TWO = RouterConfig(2, normalize=True)


def through_mlx(mx, layer, x, routing):
    """The experts' outputs, weighted with these weights."""
    outputs = layer(mx.array(x), mx.array(routing.experts))  # (T, k, D)
    weights = mx.array(routing.weights.value.astype(np.float32))
    return np.array((outputs * weights[..., None]).sum(axis=1))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["silu", "swigluoai"])
@pytest.mark.parametrize("tokens", [TOKENS, 40])  # from 64 slots on it sorts them by expert
def test_experts_with_a_gate_are_those_of_mlx_lm(mx, activation, bias, tokens):
    activations = outside("mlx_lm.models.activations")
    switch_layers = outside("mlx_lm.models.switch_layers")
    function = switch_layers.SwiGLU() if activation == "silu" else activations.SwigluOAI()
    layer = switch_layers.SwitchGLU(WIDTH, INNER, 6, function, bias)
    arrays = mlx_weights(mx, layer, gate="gate_proj", up="up_proj", down="down_proj")
    x = normal(12, tokens, WIDTH)
    output = truth.moe_ffn(x, normal(13, 6, WIDTH), ExpertWeights(**arrays, activation=activation), BEST_TWO)
    assert_matches(through_mlx(mx, layer, x, output.routing), output.y, "y")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_experts_without_a_gate_are_those_of_mlx_lm(mx, activation, bias):
    function = getattr(outside("mlx.nn"), activation)
    layer = outside("mlx_lm.models.switch_layers").SwitchMLP(WIDTH, INNER, 6, function, bias)
    arrays = mlx_weights(mx, layer, up="fc1", down="fc2")
    x = normal(14, TOKENS, WIDTH)
    output = truth.moe_ffn(
        x, normal(15, 6, WIDTH), ExpertWeights(gate=None, **arrays, activation=activation), BEST_TWO
    )
    assert_matches(through_mlx(mx, layer, x, output.routing), output.y, "y")


def mlx_weights(mx, layer, **names):
    """Random weights for these linear layers; returns them under our names."""
    arrays = {}
    for seed, (ours, theirs) in enumerate(names.items()):
        linear = layer[theirs]
        linear.weight = mx.array(normal([seed, 0], *linear.weight.shape))
        arrays[ours] = np.array(linear.weight)
        if "bias" in linear:
            linear.bias = mx.array(normal([seed, 1], *linear.bias.shape))
            arrays[f"{ours}_bias"] = np.array(linear.bias)
    return arrays


each_quantisation = pytest.mark.parametrize(
    ("bits", "group_size"), [(bits, size) for bits in (4, 8) for size in (32, 64, 128)]
)


def quantized_matrix(codes, scales, biases):
    return QuantizedMatrix(np.array(codes), np.array(scales), np.array(biases))


@each_quantisation
def test_codes_are_unpacked_as_mlx_unpacks_them(mx, bits, group_size):
    rng = np.random.default_rng(16)
    codes = rng.integers(0, 2**32, (2, 3, 256 * bits // 32), dtype=np.uint32)
    scales = np.ones((2, 3, 256 // group_size), np.float32)
    expected = mx.dequantize(*map(mx.array, (codes, scales, 0 * scales)), group_size=group_size, bits=bits)
    for e in range(2):
        actual = reference.dequantized(QuantizedMatrix(codes, scales, 0 * scales), e, bits, group_size)
        np.testing.assert_array_equal(actual, np.array(expected[e]))  # whole numbers


@each_quantisation
def test_what_mlx_quantises_is_dequantised_as_mlx_does(mx, bits, group_size):
    packed = mx.quantize(mx.array(normal(17, 2, 3, 256)), group_size=group_size, bits=bits)
    theirs = np.array(mx.dequantize(*packed, group_size=group_size, bits=bits))
    for e in range(2):
        expected = truth.dequantized(quantized_matrix(*packed), e, bits, group_size)
        assert_matches(theirs[e], expected, f"expert {e}")


@each_quantisation
def test_quantised_experts_are_those_of_mlx_lm(mx, bits, group_size):
    width, inner = group_size, 2 * group_size
    layer = outside("mlx_lm.models.switch_layers").SwitchGLU(width, inner, 3)
    arrays = mlx_weights(mx, layer, gate="gate_proj", up="up_proj", down="down_proj")
    matrices = {}
    for name in arrays:
        quantized = layer[f"{name}_proj"].to_quantized(group_size, bits)
        layer[f"{name}_proj"] = quantized
        matrices[name] = quantized_matrix(quantized.weight, quantized.scales, quantized.biases)
    x = normal(18, 3, width)
    experts = QuantizedExpertWeights(**matrices, bits=bits, group_size=group_size)
    output = truth.moe_ffn(x, normal(19, 3, width), experts, BEST_TWO)
    assert_matches(through_mlx(mx, layer, x, output.routing), output.y, "y")
