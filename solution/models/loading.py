"""From files to a model."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import mlx.core as mx

from spec.model import Model

from .caches import RESERVED, make
from .checkpoints import read
from .checks import expect
from .config import DecoderConfig
from .decoder import Network
from .rotation import Rotation
from .sequence import Context
from .weights import lay_out


@dataclass(frozen=True)
class Decoder:
    """The weights of a model."""

    config: DecoderConfig
    network: Network
    dtype: str

    def start(
        self,
        *,
        cache: str = "contiguous",
        max_length: int | None = None,
        window: int | None = None,
        sinks: int = 0,
    ) -> Model:
        """An empty context.

        cache: "contiguous"; "paged", which reserves room for `max_length` tokens at once, 8192 by default;
            "int8"; "int4"; or "rolling", which keeps the first `sinks` tokens and the last `window`, 1024 by
            default.
        max_length: tokens that the context may hold; by default what the model was made for, and without an
            end in a rolling cache.

        Raises InvalidArgument for an unknown cache, a number below 1, or a window for another cache than the
        rolling one; NotSupported for int8, int4 and rolling when the model itself has a window.
        """
        limits = {"paged": min(self.config.max_length, RESERVED), "rolling": sys.maxsize}
        limit = limits.get(cache, self.config.max_length) if max_length is None else max_length
        expect(limit >= 1, "max_length", "at least 1", limit)
        empty_cache = partial(make, cache, self.config, limit, window, sinks, self.dtype)
        return Context(self.network, empty_cache, limit).as_model()

    def only(self, layers: Sequence[int]) -> "Decoder":
        """The same weights without the other layers: a worse model, and a quicker one."""
        known = range(self.config.layers)
        ascending = all(a < b for a, b in pairwise(layers)) and bool(layers)
        expect(ascending and set(layers) <= set(known), "layers", f"ascending, of 0 to {known[-1]}", layers)
        config = replace(self.config, layers=len(layers))
        weights = self.network.weights
        weights = replace(weights, layers=tuple(weights.layers[index] for index in layers))
        return replace(self, config=config, network=replace(self.network, config=config, weights=weights))


def load(path: str | Path, *, dtype: str | None = None) -> Decoder:
    """The decoder in a Hugging Face folder or a GGUF file.

    dtype: of weights, activations and caches, "float32", "float16" or "bfloat16"; None for float32 on a CPU,
        where it is the fastest, and bfloat16 on a GPU. Quantised weights become dense.

    Raises InvalidArgument for a file that is cut off, a tensor that is missing, too much or of another shape,
    naming it; NotSupported for an architecture or an option that is not computed here.
    """
    on_cpu = mx.default_device() == mx.cpu
    dtype = ("float32" if on_cpu else "bfloat16") if dtype is None else dtype
    expect(dtype in ("float32", "float16", "bfloat16"), "dtype", "float32, float16 or bfloat16", dtype)
    checkpoint = read(path)
    config = checkpoint.config
    rotation = Rotation(config.rope, config.rope_changes_after)
    weights = lay_out(checkpoint, rotation.usual.softmax_scale, getattr(mx, dtype))
    return Decoder(config, Network(config, weights, rotation), dtype)
