"""Who sees whom."""

import numpy as np

from .basics import expect


def attention_mask(
    q_positions,
    kv_positions,
    *,
    causal=True,
    window=None,
    sink_tokens=0,
    chunk=None,
    prefix=0,
    segments=None,
):
    expect(q_positions.ndim == 1, "q_positions", "1 axis", q_positions.shape)
    expect(kv_positions.ndim == 1, "kv_positions", "1 axis", kv_positions.shape)
    check_mask_options(causal, window, sink_tokens, chunk, prefix)
    check_segments(segments, len(q_positions), len(kv_positions))
    q, k = q_positions.astype(int)[:, None], kv_positions.astype(int)[None, :]
    visible = (k <= q) | (k < prefix) if causal else np.ones((len(q_positions), len(kv_positions)), bool)
    near = np.ones(visible.shape, bool)
    if window is not None:
        near &= k > q - window
    if chunk is not None:
        near &= k // chunk == q // chunk
    visible &= near | (k < sink_tokens)
    if segments is not None:
        of_queries, of_keys = segments
        visible &= of_queries[:, None] == of_keys[None, :]
    return visible & (q >= 0) & (k >= 0)


def check_mask_options(causal, window, sink_tokens, chunk, prefix):
    expect(window is None or window >= 1, "window", "at least 1", window)
    expect(window is None or causal, "window", "None without causal", window)
    expect(sink_tokens >= 0, "sink_tokens", "at least 0", sink_tokens)
    expect(chunk is None or chunk >= 1, "chunk", "at least 1", chunk)
    expect(prefix >= 0, "prefix", "at least 0", prefix)


def check_segments(segments, queries, keys):
    if segments is not None:
        shapes = tuple(each.shape for each in segments)
        expect(shapes == ((queries,), (keys,)), "segments", f"shapes ({queries},) and ({keys},)", shapes)
