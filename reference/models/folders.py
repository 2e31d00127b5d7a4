"""A checkpoint as Hugging Face lays it out: config.json, and tensors in one or several safetensors files."""

import json
from pathlib import Path

import numpy as np


def read_folder(folder):
    """(config, weights): the config as a dictionary, the tensors as arrays, by name.

    Matrices in MLX's affine quantisation are expanded to float32.
    """
    from safetensors.numpy import load_file  # only whoever reads a checkpoint needs it

    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = {}
    for name in files(folder):
        weights |= load_file(folder / name)
    return config, expanded(weights, config.get("quantization"))


def files(folder):
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def expanded(weights, quantization):
    """quantization: "group_size" and "bits", of all matrices, and of single ones under their names."""
    result = {}
    for name, values in weights.items():
        matrix, _, part = name.rpartition(".")
        is_quantised = f"{matrix}.scales" in weights
        if not is_quantised or part not in ("weight", "scales", "biases"):
            result[name] = values
        elif part == "weight":
            how = {**quantization, **quantization.get(matrix, {})}
            scales, biases = weights[f"{matrix}.scales"], weights[f"{matrix}.biases"]
            result[name] = dequantized(values, scales, biases, how["bits"], how["group_size"])
    return result


def dequantized(codes, scales, biases, bits, group_size):
    """A value is code · scale + bias: (rows, columns) float32.

    codes: (rows, columns · bits / 32) uint32, the first in the lowest bits; scales, biases: (rows, groups).
    """
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    columns = (codes[..., None] >> shifts) & np.uint32(2**bits - 1)  # (rows, words, codes in a word)
    columns = columns.reshape(len(codes), -1).astype(np.float32)
    scale, bias = (np.repeat(each.astype(np.float32), group_size, axis=1) for each in (scales, biases))
    return columns * scale + bias
