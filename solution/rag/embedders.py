"""What makes vectors of texts: a sentence encoder, and one without a model."""

import json
from collections import Counter
from collections.abc import Iterator
from math import log1p
from pathlib import Path
from zlib import crc32

import mlx.core as mx
import numpy as np

from spec.rag import Embedder

from .words import words

DIM = 1024  # of the embedder without a model: two features in a thousand meet by chance
PART = 3  # letters of a part of a word


def encoder(path: str | Path) -> Embedder:
    """A sentence encoder, as `solution.models.embedding` reads it; texts of like length go together.

    Before a text stands what the model's config_sentence_transformers.json says for its kind, such as
    "query: "; MiniLM has nothing there, and one role for both. Raises InvalidArgument, NotSupported.
    """
    from solution.models.embedding import Encoder  # needs an extra

    network = Encoder.open(path)
    settings = Path(path) / "config_sentence_transformers.json"
    kept = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    prompts = kept.get("prompts") or {}
    before = {
        "query": prompts.get("query", ""),
        "passage": prompts.get("passage", prompts.get("document", "")),
    }
    return Embedder(network.dim, lambda texts, kind: network.embed([before[kind] + text for text in texts]))


def hashing(dim: int = DIM) -> Embedder:
    """Words, and their parts of three letters, each added with a sign at a place that its checksum names.

    It knows nothing of meaning, and finds other forms and misspellings of a word. The same text has the same
    vector everywhere.
    """

    def embed(texts: list[str], kind: str) -> mx.array:
        rows = np.zeros((len(texts), dim), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for feature, times in Counter(_features(text)).items():
                checksum = crc32(feature.encode())
                row[(checksum >> 1) % dim] += log1p(times) * (1 if checksum & 1 else -1)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return mx.array(rows / np.where(lengths > 0, lengths, 1))

    return Embedder(dim, embed)


def _features(text: str) -> Iterator[str]:
    for word in words(text):
        yield word
        framed = f"<{word}>"
        yield from (framed[i : i + PART] for i in range(len(framed) - PART + 1))
