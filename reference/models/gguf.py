"""Checkpoints of the Llama family in llama.cpp's file format, GGUF (ggml's docs/gguf.md)."""

import struct
from pathlib import Path

import numpy as np

from spec import NotSupported

from .basics import expect

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


def read_gguf(file):
    """(config, weights) of a Llama, under the names of Hugging Face; the tensors expanded to float32."""
    reader = Reader(Path(file).read_bytes())
    expect(reader.take(4) == b"GGUF", "file", "one that begins with GGUF", file)
    version = reader.scalar("I")
    if version not in (2, 3):
        raise NotSupported(f"file: expected GGUF version 2 or 3, got {version}")
    n_tensors, n_settings = reader.scalar("Q"), reader.scalar("Q")
    settings = {reader.string(): reader.value(reader.scalar("I")) for _ in range(n_settings)}
    headers = [reader.header() for _ in range(n_tensors)]
    alignment = settings.get("general.alignment", 32)
    start = -(-reader.at // alignment) * alignment
    config = config_of(settings)
    weights = {}
    for name, shape, kind, offset in headers:
        values = expanded(reader.data, start + offset, shape, kind, name)
        weights[renamed(name)] = unpermuted(name, values, config)
    return {**config, "tie_word_embeddings": "lm_head.weight" not in weights}, weights


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def scalar(self, code):
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def string(self):
        return self.take(self.scalar("Q")).decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            kind, count = self.scalar("I"), self.scalar("Q")
            return [self.value(kind) for _ in range(count)]
        return self.scalar(SCALARS[kind])

    def header(self):
        """(name, shape, kind, offset) of a tensor. The file has the fastest axis first."""
        name = self.string()
        shape = [self.scalar("Q") for _ in range(self.scalar("I"))][::-1]
        return name, tuple(shape), self.scalar("I"), self.scalar("Q")


# Tensors --------------------------------------------------------------------------------------------------

F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
BLOCKS = {  # of so many numbers: a scale, what else each kind has, and the codes
    F32: (1, np.dtype([("number", "<f4")])),
    F16: (1, np.dtype([("number", "<f2")])),
    Q4_1: (32, np.dtype([("scale", "<f2"), ("least", "<f2"), ("codes", "u1", 16)])),
    Q8_0: (32, np.dtype([("scale", "<f2"), ("codes", "i1", 32)])),
}


def expanded(data, offset, shape, kind, name):
    if kind not in BLOCKS:
        raise NotSupported(f"{name}: expected a tensor of type F32, F16, Q4_1 or Q8_0, got number {kind}")
    size, layout = BLOCKS[kind]
    blocks = np.frombuffer(data, layout, int(np.prod(shape)) // size, offset)
    if kind in (F32, F16):
        values = blocks["number"].astype(np.float32)
    elif kind == Q8_0:
        values = blocks["codes"] * scale(blocks)
    else:  # a byte has a code of the first half of the block in its lower bits, and one of the second above
        codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1)
        values = codes * scale(blocks) + blocks["least"].astype(np.float32)[:, None]
    return values.reshape(shape)


def scale(blocks):
    return blocks["scale"].astype(np.float32)[:, None]


# Names ----------------------------------------------------------------------------------------------------

OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_A_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def renamed(name):
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    part, _, suffix = name.rpartition(".")
    if not part.startswith("blk."):
        expect(part in OUTSIDE, name, "a tensor of a Llama", "another name")
        return f"{OUTSIDE[part]}.{suffix}"
    _, layer, part = part.split(".")
    expect(part in IN_A_LAYER, name, "a tensor of a Llama", "another name")
    return f"model.layers.{layer}.{IN_A_LAYER[part]}.{suffix}"


def unpermuted(name, values, config):
    """llama.cpp rotates neighbours, Hugging Face halves of a head: so the rows of q and k are ordered."""
    heads = {
        "attn_q": config["num_attention_heads"],
        "attn_k": config["num_key_value_heads"],
    }.get(name.split(".")[-2])
    if heads is None:
        return values
    pairs = values.reshape(heads, -1, 2, *values.shape[1:])  # (heads, head_dim / 2, 2, …)
    return pairs.swapaxes(1, 2).reshape(values.shape)


def config_of(settings):
    kind = settings.get("general.architecture")
    if kind != "llama":
        raise NotSupported(f"general.architecture: expected 'llama', got {kind!r}")
    scaling = settings.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise NotSupported(f"llama.rope.scaling.type: expected 'none', got {scaling!r}")
    heads = settings["llama.attention.head_count"]
    return {
        "model_type": "llama",
        "hidden_size": settings["llama.embedding_length"],
        "intermediate_size": settings["llama.feed_forward_length"],
        "num_hidden_layers": settings["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": settings.get("llama.attention.head_count_kv", heads),
        "head_dim": settings.get("llama.attention.key_length", settings["llama.embedding_length"] // heads),
        "max_position_embeddings": settings["llama.context_length"],
        "rms_norm_eps": settings["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": settings.get("llama.rope.freq_base", 10000.0),
        "vocab_size": settings.get("llama.vocab_size", len(settings.get("tokenizer.ggml.tokens", []))),
    }
