"""Probabilities of an answer as mixtures over documents. Lewis et al. 2020, section 2.1.

All of it is logarithms. In MLX one would have float32 alone; on the host 1,000 tokens keep their last digits.
"""

import mlx.core as mx
import numpy as np

from .checks import expect, on_host


def rag_sequence_log_prob(doc_scores: mx.array, token_log_probs: mx.array, mask: mx.array) -> float:
    weights, tokens = _logarithms(doc_scores, token_log_probs, mask)
    return float(np.logaddexp.reduce(weights + tokens.sum(axis=1)))


def rag_token_log_prob(doc_scores: mx.array, token_log_probs: mx.array, mask: mx.array) -> float:
    weights, tokens = _logarithms(doc_scores, token_log_probs, mask)
    return float(np.logaddexp.reduce(weights[:, None] + tokens, axis=0).sum())


def _logarithms(
    doc_scores: mx.array, token_log_probs: mx.array, mask: mx.array
) -> tuple[np.ndarray, np.ndarray]:
    """Of the documents' weights (Z,), and of the probabilities of the tokens that are there (Z, tokens)."""
    documents, there = tuple(doc_scores.shape), tuple(mask.shape)
    expect(len(documents) == 1 and documents[0] > 0, "doc_scores", "shape (Z,), Z at least 1", documents)
    expect(len(there) == 1, "mask", "shape (L,)", there)
    shape = *documents, *there
    fits = tuple(token_log_probs.shape) == shape
    expect(fits, "token_log_probs", f"shape {shape}", tuple(token_log_probs.shape))
    scores = on_host(doc_scores).astype(np.float64)
    tokens = on_host(token_log_probs)[:, np.asarray(mask, bool)].astype(np.float64)
    return scores - np.logaddexp.reduce(scores), tokens
