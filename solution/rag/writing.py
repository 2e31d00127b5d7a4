"""A model of `solution.models` as the generator of a pipeline."""

from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

from solution.models import Decoder, generate, load
from solution.models.tokenizer import Tokenizer

CIRCLE = 8
"""So many tokens that come a third time in their order are no news: small models go on like that."""


class Writer:
    """Answers prompts, greedily, as the message of a user. No special token comes of what a passage may hold:
    `Tokenizer.chat` takes them from the template alone.
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._decoder, self._tokenizer, self._max_tokens = decoder, tokenizer, max_tokens
        self.budget = decoder.start().max_length
        """Tokens of prompt and answer."""

    @classmethod
    def open(cls, path: Path, max_tokens: int) -> "Writer":
        return cls(load(path), Tokenizer.open(path), max_tokens)

    def count_tokens(self, prompt: str) -> int:
        """Of the prompt as it is sent, the template's own included."""
        return len(self._ids(prompt))

    def generate(self, prompt: str) -> Iterator[str]:
        """The answer in pieces, each of whole characters. Ends where `CIRCLE` tokens came a third time."""
        detokenizer = self._tokenizer.detokenizer()
        context, ends = self._decoder.start(), self._tokenizer.eos_ids
        last: deque[int] = deque(maxlen=CIRCLE)
        times: Counter[tuple[int, ...]] = Counter()
        for token in generate(context, self._ids(prompt), max_tokens=self._max_tokens, stop_ids=ends):
            if piece := detokenizer.feed(token):
                yield piece
            last.append(token)
            times[tuple(last)] += 1
            if times[tuple(last)] == 3 and len(last) == CIRCLE:
                break
        if rest := detokenizer.close():
            yield rest

    def _ids(self, prompt: str) -> list[int]:
        return self._tokenizer.chat([{"role": "user", "content": prompt}])
