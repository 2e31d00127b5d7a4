"""all-MiniLM-L6-v2 against transformers on PyTorch, both from text to embeddings, in batches of like lengths.

Part of bench_model.py. The model must be there: week3 model fetch
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from runtime import downloads
from solution.models.embedding import Encoder
from tests.week3.races import Row, agree, race

MODEL = "all-minilm-l6-v2"
SETTINGS = (
    ("1 text of 8 words", 1, 8, 8),
    ("64 texts of 5 to 30 words", 64, 5, 30),
    ("64 of 60 to 120", 64, 60, 120),
)
THEIR_BATCH = 32  # what sentence-transformers takes
WORDS = (
    "a",
    "server",
    "reads",
    "many",
    "short",
    "texts",
    "at",
    "once",
    "and",
    "keeps",
    "like",
    "lengths",
    "together",
)


def embedding_rows() -> list[Row]:
    rows = []
    for name, count, shortest, longest in SETTINGS:
        texts = made(count, shortest, longest)
        contenders = [lambda texts=texts: theirs(texts), lambda texts=texts: own().embed(texts)]
        agree(contenders)
        rival, mine = race(contenders, rounds=4)
        rows.append(Row(f"embedding {name}: transformers", rival, 1.0, "", True, ""))
        ratio = rival / mine
        rows.append(Row(f"embedding {name}: solution", mine, ratio, "at least level", ratio >= 1, ""))
    return rows


def made(count: int, shortest: int, longest: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(shortest, longest + 1))) for _ in range(count)]


def model_path() -> Path:
    path = downloads.installed(MODEL)
    if path is None:
        raise FileNotFoundError(f"{MODEL} is not here: week3 model fetch {MODEL}")
    return path


@cache
def own() -> Encoder:
    return Encoder.open(model_path())


@cache
def published() -> tuple[Callable[..., Any], Callable[..., Any]]:
    from transformers import AutoModel, AutoTokenizer

    folder = str(model_path())
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def theirs(texts: Sequence[str], *, by_length: bool = True) -> np.ndarray:
    """(n, 384), pooled as sentence-transformers does, and where asked for sorted as there."""
    import torch

    tokenizer, model = published()
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]) if by_length else 0)
    out = np.empty((len(texts), 384), np.float32)
    for first in range(0, len(order), THEIR_BATCH):
        chosen = order[first : first + THEIR_BATCH]
        read = tokenizer(
            [texts[i] for i in chosen], padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        with torch.no_grad():
            states = model(**read).last_hidden_state  # (batch, tokens, 384)
        seen = read["attention_mask"][..., None].float()
        means = (states * seen).sum(1) / seen.sum(1)
        out[chosen] = torch.nn.functional.normalize(means, dim=-1).numpy()
    return out
