"""Checkpoints in every form that is read, and what is wrong with the others, by file and tensor."""

import json
import struct

import numpy as np
import pytest

from spec import InvalidArgument, NotSupported
from tests.suite.outside import outside
from tests.suite.tiny_models import VOCAB, logits_of, tiny, tokens

WEIGHT = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def mx():
    return outside("mlx.core")


@pytest.fixture(scope="module")
def load():
    return outside("solution.models").load


@pytest.fixture
def folder(tmp_path):
    """A tiny Llama in one file."""
    tiny("llama").save_pretrained(tmp_path)
    return tmp_path


def settings_of(folder):
    return json.loads((folder / "config.json").read_text())


def change(folder, **settings):
    (folder / "config.json").write_text(json.dumps(settings_of(folder) | settings))


def rewrite(mx, folder, edit):
    """The same folder with other tensors. edit: changes a dictionary of them in place."""
    tensors = dict(mx.load(str(folder / "model.safetensors")))
    edit(tensors)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)


# Forms ----------------------------------------------------------------------------------------------------


def wide():
    """A Llama whose rows are wide enough for MLX's groups."""
    return tiny("llama", hidden_size=64, intermediate_size=128, num_attention_heads=8)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64])
def test_codes_of_mlx_are_the_weights_that_they_stand_for(mx, load, tmp_path, bits, group):
    model = wide()
    model.save_pretrained(tmp_path)
    decoded = {}

    def quantize(tensors):
        for name in [name for name in tensors if "proj" in name or "embed" in name]:
            of_this = 8 if "o_proj" in name else bits  # as a mixed recipe does
            codes, scales, biases = mx.quantize(tensors[name], group_size=group, bits=of_this)
            decoded[name] = mx.dequantize(codes, scales, biases, group_size=group, bits=of_this)
            stem = name.removesuffix(".weight")
            # As published ones are: codes beside halves.
            tensors |= {name: codes, f"{stem}.scales": scales, f"{stem}.biases": biases}

    rewrite(mx, tmp_path, quantize)
    others = {
        f"model.layers.{layer}.self_attn.o_proj": {"group_size": group, "bits": 8} for layer in range(3)
    }
    change(tmp_path, quantization={"group_size": group, "bits": bits} | others)
    torch = outside("torch")
    state = {name: torch.from_numpy(np.array(weight)) for name, weight in decoded.items()}
    model.load_state_dict(state, strict=False)
    exact, allowed = logits_of(model, tokens(9))
    assert np.abs(np.asarray(load(tmp_path).start().forward(mx.array(tokens(9)))) - exact).max() <= allowed


def test_a_dtype_is_that_of_weights_and_caches_and_logits_are_float32(mx, load, folder):
    exact, _ = logits_of(tiny("llama"), tokens(9))
    for kind in ("contiguous", "paged", "int8", "rolling"):
        model = load(folder, dtype="bfloat16").start(cache=kind)
        logits = model.forward(mx.array(tokens(9)))
        assert logits.dtype == mx.float32
        # 8 bits of significand through 3 layers: not float32, and not another model.
        assert 1e-4 < np.abs(np.asarray(logits) - exact).max() / np.abs(exact).max() < 0.1
    with pytest.raises(InvalidArgument, match="dtype: expected float32, float16 or bfloat16, got int8"):
        load(folder, dtype="int8")


def test_frequencies_that_follow_the_length_are_those_of_transformers(mx, load, tmp_path):
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 3.0}
    model = tiny("llama", rope_parameters=rope, max_position_embeddings=16)
    model.save_pretrained(tmp_path)
    decoder = load(tmp_path)
    assert decoder.start().rope_changes_after == 16
    for count in (16, 40):
        exact, allowed = logits_of(
            tiny("llama", rope_parameters=rope, max_position_embeddings=16), tokens(count)
        )
        logits = decoder.start(max_length=100).forward(mx.array(tokens(count)))
        assert np.abs(np.asarray(logits) - exact).max() <= allowed


