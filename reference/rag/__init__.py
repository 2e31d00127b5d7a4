"""Ground truth of retrieval-augmented generation: NumPy, float64 inside, searching all of it each time.

The rules are in spec/rag.md. `chunks.py` cuts, `words.py` and `vectors.py` find, with `conditions.py` on
metadata and `keeping.py` for a disk, `fusion.py` joins rankings, `packing.py` writes the prompt, and
`pipeline.py` puts them together. `measures.py` says how good a ranking is, `mixtures.py` how likely an
answer.
"""

from .chunks import split
from .conditions import matches
from .fusion import maximal_marginal_relevance, reciprocal_rank_fusion, score_fusion
from .measures import average_precision, evaluate, ndcg_at_k, precision_at_k, recall_at_k, reciprocal_rank
from .mixtures import rag_sequence_log_prob, rag_token_log_prob
from .packing import citations, pack_context
from .pipeline import RagPipeline
from .vectors import VectorIndex, load_index
from .words import BM25

__all__ = [
    "BM25",
    "RagPipeline",
    "VectorIndex",
    "average_precision",
    "citations",
    "evaluate",
    "load_index",
    "matches",
    "maximal_marginal_relevance",
    "ndcg_at_k",
    "pack_context",
    "precision_at_k",
    "rag_sequence_log_prob",
    "rag_token_log_prob",
    "recall_at_k",
    "reciprocal_rank",
    "reciprocal_rank_fusion",
    "score_fusion",
    "split",
]
