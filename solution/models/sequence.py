"""A context on a network: the `Model` that everything else in this project calls."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from itertools import pairwise

import mlx.core as mx
import numpy as np

from spec import CannotTruncate, ContextTooLong
from spec.model import Model

from .caches import Cache
from .checks import expect
from .decoder import Network, Piece, run
from .trees import Tree, tree

Ids = mx.array | np.ndarray | Seq[int]


class Context:
    """The tokens of one sequence. A call that raises has changed nothing."""

    def __init__(self, network: Network, empty_cache: Callable[[], Cache], max_length: int) -> None:
        self.network, self._empty_cache, self.max_length = network, empty_cache, max_length
        self.cache = empty_cache()
        self._tree: Tree | None = None  # waits for `accept`

    def as_model(self) -> Model:
        config = self.network.config
        return Model(
            config.vocab_size,
            self.max_length,
            self.forward,
            self.length,
            self.truncate,
            config.rope_changes_after,
            accept=self.accept,
            can_truncate=self.can_truncate,
            fresh=self.fresh,
            together=self.together,
        )

    def forward(self, tokens: Ids, *, last: int | None = None, parents: Seq[int] | None = None) -> mx.array:
        """Logits of the tokens, (m, V) float32, or of the last ones only."""
        ids = self.checked(tokens)
        nodes = None if parents is None else tree(parents, len(ids))
        logits = one_pass(self.network, [self], [ids], last, nodes)[0]
        self._tree = nodes
        return logits

    def length(self) -> int:
        return self.cache.length()

    def truncate(self, length: int) -> None:
        self._expect_no_tree()
        expect(0 <= length <= self.length(), "length", f"0 to {self.length()}", length)
        if not self.can_truncate(length):
            raise CannotTruncate(f"length: expected one whose keys are still there, got {length}")
        self.cache.truncate(length)

    def can_truncate(self, length: int, appended: int = 0) -> bool:
        expect(appended >= 0, "appended", "at least 0", appended)
        return self.cache.can_truncate(length, appended)

    def accept(self, path: Seq[int]) -> None:
        expect(self._tree is not None, "accept", "a call of forward with parents before", "none")
        self._tree.check_path(path)
        self._tree = None
        self.cache.commit(path)

    def fresh(self) -> Model:
        return Context(self.network, self._empty_cache, self.max_length).as_model()

    def together(self, models: Seq[Model], tokens: Seq[Ids], *, last: int | None = None) -> list[mx.array]:
        """Logits of each context's tokens, (m_i, V) float32."""
        expect(len(tokens) == len(models), "tokens", f"one for each of {len(models)} models", len(tokens))
        contexts = [self._context_of(model) for model in models]
        expect(len({id(each) for each in contexts}) == len(contexts), "models", "each once", len(contexts))
        ids = [context.checked(each) for context, each in zip(contexts, tokens, strict=True)]
        return one_pass(self.network, contexts, ids, last, None) if contexts else []

    def _context_of(self, model: Model) -> "Context":
        context = getattr(model.forward, "__self__", None)
        same = isinstance(context, Context) and context.network is self.network
        expect(same, "models", "contexts of these weights", model)
        return context

    def checked(self, tokens: Ids) -> list[int]:
        """As ids that fit in."""
        self._expect_no_tree()
        ids = np.asarray(tokens)
        expect(ids.ndim == 1 and ids.size >= 1, "tokens", "1 axis, at least 1 token", ids.shape)
        vocab_size, room = self.network.config.vocab_size, self.max_length - self.length()
        wrong = ids[(ids < 0) | (ids >= vocab_size)]
        expect(not wrong.size, "tokens", f"ids from 0 to {vocab_size - 1}", wrong)
        if ids.size > room:
            raise ContextTooLong(f"tokens: expected at most {room} more, got {ids.size}")
        return ids.tolist()

    def _expect_no_tree(self) -> None:
        expect(self._tree is None, "accept", "a call after forward with parents", "another call")


def one_pass(
    network: Network, contexts: Seq[Context], ids: Seq[Seq[int]], last: int | None, nodes: Tree | None
) -> list[mx.array]:
    """Appends to each context, but for a tree, and gives the logits of each."""
    expect(last is None or last >= 1, "last", "at least 1", last)
    ends = np.cumsum([0] + [len(each) for each in ids]).tolist()
    pieces = [Piece(c.cache, *part, nodes) for c, part in zip(contexts, pairwise(ends), strict=True)]
    counts = [len(each) if last is None else min(last, len(each)) for each in ids]
    rows = None
    if sum(counts) < ends[-1]:
        rows = [row for n, end in zip(counts, ends[1:], strict=True) for row in range(end - n, end)]
    begun: list[Cache] = []
    try:
        for context, each in zip(contexts, ids, strict=True):
            begun.append(context.cache)
            context.cache.begin(len(each), nodes)
        logits = run(network, [token for each in ids for token in each], pieces, rows)
        if nodes is None:
            for cache, each in zip(begun, ids, strict=True):
                cache.commit(range(len(each)))
    except BaseException:
        for cache in begun:
            cache.abort()
        raise
    return [logits] if len(counts) == 1 else mx.split(logits, np.cumsum(counts)[:-1].tolist())
