"""A language model as the contracts call it: whoever has one wraps it so."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Array = Any


class Forward(Protocol):
    """What `Model.forward` is called with: tokens alone, unless the caller needs more."""

    def __call__(
        self, tokens: Array, *, last: int | None = None, parents: Sequence[int] | None = None
    ) -> Array: ...


@dataclass(frozen=True)
class Model:
    """A model and its context, the tokens of one sequence.

    vocab_size: V, the number of token ids.
    max_length: how many tokens the context may hold.
    forward(tokens): appends (m,) integers, m ≥ 1, to the context and returns (m, V) float32 logits; row i is
        what follows after tokens[: i + 1]. Called with more than fit, it may do anything; where it
        raises, nothing was appended. A model that offers
        `accept` takes two options more, which a caller passes only where it needs them:
        last=n: only the rows of the last n tokens, (min(n, m), V); 1 ≤ n.
        parents: the tokens are a tree, whose nodes do not belong to the context yet. parents[i] < i is the
            index in this call of the parent of token i, −1 for the last token of the context. A node attends
            to the context, to its ancestors and to itself; its position is `length` plus the number of its
            ancestors; its row is what follows after it. `accept` must come next.
    length(): tokens in the context.
    truncate(length): keeps the first `length` of them; 0 is always possible.
    rope_changes_after: the longest context for which the rotary frequencies stay as they are; beyond it they
        depend on its length (dynamic NTK, LongRoPE). None: never.
    per_call: what the model decides once a call, over all tokens of that call, by name: "expert capacity",
        "prompt compression". Empty: a prompt gives the same in one call or in many.

    What else a model may offer; None where it does not.

    accept(path): after a call with `parents`, appends the nodes of `path`, indices of that call from a child
        of the context on, each the parent of the next; the others are forgotten. An empty path forgets all.
        None: `forward` takes tokens alone.
    can_truncate(length, appended=0): whether `truncate(length)` is possible, or would be after a call with
        so many tokens more. None: it is for every length up to the one there is then.
    fresh(): another model with the same weights and an empty context. None: there is only this context.
    together(models, tokens): one pass over several contexts with the same weights, this one's, each named
        once. tokens[i], (m_i,) integers, m_i ≥ 1, are appended to models[i]; the logits of each are
        returned as `forward(tokens[i])` returns them. With last=n, the rows of the last n of each. None: a
        caller goes from model to model.
    """

    vocab_size: int
    max_length: int
    forward: Forward | Callable[[Array], Array]
    length: Callable[[], int]
    truncate: Callable[[int], None]
    rope_changes_after: int | None = None
    per_call: tuple[str, ...] = ()
    accept: Callable[[Sequence[int]], None] | None = None
    can_truncate: Callable[..., bool] | None = None
    fresh: "Callable[[], Model] | None" = None
    together: "Callable[..., list[Array]] | None" = None
