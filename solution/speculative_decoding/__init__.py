"""Speculative decoding in MLX; the rules are in spec/speculative_decoding.md.

The model's pass is MLX's. What decides is on the host, in NumPy, where the logits already lie: few operations
over few rows of V, of which a step needs one number in the end. `sampling.py` makes distributions of logits;
`verdicts.py`, `blocks.py` and `trees.py` accept and reject; `ngrams.py` and `model_drafter.py` propose,
`drafters.py` has what can be given to `generate`; `loop.py` is that loop, `pace.py` decides how much it
drafts, `worth.py` says what it is worth.
"""

from .blocks import verify_block
from .loop import generate, generate_many, stream
from .model_drafter import ModelDrafter
from .ngrams import propose_ngram
from .sampling import process_logits
from .trees import verify_tree
from .verdicts import acceptance_probability, residual, verify, verify_batch
from .worth import best_gamma, expected_tokens, walltime_speedup

__all__ = [
    "ModelDrafter",
    "acceptance_probability",
    "best_gamma",
    "expected_tokens",
    "generate",
    "generate_many",
    "process_logits",
    "propose_ngram",
    "residual",
    "stream",
    "verify",
    "verify_batch",
    "verify_block",
    "verify_tree",
    "walltime_speedup",
]
