"""Contract of long context: what a module `long_context` must offer.

The rules are in `long_context.md`; the ids in the docstrings (LC-01 …) point there. Signatures and values
only: nothing here computes.

Symbols used throughout: d rotated channels of a head, i a pair of them (0 … d/2 − 1), L the original length
that a model was trained for, s a scaling factor, W a window in tokens, S sink tokens, G a quantisation group.
An `Array` is an array of the implementation's framework (MLX, PyTorch or NumPy). Integer arrays that come in
are int32 or int64, but for codes; those handed out may have any integer dtype. "Float" arrays are float32,
float16 or bfloat16 (in NumPy that of `ml_dtypes`). Query head h reads kv head h // (heads // kv_heads).

Sources: RoPE (Su et al. 2021, arXiv 2104.09864), position interpolation (2306.15595), YaRN (2309.00071),
LongRoPE (2402.13753), ALiBi (2108.12409), FlashAttention (2205.14135), ring attention (2310.01889),
StreamingLLM (2309.17453), H2O (2306.14048), SnapKV (2404.14469), Quest (2406.10774), KIVI (2402.02750);
transformers `modeling_rope_utils.py` and `masking_utils.py`; mlx-lm `models/cache.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spec.collective import Collective
from spec.model import Model

__all__ = [
    "NTK",
    "AttentionState",
    "Collective",
    "DynamicNTK",
    "HeavyHitterCache",
    "Linear",
    "Llama3",
    "LongRoPE",
    "Model",
    "PageSelector",
    "Quantized",
    "QuantizedKVCache",
    "RollingKVCache",
    "RopeConfig",
    "RopeFrequencies",
    "YaRN",
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

Array = Any


# Values ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linear:
    """Position interpolation: every frequency divided by `factor`. LC-09."""

    factor: float


@dataclass(frozen=True)
class NTK:
    """Another base, so that the slowest frequency is divided by `factor` and the fastest stays. LC-10."""

    factor: float


@dataclass(frozen=True)
class DynamicNTK:
    """NTK whose base grows with the length, from `original_length` on. LC-11."""

    factor: float
    original_length: int


@dataclass(frozen=True)
class YaRN:
    """Fast frequencies stay, slow ones are divided by `factor`, between them a ramp. LC-12 to LC-15.

    beta_fast, beta_slow: rotations within `original_length` at which the ramp begins and ends.
    truncate: round the ends of the ramp to whole pairs (gpt-oss does not).
    attention_factor: None for 0.1 · ln(factor) + 1.
    mscale, mscale_all_dim: DeepSeek's way to share this factor between rotation and softmax; both or neither.
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None


@dataclass(frozen=True)
class Llama3:
    """By wavelength: short ones stay, long ones are divided by `factor`, between them a blend. LC-16."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int


@dataclass(frozen=True)
class LongRoPE:
    """A searched divisor for each pair, one list up to `original_length` and one beyond. LC-17, LC-18.

    short_factor, long_factor: d/2 numbers each. factor: how much longer the context became.
    attention_factor: None for sqrt(1 + ln(factor) / ln(original_length)).
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_length: int
    factor: float
    attention_factor: float | None = None


Scaling = Linear | NTK | DynamicNTK | YaRN | Llama3 | LongRoPE


@dataclass(frozen=True)
class RopeConfig:
    """How a model rotates. LC-08.

    head_dim: channels of a head, of which the first d = int(head_dim · rotary_fraction) rotate.
    interleaved: pairs are the channels (2i, 2i + 1); otherwise (i, i + d/2).
    """

    head_dim: int
    base: float = 10000.0
    rotary_fraction: float = 1.0
    interleaved: bool = False
    scaling: Scaling | None = None


@dataclass(frozen=True)
class RopeFrequencies:
    """inv_freq: (d/2,) float32, radians a position. attention_factor: on cos and sin, see `apply_rope`.
    softmax_scale: on the scale of the scores, 1 / sqrt(head_dim). LC-08 to LC-18."""

    inv_freq: Array
    attention_factor: float = 1.0
    softmax_scale: float = 1.0


@dataclass(frozen=True)
class AttentionState:
    """Attention over a part of the keys, in a form that can be merged. LC-34 to LC-50.

    out: (batch, heads, queries, head_dim) float32, weighted mean of the values.
    lse: (batch, heads, queries) float32, natural logarithm of the sum of the exponentials of the scores;
        −inf, with out 0, where no key is seen.
    """

    out: Array
    lse: Array


@dataclass(frozen=True)
class Quantized:
    """Codes of `bits` bits in groups of `group` neighbours along `axis`. LC-65 to LC-69.

    codes: (tokens, kv_heads, head_dim) uint8. scale, zero: float32, the same shape, but `axis` has
    1 / group of the length. A value is code · scale + zero.
    """

    codes: Array
    scale: Array
    zero: Array
    bits: int
    group: int
    axis: int


