"""Special tokens that text contains are hidden from the tokenizer, and the text stays as it is.

A library that reads `<|im_end|>` in a text makes the control token of it, whoever wrote the text. So a mark
is put inside, after its first character, before the library looks for special tokens; the first step of its
normalisation, which comes after that search, takes the mark out again. A text that holds the mark's own
character is no exception: that is written as a pair which the same step turns back.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer, normalizers

ESCAPE = "\U0010fffd"  # the last private character: nobody's, and no tokenizer's
MARK, ITSELF = ESCAPE + "\U0010fffb", ESCAPE + "\U0010fffc"


def take_out_marks(backend: Tokenizer) -> None:
    """Puts the step that takes the marks out before those that the tokenizer has."""
    steps = [normalizers.Replace(MARK, ""), normalizers.Replace(ITSELF, ESCAPE)]
    steps += [backend.normalizer] if backend.normalizer else []
    backend.normalizer = normalizers.Sequence(steps)


def escaped(text: str) -> str:
    """What stays as it is, special tokens included."""
    return text.replace(ESCAPE, ITSELF)


class Hider:
    """Hides the special tokens of one vocabulary."""

    def __init__(self, special: Iterable[str]) -> None:
        tokens = sorted(special)
        either = "|".join(map(re.escape, tokens))
        self._starts = re.compile(f"(?={either})" if tokens else "(?!)")
        self._heads = {token[:n] for token in tokens for n in range(1, len(token))}
        self._tails = {token[n:] for token in tokens for n in range(1, len(token))}
        self._longest = max(map(len, tokens), default=0)

    def text(self, text: str) -> str:
        """The text, in which no special token will be found."""
        return _marked(text, {match.start() + 1 for match in self._starts.finditer(text)})

    def part(self, value: Any) -> Any:
        """Plain data, in whose strings no special token will be found, nor one that reaches over their ends
        into what stands before or after; also where a template takes the space around them away."""
        if isinstance(value, str):
            return self._part(value)
        if isinstance(value, Mapping):
            return {self.part(key): self.part(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.part(each) for each in value]
        return value

    def _part(self, text: str) -> str:
        begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
        reach = range(1, min(self._longest, end - begin) + 1)
        places = {match.start() + 1 for match in self._starts.finditer(text)}
        places |= {begin + n - 1 for n in reach if text[begin : begin + n] in self._tails}
        places |= {end - n + 1 for n in reach if text[end - n : end] in self._heads}
        return _marked(text, places)


def _marked(text: str, places: set[int]) -> str:
    ends = [0, *sorted(places), len(text)]
    return (
        MARK.join(escaped(text[i:j]) for i, j in zip(ends, ends[1:], strict=False))
        if places
        else escaped(text)
    )
