"""The ground truth of positions against the outside world: transformers, MLX and mlx-lm rotate the same.

A reference that only its own suite has seen proves nothing: both may rest on one misreading. What computes in
float32 outside is judged as a submission is, by the allowance of its input.
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from grading.matching import assert_equal, assert_matches
from grading.tolerance import allowance
from grading.truth import Expected, GroundTruth
from reference import long_context as reference
from spec.long_context import RopeConfig
from tests.suite.outside import normal, outside

truth = GroundTruth("long_context")


@pytest.fixture(scope="module")
def torch():
    return outside("torch")


@pytest.fixture(scope="module")
def mx():
    return outside("mlx.core")


def assert_same_number(actual, expected, what):
    """A number worked out in Python on both sides, as float32 tells numbers apart."""
    rounded = np.asarray(expected, np.float32)
    assert_matches(
        np.asarray(actual, np.float32),
        Expected(np.asarray(expected), rounded.dtype, allowance(np.asarray(expected), rounded)),
        what,
    )


def assert_same_frequencies(actual, config, seq_len=None):
    """Each pair relative to its own size: the slowest turn a millionth as fast as the first."""
    exact, plain = (side.rope_frequencies(config, seq_len).inv_freq for side in (truth.exact, truth.plain))
    assert actual.dtype == np.float32
    ones, relative = np.ones(exact.shape), plain / exact.astype(np.float64)
    allowed = allowance(ones, relative.astype(np.float32))
    ratios = (actual / exact.astype(np.float64)).astype(np.float32)
    assert_matches(ratios, Expected(ones, ratios.dtype, allowed), "inv_freq, in parts of what is expected")


# Frequencies ----------------------------------------------------------------------------------------------

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
QWEN2 = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 131072,
}
LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
DEEPSEEK = {"hidden_size": 2048, "num_attention_heads": 16, "qk_rope_head_dim": 64, "rope_theta": 10000}
DEEPSEEK_YARN = {
    "type": "yarn",
    "factor": 40,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 4096,
}
PHI3 = {
    "model_type": "phi3",
    "hidden_size": 3072,
    "num_attention_heads": 32,
    "original_max_position_embeddings": 4096,
    "max_position_embeddings": 131072,
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1 + i / 100 for i in range(48)],
    "long_factor": [1 + i**2 / 36 for i in range(48)],
}

# What the config.json of a release says about rotation, in the keys of its time, and variants of that.
# "su", the first name of "longrope", is missing: transformers 5 renames it, but only after it missed a key.
RELEASED = {
    "Llama 2": {**LLAMA, "max_position_embeddings": 4096},
    "Vicuna 1.5 with 16k": {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "Llama with dynamic NTK": {
        **LLAMA,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "max_position_embeddings": 4096,
    },
    "Llama 3.1": {**LLAMA, "rope_theta": 500000.0, "rope_scaling": LLAMA3, "max_position_embeddings": 131072},
    "Qwen 2.5 with YaRN": {**QWEN2, "rope_scaling": YARN},
    "Llama 3.1 with an entry of transformers 5 beside it": {
        **LLAMA,
        "rope_scaling": LLAMA3,
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0},
    },
    "YaRN with a null factor": {**QWEN2, "rope_scaling": {**YARN, "factor": None}},
    "YaRN with an attention factor": {**QWEN2, "rope_scaling": {**YARN, "attention_factor": 1.5}},
    "YaRN with other ends": {**QWEN2, "rope_scaling": {**YARN, "beta_fast": 8, "beta_slow": 8}},
    "YaRN with one end": {
        **QWEN2,
        "rope_scaling": {**YARN, "beta_fast": 8, "beta_slow": 8, "truncate": False},
    },
    "YaRN from before the first pair": {
        **QWEN2,
        "rope_scaling": {**YARN, "original_max_position_embeddings": 64},
    },
    "YaRN to beyond the last pair": {
        **QWEN2,
        "rope_theta": 20.0,
        "rope_scaling": {**YARN, "original_max_position_embeddings": 3000},
    },
    "YaRN with mscale": {**QWEN2, "rope_scaling": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.3}},
    "gpt-oss": {
        "model_type": "gpt_oss",
        "hidden_size": 2880,
        "num_attention_heads": 64,
        "head_dim": 64,
        "rope_theta": 150000,
        "rope_scaling": {**DEEPSEEK_YARN, "factor": 32.0, "truncate": False},
        "max_position_embeddings": 131072,
    },
    "DeepSeek V2 Lite": {
        **DEEPSEEK,
        "model_type": "deepseek_v2",
        "rope_scaling": {**DEEPSEEK_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
        "max_position_embeddings": 163840,
    },
    "DeepSeek V3": {
        **DEEPSEEK,
        "model_type": "deepseek_v3",
        "rope_scaling": {**DEEPSEEK_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        "max_position_embeddings": 163840,
    },
    "DeepSeek with two mscales": {
        **DEEPSEEK,
        "model_type": "deepseek_v3",
        "rope_scaling": {**DEEPSEEK_YARN, "mscale": 1.0, "mscale_all_dim": 0.6},
        "max_position_embeddings": 163840,
    },
    "Phi 3 mini with 128k": {**PHI3, "rope_scaling": LONGROPE},
    "Phi 4 mini": {
        **PHI3,
        "num_attention_heads": 24,
        "partial_rotary_factor": 0.75,
        "rope_scaling": LONGROPE,
    },
    "LongRoPE with a factor": {**PHI3, "rope_scaling": {**LONGROPE, "factor": 8.0}},
    "LongRoPE with an attention factor": {**PHI3, "rope_scaling": {**LONGROPE, "attention_factor": 1.1}},
    "Phi 2": {
        "model_type": "phi",
        "hidden_size": 2560,
        "num_attention_heads": 32,
        "partial_rotary_factor": 0.4,
        "rope_theta": 10000.0,
    },
    "Pythia": {
        "model_type": "gpt_neox",
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
    },
    "GLM 4": {
        "model_type": "glm4",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "head_dim": 128,
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0,
    },
    "Qwen 3": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "head_dim": 128,
        "rope_theta": 1000000,
    },
    "Command R": {
        "model_type": "cohere",
        "hidden_size": 8192,
        "num_attention_heads": 64,
        "rope_theta": 8000000.0,
    },
    "Gemma 3": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "num_attention_heads": 8,
        "head_dim": 256,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "OLMo 3": {
        "model_type": "olmo3",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "rope_theta": 500000,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
        },
        "max_position_embeddings": 65536,
    },
}


def transformers_config(**settings):
    """From a copy, since transformers writes into what it is given."""
    return outside("transformers").AutoConfig.for_model(**deepcopy(settings))


def modeling(config):
    return outside(type(config).__module__.replace("configuration", "modeling"))


def rotary_embedding(config):
    module = modeling(config)
    (found,) = [name for name in vars(module) if name.endswith("RotaryEmbedding")]
    return getattr(module, found)(config)


def layer_types(config):
    """The kinds of layers that rotate in their own way; None for all of them."""
    nested = [name for name, entry in config.rope_parameters.items() if isinstance(entry, dict)]
    return nested or [None]


@pytest.mark.parametrize("form", ["released", "saved"])
@pytest.mark.parametrize("name", RELEASED)
def test_frequencies_are_those_of_transformers(torch, name, form):
    config = transformers_config(**RELEASED[name])
    for layer_type in layer_types(config):
        ours = reference.rope_config_from_hf(
            RELEASED[name] if form == "released" else config.to_dict(), layer_type
        )
        original = getattr(ours.scaling, "original_length", 4096)
        for length in (1, original - 1, original, original + 1, 5 * original):
            theirs = rotary_embedding(config)  # a new one: dynamic NTK remembers what it met
            theirs(torch.zeros(1), torch.tensor([[length - 1]]), *([layer_type] if layer_type else []))
            prefix = f"{layer_type}_" if layer_type else ""
            assert_same_frequencies(getattr(theirs, f"{prefix}inv_freq").numpy(), ours, length)
            factor = reference.rope_frequencies(ours, length).attention_factor
            assert_same_number(getattr(theirs, f"{prefix}attention_scaling"), factor, "attention_factor")


def test_yarn_without_the_key_of_its_factor_is_refused_by_transformers():
    """So LC-22 lets it be refused."""
    missing = {key: value for key, value in YARN.items() if key != "factor"}
    with pytest.raises(KeyError, match="factor"):
        transformers_config(**QWEN2, rope_scaling=missing)


@pytest.mark.parametrize("name", [name for name in RELEASED if name.startswith("DeepSeek")])
def test_the_scale_of_the_scores_is_that_of_deepseek(torch, name):
    config = transformers_config(**RELEASED[name])
    (layer,) = [name for name in vars(modeling(config)) if name.endswith(("V2Attention", "V3Attention"))]
    with torch.device("meta"):
        attention = getattr(modeling(config), layer)(config, 0)
    scale = reference.rope_frequencies(reference.rope_config_from_hf(RELEASED[name])).softmax_scale
    assert_same_number(attention.scaling * attention.qk_head_dim**0.5, scale, "softmax_scale")
    mlx_lm = outside("mlx_lm.models.rope_utils")
    assert_same_number(mlx_lm.apply_yarn_mscale(1.0, RELEASED[name]["rope_scaling"]), scale, "softmax_scale")


# Rotation -------------------------------------------------------------------------------------------------

POSITIONS = np.array([[0, 1, 2, 9, 300], [5, 6, 17, 40, 41]])  # of two sequences

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
# What a tiny model of its kind needs besides. With one position a token, all of mrope_section turn alike.
OF_ITS_KIND = {
    "bailing_hybrid": {"layer_types": ["full_attention"]},
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [8, 8],
        "rope_parameters": {**PLAIN, "mrope_section": [3, 3, 2]},
    },
    "glm4v_moe_text": {"rope_parameters": {**PLAIN, "mrope_section": [1, 1, 2]}},
    "glm4v_text": {"rope_parameters": {**PLAIN, "mrope_section": [2, 3, 3]}},
    "glm_ocr_text": {"rope_parameters": {**PLAIN, "mrope_section": [2, 3, 3]}},
    "hy_v4_vl_text": {"rope_parameters": {**PLAIN, "mrope_section": [2, 1, 1]}},
    "longcat_flash": {
        "num_hidden_layers": 2,
        "ffn_hidden_size": 24,
        "expert_ffn_hidden_size": 8,
        "moe_topk": 2,
    },
    "mistral4": {
        "rope_parameters": {
            **PLAIN,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 512,
        },
    },
    "mistral_large4_text": {"rope_parameters": PLAIN},
    "moonshine": {"rope_parameters": {**PLAIN, "partial_rotary_factor": 1.0}},
    "openai_privacy_filter": {"rope_parameters": PLAIN},
}

MODELS = {kind: {"model_type": kind} for kind in reference.INTERLEAVED}
MODELS |= {
    kind: {"model_type": kind}
    for kind in (
        "gemma2",
        "gemma3_text",
        "glm4_moe",
        "glm4v_moe_text",
        "gpt_neox",
        "gpt_oss",
        "llama",
        "mistral",
        "nemotron",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "stablelm",
    )
}
MODELS["deepseek_v3, halves"] = {"model_type": "deepseek_v3", "rope_interleave": False}

SIZES = {  # of a model that is there for its rotation: as many of these as it knows
    "hidden_size": 48,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "vocab_size": 11,
    "pad_token_id": 0,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "num_local_experts": 2,
    "num_experts_per_tok": 2,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 8,
}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}


def tiny_config(model_type, **changes):
    known = transformers_config(model_type=model_type)
    sizes = {**SIZES, **LATENT, "head_dim": 8} if hasattr(known, "kv_lora_rank") else SIZES
    sizes = {key: size for key, size in sizes.items() if hasattr(known, key)}
    return transformers_config(
        model_type=model_type, **{**sizes, **OF_ITS_KIND.get(model_type, {}), **changes}
    )


def rotations(torch, config, monkeypatch):
    """(name, inputs, outputs) of the function that the first layer of a random model rotates with.

    inputs, outputs: queries and keys, (batch, heads, tokens, channels).
    """
    module, calls = modeling(config), []

    def recorded(function):
        def call(*args, **options):
            result = function(*args, **options)
            calls.append((function.__name__, args[:2], result[:2]))
            return result

        return call

    for name, function in list(vars(module).items()):
        if name.startswith("apply_rot"):
            monkeypatch.setattr(module, name, recorded(function))
    torch.manual_seed(0)
    ids, at = torch.arange(10).reshape(2, 5), torch.from_numpy(POSITIONS)
    heard = {"encoder_hidden_states": torch.zeros(2, 3, 48)} if config.is_encoder_decoder else {}
    with torch.no_grad():
        random_decoder(config).eval()(ids, position_ids=at, use_cache=False, **heard)
    name, *sides = calls[0]
    return name, *([heads_first(x.numpy()) for x in side] for side in sides)


def random_decoder(config):
    """What turns ids into states or logits: some models have no head of their own, one no Auto class."""
    auto = outside("transformers.models.auto.modeling_auto")
    if type(config) in auto.MODEL_FOR_CAUSAL_LM_MAPPING:
        return auto.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if type(config) in auto.MODEL_MAPPING:
        model = auto.AutoModel.from_config(config, attn_implementation="eager")
        return model.get_decoder() if config.is_encoder_decoder else model
    return modeling(config).Ernie4_5_VLMoeTextModel(config)


def heads_first(x):
    tokens = POSITIONS.shape[1]
    return x.swapaxes(1, 2) if x.shape[1] == tokens else x


def in_halves(x):
    """The same channels, the pairs' first ones before all second ones."""
    return np.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_transformers_rotates_as_its_config_tells(torch, monkeypatch, name):
    config = tiny_config(**MODELS[name])
    function, inputs, outputs = rotations(torch, config, monkeypatch)
    kind = None if layer_types(config) == [None] else config.layer_types[0]
    heads = {"num_attention_heads": config.num_attention_heads}  # which Moonshine writes under other names
    ours = reference.rope_config_from_hf({**config.to_dict(), **heads}, kind)
    assert_equal(ours.interleaved, name in reference.INTERLEAVED)
    frequencies = reference.rope_frequencies(ours)
    for what, x, theirs in zip(("queries", "keys"), inputs, outputs, strict=True):
        expected = truth.apply_rope(
            x,
            POSITIONS,
            frequencies.inv_freq,
            attention_factor=frequencies.attention_factor,
            interleaved=ours.interleaved,
        )
        if function.endswith("_interleave"):  # takes pairs and hands out halves: the scores are the same
            expected = replace(expected, value=in_halves(expected.value))
        assert_matches(theirs, expected, what)


