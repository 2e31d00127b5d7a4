"""A language model as the contracts call it: whoever has one wraps it so."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Array = Any


@dataclass(frozen=True)
class Model:
    """A model and its context, the tokens of one sequence.

    vocab_size: V, the number of token ids.
    max_length: how many tokens the context may hold.
    forward(tokens): appends (m,) integers, m ≥ 1, to the context and returns (m, V) float32 logits; row i is
        what follows after tokens[: i + 1]. Called with more than fit, it may do anything.
    length(): tokens in the context.
    truncate(length): keeps the first `length` of them.
    rope_changes_after: the longest context for which the rotary frequencies stay as they are; beyond it they
        depend on its length (dynamic NTK, LongRoPE). None: never.
    per_call: what the model decides once a call, over all tokens of that call, by name: "expert capacity",
        "prompt compression". Empty: a prompt gives the same in one call or in many.
    """

    vocab_size: int
    max_length: int
    forward: Callable[[Array], Array]
    length: Callable[[], int]
    truncate: Callable[[int], None]
    rope_changes_after: int | None = None
    per_call: tuple[str, ...] = ()
