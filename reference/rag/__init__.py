"""Ground truth of retrieval-augmented generation: NumPy, float64 inside, searching all of it each time.

The rules are in spec/rag.md. `chunks.py` cuts, `words.py` and `vectors.py` find, with `conditions.py` on
metadata, and `keeping.py` keeps what was found.
"""

from .chunks import split
from .conditions import matches
from .vectors import VectorIndex, load_index
from .words import BM25

__all__ = ["BM25", "VectorIndex", "load_index", "matches", "split"]
