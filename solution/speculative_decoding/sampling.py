"""From logits to the distribution that the next token is drawn from."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from spec.speculative_decoding import Sampling

from .checks import check_histories, check_ids, check_sampling, expect, on_host

Histories = Sequence[Sequence[int]]


def process_logits(
    logits: mx.array, sampling: Sampling, prompt: Sequence[int], outputs: Histories
) -> mx.array:
    """Probabilities of the next token, (R, V) float32; row r follows prompt + outputs[r]."""
    expect(logits.ndim == 2, "logits", "2 axes", logits.shape)
    rows, vocab_size = logits.shape
    check_sampling(sampling, vocab_size)
    check_ids(prompt, vocab_size, "prompt")
    expect(len(outputs) == rows, "outputs", f"{rows} lists, one a row", len(outputs))
    check_histories(outputs, vocab_size)
    return mx.array(processed(on_host(logits), sampling, prompt, outputs))


def processed(
    logits: np.ndarray, sampling: Sampling, prompt: Sequence[int], outputs: Histories
) -> np.ndarray:
    """What `process_logits` gives, on the host, of arguments that were checked."""
    logits = _changed(logits, sampling, prompt, outputs)
    if not len(logits):
        return np.zeros(logits.shape, np.float32)
    best = logits.argmax(axis=1)
    largest = logits[np.arange(len(logits)), best, None]
    expect(bool((largest > -np.inf).all()), "logits", "at least one token that is possible", "none")
    if sampling.temperature == 0:
        probs = np.zeros(logits.shape, np.float32)
        probs[np.arange(len(logits)), best] = 1
        return probs
    powers = logits - largest
    if sampling.temperature != 1:
        powers /= max(sampling.temperature, np.finfo(np.float32).tiny)
    np.exp(powers, out=powers)  # 1 for the most probable
    if sampling.min_p > 0:
        powers[powers < sampling.min_p] = 0
    if 0 < sampling.top_k < powers.shape[1]:
        powers[~_largest(np.where(powers > 0, logits, -np.inf), sampling.top_k)] = 0
    if sampling.top_p < 1:
        for row in powers:
            _keep_nucleus(row, sampling.top_p)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


# What changes logits --------------------------------------------------------------------------------------


def _changed(logits: np.ndarray, sampling: Sampling, prompt: Sequence[int], outputs: Histories) -> np.ndarray:
    """With what depends on ids and histories; the same array where nothing does."""
    s, vocab_size = sampling, logits.shape[1]
    early = [r for r, output in enumerate(outputs) if s.eos_ids and len(output) < s.min_tokens]
    counted = s.presence != 0 or s.frequency != 0
    if not (early or s.bias or s.repetition != 1 or counted):
        return logits
    logits = logits.copy()
    if early:
        logits[np.ix_(early, s.eos_ids)] = -np.inf
    if s.bias:
        logits[:, list(s.bias)] += np.array(list(s.bias.values()), np.float32)
    if s.repetition != 1:
        seen = np.zeros(logits.shape, bool)
        seen[:, list(prompt)] = True
        for row, output in zip(seen, outputs, strict=True):
            row[list(output)] = True
        logits[seen & (logits > 0)] /= s.repetition
        logits[seen & (logits < 0)] *= s.repetition
    if counted:
        counts = np.array([np.bincount(np.array(o, int), minlength=vocab_size) for o in outputs])
        penalties = s.presence * (counts > 0) + s.frequency * counts
        logits -= penalties.reshape(logits.shape).astype(np.float32)
    return logits


# What leaves out tokens -----------------------------------------------------------------------------------


def _largest(logits: np.ndarray, count: int) -> np.ndarray:
    """Where the largest of each row are, of equals the lower ids; (R, V) bool."""
    least = np.partition(logits, -count, axis=1)[:, -count, None]
    kept = logits >= least
    for r in np.flatnonzero(kept.sum(axis=1) > count):
        above = np.count_nonzero(logits[r] > least[r])
        level = np.flatnonzero(logits[r] == least[r])
        kept[r, level[count - above :]] = False
    return kept


def _keep_nucleus(weights: np.ndarray, share: float) -> None:
    """Puts 0 for all but the fewest that together reach this share of the row's sum, largest first."""
    total = weights.sum(dtype=np.float64)
    # All that weigh less than this have less than the rest together, so no share of them is needed.
    few = np.flatnonzero(weights >= (1 - share) * total / len(weights) * (1 - 1e-6))
    ordered = few[np.argsort(-weights[few], kind="stable")]
    heavy = weights[ordered].astype(np.float64)
    kept = ordered[np.cumsum(heavy) - heavy < share * total]
    rest = weights[kept]
    weights[:] = 0
    weights[kept] = rest
