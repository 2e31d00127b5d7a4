"""The tensors of a checkpoint, whatever file they come in: dense, in float32, by the names of transformers.

A Hugging Face folder holds `config.json` and safetensors, in one file or several, dense or as MLX quantises
them; a GGUF file holds everything.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from spec import InvalidArgument, NotSupported

from .checks import expect
from .config import INTERLEAVED, DecoderConfig, config_from_hf, settings_from_gguf
from .files import check_gguf, check_safetensors

BITS = (2, 3, 4, 5, 6, 8)
GGUF_QUANTIZATION = {"group_size": 32}  # the block of Q4_0, Q4_1 and Q8_0
IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")  # old files carry what the config says


@dataclass(frozen=True)
class Checkpoint:
    """tensors: dense and lazy, with the shapes that `expected_shapes` gives. settings: `config.json`.
    is_interleaved: rows (2i, 2i + 1) of a head of queries and keys turn together, otherwise (i, i + d/2)."""

    path: Path
    settings: Mapping[str, Any]
    config: DecoderConfig
    tensors: Mapping[str, mx.array]
    is_interleaved: bool


def read(path: str | Path) -> Checkpoint:
    """Raises InvalidArgument that names file and tensor for what is missing, too much, cut off or of another
    shape; NotSupported for an unknown architecture."""
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    expect(path.is_file(), "path", "a folder with config.json or a GGUF file", path)
    return _read_gguf(path)


# Folders --------------------------------------------------------------------------------------------------


def _read_folder(folder: Path) -> Checkpoint:
    expect((folder / "config.json").is_file(), "path", "a folder with config.json", folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config_from_hf(settings)
    stored = {}
    for file in _safetensors(folder):
        check_safetensors(file)
        stored |= mx.load(str(file))
    tensors = _fused_experts(_dense(stored, folder, settings), config, folder)
    return _checked(Checkpoint(folder, settings, config, tensors, config.rope.interleaved))


def _safetensors(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [folder / name for name in sorted(names)]
    else:
        files = sorted(folder.glob("*.safetensors"))
    expect(bool(files), "path", "a folder with safetensors", folder)
    for file in files:
        expect(file.is_file(), str(file), "a file, as the index says", "none")
    return files


def _fused_experts(tensors: dict[str, mx.array], config: DecoderConfig, path: Path) -> dict[str, mx.array]:
    """Experts as the stacks that newer transformers keep: gate and up (E, 2F, D), down (E, D, F)."""
    count, inside = config.n_experts, (config.expert_inner, config.width)

    def taken(name: str, *shape: int) -> mx.array:
        _check(tensors, name, shape, path)
        return tensors.pop(name)

    for layer in config.sparse:
        mlp = f"model.layers.{layer}.mlp"
        shapes = {"gate": inside, "up": inside, "down": inside[::-1]}
        if f"{mlp}.switch_mlp.gate_proj.weight" in tensors:  # as mlx-lm converts
            gate, up, down = (
                taken(f"{mlp}.switch_mlp.{name}_proj.weight", count, *shape) for name, shape in shapes.items()
            )
        elif f"{mlp}.experts.0.gate_proj.weight" in tensors:
            gate, up, down = (
                mx.stack([taken(f"{mlp}.experts.{e}.{name}_proj.weight", *shape) for e in range(count)])
                for name, shape in shapes.items()
            )
        else:
            continue
        tensors[f"{mlp}.experts.gate_up_proj"] = mx.concatenate([gate, up], axis=1)
        tensors[f"{mlp}.experts.down_proj"] = down
    return tensors


# GGUF -----------------------------------------------------------------------------------------------------

OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INSIDE = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "ffn_gate_inp.weight": "mlp.gate.weight",
    "ffn_gate_exps.weight": "mlp.switch_mlp.gate_proj.weight",
    "ffn_up_exps.weight": "mlp.switch_mlp.up_proj.weight",
    "ffn_down_exps.weight": "mlp.switch_mlp.down_proj.weight",
}


def _read_gguf(file: Path) -> Checkpoint:
    check_gguf(file)
    stored, metadata = mx.load(str(file), return_metadata=True)
    factors = stored.pop("rope_freqs.weight", None)
    settings = settings_from_gguf(metadata, None if factors is None else factors.tolist())
    settings["tie_word_embeddings"] = "output.weight" not in stored
    config = config_from_hf(settings)
    dense = _dense(stored, file, {"quantization": GGUF_QUANTIZATION})
    named = {_name(name): tensor for name, tensor in dense.items()}
    interleaved = metadata["general.architecture"] in INTERLEAVED
    return _checked(Checkpoint(file, settings, config, _fused_experts(named, config, file), interleaved))


def _name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; what is unknown stays as it is."""
    block = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    if block and block[2] in INSIDE:
        return f"model.layers.{block[1]}.{INSIDE[block[2]]}"
    return OUTSIDE.get(name, name)


