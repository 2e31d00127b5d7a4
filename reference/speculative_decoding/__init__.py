"""Ground truth of speculative decoding: NumPy, float64 inside, one loop for each idea.

The rules are in spec/speculative_decoding.md. `sampling.py` makes distributions of logits, `verdicts.py`,
`blocks.py` and `trees.py` accept and reject, `drafters.py` proposes, `loop.py` puts them together with
`pace.py`, which decides how much to draft, and `worth.py` says what it is worth.
"""

from .blocks import verify_block
from .drafters import ModelDrafter, propose_ngram
from .loop import generate, generate_many
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
    "verify",
    "verify_batch",
    "verify_block",
    "verify_tree",
    "walltime_speedup",
]
