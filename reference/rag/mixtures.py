"""Probabilities of an answer as mixtures over documents. Lewis et al. 2020, section 2.1."""

import numpy as np

from .basics import WORK, expect

logsumexp = np.logaddexp.reduce  # of −inf alone −inf


def rag_sequence_log_prob(doc_scores, token_log_probs, mask):
    weights, tokens = logarithms(doc_scores, token_log_probs, mask)
    return float(logsumexp(weights + tokens.sum(axis=1)))


def rag_token_log_prob(doc_scores, token_log_probs, mask):
    weights, tokens = logarithms(doc_scores, token_log_probs, mask)
    return float(sum((logsumexp(weights + token) for token in tokens.T), WORK(0)))


def logarithms(doc_scores, token_log_probs, mask):
    """Of the documents' weights (Z,), and of the probabilities of the tokens that there are (Z, tokens)."""
    expect(doc_scores.ndim == 1 and len(doc_scores) > 0, "doc_scores", "shape (Z,), Z ≥ 1", doc_scores.shape)
    expect(mask.ndim == 1, "mask", "shape (L,)", mask.shape)
    shape = len(doc_scores), len(mask)
    expect(token_log_probs.shape == shape, "token_log_probs", f"shape {shape}", token_log_probs.shape)
    scores = doc_scores.astype(WORK)
    return scores - logsumexp(scores), token_log_probs[:, mask].astype(WORK)
