"""The ground truth of whole models against the outside world: transformers and MLX compute the same.

A reference that only its own suite has seen proves nothing: both may rest on one misreading. What computes in
float32 outside is judged as a submission is, by the allowance of its input.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from grading.bugs import Bug
from grading.edited import reference as edited
from grading.matching import assert_identical, assert_matches
from grading.truth import FLOAT32_INSIDE, GroundTruth
from reference import models as reference
from tests.suite.outside import normal, outside

IN_FLOAT32 = """from grading.edited import reference
from grading.truth import FLOAT32_INSIDE
long_context, moe = (reference(topic, FLOAT32_INSIDE) for topic in ("long_context", "moe"))
"""
truth = GroundTruth("models")
truth.plain = edited(  # the other parts of the reference that it is made of, too
    "models",
    FLOAT32_INSIDE,
    Bug(
        "",
        "computes in float32",
        "",
        (
            ("from reference import long_context, moe\n", IN_FLOAT32),
            ("from reference import long_context\n", IN_FLOAT32),
        ),
    ),
)


@pytest.fixture(scope="module")
def torch():
    return outside("torch")


@pytest.fixture(scope="module")
def mx():
    return outside("mlx.core")


def ids(seed, count, vocab_size):
    return np.random.default_rng(seed).integers(0, vocab_size, count)


def arrays(model):
    """As a checkpoint has them: a matrix with two uses once."""
    tied = model.config.tie_word_embeddings
    tensors = model.state_dict().items()
    return {name: tensor.numpy() for name, tensor in tensors if not (tied and name == "lm_head.weight")}


def randomize(torch, model):
    """Norms around 1, biases around 0, and matrices that keep the size of what they are given: then scores
    and gates are neither all alike nor all decided, and nothing hides behind a zero."""
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            values = rng.standard_normal(tuple(tensor.shape))
            around = 1 if name.lower().endswith("norm.weight") else 0
            spread = 0.3 if tensor.ndim == 1 else 1 / np.sqrt(tensor.shape[-1])
            tensor.copy_(torch.from_numpy(around + spread * values))


def assert_rounding_decides_nothing(expected):
    """On this input float32 chooses the same experts, so the allowance is one of rounding."""
    assert expected.allowed < 1e-4 * np.abs(expected.value).max()


# Decoders -------------------------------------------------------------------------------------------------

SIZES = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "rms_norm_eps": 1e-3,
    "max_position_embeddings": 64,
}
EXPERTS = {"model_type": "qwen3_moe", "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 8}


def rope(kind, **values):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **values}}


DECODERS = {
    "Llama": {"model_type": "llama"},
    "Llama, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "Llama, head_dim from the width": {"model_type": "llama", "head_dim": None},
    "Llama, one head a kv head": {"model_type": "llama", "num_key_value_heads": 6},
    "Llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "Llama, linear": {"model_type": "llama", **rope("linear", factor=3.0)},
    "Llama, dynamic": {"model_type": "llama", "max_position_embeddings": 8, **rope("dynamic", factor=2.0)},
    "Llama, yarn": {
        "model_type": "llama",
        **rope("yarn", factor=4.0, original_max_position_embeddings=16),
    },
    "Llama 3": {
        "model_type": "llama",
        **rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=16,
        ),
    },
    "Mistral": {"model_type": "mistral", "sliding_window": 5},
    "Mistral without a window": {"model_type": "mistral", "sliding_window": None},
    "Qwen3": {"model_type": "qwen3", "rope_theta": 1000000.0},
    "Qwen3, windows from the second layer on": {
        "model_type": "qwen3",
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
    },
    "Qwen3, windows where listed": {
        "model_type": "qwen3",
        "use_sliding_window": True,
        "sliding_window": 4,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "Qwen3, a window that is not in use": {
        "model_type": "qwen3",
        "sliding_window": 4,
        "max_window_layers": 0,
    },
    "Qwen3-MoE": {**EXPERTS, "norm_topk_prob": True},
    "Qwen3-MoE, weights as they are": {**EXPERTS, "norm_topk_prob": False},
    "Qwen3-MoE, some layers dense": {**EXPERTS, "mlp_only_layers": [1]},
    "Qwen3-MoE, windows": {**EXPERTS, "use_sliding_window": True, "sliding_window": 3},
}


def tiny_decoder(torch, name, **changes):
    """Its config.json, with the defaults left out, and the model."""
    transformers = outside("transformers")
    config = {**SIZES, **DECODERS[name], **changes}
    auto = transformers.AutoModelForCausalLM
    model = auto.from_config(transformers.AutoConfig.for_model(**config), attn_implementation="eager").eval()
    randomize(torch, model)
    return config, model


def their_logits(torch, model, tokens):
    with torch.no_grad():
        return model(torch.from_numpy(tokens)[None], use_cache=False).logits[0].numpy()


@pytest.mark.parametrize("name", DECODERS)
def test_a_tiny_model_gives_the_logits_of_transformers(torch, name):
    config, model = tiny_decoder(torch, name)
    tokens = ids(2, 13, 37)
    expected = truth.logits(config, arrays(model), tokens)
    assert_rounding_decides_nothing(expected)
    assert_matches(their_logits(torch, model, tokens), expected)


@pytest.mark.parametrize(("window", "sinks"), [(4, 2), (3, 0), (1, 3), (20, 1)])
def test_what_sees_sinks_and_a_window_answers_as_if_nothing_else_had_been_said(torch, window, sinks):
    """With one layer, whose keys and values know nothing of other tokens."""
    config, model = tiny_decoder(torch, "Llama 3", num_hidden_layers=1)
    tokens = ids(11, 13, 37)
    expected = truth.logits(config, arrays(model), tokens, kept=(window, sinks))
    for end in range(1, 14):
        seen = [i for i in range(end) if i < sinks or i >= end - window]
        theirs = their_logits(torch, model, tokens[seen])[-1]
        assert_matches(theirs, replace(expected, value=expected.value[end - 1]), f"after {end} tokens")


# Its context ----------------------------------------------------------------------------------------------


def test_a_context_in_pieces_gives_the_logits_of_the_whole(torch):
    config, model = tiny_decoder(torch, "Qwen3, windows from the second layer on")
    weights, tokens = arrays(model), ids(3, 11, 37)
    started = reference.start(config, weights)
    pieces = [started.forward(tokens[a:b]) for a, b in ((0, 4), (4, 5), (5, 11))]
    whole = reference.logits(config, weights, tokens).astype(np.float32)
    assert_identical(np.concatenate(pieces)[4:], whole[4:])
    assert (started.vocab_size, started.max_length, started.length()) == (37, 64, 11)


def test_a_truncated_context_goes_on_as_if_the_rest_had_never_been(torch):
    config, model = tiny_decoder(torch, "Llama")
    weights, tokens = arrays(model), ids(4, 9, 37)
    started = reference.start(config, weights)
    started.forward(tokens[:7])
    started.truncate(5)
    assert started.length() == 5
    other = started.forward(tokens[7:])
    fresh = reference.start(config, weights)
    fresh.forward(tokens[:5])
    assert_identical(other, fresh.forward(tokens[7:]))


def test_only_the_last_rows_are_asked_for(torch):
    config, model = tiny_decoder(torch, "Llama")
    weights, tokens = arrays(model), ids(7, 5, 37)
    whole = reference.logits(config, weights, tokens).astype(np.float32)
    assert_identical(reference.start(config, weights).forward(tokens, last=2), whole[3:])
    assert_identical(reference.start(config, weights).forward(tokens, last=9), whole)


def test_a_node_of_a_tree_follows_its_ancestors_and_nothing_else(torch):
    """Against transformers with a mask and positions of our own: a tree in one pass."""
    config, model = tiny_decoder(torch, "Llama")
    weights, tokens = arrays(model), ids(8, 9, 37)
    parents = [-1, -1, 0, 0, 2]  # of the last five tokens
    ancestors = [{0}, {1}, {0, 2}, {0, 3}, {0, 2, 4}]  # itself included
    started = reference.start(config, weights)
    started.forward(tokens[:4])
    rows = started.forward(tokens[4:], parents=parents)
    assert started.length() == 4

    visible = np.tril(np.ones((9, 9), bool))
    visible[4:, 4:] = [[other in mine for other in range(5)] for mine in ancestors]
    positions = np.array([0, 1, 2, 3, *(3 + len(mine) for mine in ancestors)])
    mask = torch.from_numpy(np.where(visible, 0, -np.inf).astype(np.float32))[None, None]
    with torch.no_grad():
        theirs = (
            model(
                torch.from_numpy(tokens)[None],
                attention_mask=mask,
                position_ids=torch.from_numpy(positions)[None],
                use_cache=False,
            )
            .logits[0, 4:]
            .numpy()
        )
    for node, mine in enumerate(ancestors):
        path = np.concatenate([tokens[:4], [tokens[4 + each] for each in sorted(mine)]])
        expected = truth.logits(config, weights, path)
        assert_matches(theirs[node], replace(expected, value=expected.value[-1]), f"node {node}")
        assert_identical(rows[node], expected.value[-1].astype(np.float32))

    started.accept([0, 3])
    assert started.length() == 6
    after = started.forward(tokens[:1])
    whole = reference.logits(config, weights, np.concatenate([tokens[:4], tokens[[4, 7, 0]]]))
    assert_identical(after[0], whole[-1].astype(np.float32))


@pytest.mark.parametrize(("name", "after"), [("Llama, dynamic", 8), ("Llama, yarn", None)])
def test_only_a_rotation_that_looks_at_the_length_changes_with_it(torch, name, after):
    config, model = tiny_decoder(torch, name)
    assert reference.start(config, arrays(model)).rope_changes_after == after


# Encoders -------------------------------------------------------------------------------------------------

TINY_BERT = {
    "vocab_size": 41,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "layer_norm_eps": 1e-3,
}


def their_embedding(torch, model, tokens):
    """Pooled as sentence-transformers does it, in a batch with a longer text, so with padding."""
    padded = torch.zeros(2, len(tokens) + 3, dtype=torch.int64)
    padded[0, : len(tokens)] = torch.from_numpy(tokens)
    mask = torch.ones_like(padded)
    mask[0, len(tokens) :] = 0
    with torch.no_grad():
        states = model(padded, attention_mask=mask).last_hidden_state[0]
    mean = (states * mask[0, :, None]).sum(0) / mask[0].sum()
    return torch.nn.functional.normalize(mean, dim=0).numpy()


@pytest.mark.parametrize("count", [1, 2, 13])
def test_a_tiny_encoder_gives_the_embeddings_of_transformers(torch, count):
    transformers = outside("transformers")
    config = transformers.BertConfig(**TINY_BERT)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    randomize(torch, model)
    tokens = ids(count, count, 41)
    expected = truth.embed(config.to_dict(), arrays(model), tokens)
    assert_matches(their_embedding(torch, model, tokens), expected)


# Files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_in_several_files_holds_what_transformers_saved(torch, tmp_path, dtype):
    config, model = tiny_decoder(torch, "Qwen3-MoE, some layers dense")
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    read_config, weights = reference.read_folder(tmp_path)
    saved = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    assert read_config["hidden_size"] == config["hidden_size"]
    assert {str(values.dtype) for values in weights.values()} == {dtype}
    tokens = ids(5, 6, 37)
    np.testing.assert_array_equal(
        reference.logits(read_config, weights, tokens), reference.logits(config, saved, tokens)
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_matrices_are_expanded_as_mlx_does(mx, tmp_path, bits):
    matrix, other = normal(1, 6, 64), normal(2, 3, 128)
    expected = {"norm.weight": normal(3, 64), "b.c.bias": normal(4, 3)}
    tensors = {name: mx.array(values) for name, values in expected.items()}
    for name, values, group in (("a", matrix, 32), ("b.c", other, 64)):
        codes, scales, biases = mx.quantize(mx.array(values), group_size=group, bits=bits)
        tensors |= {f"{name}.weight": codes, f"{name}.scales": scales, f"{name}.biases": biases}
        expected[f"{name}.weight"] = np.array(
            mx.dequantize(codes, scales, biases, group_size=group, bits=bits)
        )
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    how = {"group_size": 32, "bits": bits, "b.c": {"group_size": 64, "bits": bits}}
    (tmp_path / "config.json").write_text(json.dumps({"quantization": how}))
    _, weights = reference.read_folder(tmp_path)
    assert weights.keys() == expected.keys()
    for name, values in weights.items():  # one product and one sum in float32, maybe fused
        unit = np.spacing(np.abs(expected[name]).max())
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=unit)


IN_GGUF = {  # as llama.cpp names them
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def in_gguf(name, values, config):
    """The name and the rows of a tensor, as llama.cpp's convert_hf_to_gguf.py writes them for a Llama."""
    *before, part, suffix = name.split(".")
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(part)
    if heads:  # LlamaModel.permute
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        values = halves.swapaxes(1, 2).reshape(values.shape)
    block = f"blk.{before[2]}." if "layers" in before else ""
    return f"{block}{IN_GGUF[part]}.{suffix}", values


