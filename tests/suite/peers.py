"""Routers of transformers and mlx-lm behind `route`: their code, our adapters, nothing made right on the way.

A router multiplies hidden states with its matrix. With the identity for a matrix its hidden states are
logits. What a router has no option for it declines, as an engineer who tries his own code here would: in what
stands for his `week3.toml`.
"""

from types import ModuleType, SimpleNamespace

from grading.boundary.session import InProcess
from grading.candidates import Candidate
from spec.moe import Routing
from tests.suite.outside import outside


def peer(name, framework, route, declines):
    module = ModuleType(f"{name} of {framework}")
    module.route = route

    def open_session(topic):
        return InProcess(lambda: module, topic, framework, declines=declines)

    return Candidate(name, open_session, suspects=())


# transformers


def torch_router(model, name, logits, **settings):
    """The router of a model, with the identity for its matrix."""
    torch = outside("torch")
    experts = logits.shape[-1]
    names = ("hidden_size", "num_experts", "num_local_experts")
    module = outside(f"transformers.models.{model}.modeling_{model}")
    router = getattr(module, name)(SimpleNamespace(**dict.fromkeys(names, experts), **settings))
    router.weight = torch.nn.Parameter(torch.eye(experts, dtype=logits.dtype), requires_grad=False)
    return router.to(logits.dtype)


def routing_of_torch(router, logits):
    _, weights, experts = router(logits)
    return Routing(experts, weights.float())


def mixtral_of_transformers(logits, config, *, selection_bias=None):
    router = torch_router("mixtral", "MixtralTopKRouter", logits, num_experts_per_tok=config.top_k)
    return routing_of_torch(router, logits)


def qwen3_of_transformers(logits, config, *, selection_bias=None):
    settings = {"num_experts_per_tok": config.top_k, "norm_topk_prob": config.normalize}
    return routing_of_torch(torch_router("qwen3_moe", "Qwen3MoeTopKRouter", logits, **settings), logits)


def gpt_oss_of_transformers(logits, config, *, selection_bias=None):
    router = torch_router("gpt_oss", "GptOssTopKRouter", logits, num_experts_per_tok=config.top_k)
    return routing_of_torch(router, logits)


def deepseek_v3_of_transformers(logits, config, *, selection_bias=None):
    router = torch_router(
        "deepseek_v3",
        "DeepseekV3TopkRouter",
        logits.float(),  # it computes in float32 itself
        num_experts_per_tok=config.top_k,
        n_group=config.n_groups,
        topk_group=config.top_groups,
        norm_topk_prob=config.normalize,
        routed_scaling_factor=config.scale,
    )
    if selection_bias is not None:
        router.e_score_correction_bias = selection_bias
    return routing_of_torch(router, logits)


# mlx-lm


def routing_of_block(block, logits):
    """Of a layer whose experts answer with their own id, a row with a single 1: it puts out the weights."""
    mx = outside("mlx.core")
    experts = logits.shape[-1]
    chosen = []

    def answer(x, ids):
        chosen.append(ids)
        return mx.eye(experts)[ids]

    block.switch_mlp = answer
    block.gate.weight = mx.eye(experts, dtype=logits.dtype)
    weights = block(logits)
    return Routing(chosen[0], mx.take_along_axis(weights, chosen[0], axis=-1).astype(mx.float32))


def mlx_block(model, name, logits, **settings):
    sizes = ("hidden_size", "num_experts", "num_local_experts")
    inner = {"intermediate_size": 1, "moe_intermediate_size": 1}
    block = getattr(outside(f"mlx_lm.models.{model}"), name)
    return block(SimpleNamespace(**dict.fromkeys(sizes, logits.shape[-1]), **inner, **settings))


def mixtral_of_mlx_lm(logits, config, *, selection_bias=None):
    settings = {"num_experts_per_tok": config.top_k}
    return routing_of_block(mlx_block("mixtral", "MixtralSparseMoeBlock", logits, **settings), logits)


def qwen3_of_mlx_lm(logits, config, *, selection_bias=None):
    settings = {"num_experts_per_tok": config.top_k, "norm_topk_prob": config.normalize}
    return routing_of_block(mlx_block("qwen3_moe", "Qwen3MoeSparseMoeBlock", logits, **settings), logits)


def deepseek_v3_of_mlx_lm(logits, config, *, selection_bias=None):
    select = outside("mlx_lm.models.deepseek_v3").group_expert_select
    bias = outside("mlx.core").zeros(logits.shape[-1]) if selection_bias is None else selection_bias
    groups = config.n_groups, config.top_groups
    return Routing(*select(logits, bias, config.top_k, *groups, config.scale, config.normalize))


GROUPS = ["moe.groups.max", "moe.groups.top2_sum"]
UNROUNDED = "moe.router_dtype.float32"  # weights in the activations' dtype are what these models have
QWEN3 = ["moe.scoring.sigmoid", "moe.scoring.softmax_of_topk", "moe.selection_bias", "moe.weights.scaled"]
QWEN3 += [*GROUPS, UNROUNDED]
MIXTRAL = [*QWEN3, "moe.weights.as_scored"]
GPT_OSS = ["moe.scoring.sigmoid", "moe.scoring.softmax", "moe.selection_bias", "moe.weights.scaled"]
GPT_OSS += [*GROUPS, UNROUNDED]
DEEPSEEK_V3 = ["moe.scoring.softmax", "moe.scoring.softmax_of_topk", "moe.groups.max"]

PEERS = {
    "transformers, Mixtral": ("torch", mixtral_of_transformers, MIXTRAL),
    "transformers, Qwen3-MoE": ("torch", qwen3_of_transformers, QWEN3),
    "transformers, gpt-oss": ("torch", gpt_oss_of_transformers, GPT_OSS),
    "transformers, DeepSeek-V3": ("torch", deepseek_v3_of_transformers, DEEPSEEK_V3),
    "mlx-lm, Mixtral": ("mlx", mixtral_of_mlx_lm, MIXTRAL),
    "mlx-lm, Qwen3-MoE": ("mlx", qwen3_of_mlx_lm, QWEN3),
    "mlx-lm, DeepSeek-V3": ("mlx", deepseek_v3_of_mlx_lm, DEEPSEEK_V3),
}
