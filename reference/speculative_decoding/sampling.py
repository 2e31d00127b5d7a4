"""From logits to the distribution that the next token is drawn from."""

from collections import Counter

import numpy as np

from .basics import WORK, check_ids, expect, in_float32


def process_logits(logits, sampling, prompt, outputs):
    expect(logits.ndim == 2, "logits", "2 axes", logits.shape)
    vocabulary = logits.shape[1]
    check_sampling(sampling, vocabulary)
    check_ids(prompt, vocabulary, "prompt")
    expect(len(outputs) == len(logits), "outputs", f"{len(logits)} lists, one a row", len(outputs))
    probs = np.zeros(logits.shape, WORK)
    for r, output in enumerate(outputs):
        check_ids(output, vocabulary, "outputs")
        probs[r] = process(logits[r].astype(WORK), sampling, prompt, output)
    return in_float32(probs, logits)


def process(logits, sampling, prompt, output):
    """logits: (V,), this function's own."""
    if len(output) < sampling.min_tokens:
        logits[list(sampling.eos_ids)] = -np.inf
    for token, bias in sampling.bias.items():
        logits[token] += WORK(bias)
    for token in {*prompt, *output}:
        above = logits[token] > 0
        logits[token] *= 1 / WORK(sampling.repetition) if above else WORK(sampling.repetition)
    for token, times in Counter(output).items():
        logits[token] -= WORK(sampling.presence) + times * WORK(sampling.frequency)
    expect((logits > -np.inf).any(), "logits", "at least one token that is possible", "none")
    if sampling.temperature == 0:
        return (np.arange(len(logits)) == np.argmax(logits)).astype(WORK)
    probs = softmax(logits / WORK(sampling.temperature))
    probs = only(probs, probs >= WORK(sampling.min_p) * probs.max())
    if sampling.top_k > 0:
        probs = only(probs, ranks(probs) < sampling.top_k)
    if sampling.top_p < 1:
        probs = only(probs, mass_before(probs) < WORK(sampling.top_p))
    return probs


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def only(probs, kept):
    rest = np.where(kept, probs, 0)
    return rest / rest.sum()


def ranks(probs):
    """0 for the most probable: probability descending, then id ascending."""
    places = np.empty(len(probs), int)
    places[np.argsort(-probs, kind="stable")] = np.arange(len(probs))
    return places


def mass_before(probs):
    """What all that are more probable have together."""
    order = np.argsort(-probs, kind="stable")
    before = np.empty_like(probs)
    before[order] = np.cumsum(probs[order]) - probs[order]
    return before


def check_sampling(sampling, vocabulary):
    s = sampling
    expect(s.temperature >= 0, "temperature", "at least 0", s.temperature)
    expect(s.top_k >= 0, "top_k", "at least 0", s.top_k)
    expect(0 < s.top_p <= 1, "top_p", "above 0 and at most 1", s.top_p)
    expect(0 <= s.min_p <= 1, "min_p", "0 to 1", s.min_p)
    expect(s.repetition > 0, "repetition", "above 0", s.repetition)
    expect(s.min_tokens >= 0, "min_tokens", "at least 0", s.min_tokens)
    check_ids(s.bias, vocabulary, "bias")
    check_ids(s.eos_ids, vocabulary, "eos_ids")