# Positions ------------------------------------------------------------------------------------------------


def rope_frequencies(config: RopeConfig, seq_len: int | None = None) -> RopeFrequencies:
    """What `apply_rope` rotates by. LC-08 to LC-20.

    seq_len: tokens of the whole context, which `DynamicNTK` and `LongRoPE` look at and no other; None for at
        most the original length.

    Raises InvalidArgument when d is odd, below 2 or above head_dim, or 2 with NTK or DynamicNTK; the base is
    not above 1; a factor is below 1; `seq_len` or an original length is below 1 (for LongRoPE below 2); a
    beta is not above 0 or beta_fast below beta_slow; low_freq_factor is not above 0 or high_freq_factor not
    above it; LongRoPE's lists do not have d/2 numbers above 0; an attention_factor is not above 0; one of
    mscale and mscale_all_dim comes without the other, or is not above 0.
    """
    ...


def rope_config_from_hf(config: Mapping[str, Any], layer_type: str | None = None) -> RopeConfig:
    """The rotation of a checkpoint's `config.json`. LC-21 to LC-24.

    layer_type: which entry, where a hybrid model has one for each kind of layer ("full_attention",
        "sliding_attention").

    Raises NotSupported for a rope type that this contract does not have; InvalidArgument when a key without a
    default is missing, or `layer_type` is needed and missing, or unknown.
    """
    ...


def apply_rope(
    x: Array,
    positions: Array,
    inv_freq: Array,
    *,
    attention_factor: float = 1.0,
    interleaved: bool = False,
) -> Array:
    """x rotated by its positions, in the dtype of x. LC-01 to LC-07.

    x: (batch, heads, tokens, head_dim) float; positions: (tokens,) or (batch, tokens) integers; inv_freq:
        (d/2,) float32. Pair i of a token at position m turns by m · inv_freq[i], in float32, and grows by
        attention_factor; channels from d on stay.

    Raises InvalidArgument when a shape is wrong or d exceeds head_dim.
    """
    ...


def alibi_slopes(heads: int) -> Array:
    """(heads,) float32, the slope of each head. LC-25. Raises InvalidArgument when `heads` is below 1."""
    ...


# Masks ----------------------------------------------------------------------------------------------------


def attention_mask(
    q_positions: Array,
    kv_positions: Array,
    *,
    causal: bool = True,
    window: int | None = None,
    sink_tokens: int = 0,
    chunk: int | None = None,
    prefix: int = 0,
    segments: tuple[Array, Array] | None = None,
) -> Array:
    """(queries, keys) bool, True where a query sees a key. LC-26 to LC-33.

    q_positions, kv_positions: (queries,) and (keys,) integers; a negative one is padding, which neither sees
        nor is seen.
    causal: only keys at or before the query, except those before `prefix`, which all may see.
    window: only the last W positions, the query's own included; chunk: only keys of the same run of `chunk`
        positions. Both let the positions below `sink_tokens` through.
    segments: (queries,) and (keys,) integers: the document of each; only keys of the same one.

    Raises InvalidArgument when a shape is wrong, window or chunk is below 1, sink_tokens or prefix negative,
    or a window comes without `causal`.
    """
    ...


# Attention in parts ---------------------------------------------------------------------------------------


def blockwise_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    block: int,
    scale: float | None = None,
    q_positions: Array | None = None,
    kv_positions: Array | None = None,
    causal: bool = True,
    window: int | None = None,
    sink_tokens: int = 0,
    sink_logits: Array | None = None,
    chunk: int | None = None,
    prefix: int = 0,
    segments: tuple[Array, Array] | None = None,
    alibi_slopes: Array | None = None,
    softcap: float | None = None,
) -> AttentionState:
    """Attention over `block` keys at a time; never the whole matrix of scores. LC-34 to LC-45.

    q: (batch, heads, queries, head_dim); k, v: (batch, kv_heads, keys, head_dim), all of one float dtype.
    scale: factor on the scores, 1 / sqrt(head_dim) by default.
    q_positions, kv_positions: as in `attention_mask`, with its masks; by default the keys are at
        0 … keys − 1 and the queries at keys − queries … keys − 1, each also where the other is given.
    softcap: c > 0 replaces each scaled score x by c · tanh(x / c).
    alibi_slopes: (heads,) float32: minus slope · |distance| on each score, after scale and softcap.
    sink_logits: (heads,) float32, one more logit in each head's softmax, counted in lse.

    Raises InvalidArgument when shapes or dtypes disagree, heads is no multiple of kv_heads, `block` is below
    1, softcap not above 0, and what `attention_mask` raises.
    """
    ...