def test_experts_are_read_one_by_one_and_in_stacks(mx, load, tmp_path):
    model = tiny("qwen3_moe")
    model.save_pretrained(tmp_path)
    exact, allowed = logits_of(model, tokens(9))

    def stack(tensors):
        for layer in (0, 2):
            mlp = f"model.layers.{layer}.mlp"
            for name in ("gate", "up", "down"):
                parts = [tensors.pop(f"{mlp}.experts.{e}.{name}_proj.weight") for e in range(5)]
                tensors[f"{mlp}.switch_mlp.{name}_proj.weight"] = mx.stack(parts)

    rewrite(mx, tmp_path, stack)  # as mlx-lm converts
    assert np.abs(np.asarray(load(tmp_path).start().forward(mx.array(tokens(9)))) - exact).max() <= allowed


def test_a_gguf_file_is_the_folder_that_it_was_made_from(mx, load, folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    exact, allowed = logits_of(tiny("llama"), tokens(9))
    write_gguf(mx, file, dict(mx.load(str(folder / "model.safetensors"))))
    decoder = load(file)
    assert decoder.config.stop_ids == (2,)
    logits = decoder.start().forward(mx.array(tokens(9)))
    assert np.abs(np.asarray(logits) - exact).max() <= allowed


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.": "attn_",
    "mlp.": "ffn_",
    "_proj": "",
}
METADATA = {  # of the tiny Llama
    "general.architecture": "llama",
    "llama.block_count": 3,
    "llama.context_length": 256,
    "llama.embedding_length": 24,
    "llama.feed_forward_length": 40,
    "llama.attention.head_count": 6,
    "llama.attention.head_count_kv": 2,
    "llama.attention.key_length": 8,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.tokens": [f"t{i}" for i in range(VOCAB)],
    "tokenizer.ggml.eos_token_id": 2,
}


def write_gguf(mx, file, tensors):
    """As llama.cpp converts: the channels of a head that turn together are neighbours."""
    converted = {}
    for name, tensor in tensors.items():
        if "q_proj" in name or "k_proj" in name:
            heads = tensor.reshape(-1, 2, 4, 24)  # (heads, halves, pairs, D)
            tensor = mx.contiguous(heads.swapaxes(1, 2)).reshape(tensor.shape)
        for old, new in NAMES.items():
            name = name.replace(old, new)
        converted[name] = tensor
    metadata = {key: as_gguf(mx, value) for key, value in METADATA.items()}
    mx.save_gguf(str(file), converted, metadata)


def as_gguf(mx, value):
    if isinstance(value, int):
        return mx.array(value, mx.uint32)
    return mx.array(value) if isinstance(value, float) else value


# Errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "gpt2"}, "model_type: expected one of llama, .*, got 'gpt2'"),
        ({"attention_bias": True}, "attention_bias: expected False, got True"),
        ({"mlp_bias": True}, "mlp_bias: expected False, got True"),
        ({"hidden_act": "gelu"}, "hidden_act: expected 'silu', got 'gelu'"),
        ({"rope_scaling": {"rope_type": "x"}}, "rope_type"),
        ({"quantization_config": {"quant_method": "gptq"}}, "expected affine quantization, got 'gptq'"),
        (
            {
                "model_type": "qwen3",
                "sliding_window": 7,
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            "layer_types: expected one kind of attention",
        ),
    ],
)
def test_what_is_not_computed_here_is_refused(load, folder, settings, message):
    change(folder, **settings)
    with pytest.raises(NotSupported, match=message):
        load(folder)


def test_a_setting_that_is_missing_is_named(load, folder):
    settings = settings_of(folder)
    del settings["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InvalidArgument, match="num_hidden_layers: expected a number"):
        load(folder)


def test_a_tensor_that_is_missing_is_named(mx, load, folder):
    rewrite(mx, folder, lambda tensors: tensors.pop(WEIGHT))
    with pytest.raises(InvalidArgument, match=rf"{folder}: {WEIGHT}: expected shape \(24, 40\), got no such"):
        load(folder)


def test_a_tensor_of_another_shape_is_named(mx, load, folder):
    rewrite(mx, folder, lambda tensors: tensors.update({WEIGHT: mx.zeros((24, 39))}))
    with pytest.raises(InvalidArgument, match=rf"{WEIGHT}: expected shape \(24, 40\), got \(24, 39\)"):
        load(folder)


def test_a_tensor_too_much_is_named_unless_it_is_known_to_say_nothing(mx, load, folder):
    known = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": mx.zeros(4),
        "lm_head.weight": mx.zeros((VOCAB, 24)),  # of a tied model
    }
    rewrite(mx, folder, lambda tensors: tensors.update(known))
    load(folder)
    rewrite(mx, folder, lambda tensors: tensors.update({"model.layers.3.extra": mx.zeros((2, 3))}))
    with pytest.raises(InvalidArgument, match=r"layers.3.extra: expected no such tensor, got \(2, 3\)"):
        load(folder)


