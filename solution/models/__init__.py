"""Decoders of the Llama family in MLX.

`checkpoints.py` reads files, `weights.py` lays matrices out, `decoder.py` is the forward pass; `caches.py`
says where keys and values stay, `sequence.py` makes a `Model` of a context, `generation.py` draws tokens.
"""

from .config import DecoderConfig
from .generation import generate
from .loading import Decoder, load

__all__ = ["Decoder", "DecoderConfig", "generate", "load"]