@pytest.mark.parametrize("name", ["Llama", "Llama, tied", "Llama with biases"])
def test_a_gguf_file_holds_what_its_folder_held(torch, mx, tmp_path, name):
    config, model = tiny_decoder(torch, name)
    if name == "Llama with biases":  # those of the feed forward have no name there
        config = {**config, "mlp_bias": False}
    weights = {key: v for key, v in arrays(model).items() if "mlp" not in key or key.endswith("weight")}
    settings = {
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "block_count": config["num_hidden_layers"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "context_length": config["max_position_embeddings"],
        "vocab_size": config["vocab_size"],
    }
    metadata = {f"llama.{key}": mx.array(value, mx.uint32) for key, value in settings.items()}
    metadata["llama.attention.layer_norm_rms_epsilon"] = mx.array(config["rms_norm_eps"], mx.float32)
    metadata["general.architecture"] = "llama"
    tensors = dict(in_gguf(key, values, config) for key, values in weights.items())
    mx.save_gguf(str(tmp_path / "a.gguf"), {k: mx.array(v) for k, v in tensors.items()}, metadata)

    read_config, read = reference.read_gguf(tmp_path / "a.gguf")
    assert read.keys() == weights.keys()
    for key, values in weights.items():
        assert_identical(read[key], values, key)
    tokens = ids(6, 7, 37)
    rounded = {**config, "rms_norm_eps": float(np.float32(config["rms_norm_eps"]))}
    expected = reference.logits(rounded, weights, tokens)
    np.testing.assert_array_equal(reference.logits(read_config, read, tokens), expected)