def merge_states(states: Sequence[AttentionState], *, sink_logits: Array | None = None) -> AttentionState:
    """Attention over all keys, from attention over parts of them. LC-46 to LC-50.

    states: at least one, all of one shape; `out` is not looked at where lse is −inf.
    sink_logits: (heads,) float32, joins once.
    Raises InvalidArgument when there is no state or shapes disagree.
    """
    ...


def ring_attention(
    q: Array,
    k: Array,
    v: Array,
    positions: Array,
    *,
    collective: Collective,
    causal: bool = True,
    scale: float | None = None,
) -> Array:
    """Attention of this rank's queries over the keys of all ranks, in the dtype of q. LC-51 to LC-55.

    Called by every rank of the collective at the same time, also by one without tokens.

    q: (batch, heads, tokens of this rank, head_dim); k, v: (batch, kv_heads, tokens of this rank, head_dim).
    positions: (tokens of this rank,) integers, what `causal` goes by: any share of the sequence in any order.

    Raises InvalidArgument, before it talks to another rank, when shapes or dtypes disagree.
    """
    ...


# Caches ---------------------------------------------------------------------------------------------------


class RollingKVCache:
    """The first S and the last W tokens of one sequence, rotated when they are read. LC-56 to LC-64."""

    def __init__(
        self,
        window: int,
        sink_tokens: int,
        kv_heads: int,
        head_dim: int,
        *,
        inv_freq: Array,
        attention_factor: float = 1.0,
        interleaved: bool = False,
        positions: str = "cache",
        dtype: str = "float32",
    ) -> None:
        """An empty cache. LC-56, LC-64.

        inv_freq, attention_factor, interleaved: as in `apply_rope`.
        positions: "cache" counts the keys that a query sees 0, 1, … and the query is the last of them;
            "absolute" takes positions in the sequence.
        dtype: "float32", "float16" or "bfloat16", of keys, values and queries alike.

        Raises InvalidArgument when window, kv_heads or head_dim is below 1, sink_tokens negative, inv_freq
        not one axis of at most head_dim / 2 numbers, or positions or the dtype unknown.
        """
        ...

    def append(self, keys: Array, values: Array) -> None:
        """m ≥ 0 more tokens; what none of them sees is given up first. LC-56 to LC-58, LC-63.

        keys, values: (m, kv_heads, head_dim), not rotated. Raises InvalidArgument when a shape or dtype is
        wrong.
        """
        ...

    def attend(self, queries: Array, *, scale: float | None = None) -> Array:
        """The last m tokens attend: each to S sinks and the W tokens that end with it. LC-56 to LC-60.

        queries: (m, heads, head_dim), not rotated; m at most the tokens of the last `append` that had any, as
            far as they are still there. The result is like the queries.

        Raises InvalidArgument when a shape or dtype is wrong or there are more queries.
        """
        ...

    def truncate(self, length: int) -> None:
        """Keeps the first `length` tokens. LC-62.

        Raises InvalidArgument when `length` is negative or above the present one; CannotTruncate when a token
        was given up that the next one would see.
        """
        ...

    def length(self) -> int:
        """Tokens appended, those given up included. LC-61."""
        ...

    def positions(self) -> list[int]:
        """Which tokens of the sequence the last one sees, ascending. LC-61."""
        ...


class QuantizedKVCache:
    """Keys quantised per channel, values per token, the newest tokens as they came. LC-70 to LC-74."""

    def __init__(
        self,
        bits: int,
        group: int,
        residual: int,
        kv_heads: int,
        head_dim: int,
        *,
        dtype: str = "float32",
    ) -> None:
        """An empty cache. LC-70, LC-74.

        Of n tokens the first G · max(0, ⌊(n − residual) / G⌋) are quantised, G being `group`: keys in groups
        of G tokens, values in groups of G channels.

        Raises InvalidArgument when bits is not 2, 4 or 8, group does not divide head_dim or is below 1,
        residual is negative, a size is below 1 or the dtype unknown.
        """
        ...

    def append(self, keys: Array, values: Array) -> None:
        """(m, kv_heads, head_dim) each, m ≥ 0; keys already rotated. LC-70, LC-71.

        Raises InvalidArgument when a shape or dtype is wrong.
        """
        ...

    def gather(self) -> tuple[Array, Array]:
        """Keys and values, each (n, kv_heads, head_dim) in the cache's dtype. LC-70, LC-71."""
        ...

    def attend(self, queries: Array, *, scale: float | None = None) -> Array:
        """Causal attention of the last m tokens over what `gather` gives. LC-72.

        queries: (m, heads, head_dim); so is the result. Raises InvalidArgument when a shape or dtype is wrong
        or m is above the length.
        """
        ...

    def length(self) -> int:
        """Tokens in the cache. LC-70."""
        ...

    def nbytes(self) -> int:
        """Bytes of the tokens held: codes, packed, their scales and zeros, and the residual. LC-73."""
        ...


