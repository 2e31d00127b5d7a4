"""Decoders of a few thousand random weights, made and saved by transformers."""

import numpy as np

from grading.tolerance import allowance
from tests.suite.outside import outside

VOCAB, HEAD_DIM = 37, 8
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "norm_topk_prob": True}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FAMILIES = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama3": ("Llama", {"tie_word_embeddings": False, "rope_parameters": LLAMA3}),
    "yarn": ("Llama", {"rope_parameters": YARN}),
    "mistral": ("Mistral", {"sliding_window": 7}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "qwen3_moe": ("Qwen3Moe", EXPERTS | {"mlp_only_layers": [1]}),
}


def tiny(name, **changes):
    """A model of transformers in float32, no two weights alike, gains included."""
    torch, transformers = outside("torch"), outside("transformers")
    prefix, settings = FAMILIES[name]
    config = getattr(transformers, f"{prefix}Config")(**SHAPE | settings | changes)
    config._attn_implementation = config._experts_implementation = "eager"
    model = getattr(transformers, f"{prefix}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            spread = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.3 * spread if key.endswith("norm.weight") else 0.3 * spread)
    return model


def logits_of(model, ids, **options):
    """What transformers computes in float64, (tokens, V), and how far off float32 may be."""
    torch = outside("torch")

    def logits():
        return model(torch.tensor(ids)[None], **options).logits[0].numpy()

    with torch.no_grad():
        plain, shaken = logits(), []
        weights = {name: values.clone() for name, values in model.state_dict().items()}
        model.double()
        exact = logits()
        for seed in range(2):  # one evaluation in float32 may be right by luck
            draw = torch.Generator().manual_seed(seed)
            for values in model.parameters():
                values *= 1 + (2 * torch.rand(values.shape, generator=draw, dtype=values.dtype) - 1) * 2**-24
            shaken.append(logits())
            model.load_state_dict(weights)
        model.float()
    return exact, allowance(exact, plain, shaken)


def tokens(count, seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, count).tolist()
