"""Ground truth of long context: NumPy, float64 inside, one loop for each idea.

The rules are in spec/long_context.md. `frequencies.py`, `configs.py`, `rotation.py` and `alibi.py` say how
tokens know their place, `masks.py` who sees whom, `attention.py` what that gives; `merging.py`,
`blockwise.py` and `ring.py` compute it in parts. `rolling_cache.py`, `quantized_cache.py`,
`heavy_hitters.py`, `snapkv.py` and `pages.py` keep or read less than everything, `prefill.py` feeds a
prompt in pieces.
"""

from .alibi import alibi_slopes
from .basics import DTYPES
from .blockwise import blockwise_attention
from .configs import INTERLEAVED, rope_config_from_hf
from .frequencies import rope_frequencies, turning_pair
from .heavy_hitters import HeavyHitterCache, heavy_hitter_outputs, heavy_hitter_step, nothing_kept
from .masks import attention_mask
from .merging import merge_states
from .pages import PageSelector, page_bounds, page_scores
from .prefill import chunked_prefill
from .quantisation import dequantize_kv, quantize_kv
from .quantized_cache import QuantizedKVCache, quantized_attention, quantized_rows, unpacked
from .ring import ring_attention, whole_attention
from .rolling_cache import RollingKVCache, rolling_attention
from .rotation import apply_rope
from .rows import attend_last
from .snapkv import select_snapkv, snapkv_votes

__all__ = [
    "DTYPES",
    "HeavyHitterCache",
    "INTERLEAVED",
    "PageSelector",
    "QuantizedKVCache",
    "RollingKVCache",
    "alibi_slopes",
    "apply_rope",
    "attend_last",
    "attention_mask",
    "blockwise_attention",
    "chunked_prefill",
    "dequantize_kv",
    "heavy_hitter_outputs",
    "heavy_hitter_step",
    "merge_states",
    "nothing_kept",
    "page_bounds",
    "page_scores",
    "quantize_kv",
    "quantized_attention",
    "quantized_rows",
    "ring_attention",
    "rolling_attention",
    "rope_config_from_hf",
    "rope_frequencies",
    "select_snapkv",
    "snapkv_votes",
    "turning_pair",
    "unpacked",
    "whole_attention",
]
