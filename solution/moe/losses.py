"""What keeps experts evenly used, and how evenly they are.

On the host, in float64: T · E numbers are few, and the gradient is a small difference between large terms,
which MLX's exponential is too rough for (1e-6 relative on its CPU back end).
"""

import mlx.core as mx
import numpy as np

from spec.moe import Balance

from .checks import check_ids, check_tokens, expect, shape_of
from .router import TINY, on_host, score


def load_balancing_loss(
    logits: mx.array,
    experts: mx.array,
    n_experts: int,
    *,
    mask: mx.array | None = None,
    scoring: str = "softmax",
    pooling: str = "all",
    divide_by_k: bool = False,
) -> mx.array:
    """E · sum over i of f_i · P_i, () float32: f the slots of an expert over the tokens, P its mean score.

    logits: (G, T, E); experts: (G, T, k) integers; mask: (G, T) bool, False for padding.
    """
    pools = _pools(logits, experts, n_experts, mask, scoring, pooling, divide_by_k)
    losses = [
        n_experts * (frequency @ _shares(rows, scoring)[0].mean(axis=0)) for _, rows, frequency in pools
    ]
    return mx.array(float(sum(losses)) / max(1, len(losses)))


def load_balancing_loss_grad(
    logits: mx.array,
    experts: mx.array,
    n_experts: int,
    *,
    mask: mx.array | None = None,
    scoring: str = "softmax",
    pooling: str = "all",
    divide_by_k: bool = False,
) -> mx.array:
    """d `load_balancing_loss` / d logits, (G, T, E) float32; f counts as a constant."""
    pools = _pools(logits, experts, n_experts, mask, scoring, pooling, divide_by_k)
    gradient = np.zeros(logits.shape, np.float32)
    others = 1 - np.eye(n_experts)
    for where, rows, frequency in pools:
        by_share = n_experts * frequency / len(rows) / len(pools)  # (E,)
        shares, slopes = _shares(rows, scoring)
        # by_share − the sum of shares · by_share, one's own share apart: next to it the others would vanish
        gradient[where] = slopes * (by_share * (1 - shares) - (by_share * shares) @ others)
    return mx.array(gradient)


def _pools(
    logits: mx.array,
    experts: mx.array,
    n_experts: int,
    mask: mx.array | None,
    scoring: str,
    pooling: str,
    divide_by_k: bool,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The tokens over which f and P are taken, padding left out: places (G, T), logits (n, E), f (E,)."""
    expect(logits.ndim == 3, "logits", "3 axes", logits.shape)
    groups, tokens, width = logits.shape
    expect(width == n_experts, "logits", f"{n_experts} columns", width)
    alike = experts.ndim == 3 and experts.shape[:2] == (groups, tokens)
    expect(alike, "experts", f"shape ({groups}, {tokens}, k)", experts.shape)
    fits = mask is None or mask.shape == (groups, tokens)
    expect(fits, "mask", f"shape ({groups}, {tokens})", shape_of(mask))
    expect(scoring in ("softmax", "sigmoid"), "scoring", "softmax or sigmoid", scoring)
    expect(pooling in ("all", "each"), "pooling", "all or each", pooling)
    counts = np.ones((groups, tokens), bool) if mask is None else np.asarray(mask)
    ids = np.asarray(experts)
    check_ids(ids[counts], n_experts)
    places = [counts]
    if pooling == "each":
        places = [counts & (np.arange(groups) == g)[:, None] for g in range(groups)]
    values = on_host(logits).astype(np.float64)
    slots_per_token = ids.shape[2] if divide_by_k else 1
    pools = []
    for where in places:
        if where.any():
            load = np.bincount(ids[where].reshape(-1), minlength=n_experts)
            pools.append((where, values[where], load / where.sum() / slots_per_token))
    return pools


def _shares(rows: np.ndarray, scoring: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores that sum to 1 in each row, and s in d share[i] / d row[m] = s[m] · ((i = m) − share[i])."""
    scores = score(rows, scoring)
    if scoring == "softmax":
        return scores, scores
    total = scores.sum(axis=1, keepdims=True) + TINY
    return scores / total, scores * score(-rows, scoring) / total  # 1 − sigmoid(x) is sigmoid(−x)


def router_z_loss(logits: mx.array, *, mask: mx.array | None = None) -> mx.array:
    """Mean over tokens of logsumexp(logits)², () float32; 0 without any token."""
    expect(logits.ndim == 2, "logits", "2 axes", logits.shape)
    check_tokens(logits.shape[0], mask, None)
    rows = on_host(logits).astype(np.float64)
    rows = rows if mask is None else rows[np.asarray(mask)]
    top = rows.max(axis=1, keepdims=True)
    log_sums = top + np.log(np.exp(rows - top).sum(axis=1, keepdims=True))
    return mx.array(float(np.square(log_sums).sum()) / max(1, len(rows)))


def balance(experts: mx.array, n_experts: int) -> Balance:
    """How evenly slots, (T, k), fall on experts: load, max over mean load − 1, and entropy."""
    expect(experts.ndim == 2, "experts", "2 axes", experts.shape)
    ids = np.asarray(experts)
    check_ids(ids, n_experts)
    load = np.bincount(ids.reshape(-1), minlength=n_experts)
    violation = entropy = 0.0
    if ids.size:
        violation = float(load.max() / load.mean() - 1)
        shares = load[load > 0] / ids.size
        entropy = float(-(shares * np.log(shares)).sum())
    return Balance(mx.array(load.astype(np.int32)), mx.array(violation), mx.array(entropy))


def update_selection_bias(bias: mx.array, load: mx.array, rate: float) -> mx.array:
    """bias + rate where the load is below the mean load, − rate where it is above; (E,) float32."""
    expect(load.shape == bias.shape, "load", f"shape {bias.shape}", load.shape)
    expect(rate >= 0, "rate", "at least 0", rate)
    slots = np.asarray(load).astype(np.int64)
    direction = np.sign(slots.sum() - slots * slots.size)  # whole numbers: equal loads stay put
    return bias.astype(mx.float32) + rate * mx.array(direction.astype(np.float32))
