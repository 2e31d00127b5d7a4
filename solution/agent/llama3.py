"""Objects behind `<|python_tag|>`, or alone, while they come.

As in `hermes.py`, nothing is read again because more has come. An object that is not all there stays in
pieces until its last brace, or until what cannot be within JSON, as `;` and `<` outside of strings; it is
parsed once, there. What follows the first `;` or tag of a bad one is read once more. That too is linear: they
stood in its strings, so the second reading is outside where the first was inside, and ends at the next one.
"""

import re

from spec.agent import ParseProblem, ToolCall

from .blocks import INSIDE, SPACE, Found, Pending, front_object, outside, unfinished

TAG = "<|python_tag|>"
_BARE = re.compile(rf"[{SPACE}]*+(?=\{{)")
_BETWEEN = re.compile(rf"(?:[{SPACE};]++|{re.escape(TAG)})*+")
_END = re.compile(rf";|{re.escape(TAG)}")
_OUTSIDE = outside(r'[^"{}<;\\]*+')


class Llama3:
    """kept: the end of what came, which may be the beginning of a tag or an escape. blank: whether nothing
    but white space came. calling: whether calls have begun.
    """

    def __init__(self) -> None:
        self.kept = ""
        self.blank, self.calling = True, False
        self.object: Object | None = None

    def read(self, piece: str, *, ended: bool) -> Found:
        """What is certain now. ended: nothing follows, so all is."""
        text, at = self.kept + piece, 0
        found: Found = []
        if not self.calling:
            at = self.begin(text, ended)
            if at > 0:
                found.append(text[:at])
        while self.calling:
            if self.object is None:
                at = _BETWEEN.match(text, at).end()
                if at == len(text) or (not ended and TAG.startswith(text[at : at + len(TAG)])):
                    break
                whole = front_object(text, at)
                if whole is not None:
                    call, end = whole
                    found.append(call or ParseProblem(text[at:end].rstrip(SPACE)))
                    at = end
                    continue
                self.object = Object(bad=ended or not text.startswith("{", at))
            item, text, at = self.object.read(text, at, ended)
            if item is None:
                break
            found.append(item)
            self.object = None
        self.kept = text[at:]
        return found

    def begin(self, text: str, ended: bool) -> int:
        """Where calls begin, or where the content ends that is certain."""
        bare = _BARE.match(text) if self.blank else None
        start = bare.end() if bare else text.find(TAG)
        self.calling = start >= 0
        if not self.calling:
            start = len(text) if ended else unfinished(text, 0, TAG)
        self.blank = self.blank and not text[:start].strip(SPACE)
        return start


class Object(Pending):
    """What has begun, and is not all there. depth: braces that are open. bad: no object in any case."""

    def __init__(self, bad: bool) -> None:
        super().__init__()
        self.depth, self.in_string, self.bad = 0, False, bad

    def read(self, text: str, start: int, ended: bool) -> tuple[ToolCall | ParseProblem | None, str, int]:
        """What it is, or None as long as it goes on; and a text, of which what follows was not read yet."""
        at = start
        if not self.bad:
            at = self.skip(text, at)
            if not ended and self.depth and (self.in_string or at == len(text)):
                return self.wait(text, start, at)
            if self.depth == 0:
                inside = "".join([*self.parts, text[start:at]])
                whole = front_object(inside, 0)
                if whole is not None:
                    return whole[0] or ParseProblem(inside), text, at
            self.bad = True
            text, start = self.again(text, start)
            at = start
        separator = _END.search(text, at)
        if separator is None and not ended:
            return self.wait(text, start, unfinished(text, at, TAG))
        end = len(text) if separator is None else separator.start()
        return ParseProblem("".join([*self.parts, text[start:end]]).rstrip(SPACE)), text, end

    def skip(self, text: str, at: int) -> int:
        """Up to the end of the object, to what cannot be within it, or to the end of what is there."""
        while True:
            at = (INSIDE if self.in_string else _OUTSIDE).match(text, at).end()
            mark = text[at : at + 1]
            if mark == '"':
                self.in_string = not self.in_string
            elif self.in_string or mark not in ("{", "}"):
                return at
            else:
                self.depth += 1 if mark == "{" else -1
            at += 1
            if self.depth == 0:
                return at
