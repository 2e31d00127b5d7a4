"""Retrieval-augmented generation in MLX and NumPy; the rules are in spec/rag.md.

The model and the embeddings are MLX's (`embedders.py`). What is searched lies on the host: `words.py` is
BM25, over `postings.py`; `vectors.py` searches vectors that lie in `columns.py`; `ranking.py` has the k best
of both, `conditions.py` what may be found, `keeping.py` what survives a crash. `chunks.py` cuts, `fusion.py`
joins rankings, `packing.py` writes the prompt, `pipeline.py` puts them together. `measures.py` says how good
a ranking is, `mixtures.py` how likely an answer. `stores.py` has FAISS and Chroma in place of `vectors.py`.

What `week3 rag` needs besides: `collection.py`, `reading.py`, `folder.py`, `writing.py`, `judging.py`.
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
