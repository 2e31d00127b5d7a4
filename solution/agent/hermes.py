"""`<tool_call>` blocks, while they come.

Nothing is read again because more has come: a block stays in pieces until it ends, and of what was read the
only thing known is whether it ends inside a string. The first `<` outside of strings is where the JSON must
have ended; it is parsed once, there. A bad block is read once more, from behind its tag, and so is what
followed it. That too is linear: outside of strings neither `<` nor a backslash is read over, so of two
readings that meet, one in a string and one not, the latter ends at the next tag or escape.
"""

import re

from spec.agent import ParseProblem, ToolCall

from .blocks import INSIDE, Found, Pending, outside, unfinished, whole_value

START, END = "<tool_call>", "</tool_call>"
_TAG = re.compile(f"{START}|{END}")
_OUTSIDE = outside(r'[^"<\\]*+')


class Hermes:
    """kept: the end of what came, which may be the beginning of a tag or an escape."""

    def __init__(self) -> None:
        self.kept = ""
        self.block: Block | None = None

    def read(self, piece: str, *, ended: bool) -> Found:
        """What is certain now. ended: nothing follows, so all is."""
        text, at = self.kept + piece, 0
        close = -1  # the first end tag from `at` on, once it was looked for
        found: Found = []
        while True:
            if self.block is None:
                tag = text.find(START, at)
                end = tag if tag >= 0 else len(text) if ended else unfinished(text, at, START)
                if end > at:
                    found.append(text[at:end])
                at = end
                if tag < 0:
                    break
                if close < at:
                    close = _first(END, text, at)
                whole = close < len(text)  # as most blocks are, and hold no other tag
                is_json, call = whole_value(text[at + len(START) : close]) if whole else (False, None)
                if is_json:
                    at = close + len(END)
                    found.append(call or ParseProblem(text[tag:at]))
                    continue
                self.block = Block()
            before = text
            item, text, at = self.block.read(text, at, ended)
            if item is None:
                break
            found.append(item)
            self.block, close = None, close if text is before else -1
        self.kept = text[at:]
        return found


class Block(Pending):
    """A block that has begun. bad: it is no call in any case."""

    def __init__(self) -> None:
        super().__init__()
        self.in_string = self.bad = False

    def read(self, text: str, start: int, ended: bool) -> tuple[ToolCall | ParseProblem | None, str, int]:
        """What it is, or None as long as it goes on; and a text, of which what follows was not read yet."""
        at = start if self.parts else start + len(START)
        if not self.bad:
            at = self.skip(text, at)
            tail = text[at : at + len(END)]
            if not ended and (self.in_string or (tail != END and END.startswith(tail))):
                return self.wait(text, start, at)
            inside = "".join([*self.parts, text[start:at]])[len(START) :]
            is_json, call = whole_value(inside)
            if is_json and tail == END:
                return call or ParseProblem(START + inside + END), text, at + len(END)
            if call and at == len(text):
                return call, text, at
            self.bad = True
            text, start = self.again(text, start)
            at = start + len(START)
        tag = _TAG.search(text, at)
        if tag is None and not ended:
            return self.wait(text, start, unfinished(text, at, START, END))
        end = len(text) if tag is None else tag.end() if tag[0] == END else tag.start()
        return ParseProblem("".join([*self.parts, text[start:end]])), text, end

    def skip(self, text: str, at: int) -> int:
        """Up to what cannot be within JSON, or to the end of what is there."""
        while True:
            at = (INSIDE if self.in_string else _OUTSIDE).match(text, at).end()
            if not text.startswith('"', at):
                return at
            self.in_string, at = not self.in_string, at + 1


def _first(tag: str, text: str, at: int) -> int:
    """Where it is, from `at` on; the end of the text where it is not."""
    found = text.find(tag, at)
    return found if found >= 0 else len(text)
