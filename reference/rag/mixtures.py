"""Probabilities of an answer as mixtures over documents. Lewis et al. 2020, section 2.1."""

import numpy as np

from .basics import WORK, expect


def rag_sequence_log_prob(doc_scores, token_log_probs, mask):
    check_mixture(doc_scores, token_log_probs, mask)
    log_weights, tokens = log_softmax(doc_scores.astype(WORK)), token_log_probs[:, mask].astype(WORK)
    return float(logsumexp(log_weights + tokens.sum(axis=1)))


def rag_token_log_prob(doc_scores, token_log_probs, mask):
    check_mixture(doc_scores, token_log_probs, mask)
    log_weights, tokens = log_softmax(doc_scores.astype(WORK)), token_log_probs[:, mask].astype(WORK)
    return float(sum((logsumexp(log_weights + token) for token in tokens.T), WORK(0)))


def log_softmax(x):
    return x - logsumexp(x)


def logsumexp(x):
    most = x.max()
    return most if np.isneginf(most) else most + np.log(np.exp(x - most).sum())


def check_mixture(doc_scores, token_log_probs, mask):
    expect(doc_scores.ndim == 1 and len(doc_scores) >= 1, "doc_scores", "shape (Z,), Z ≥ 1", doc_scores.shape)
    expect(mask.ndim == 1, "mask", "shape (L,)", mask.shape)
    shape = len(doc_scores), len(mask)
    expect(token_log_probs.shape == shape, "token_log_probs", f"shape {shape}", token_log_probs.shape)