class HeavyHitterCache:
    """The keys that got most attention, and the newest, of one sequence. LC-75 to LC-79."""

    def __init__(
        self, budget: int, recent: int, kv_heads: int, head_dim: int, *, dtype: str = "float32"
    ) -> None:
        """An empty cache that keeps at most `budget` keys for each kv head. LC-75, LC-79.

        Raises InvalidArgument when recent is below 1 or above budget, a size is below 1 or the dtype unknown.
        """
        ...

    def step(self, queries: Array, keys: Array, values: Array, *, scale: float | None = None) -> Array:
        """Appends m tokens, attends, and gives up what exceeds the budget, in this order. LC-75 to LC-78.

        queries: (m, heads, head_dim); keys, values: (m, kv_heads, head_dim), already rotated; m ≥ 1. The
        result is like the queries. Raises InvalidArgument when a shape or dtype is wrong.
        """
        ...

    def length(self) -> int:
        """Tokens appended, those given up included. LC-78."""
        ...

    def positions(self) -> list[list[int]]:
        """The tokens that are kept, for each kv head, ascending. LC-75 to LC-78."""
        ...


class PageSelector:
    """Which pages of keys a query should read: Quest's upper bounds. LC-84 to LC-87."""

    def __init__(self, page_size: int, kv_heads: int, head_dim: int) -> None:
        """No keys yet. LC-84, LC-87. Raises InvalidArgument when a size is below 1."""
        ...

    def add(self, keys: Array) -> None:
        """m ≥ 0 more tokens; page p has those from p · page_size on. LC-84, LC-85.

        keys: (m, kv_heads, head_dim) float, already rotated.

        Raises InvalidArgument when the shape is wrong.
        """
        ...

    def bounds(self, queries: Array) -> Array:
        """(heads, pages) float32: no key of the page has a larger product with the query. LC-84, LC-85.

        queries: (heads, head_dim) float. Raises InvalidArgument when the shape is wrong.
        """
        ...

    def select(self, queries: Array, pages: int) -> Array:
        """(kv_heads, min(pages, all)) integers, ascending: the pages to read. LC-86.

        Raises InvalidArgument when `pages` is below 1 or the shape is wrong.
        """
        ...


# Compression ----------------------------------------------------------------------------------------------


def quantize_kv(x: Array, *, bits: int, group: int, axis: int) -> Quantized:
    """Codes between the least and the largest value of each group. LC-65 to LC-67, LC-69.

    x: (tokens, kv_heads, head_dim) float. axis: 0, groups of tokens, or 2, groups of channels. bits: 2, 4
        or 8.

    Raises InvalidArgument when an option is none of these, x has not three axes, or `group` is below 1 or
    does not divide the length of the axis.
    """
    ...


def dequantize_kv(quantized: Quantized) -> Array:
    """code · scale + zero, (tokens, kv_heads, head_dim) float32. LC-68, LC-69.

    Raises InvalidArgument when a shape does not fit, a code exceeds its bits, or an option is none of
    `quantize_kv`.
    """
    ...


def select_snapkv(
    queries: Array,
    keys: Array,
    budget: int,
    *,
    window: int,
    kernel: int = 5,
    pooling: str = "avg",
) -> Array:
    """Which tokens of a prompt to keep: (kv_heads, min(budget, n)) integers, ascending. LC-80 to LC-83.

    queries: (m, heads, head_dim), the last m tokens of the prompt, window ≤ m ≤ n; keys: (n, kv_heads,
        head_dim); both already rotated.

    Raises InvalidArgument when a shape is wrong, window is below 1, above m or not below budget, kernel is
    even or below 1, or pooling is neither "avg" nor "max".
    """
    ...


# Prefill --------------------------------------------------------------------------------------------------


def chunked_prefill(model: Model, tokens: Array, chunk: int) -> Array:
    """The logits after a prompt's last token, (V,) float32, fed in pieces of `chunk`. LC-88 to LC-93.

    tokens: (n,) integers, n ≥ 1.

    Raises, before it calls `forward`, ContextTooLong when the tokens do not fit; NotSupported when pieces
    would give another result than the whole; InvalidArgument when `chunk` is below 1, `tokens` has not one
    axis, there is no token or one is not in 0 … V − 1. What the model raises passes through, and its context
    is as before.
    """
    ...
