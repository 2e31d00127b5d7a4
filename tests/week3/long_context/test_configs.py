"""`rope_config_from_hf`: how a checkpoint rotates, out of its config.json."""

from dataclasses import replace

import pytest

from grading.marks import requirement
from grading.matching import assert_equal, refused
from spec import InvalidArgument, NotSupported
from spec.long_context import DynamicNTK, Linear, Llama3, LongRoPE, RopeConfig, YaRN
from tests.week3.long_context.cases_rotation import assert_number, reference

HEAD = {"model_type": "llama", "hidden_size": 96, "num_attention_heads": 8}  # of 12 channels


def check(impl, config, expected, layer_type=None):
    __tracebackhide__ = True
    assert_equal(impl.rope_config_from_hf(config, layer_type), expected, "rope_config_from_hf()")


BESIDE = {**HEAD, "rope_theta": 500.0, "partial_rotary_factor": 0.5}  # the entry

HEADS = {  # name -> (config, what it means) and the kind of layer, where that counts
    "from the width of the model": (HEAD, RopeConfig(12)),
    "from a width that is no multiple": ({**HEAD, "hidden_size": 103}, RopeConfig(12)),
    "its own": ({**HEAD, "head_dim": 20}, RopeConfig(20)),
    "null": ({**HEAD, "head_dim": None, "qk_rope_head_dim": None}, RopeConfig(12)),
    "alone": ({"head_dim": 20}, RopeConfig(20)),
    "of latent attention": ({**HEAD, "head_dim": 20, "qk_rope_head_dim": 6}, RopeConfig(6)),
    "base": ({**HEAD, "rope_theta": 500000.0}, RopeConfig(12, 500000.0)),
    "base of GPT-NeoX": ({**HEAD, "rotary_emb_base": 500.0}, RopeConfig(12, 500.0)),
    "base under two names": (
        {**HEAD, "rotary_emb_base": 500.0, "rope_theta": 2500.0},
        RopeConfig(12, 2500.0),
    ),
    "base in the entry": (
        {**HEAD, "rope_theta": 500000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        RopeConfig(12, 1e6),
    ),
    "base in an old entry": (
        {**HEAD, "rope_theta": 500000.0, "rope_scaling": {"rope_theta": 1e6}},
        RopeConfig(12, 1e6),
    ),
    "null entries": (
        {**HEAD, "rope_theta": 500.0, "rope_parameters": None, "rope_scaling": None},
        RopeConfig(12, 500.0),
    ),
    "a null entry and a new one": (
        {**HEAD, "rope_scaling": None, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        RopeConfig(12, scaling=Linear(2.0)),
    ),
    "a null entry and an old one": (
        {**HEAD, "rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
        RopeConfig(12, scaling=Linear(2.0)),
    ),
    "a new entry and an old one": (
        {
            **HEAD,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0},
            "rope_scaling": {"type": "linear", "factor": 2.0},
        },
        RopeConfig(12, scaling=Linear(2.0)),
    ),
    "fraction": ({**HEAD, "partial_rotary_factor": 0.5}, RopeConfig(12, rotary_fraction=0.5)),
    "fraction in the entry": (
        {**HEAD, "partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.25}},
        RopeConfig(12, rotary_fraction=0.25),
    ),
    "fraction of latent attention": (
        {**HEAD, "qk_rope_head_dim": 6, "partial_rotary_factor": 0.5},
        RopeConfig(6),
    ),
    "fraction of latent attention under its old name": (
        {**HEAD, "qk_rope_head_dim": 6, "rotary_pct": 0.5},
        RopeConfig(6),
    ),
    "fraction in the entry of latent attention": (
        {"qk_rope_head_dim": 6, "rope_parameters": {"partial_rotary_factor": 0.5}},
        RopeConfig(6),
    ),
    "fraction of GPT-NeoX": ({**HEAD, "rotary_pct": 0.25}, RopeConfig(12, rotary_fraction=0.25)),
    "an empty entry before another": (
        {**HEAD, "rope_scaling": {}, "rope_parameters": {"rope_theta": 500.0}},
        RopeConfig(12, 500.0),
    ),
    "nulls": (
        {
            "head_dim": None,
            "rope_theta": None,
            "rotary_emb_base": 500.0,
            "partial_rotary_factor": None,
            "rotary_pct": 0.25,
            "qk_rope_head_dim": None,
            "hidden_size": 96,
            "num_attention_heads": 8,
            "rope_parameters": {"rope_theta": None, "partial_rotary_factor": None, "rope_type": None},
        },
        RopeConfig(12, 500.0, 0.25),
    ),
    "fraction under two names": (
        {**HEAD, "rotary_pct": 0.25, "partial_rotary_factor": 0.75},
        RopeConfig(12, rotary_fraction=0.75),
    ),
    "base and fraction beside entries by kind of layer": (
        {**BESIDE, "rope_parameters": {"full_attention": {"type": "linear", "factor": 2.0}}},
        RopeConfig(12, 500.0, 0.5, scaling=Linear(2.0)),
        "full_attention",
    ),
    "nulls in an entry by kind of layer": (
        {
            **BESIDE,
            "rope_parameters": {"full_attention": {"rope_theta": None, "partial_rotary_factor": None}},
        },
        RopeConfig(12, 500.0, 0.5),
        "full_attention",
    ),
}


@requirement("LC-21")
@pytest.mark.parametrize("case", HEADS)
def test_base_head_and_fraction_out_of_a_config(impl, case):
    check(impl, *HEADS[case])


SHARE_WITH_THE_SOFTMAX = [
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
]
INTERLEAVED = [
    *SHARE_WITH_THE_SOFTMAX,
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
]


@requirement("LC-21")
@pytest.mark.parametrize("kind", INTERLEAVED)
def test_these_models_interleave(impl, kind):
    check(impl, {**HEAD, "model_type": kind}, RopeConfig(12, interleaved=True))
    for given in (True, None):
        config = {**HEAD, "model_type": kind, "rope_interleave": given}
        check(impl, config, RopeConfig(12, interleaved=True))
    check(impl, {**HEAD, "model_type": kind, "rope_interleave": False}, RopeConfig(12))


@requirement("LC-21")
@pytest.mark.parametrize("kind", ["llama", "glm4_moe", "glm4v_moe_text", "gpt_neox"])
def test_other_models_have_halves(impl, kind):
    check(impl, {**HEAD, "model_type": kind}, RopeConfig(12))
    check(impl, {**HEAD, "model_type": kind, "rope_interleave": True}, RopeConfig(12))


L = "original_max_position_embeddings"
MAX = "max_position_embeddings"
YARN = {"rope_type": "yarn", "factor": 4.0, L: 32768}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, L: 8192}
LISTS = {"short_factor": [1.0, 1.5, 2.0, 1.0, 1.25, 1.0], "long_factor": [2.0, 3.0, 4.0, 8.0, 16.0, 64.0]}
LONGROPE = {"rope_type": "longrope", **LISTS}
LONG = LongRoPE(tuple(LISTS["short_factor"]), tuple(LISTS["long_factor"]), 4096, 32.0)

SCALINGS = {  # name -> (entry, beside it, what it means)
    "default": ({"rope_type": "default"}, {}, None),
    "no type": ({"rope_theta": 10000.0}, {}, None),
    "linear": ({"rope_type": "linear", "factor": 4.0}, {MAX: 8192}, Linear(4.0)),
    "linear, as it was": ({"type": "linear", "factor": 4.0}, {}, Linear(4.0)),
    "two types": ({"type": "dynamic", "rope_type": "linear", "factor": 4.0}, {MAX: 64}, Linear(4.0)),
    "dynamic": ({"rope_type": "dynamic", "factor": 2.0}, {MAX: 4096}, DynamicNTK(2.0, 4096)),
    "dynamic beside another length": (
        {"rope_type": "dynamic", "factor": 2.0, L: 1024},
        {MAX: 4096},
        DynamicNTK(2.0, 4096),
    ),
    "yarn": (YARN, {}, YaRN(4.0, 32768)),
    "yarn, as it was": (
        {"type": "yarn", "factor": 4.0, L: 32768},
        {MAX: 32768},
        YaRN(4.0, 32768),
    ),
    "yarn in an extended config": (YARN, {MAX: 131072}, YaRN(4.0, 32768)),
    "yarn with a length beside the entry": (YARN, {L: 4096, MAX: 65536}, YaRN(4.0, 4096)),
    "yarn with a factor to work out": ({**YARN, "factor": None, L: 8192}, {MAX: 20480}, YaRN(2.5, 8192)),
    "yarn with a null factor": ({**YARN, "factor": None}, {MAX: 65536}, YaRN(2.0, 32768)),
    "yarn with betas": (
        {**YARN, "beta_fast": 16, "beta_slow": 2.0},
        {},
        YaRN(4.0, 32768, beta_fast=16, beta_slow=2.0),
    ),
    "yarn with a fast beta alone": ({**YARN, "beta_fast": 16.0}, {}, YaRN(4.0, 32768, beta_fast=16.0)),
    "yarn with a slow beta alone": ({**YARN, "beta_slow": 2.0}, {}, YaRN(4.0, 32768, beta_slow=2.0)),
    "yarn with null betas": ({**YARN, "beta_fast": None, "beta_slow": None}, {}, YaRN(4.0, 32768)),
    "yarn with betas of 0": ({**YARN, "beta_fast": 0, "beta_slow": 0}, {}, YaRN(4.0, 32768)),
    "yarn with a null for rounding": ({**YARN, "truncate": None}, {}, YaRN(4.0, 32768)),
    "yarn without rounding": ({**YARN, "truncate": False}, {}, YaRN(4.0, 32768, truncate=False)),
    "yarn with an attention factor": (
        {**YARN, "attention_factor": 1.5},
        {},
        YaRN(4.0, 32768, attention_factor=1.5),
    ),
    "llama3": (LLAMA3, {MAX: 131072}, Llama3(8.0, 1.0, 4.0, 8192)),
    "llama3 with a length beside the entry": (LLAMA3, {L: 2048}, Llama3(8.0, 1.0, 4.0, 2048)),
    "longrope": (LONGROPE, {L: 4096, MAX: 131072}, LONG),
    "longrope with a length in the entry": ({**LONGROPE, L: 4096}, {MAX: 131072}, LONG),
    "longrope with two lengths": ({**LONGROPE, L: 1024}, {L: 4096, MAX: 131072}, LONG),
    "longrope with a factor": (
        {**LONGROPE, "factor": 8.0},
        {L: 4096, MAX: 131072},
        replace(LONG, factor=8.0),
    ),
    "longrope with an attention factor": (
        {**LONGROPE, "attention_factor": 1.25},
        {L: 4096, MAX: 131072},
        replace(LONG, attention_factor=1.25),
    ),
    "su": ({"type": "su", **LISTS}, {L: 4096, MAX: 65536}, replace(LONG, factor=16.0)),
}


@requirement("LC-22")
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("case", SCALINGS)
def test_the_scaling_out_of_a_config(impl, case, key):
    entry, beside, scaling = SCALINGS[case]
    check(impl, {**HEAD, **beside, key: entry}, RopeConfig(12, scaling=scaling))


MSCALES = {"mscale": 1.0, "mscale_all_dim": 0.5}
TAKEN_OVER = [
    MSCALES,
    {**MSCALES, "attention_factor": 1.5},
    {"mscale": 1.0},
    {"mscale_all_dim": 0.5},
    {"mscale": 0, "mscale_all_dim": 0},
]


@requirement("LC-22")
@pytest.mark.parametrize("kind", SHARE_WITH_THE_SOFTMAX)
def test_mscales_of_latent_attention_are_taken_over(impl, kind):
    for entry in TAKEN_OVER:
        scaling = YaRN(4.0, 32768, **{name: value or None for name, value in entry.items()})
        config = {**HEAD, "model_type": kind, "rope_scaling": {**YARN, **entry}}
        check(impl, config, RopeConfig(12, interleaved=True, scaling=scaling))


@requirement("LC-22")
@pytest.mark.parametrize("factor", [4.0, 16.0, None])
def test_two_mscales_of_others_are_one_attention_factor(impl, factor):
    config = {**HEAD, MAX: 262144, "rope_scaling": {**YARN, **MSCALES, "factor": factor}}
    scaling = impl.rope_config_from_hf(config).scaling
    expected = reference.exact.rope_config_from_hf(config).scaling
    assert_number(scaling.attention_factor, expected.attention_factor, "attention_factor")
    rest = replace(scaling, attention_factor=None)
    assert_equal(rest, YaRN(factor or 8.0, 32768), "the rest of the scaling")


@requirement("LC-22")
def test_an_attention_factor_goes_before_two_mscales(impl):
    entry = {**YARN, **MSCALES, "attention_factor": 1.5}
    check(
        impl,
        {**HEAD, "rope_scaling": entry},
        RopeConfig(12, scaling=YaRN(4.0, 32768, attention_factor=1.5)),
    )


@requirement("LC-22")
@pytest.mark.parametrize(("only", "other"), [("mscale", "mscale_all_dim"), ("mscale_all_dim", "mscale")])
def test_one_mscale_of_others_is_none(impl, only, other):
    for entry in ({only: 0.5}, {only: 0.5, other: 0}):
        config = {**HEAD, "rope_scaling": {**YARN, **entry}}
        check(impl, config, RopeConfig(12, scaling=YaRN(4.0, 32768)))


FULL, SLIDING = "full_attention", "sliding_attention"
GEMMA3 = {
    "model_type": "gemma3_text",
    "head_dim": 20,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
BY_KIND = {
    "head_dim": 20,
    "rope_theta": 500.0,
    "rope_parameters": {
        SLIDING: {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        FULL: {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0, L: 8192},
    },
}


@requirement("LC-23")
def test_gemma_3_scales_only_where_all_is_seen(impl):
    check(impl, GEMMA3, RopeConfig(20, 1000000.0, scaling=Linear(8.0)), FULL)
    check(impl, GEMMA3, RopeConfig(20, 10000.0), SLIDING)


@requirement("LC-23")
def test_a_fraction_is_for_all_layers_of_gemma_3(impl):
    config = {**GEMMA3, "partial_rotary_factor": 0.5}
    check(impl, config, RopeConfig(20, 1000000.0, 0.5, scaling=Linear(8.0)), FULL)
    check(impl, config, RopeConfig(20, 10000.0, 0.5), SLIDING)


@requirement("LC-23")
@pytest.mark.parametrize("local", [10000.0, None])
def test_a_local_base_is_not_for_entries_by_kind(impl, local):
    config = {**BY_KIND, "rope_local_base_freq": local}
    config["rope_parameters"] = {**BY_KIND["rope_parameters"], SLIDING: {"rope_theta": 2000.0}}
    check(impl, config, RopeConfig(20, 1000000.0, scaling=YaRN(4.0, 8192)), FULL)
    check(impl, config, RopeConfig(20, 2000.0), SLIDING)


@requirement("LC-23")
def test_a_local_base_of_null_is_none(impl):
    config = {**GEMMA3, "rope_local_base_freq": None}
    for layer_type in (None, FULL, SLIDING):
        check(impl, config, RopeConfig(20, 1000000.0, scaling=Linear(8.0)), layer_type)


@requirement("LC-23")
def test_a_gemma_3_that_scales_nothing(impl):
    for entry in ({"rope_scaling": None}, {"rope_scaling": {"rope_type": "default"}}):
        config = {**GEMMA3, **entry}
        check(impl, config, RopeConfig(20, 1000000.0), FULL)
        check(impl, config, RopeConfig(20, 10000.0), SLIDING)


OLMO3 = {"model_type": "olmo3", "head_dim": 20, "rope_theta": 500000.0, "rope_scaling": YARN}


@requirement("LC-23")
def test_olmo_3_scales_only_where_all_is_seen(impl):
    check(impl, OLMO3, RopeConfig(20, 500000.0, scaling=YaRN(4.0, 32768)), FULL)
    check(impl, OLMO3, RopeConfig(20, 500000.0), SLIDING)


@requirement("LC-23")
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("model_type", ["gemma3_text", "olmo3"])
def test_an_entry_for_each_kind_of_layer(impl, model_type, key):
    config = {"model_type": model_type, "head_dim": 20, "rope_theta": 500.0}
    config[key] = BY_KIND["rope_parameters"]
    check(impl, config, RopeConfig(20, 1000000.0, scaling=YaRN(4.0, 8192)), FULL)
    check(impl, config, RopeConfig(20, 10000.0, rotary_fraction=0.5), SLIDING)


@requirement("LC-23")
@pytest.mark.parametrize("layer_type", [None, FULL, SLIDING, "chunked_attention"])
def test_the_kind_of_layer_changes_nothing_elsewhere(impl, layer_type):
    check(impl, HEAD, RopeConfig(12), layer_type)
    config = {**HEAD, "rope_theta": 500000.0, "rope_scaling": LLAMA3}
    check(impl, config, RopeConfig(12, 500000.0, scaling=Llama3(8.0, 1.0, 4.0, 8192)), layer_type)


@requirement("LC-24")
@pytest.mark.parametrize("kind", ["proportional", "mrope", "ntk"])
def test_unknown_rope_types_are_refused(impl, kind):
    entry = {"factor": 4.0, L: 32768, **LISTS}
    for key in ("type", "rope_type"):
        known = {**HEAD, MAX: 131072, "rope_scaling": {**entry, key: "yarn"}}
        check(impl, known, RopeConfig(12, scaling=YaRN(4.0, 32768)))
        with refused(NotSupported, "rope_type", "type"):
            impl.rope_config_from_hf({**known, "rope_scaling": {**entry, key: kind}})


NEEDED = {  # name -> (entry, beside it, what needs a value)
    "linear": ({"rope_type": "linear", "factor": 4.0}, {}, ["factor"]),
    "dynamic": ({"rope_type": "dynamic", "factor": 4.0}, {MAX: 64}, ["factor", MAX]),
    "yarn": (YARN, {}, [L]),
    "yarn with a null factor": ({"rope_type": "yarn", "factor": None, L: 64}, {MAX: 256}, [L, MAX]),
    "llama3": (LLAMA3, {}, ["factor", "low_freq_factor", "high_freq_factor", L]),
    "longrope": ({**LONGROPE, "factor": 4.0}, {L: 64}, ["short_factor", "long_factor", L]),
    "longrope without a factor": (LONGROPE, {L: 64, MAX: 256}, [L, MAX]),
}


@requirement("LC-24")
@pytest.mark.parametrize("case", NEEDED)
def test_a_scaling_without_its_numbers_is_refused(impl, case):
    entry, beside, needed = NEEDED[case]
    known = {**HEAD, **beside, "rope_scaling": entry}
    assert impl.rope_config_from_hf(known).scaling is not None, "the complete config has a scaling"
    for key in needed:
        derived = ["factor"] if key == MAX and entry.get("factor") is None else []  # which is missing as well
        for change in (without, with_null):
            part = change(entry, key) if key in entry else entry
            config = change(known, key) if key in known else known
            with refused(InvalidArgument, key, *derived):
                impl.rope_config_from_hf({**config, "rope_scaling": part})


def without(config, key):
    return {k: v for k, v in config.items() if k != key}


def with_null(config, key):
    return {**config, key: None}


@requirement("LC-24")
@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads"])
def test_a_head_without_a_size_is_refused(impl, key):
    check(impl, HEAD, RopeConfig(12))
    check(impl, without({**HEAD, "head_dim": 20}, key), RopeConfig(20))
    for config in (without(HEAD, key), with_null(HEAD, key), {**without(HEAD, key), "head_dim": None}):
        with refused(InvalidArgument, key):
            impl.rope_config_from_hf(config)


@requirement("LC-24")
@pytest.mark.parametrize("config", [GEMMA3, OLMO3, BY_KIND], ids=["Gemma 3", "OLMo 3", "by kind"])
def test_a_hybrid_needs_a_kind_of_layer_that_it_has(impl, config):
    assert impl.rope_config_from_hf(config, FULL).scaling is not None, "full attention has a scaling"
    for layer_type in (None, "chunked_attention"):
        with refused(InvalidArgument, "layer_type"):
            impl.rope_config_from_hf(config, layer_type)


@requirement("LC-24")
def test_other_keys_are_ignored(impl):
    entry = {**YARN, "attn_factor": 2.0, "extrapolation_factor": 3, "short_factor": None}
    config = {**HEAD, "rope_scaling": entry, "sliding_window": 4096, "vocab_size": None, "rotary_dim": 4}
    check(impl, config, RopeConfig(12, scaling=YaRN(4.0, 32768)))
