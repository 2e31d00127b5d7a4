"""A generation as text, told as far as it is certain, and cut off before one of its stop strings."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .checks import expect
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Told:
    """text: what was told. tokens: how many came, that which completed a stop string included.
    finish: "stop", "length" or "interrupted". first: seconds until the first token, None without one.
    per_second: tokens, between the first and the last; None for less than two."""

    text: str
    tokens: int
    finish: str
    first: float | None
    per_second: float | None


def tell(
    tokens: Iterable[int], tokenizer: Tokenizer, stop: Sequence[str], limit: int, say: Callable[[str], None]
) -> Told:
    """Says the text of tokens piece by piece. Ctrl-C ends it; what was said stays, and what came is said.

    limit: so many tokens end it by length.
    """
    stops, detokenizer, said, count = Stops(stop), tokenizer.detokenizer(), [], 0
    begun = first = last = time.perf_counter()

    def add(piece: str) -> None:
        if piece:
            said.append(piece)
            say(piece)

    finish = "stop"
    try:
        for token in tokens:
            last = time.perf_counter()
            count += 1
            first = last if count == 1 else first
            add(stops.feed(detokenizer.feed(token)))
            if stops.found:
                break
    except KeyboardInterrupt:
        finish = "interrupted"
    add(stops.feed(detokenizer.close()))
    add(stops.close())
    if finish == "stop" and not stops.found and count == limit:
        finish = "length"
    speed = (count - 1) / (last - first) if count > 1 else None
    return Told("".join(said), count, finish, first - begun if count else None, speed)


class Stops:
    """Cuts a text off before the first of some strings, whatever pieces it comes in.

    The first is the one that is complete first; of those that end at the same character the longest. No part
    of it is told: what may be its beginning is held back until that is decided.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        expect(all(strings), "stop", "strings of at least one character", list(strings))
        self._strings = strings
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """What is certain now. Nothing more is when `found` has become true."""
        if self.found:
            return ""
        text = self._held + piece
        matches = [(start + len(s), start) for s in self._strings if (start := text.find(s)) >= 0]
        if matches:
            self.found, self._held = True, ""
            return text[: min(matches)[1]]
        keep = max((n for s in self._strings for n in range(len(s)) if text.endswith(s[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def close(self) -> str:
        """What was held back, when no more comes."""
        rest, self._held = self._held, ""
        return rest
