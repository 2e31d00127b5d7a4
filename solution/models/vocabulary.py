"""What a model's files say of its text: a folder in Hugging Face's form, or the metadata of a GGUF file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from spec import InvalidArgument, NotSupported

# What ends a text or a turn in one family or another. Files name one of theirs and forget the rest.
ENDS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "</s>")

# How text is cut into words before bytes are merged, by `tokenizer.ggml.pre`.
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NEWER_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = {
    "gpt-2": GPT2_WORDS,
    "smollm": GPT2_WORDS,  # after the digits were split off one by one
    "qwen2": NEWER_WORDS % r"\p{N}",
    "llama-bpe": NEWER_WORDS % r"\p{N}{1,3}",
}
CONTROL, USER_DEFINED = 3, 4  # `tokenizer.ggml.token_type`


@dataclass(frozen=True)
class Vocabulary:
    """backend: turns text into ids and back; its control tokens are marked as special.
    special: their texts. eos_ids: those that end a text or a turn.
    template: how a conversation becomes text, in Jinja; None where the files bring none.
    names: the texts of "bos_token" and the like, which templates ask for.
    """

    backend: Tokenizer
    special: tuple[str, ...]
    eos_ids: frozenset[int]
    template: str | None
    names: Mapping[str, str]


def read_vocabulary(path: Path) -> Vocabulary:
    """Raises InvalidArgument when the files do not say enough, NotSupported for a GGUF vocabulary of another
    kind than byte-level BPE."""
    if path.is_dir():
        return _of_folder(path)
    if path.suffix == ".gguf" and path.is_file():
        return _of_gguf(path)
    raise InvalidArgument(f"path: expected a folder with a tokenizer.json, or a GGUF file, got {path}")


# ---- Hugging Face. ----


def _of_folder(folder: Path) -> Vocabulary:
    source = _json(folder / "tokenizer.json")
    if not source:
        raise InvalidArgument(f"path: expected a folder with a tokenizer.json, got {folder}")
    for token in source.get("added_tokens", []):
        if token["special"]:  # found in text before anything changes it: what hides one there relies on that
            token["normalized"] = False
    source.update(truncation=None, padding=None)  # who wants them asks for them
    backend = Tokenizer.from_str(json.dumps(source))
    config = _json(folder / "tokenizer_config.json")
    said = [config.get("eos_token"), *ENDS]
    ids = {backend.token_to_id(_text(token)) for token in said if token}
    for file in ("generation_config.json", "config.json"):
        ids.update(_listed(_json(folder / file).get("eos_token_id")))
    names = {key: _text(value) for key, value in config.items() if key.endswith("_token") and _text(value)}
    return _vocabulary(backend, ids, _template(folder, config), names)


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """In a file of its own, or in the configuration, alone or as the default of several."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        return next((each["template"] for each in found if each["name"] == "default"), None)
    return found


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InvalidArgument(f"{file}: expected JSON, got {error}") from None


def _text(token: Any) -> str:
    """A token is its text, or an object that holds it."""
    return (
        (token.get("content") or "") if isinstance(token, dict) else token if isinstance(token, str) else ""
    )


def _listed(ids: Any) -> Sequence[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


# ---- GGUF. ----


def _of_gguf(path: Path) -> Vocabulary:
    metadata = mx.load(str(path), return_metadata=True)[1]
    found = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    kind, pre = found.get("model"), found.get("pre", "gpt-2")
    if kind != "gpt2" or pre not in WORDS:
        raise NotSupported(
            f"{path}: expected tokenizer.ggml.model gpt2 and tokenizer.ggml.pre one of {', '.join(WORDS)}, "
            f"got {kind} and {pre}. A folder with a tokenizer.json has no such limit"
        )
    tokens = found["tokens"]
    backend = _byte_level(tokens, found["merges"], pre)
    types = np.asarray(found["token_type"])
    backend.add_tokens(_added(tokens, types == CONTROL, special=True))
    backend.add_tokens(_added(tokens, types == USER_DEFINED, special=False))
    numbers = {
        name: found[key].item()
        for name, key in (("bos_token", "bos_token_id"), ("eos_token", "eos_token_id"), ("", "eot_token_id"))
        if key in found
    }
    names = {name: tokens[id] for name, id in numbers.items() if name}
    if "bos_token" in names and "add_bos_token" in found and found["add_bos_token"].item():
        bos = names["bos_token"], numbers["bos_token"]
        backend.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    ids = {backend.token_to_id(token) for token in ENDS}
    ids |= {id for name, id in numbers.items() if name != "bos_token"}
    return _vocabulary(backend, ids, metadata.get("tokenizer.chat_template"), names)


def _byte_level(tokens: Sequence[str], merges: Sequence[str], pre: str) -> Tokenizer:
    """BPE over bytes, each written as a printable character."""
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    backend = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, pairs))
    split = [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
    split.append(pre_tokenizers.Split(Regex(WORDS[pre]), "isolated"))
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*split, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend


def _added(tokens: Sequence[str], chosen: np.ndarray, *, special: bool) -> list[AddedToken]:
    """chosen: (V,) bool"""
    return [AddedToken(tokens[id], normalized=False, special=special) for id in np.flatnonzero(chosen)]


# ---- Both. ----


def _vocabulary(
    backend: Tokenizer, ends: set[int | None], template: str | None, names: Mapping[str, str]
) -> Vocabulary:
    special = tuple(str(t.content) for t in backend.get_added_tokens_decoder().values() if t.special)
    short = [text for text in special if len(text) < 2]
    if short:  # nothing can be put inside it, see tokenizer.py
        raise NotSupported(f"special tokens: expected at least two characters, got {short}")
    eos = frozenset(id for id in ends if id is not None)
    return Vocabulary(backend, special, eos, template, names)
