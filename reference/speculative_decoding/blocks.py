"""A verdict on the whole draft: later tokens vouch for earlier ones. Sun et al. 2024, algorithm 2."""

import numpy as np

from spec.speculative_decoding import Verdict

from .basics import WORK, draw
from .verdicts import check_verdict, left_over, ratio, verify


def verify_block(target_probs, draft_probs, draft_tokens, uniforms):
    if draft_probs is None:
        return verify(target_probs, draft_probs, draft_tokens, uniforms)
    check_verdict(target_probs, draft_probs, draft_tokens, uniforms)
    p, q, n = target_probs.astype(WORK), draft_probs.astype(WORK), len(draft_tokens)
    share, accepted, share_accepted = WORK(1), 0, WORK(1)
    for i, x in enumerate(draft_tokens, start=1):
        share = ratio(share * p[i - 1, x], q[i - 1, x])
        if uniforms[i - 1] < (share if i == n else chance(share, p[i], q[i])):
            accepted, share_accepted = i, share
    if accepted == n:
        return Verdict(n, draw(p[n], uniforms[-1]))
    return Verdict(accepted, draw(left_over(share_accepted * p[accepted], q[accepted]), uniforms[-1]))


def chance(share, p, q):
    """Of ending before the next token, or later; p, q: its rows."""
    missing = np.maximum(share * p - q, 0).sum()
    return WORK(1) if share == 1 else missing / (missing + 1 - share)
