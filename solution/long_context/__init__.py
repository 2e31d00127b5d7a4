"""Long context in MLX; the rules are in spec/long_context.md.

`rotation.py` and `checkpoints.py` say how tokens turn, `masks.py` who sees whom. `kernels.py` computes
attention in tiles; `blockwise.py` offers that and merges parts, `ring.py` spreads it over ranks. `caches.py`,
`quantisation.py` and `selection.py` keep less than everything, `prefill.py` feeds a prompt in pieces.
"""

from .blockwise import blockwise_attention, merge_states
from .caches import RollingKVCache
from .checkpoints import rope_config_from_hf
from .masks import attention_mask
from .prefill import chunked_prefill
from .quantisation import QuantizedKVCache, dequantize_kv, quantize_kv
from .ring import ring_attention
from .rotation import alibi_slopes, apply_rope, rope_frequencies
from .selection import HeavyHitterCache, PageSelector, select_snapkv

__all__ = [
    "HeavyHitterCache",
    "PageSelector",
    "QuantizedKVCache",
    "RollingKVCache",
    "alibi_slopes",
    "apply_rope",
    "attention_mask",
    "blockwise_attention",
    "chunked_prefill",
    "dequantize_kv",
    "merge_states",
    "quantize_kv",
    "ring_attention",
    "rope_config_from_hf",
    "rope_frequencies",
    "select_snapkv",
]