# Quantised tensors ----------------------------------------------------------------------------------------


def _dense(stored: Mapping[str, mx.array], path: Path, settings: Mapping[str, Any]) -> dict[str, mx.array]:
    """Every tensor in float32. Codes carry `.scales` and `.biases` of the same name."""
    quantization = settings.get("quantization") or settings.get("quantization_config") or {}
    mode = quantization.get("mode", quantization.get("quant_method", "affine"))
    if mode != "affine":
        raise NotSupported(f"{path}: expected affine quantization, got {mode!r}")
    tensors = {}
    for name, tensor in stored.items():
        stem, _, kind = name.rpartition(".")
        if f"{stem}.scales" not in stored:
            tensors[name] = tensor.astype(mx.float32)
        elif kind == "weight":
            group = (quantization.get(stem) or quantization).get("group_size")
            scales, biases = stored[f"{stem}.scales"], stored.get(f"{stem}.biases")
            tensors[name] = _decoded(tensor, scales, biases, group, f"{path}: {name}")
    return tensors


def _decoded(
    codes: mx.array, scales: mx.array, biases: mx.array | None, group: int | None, name: str
) -> mx.array:
    """codes: (…, columns · bits / 32) uint32; scales, biases: (…, columns / group)."""
    expect(group is not None, name, "a group_size in the config's quantization", group)
    fits = codes.dtype == mx.uint32 and codes.shape[:-1] == scales.shape[:-1]
    expect(fits, name, f"uint32 codes for scales of shape {scales.shape}", (codes.dtype, codes.shape))
    expect(biases is not None, name, "biases beside its scales", "none")
    expect(biases.shape == scales.shape, name, f"biases of shape {scales.shape}", biases.shape)
    bits, rest = divmod(32 * codes.shape[-1], group * scales.shape[-1])
    expect(bits in BITS and not rest, name, f"codes of {BITS} bits in groups of {group}", codes.shape)
    # In float32: in half precision what it gives would be rounded once more.
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(codes, scales, biases, group_size=group, bits=bits)


# What must be there ---------------------------------------------------------------------------------------


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    config, found = checkpoint.config, checkpoint.tensors
    shapes = dict(expected_shapes(config))
    for name, shape in shapes.items():
        _check(found, name, shape, checkpoint.path)
    for name in found:
        is_tied_head = name == "lm_head.weight" and config.tied
        if name not in shapes and not is_tied_head and not IGNORED.fullmatch(name):
            raise InvalidArgument(
                f"{checkpoint.path}: {name}: expected no such tensor, got {found[name].shape}"
            )
    return checkpoint


def _check(tensors: Mapping[str, mx.array], name: str, shape: tuple[int, ...], path: Path) -> None:
    got = tensors[name].shape if name in tensors else "no such tensor"
    if got != shape:
        raise InvalidArgument(f"{path}: {name}: expected shape {shape}, got {got}")


def expected_shapes(config: DecoderConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, head = config.width, config.head_dim
    yield "model.embed_tokens.weight", (config.vocab_size, width)
    yield "model.norm.weight", (width,)
    if not config.tied:
        yield "lm_head.weight", (config.vocab_size, width)
    for layer in range(config.layers):
        block = f"model.layers.{layer}"
        yield f"{block}.input_layernorm.weight", (width,)
        yield f"{block}.self_attn.q_proj.weight", (config.heads * head, width)
        yield f"{block}.self_attn.k_proj.weight", (config.kv_heads * head, width)
        yield f"{block}.self_attn.v_proj.weight", (config.kv_heads * head, width)
        yield f"{block}.self_attn.o_proj.weight", (width, config.heads * head)
        if config.has_head_norms:
            yield f"{block}.self_attn.q_norm.weight", (head,)
            yield f"{block}.self_attn.k_norm.weight", (head,)
        yield f"{block}.post_attention_layernorm.weight", (width,)
        if layer in config.sparse:
            yield f"{block}.mlp.gate.weight", (config.n_experts, width)
            yield f"{block}.mlp.experts.gate_up_proj", (config.n_experts, 2 * config.expert_inner, width)
            yield f"{block}.mlp.experts.down_proj", (config.n_experts, width, config.expert_inner)
        else:
            yield f"{block}.mlp.gate_proj.weight", (config.inner, width)
            yield f"{block}.mlp.up_proj.weight", (config.inner, width)
            yield f"{block}.mlp.down_proj.weight", (width, config.inner)