def test_an_expert_that_is_missing_is_an_error(mx, load, tmp_path):
    tiny("qwen3_moe").save_pretrained(tmp_path)
    name = "model.layers.2.mlp.experts.3.up_proj.weight"
    rewrite(mx, tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(InvalidArgument, match=f"{name}: expected"):
        load(tmp_path)


def test_codes_without_what_they_mean_are_an_error(mx, load, tmp_path):
    wide().save_pretrained(tmp_path)
    stem = WEIGHT.removesuffix(".weight")

    def quantize(tensors):
        parts = mx.quantize(tensors[WEIGHT], group_size=32, bits=4)
        tensors |= dict(zip((WEIGHT, f"{stem}.scales", f"{stem}.biases"), parts, strict=True))

    rewrite(mx, tmp_path, quantize)
    with pytest.raises(InvalidArgument, match=f"{WEIGHT}: expected a group_size in the config"):
        load(tmp_path)
    change(tmp_path, quantization={"group_size": 96, "bits": 4})
    with pytest.raises(InvalidArgument, match=f"{WEIGHT}: expected codes of"):
        load(tmp_path)
    rewrite(mx, tmp_path, lambda tensors: tensors.pop(f"{stem}.biases"))
    with pytest.raises(InvalidArgument, match=f"{WEIGHT}: expected biases beside its scales"):
        load(tmp_path)


def test_safetensors_that_were_cut_off_name_the_first_tensor_that_is_not_whole(load, folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    ends = {
        entry["data_offsets"][1]: name
        for name, entry in json.loads(whole[8:header]).items()
        if name != "__metadata__"
    }
    first, second = sorted(ends)[:2]
    for size, name in ((5, "its header"), (header - 1, "its header"), (header + second - 1, ends[second])):
        file.write_bytes(whole[:size])
        with pytest.raises(InvalidArgument, match=f"{file}: {name}: expected a file of at least"):
            load(folder)
    file.write_bytes(whole[:8] + b"x" * (len(whole) - 8))
    with pytest.raises(InvalidArgument, match=f"{file}: expected a safetensors file"):
        load(folder)


def test_a_gguf_file_that_was_cut_off_names_the_first_tensor_that_is_not_whole(mx, load, folder, tmp_path):
    file = tmp_path / "model.gguf"
    write_gguf(mx, file, dict(mx.load(str(folder / "model.safetensors"))))
    whole = file.read_bytes()
    for size, name in ((3, "its header"), (200, "its header"), (len(whole) - 40, r"[\w.]+\.weight")):
        file.write_bytes(whole[:size])
        with pytest.raises(InvalidArgument, match=f"{file}: {name}: expected a file of at least"):
            load(file)
    file.write_bytes(b"PK" + whole[2:])
    with pytest.raises(
        InvalidArgument, match=f"{file}: expected a GGUF file, got one that begins with b'PKUF'"
    ):
        load(file)


def test_a_part_that_is_missing_is_named(load, tmp_path):
    tiny("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(InvalidArgument, match=f"{gone}: expected a file, as the index says, got none"):
        load(tmp_path)


def test_a_path_to_nothing_is_an_error(load, tmp_path):
    with pytest.raises(InvalidArgument, match="path: expected a folder with config.json or a GGUF file"):
        load(tmp_path / "nowhere")
    with pytest.raises(InvalidArgument, match="path: expected a folder with config.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(NotSupported, match="gpt2"):
        load(tmp_path)
