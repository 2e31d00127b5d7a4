"""Sentence embeddings: all-MiniLM-L6-v2 and other BERT encoders of sentence-transformers, whose mean state is
taken."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from spec import InvalidArgument, NotSupported

from .checks import expect
from .elementwise import exp_below, gelu
from .embedding_host import CORES, Host
from .files import check_safetensors
from .tokenizer import Tokenizer

TOKENS = 1024  # of a batch, padding included


@dataclass(frozen=True)
class Affine:
    """x · matrix + bias. matrix: (in, out); bias: (out,)."""

    matrix: mx.array
    bias: mx.array


@dataclass(frozen=True)
class Norm:
    """Each row with mean 0 and variance 1, times gain, plus bias: (D,) each."""

    gain: mx.array
    bias: mx.array


@dataclass(frozen=True)
class Layer:
    """qkv: (D, 3D), queries scaled; up: (D, F); down: (F, D)."""

    qkv: Affine
    out: Affine
    after_attention: Norm
    up: Affine
    down: Affine
    after: Norm


class Encoder:
    """A sentence encoder."""

    def __init__(self, network: "Network", tokenizer: Tokenizer, longest: int) -> None:
        self._network = network
        self._rows_of = Host(network).rows_of if mx.default_device() == mx.cpu else network.rows_of
        self._tokenizer = tokenizer
        self._longest = longest

    @property
    def dim(self) -> int:
        return self._network.width

    @classmethod
    def open(cls, path: str | Path) -> "Encoder":
        """path: a folder in Hugging Face's form, with a tokenizer.json.

        Raises InvalidArgument for a file that is missing, cut off or lacks a tensor, naming it; NotSupported
        for another architecture, activation or pooling.
        """
        folder = Path(path)
        config = _settings(folder / "config.json")
        longest = _optional(folder / "sentence_bert_config.json").get("max_seq_length", 512)
        _check_kind(folder, config)
        return cls(
            _network(folder, config), Tokenizer.open(folder), min(longest, config["max_position_embeddings"])
        )

    def embed(self, texts: Sequence[str]) -> mx.array:
        """(n, D) float32: a row of length 1 for each text, of which the first tokens count, 256 in MiniLM.

        Two texts are alike as far as the product of their rows is near 1.
        """
        tokens = [self._shortened(ids) for ids in self._tokenizer.framed(texts)]
        order = sorted(range(len(texts)), key=lambda i: len(tokens[i]))
        batches = _batches([tokens[i] for i in order])
        rows = [mx.zeros((0, self.dim)), *map(mx.array, self._rows_of(batches))]
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order))
        return mx.concatenate(rows)[mx.array(place)]

    def _shortened(self, ids: list[int]) -> list[int]:
        """The last token stays: it ends the text."""
        return ids if len(ids) <= self._longest else ids[: self._longest - 1] + ids[-1:]


def _batches(tokens: Sequence[Sequence[int]]) -> list[Sequence[Sequence[int]]]:
    """Neighbours of texts in order of length, so that little is padded; of many texts one for each core."""
    batches, first = [], 0
    most = min(max(sum(map(len, tokens)) // CORES, TOKENS // 4), TOKENS)
    for end in range(1, len(tokens) + 1):
        if end == len(tokens) or (end + 1 - first) * len(tokens[end]) > most:
            batches.append(tokens[first:end])
            first = end
    return batches


@dataclass(frozen=True)
class Padded:
    """Texts of one batch, filled up to the longest. ids: (texts, longest); seen: as large, bool, False for
    what was filled up; hidden: (texts, 1, 1, longest), to be added to scores, None if nothing was."""

    ids: np.ndarray
    seen: np.ndarray
    hidden: mx.array | None

    @classmethod
    def of(cls, batch: Sequence[Sequence[int]]) -> "Padded":
        lengths = np.array([len(each) for each in batch])
        seen = np.arange(lengths.max()) < lengths[:, None]
        ids = np.zeros(seen.shape, np.int32)
        ids[seen] = np.concatenate(batch)
        hidden = mx.array(np.where(seen, 0, -np.inf).astype(np.float32))[:, None, None]
        return cls(ids, seen, None if seen.all() else hidden)


@dataclass(frozen=True)
class Network:
    """words: (V, D); places: (positions, D), with what all tokens share added. A batch is one matrix of its
    tokens, padding included."""

    words: mx.array
    places: mx.array
    first: Norm
    layers: tuple[Layer, ...]
    heads: int
    eps: float

    @property
    def width(self) -> int:
        return self.words.shape[1]

    def rows_of(self, batches: Sequence[Sequence[Sequence[int]]]) -> list[mx.array]:
        """(texts, D) of each batch"""
        return [self.rows(batch) for batch in batches]

    def rows(self, texts: Sequence[Sequence[int]]) -> mx.array:
        """(texts, D), of length 1 each. texts: ids of tokens."""
        batch = Padded.of(texts)
        x = self.words[mx.array(batch.ids)] + self.places[: batch.ids.shape[1]]  # (texts, longest, D)
        x = self._normed(x.flatten(0, 1), self.first)  # (tokens, D)
        for layer in self.layers:
            mixed = self._attention(_affine(x, layer.qkv), batch)
            x = self._normed(x + _affine(mixed, layer.out), layer.after_attention)
            x = self._normed(x + _affine(gelu(_affine(x, layer.up)), layer.down), layer.after)
        seen = mx.array(batch.seen.astype(np.float32))[:, None]  # (texts, 1, longest)
        sums = (seen @ x.reshape(*batch.ids.shape, -1)).squeeze(1)  # of length 1 they are what means are
        return sums / mx.linalg.norm(sums, axis=-1, keepdims=True)

    def _attention(self, qkv: mx.array, batch: Padded) -> mx.array:
        """(tokens, D) of (tokens, 3D); each text sees itself alone."""
        parts = qkv.reshape(*batch.ids.shape, 3, self.heads, self.width // self.heads)
        q, k, v = (parts[:, :, i].swapaxes(1, 2) for i in range(3))  # (texts, heads, longest, D / heads)
        scores = q @ k.swapaxes(-1, -2)
        if batch.hidden is not None:
            scores = scores + batch.hidden
        weights = exp_below(scores, scores.max(axis=-1, keepdims=True))
        mixed = (weights @ v) / weights.sum(axis=-1, keepdims=True)
        return mixed.swapaxes(1, 2).reshape(-1, self.width)

    def _normed(self, x: mx.array, norm: Norm) -> mx.array:
        return mx.fast.layer_norm(x, norm.gain, norm.bias, self.eps)


def _affine(x: mx.array, by: Affine) -> mx.array:
    return mx.addmm(by.bias, x, by.matrix)


# ---- Files. ----


def _settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InvalidArgument(f"path: expected a folder with a {file.name}, got {file.parent}")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _optional(file: Path) -> dict[str, Any]:
    return _settings(file) if file.is_file() else {}


def _check_kind(folder: Path, config: dict[str, Any]) -> None:
    kind = (
        config.get("model_type"),
        config.get("hidden_act"),
        config.get("position_embedding_type", "absolute"),
    )
    if kind != ("bert", "gelu", "absolute"):
        raise NotSupported(
            f"{folder}: expected a bert with gelu and absolute positions, got {', '.join(map(str, kind))}"
        )
    pooling = [how for how, used in _optional(folder / "1_Pooling" / "config.json").items() if used is True]
    if pooling != ["pooling_mode_mean_tokens"]:
        raise NotSupported(f"{folder}: expected the mean of the tokens as pooling, got {pooling}")


def _network(folder: Path, config: dict[str, Any]) -> Network:
    file = folder / "model.safetensors"
    if not file.is_file():
        raise InvalidArgument(f"path: expected a folder with a {file.name}, got {folder}")
    check_safetensors(file)
    tensors, width, inner = mx.load(str(file)), config["hidden_size"], config["intermediate_size"]

    def tensor(name: str, *shape: int) -> mx.array:
        found = tensors.get(name)
        expect(found is not None, name, f"a tensor in {file}", "none")
        expect(found.shape == shape, name, f"shape {shape}", found.shape)
        return found.astype(mx.float32)

    def affine(name: str, into: int, out: int) -> Affine:
        return Affine(tensor(f"{name}.weight", out, into).T, tensor(f"{name}.bias", out))

    def norm(name: str) -> Norm:
        return Norm(tensor(f"{name}.weight", width), tensor(f"{name}.bias", width))

    def layer(index: int) -> Layer:
        name = f"encoder.layer.{index}"
        q, k, v = (
            affine(f"{name}.attention.self.{part}", width, width) for part in ("query", "key", "value")
        )
        scale = (width // config["num_attention_heads"]) ** -0.5
        qkv = Affine(
            mx.contiguous(mx.concatenate([q.matrix * scale, k.matrix, v.matrix], axis=1)),
            mx.concatenate([q.bias * scale, k.bias, v.bias]),
        )
        return Layer(
            qkv,
            affine(f"{name}.attention.output.dense", width, width),
            norm(f"{name}.attention.output.LayerNorm"),
            affine(f"{name}.intermediate.dense", width, inner),
            affine(f"{name}.output.dense", inner, width),
            norm(f"{name}.output.LayerNorm"),
        )

    words = tensor("embeddings.word_embeddings.weight", config["vocab_size"], width)
    places = tensor("embeddings.position_embeddings.weight", config["max_position_embeddings"], width)
    kinds = tensor("embeddings.token_type_embeddings.weight", config["type_vocab_size"], width)
    layers = tuple(layer(index) for index in range(config["num_hidden_layers"]))
    return Network(
        words,
        places + kinds[0],
        norm("embeddings.LayerNorm"),
        layers,
        config["num_attention_heads"],
        config["layer_norm_eps"],
    )
