"""Which tokens may follow, asked of llguidance.

Its matcher is fed with bytes, each as the token of this byte, and goes back as easily. So a state is what was
written, and the matcher is wherever it was asked last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from os.path import commonprefix
from threading import Lock

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from spec import InvalidArgument, NotSupported
from spec.agent import Schema

from .checks import check_eos, expect
from .grammar import grammar

State = bytes | None  # None: an eos was written

_MOST = 10_000_000  # of what llguidance counts in a step: a schema is refused at the beginning, if at all
_VOCABULARIES = 4  # that are remembered; one of 49,152 tokens takes 0.2 s


class JsonConstraint:
    def __init__(self, schema: Schema, vocabulary: Sequence[bytes], eos: Sequence[int]) -> None:
        check_eos(eos, len(vocabulary))
        self._vocabulary, self._eos = tuple(vocabulary), sorted(set(eos))
        self._tokens = _tokens(self._vocabulary, frozenset(eos))
        self._matcher = _matcher(grammar(schema), self._tokens.backend)
        self._there = b""  # what the matcher was fed with
        self._lock = Lock()
        self._check()

    def start(self) -> State:
        return b""

    def allowed(self, state: State) -> mx.array:
        """One bit a token, as llguidance has them, spread on the host."""
        tokens = self._tokens
        with self._lock:
            self._go_to(state)
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            self._check()
            complete = self._matcher.is_accepting()
        mask = np.unpackbits(bits, count=len(self._vocabulary), bitorder="little").view(np.bool_)
        mask[tokens.copies] = mask[tokens.originals]
        mask[self._eos] = complete
        return mx.array(mask)

    def advance(self, state: State, token: int) -> State:
        expect(0 <= token < len(self._vocabulary), "token", f"0 to {len(self._vocabulary) - 1}", token)
        if token in self._eos:
            expect(state is not None and self.is_complete(state), "token", "no eos here", token)
            return None
        text = self._vocabulary[token]
        with self._lock:
            self._go_to(state)
            longer = state + text
            expect(text != b"" and self._feed(longer), "token", "one that is allowed", token)
        return longer

    def is_complete(self, state: State) -> bool:
        if state is None:
            return True
        with self._lock:
            self._go_to(state)
            return self._matcher.is_accepting()

    # The matcher ------------------------------------------------------------------------------------------

    def _go_to(self, state: State) -> None:
        if state is None:
            raise InvalidArgument("state: expected one that has not ended, got the end")
        expect(self._feed(state), "state", "one of this constraint", state)

    def _feed(self, text: bytes) -> bool:
        """Goes to where this was written, or as far as it is allowed."""
        if not text.startswith(self._there):
            common = commonprefix([self._there, text])
            self._matcher.rollback(len(self._there) - len(common))
            self._there = common
        more = text[len(self._there) :]
        eaten = self._matcher.try_consume_tokens([self._tokens.of_byte[byte] for byte in more])
        self._there += more[:eaten]
        self._check()
        return eaten == len(more)

    def _check(self) -> None:
        if self._matcher.is_error():
            error = self._matcher.get_error().splitlines()[0]
            raise NotSupported(f"schema: expected one that llguidance can follow, and {error}")


def _matcher(text: str, backend: LLTokenizer) -> LLMatcher:
    limits = LLParserLimits(max_items_in_row=_MOST, step_max_items=_MOST, step_lexer_fuel=_MOST)
    return LLMatcher(backend, text, log_level=0, limits=limits)


@dataclass(frozen=True)
class Tokens:
    """A vocabulary as llguidance has it.

    copies, originals: ids that are written like earlier ones, and these. of_byte: the ids of single bytes.
    """

    backend: LLTokenizer
    copies: list[int]
    originals: list[int]
    of_byte: list[int]


@lru_cache(_VOCABULARIES)
def _tokens(vocabulary: tuple[bytes, ...], eos: frozenset[int]) -> Tokens:
    first: dict[bytes, int] = {}
    words: list[bytes] = []  # b"": never allowed
    copies, originals = [], []
    for id, text in enumerate(vocabulary):
        counts = id not in eos and text != b"" and text not in first
        if counts:
            first[text] = id
        elif id not in eos and text:
            copies.append(id)
            originals.append(first[text])
        words.append(text if counts else b"")
    for byte in range(256):
        if bytes([byte]) not in first:
            first[bytes([byte])] = len(words)
            words.append(bytes([byte]))
    of_byte = [first[bytes([byte])] for byte in range(256)]
    backend = LLTokenizer(_Words([*words, b"<end>"], of_byte), slices=LLTokenizer.json_slices())
    return Tokens(backend, copies, originals, of_byte)


class _Words:
    """What llguidance asks a tokenizer. Of its own tokens the last one is the end."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    _accepts_bytes = True

    def __init__(self, words: list[bytes], of_byte: list[int]) -> None:
        self.tokens, self._of_byte = words, of_byte
        self.eos_token_id = len(words) - 1
        self.special_token_ids = [self.eos_token_id]

    def __call__(self, text: bytes) -> list[int]:
        return [self._of_byte[byte] for byte in text]