@pytest.mark.parametrize("traditional", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("offset", [0, 1, 5000])
def test_rotation_is_that_of_mlx(mx, traditional, dtype, offset):
    x = normal([offset, 0], 2, 3, 4, 10).astype(reference.DTYPES[dtype])
    inv_freq = reference.rope_frequencies(RopeConfig(10, 500.0, 0.6)).inv_freq
    expected = truth.apply_rope(x, np.arange(offset, offset + 4), inv_freq, interleaved=traditional)
    by_frequencies = {"base": None, "freqs": mx.array(1 / inv_freq)}
    for how in ({"base": 500.0}, by_frequencies):
        theirs = mx.fast.rope(to_mlx(mx, x), 6, traditional=traditional, scale=1.0, offset=offset, **how)
        assert_matches(to_numpy(mx, theirs), expected)


def to_mlx(mx, x):
    return mx.array(x.astype(np.float32)).astype(getattr(mx, x.dtype.name))


def to_numpy(mx, x):
    dtype = str(x.dtype).removeprefix("mlx.core.")
    return np.array(x.astype(mx.float32)).astype(reference.DTYPES[dtype])


def test_each_sequence_of_a_batch_has_its_own_positions_as_in_mlx(mx):
    x = normal(1, 3, 2, 4, 6)
    offsets = np.array([0, 7, 300])
    inv_freq = reference.rope_frequencies(RopeConfig(6)).inv_freq
    theirs = mx.fast.rope(
        mx.array(x), 6, traditional=False, base=10000.0, scale=1.0, offset=mx.array(offsets)
    )
    assert_matches(np.array(theirs), truth.apply_rope(x, offsets[:, None] + np.arange(4), inv_freq))


@pytest.mark.parametrize(
    "name",
    [
        "Llama 2",
        "Vicuna 1.5 with 16k",
        "Llama with dynamic NTK",
        "Llama 3.1",
        "Qwen 2.5 with YaRN",
        "YaRN with other ends",
        "YaRN with mscale",
        "Phi 3 mini with 128k",
    ],
)
def test_a_rotation_made_longer_is_that_of_mlx_lm(mx, name):
    """At the end of a long prompt, since mlx-lm has LongRoPE's long list only."""
    released = RELEASED[name]
    ours = reference.rope_config_from_hf(released)
    tokens, offset = 3, 9000
    scaling = released.get("rope_scaling", {"type": "default"})
    original = getattr(ours.scaling, "original_length", None)  # of Phi 3 it is not in the dictionary
    theirs = outside("mlx_lm.models.rope_utils").initialize_rope(
        ours.head_dim,
        ours.base,
        traditional=False,
        scaling_config={"original_max_position_embeddings": original, **scaling},
        max_position_embeddings=released.get("max_position_embeddings"),
    )
    frequencies = reference.rope_frequencies(ours, offset + tokens)
    x = normal(2, 1, 2, tokens, ours.head_dim)
    expected = truth.apply_rope(
        x,
        np.arange(offset, offset + tokens),
        frequencies.inv_freq,
        attention_factor=frequencies.attention_factor,
    )
    assert_matches(np.array(theirs(mx.array(x), offset=offset)), expected)
