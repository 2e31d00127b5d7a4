"""What the config.json of a checkpoint says about rotation."""

from spec import NotSupported
from spec.long_context import DynamicNTK, Linear, Llama3, LongRoPE, RopeConfig, YaRN

from .basics import expect
from .frequencies import growth

# As their modelling code in transformers 5.24 does it.
SCALES_SOFTMAX = (
    "axk1",
    "axk2",
    "bailing_hybrid",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "hy_v4_vl_text",
    "longcat_flash",
    "mistral4",
    "mistral_large4_text",
    "youtu",
)

INTERLEAVED = (
    *SCALES_SOFTMAX,
    "cohere",
    "cohere2",
    "cohere2_moe",
    "ernie4_5",
    "ernie4_5_moe",
    "ernie4_5_vl_moe_text",
    "glm",
    "glm4",
    "glm4v_text",
    "glm_ocr_text",
    "helium",
    "llama4_text",
    "moonshine",
    "openai_privacy_filter",
)


def rope_config_from_hf(config, layer_type=None):
    config = without_nulls(config)
    entry = without_nulls(rope_entry(config, layer_type))
    base = config.get("rope_theta", config.get("rotary_emb_base", 10000.0))
    base = entry.get("rope_theta", base)
    fraction = config.get("partial_rotary_factor", config.get("rotary_pct", 1.0))
    fraction = entry.get("partial_rotary_factor", fraction)
    if "qk_rope_head_dim" in config:
        fraction = 1.0  # these channels are the part that rotates
    interleaved = config.get("model_type") in INTERLEAVED and config.get("rope_interleave", True)
    return RopeConfig(head_dim(config), base, fraction, interleaved, scaling_of(entry, config))


def rope_entry(config, layer_type):
    """The dictionary about rotation that holds for this kind of layer."""
    entry = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kinds = {name: value for name, value in entry.items() if isinstance(value, dict)}
    if not kinds and "rope_local_base_freq" in config:  # Gemma 3
        kinds = {"full_attention": entry, "sliding_attention": {"rope_theta": config["rope_local_base_freq"]}}
    if not kinds and config.get("model_type") == "olmo3":
        kinds = {"full_attention": entry, "sliding_attention": {}}
    if not kinds:
        return entry
    expect(layer_type in kinds, "layer_type", " or ".join(sorted(kinds)), layer_type)
    return kinds[layer_type]


def head_dim(config):
    for key in ("qk_rope_head_dim", "head_dim"):
        if key in config:
            return config[key]
    return setting(config, "hidden_size") // setting(config, "num_attention_heads")


def scaling_of(entry, config):
    kind = entry.get("rope_type", entry.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return Linear(setting(entry, "factor"))
    if kind == "dynamic":
        return DynamicNTK(setting(entry, "factor"), setting(config, "max_position_embeddings"))
    if kind not in ("yarn", "llama3", "longrope", "su"):
        raise NotSupported(f"rope_type: expected one that spec/long_context.md lists, got {kind!r}")
    key = "original_max_position_embeddings"
    original = setting(config if key in config else entry, key)
    if kind == "llama3":
        low, high = setting(entry, "low_freq_factor"), setting(entry, "high_freq_factor")
        return Llama3(setting(entry, "factor"), low, high, original)
    factor = entry.get("factor")
    if factor is None:
        factor = setting(config, "max_position_embeddings") / original
    attention_factor = entry.get("attention_factor")
    if kind == "yarn":
        mscale, all_dim = entry.get("mscale") or None, entry.get("mscale_all_dim") or None
        if config.get("model_type") not in SCALES_SOFTMAX:
            if attention_factor is None and mscale and all_dim:
                attention_factor = growth(factor, mscale) / growth(factor, all_dim)
            mscale = all_dim = None
        return YaRN(
            factor,
            original,
            entry.get("beta_fast") or 32.0,
            entry.get("beta_slow") or 1.0,
            entry.get("truncate", True),
            attention_factor,
            mscale,
            all_dim,
        )
    short, long = tuple(setting(entry, "short_factor")), tuple(setting(entry, "long_factor"))
    return LongRoPE(short, long, original, factor, attention_factor)


def without_nulls(entry):
    return {key: value for key, value in entry.items() if value is not None}


def setting(entry, key):
    expect(key in entry, key, "a value in the config", "none")
    return entry[key]
