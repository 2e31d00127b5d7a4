"""Files as texts that can be cited: plain text, Markdown, HTML and PDF.

Each text comes with the places of its parts, so that what was found can be shown where a reader sees it: by
the line of the file, or the page of a PDF.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Tags that go on within a line; any other begins a new one.
INLINE = {
    "a",
    "abbr",
    "b",
    "bdi",
    "bdo",
    "cite",
    "code",
    "data",
    "dfn",
    "em",
    "font",
    "i",
    "kbd",
    "mark",
    "q",
    "s",
    "samp",
    "small",
    "span",
    "strong",
    "sub",
    "sup",
    "time",
    "tt",
    "u",
    "var",
}
UNSEEN = ["script", "style", "template", "noscript", "head"]


class UnreadableFile(Exception):
    """The file is none of its kind; the message says why."""


@dataclass(frozen=True)
class Source:
    """text: what can be found. From code point starts[i] on it stands on line or page numbers[i]."""

    text: str
    unit: str  # "line" or "page"
    starts: list[int]
    numbers: list[int]

    def place(self, offset: int) -> int:
        return self.numbers[max(bisect_right(self.starts, offset) - 1, 0)] if self.starts else 1


def read(path: Path) -> Source:
    """Raises UnreadableFile, or OSError."""
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise UnreadableFile(
            f"expected one of {', '.join(KINDS)}, got {path.suffix or 'a name without an ending'}"
        )
    try:
        return kind(path)
    except ModuleNotFoundError as error:
        raise UnreadableFile(
            f"{error.name} is not installed. {path.suffix} needs it: pip install -e '.[rag]'"
        ) from error


def _plain(path: Path) -> Source:
    text = _decoded(path)
    starts = [0, *(i + 1 for i, character in enumerate(text) if character == "\n")]
    return Source(text, "line", starts, list(range(1, len(starts) + 1)))


def _html(path: Path) -> Source:
    from bs4 import BeautifulSoup, Tag
    from bs4.element import NavigableString

    soup = BeautifulSoup(_decoded(path), "html.parser")
    for tag in soup(UNSEEN):
        tag.decompose()
    parts: list[str] = []
    starts, numbers, length = [], [], 0
    last: Tag | None = None
    for node in soup.find_all(string=True):
        words = " ".join(node.split())
        if type(node) is not NavigableString or not words:  # comments and declarations are subclasses
            continue
        tag = block = node.parent
        while block is not None and block.name in INLINE:
            block = block.parent
        if parts:
            gap = " " if block is last else "\n"
            parts.append(gap)
            length += 1
        starts.append(length)
        numbers.append(getattr(tag, "sourceline", None) or 1)
        parts.append(words)
        length += len(words)
        last = block
    return Source("".join(parts), "line", starts, numbers)


def _pdf(path: Path) -> Source:
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it is told once, by the error
    try:
        pages = [page.extract_text() for page in PdfReader(path).pages]
    except Exception as error:  # of a damaged file pypdf raises whatever its parts do
        raise UnreadableFile(f"no PDF that can be read: {error}") from error
    if not any(map(str.strip, pages)):
        raise UnreadableFile(f"no text on any of {len(pages)} pages, as in a scan")
    starts, length = [], 0
    for page in pages:
        starts.append(length)
        length += len(page) + 1
    return Source("\n".join(pages), "page", starts, list(range(1, len(pages) + 1)))


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"not UTF-8: byte {error.start}") from error


KINDS: dict[str, Callable[[Path], Source]] = {
    ".txt": _plain,
    ".md": _plain,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
}
