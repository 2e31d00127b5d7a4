"""Passages in a prompt, and what an answer cites of them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spec import ContextTooLong
from spec.rag import TEMPLATE, Chunk, Citation, PackedContext

from .checks import expect

PLACEHOLDER = re.compile(r"(\{context\}|\{question\})")
NUMBER = " *[0-9]{1,6} *"
BRACKETS = re.compile(rf"\[{NUMBER}(?:,{NUMBER})*\]")


@dataclass(frozen=True)
class Passage:
    """A chunk, its source and its text as they stand in a prompt."""

    chunk: Chunk
    source: str
    text: str


def pack_context(
    chunks: Sequence[Chunk],
    *,
    question: str,
    budget: int,
    reserved: int,
    count_tokens: Callable[[str], int],
    order: str = "rank",
    template: str = TEMPLATE,
    special_tokens: Sequence[str] = (),
) -> PackedContext:
    check_packing(budget, reserved, order, template, special_tokens)
    begins = re.compile("(?=" + "|".join(map(re.escape, special_tokens)) + ").", re.DOTALL)

    def harmless(text: str, *, in_quotes: bool = False) -> str:
        """Without anything that ends a passage, or that a tokenizer takes for a control token."""
        text = text.replace("&", "&amp;").replace("<", "&lt;")
        text = text.replace('"', "&quot;") if in_quotes else text
        return begins.sub(lambda point: f"&#{ord(point[0])};", text) if special_tokens else text

    parts = PLACEHOLDER.split(template)
    context, asked = parts.index("{context}"), parts.index("{question}")
    parts[asked] = harmless(question)

    def packed(passages: Sequence[Passage]) -> PackedContext:
        text, spans = "".join(parts[:context]), []
        for number, passage in enumerate(passages, start=1):
            text += f'<passage number="{number}" source="{passage.source}">\n'
            spans.append((len(text), len(text) + len(passage.text)))
            text += f"{passage.text}\n</passage>\n"
        text += "".join(parts[context + 1 :])
        return PackedContext(text, [passage.chunk for passage in passages], spans, count_tokens(text))

    best, room = packed([]), budget - reserved
    if best.tokens > room:
        raise ContextTooLong(f"question: expected a prompt of at most {room} tokens, got {best.tokens}")
    taken: list[Passage] = []
    firsts: dict[str, Chunk] = {}
    for chunk in chunks:
        firsts.setdefault(chunk.id, chunk)
    for chunk in firsts.values():
        source = harmless(chunk.doc_id, in_quotes=True)
        passages = [*taken, Passage(chunk, source, harmless(chunk.text))]
        tried = packed(passages if order == "rank" else passages[::2] + passages[1::2][::-1])
        if tried.tokens <= room:
            taken, best = passages, tried
    return best


def citations(answer: str, chunks: Sequence[Chunk]) -> list[Citation]:
    return [
        Citation(
            number, chunks[number - 1].id if 1 <= number <= len(chunks) else None, found.start(), found.end()
        )
        for found in BRACKETS.finditer(answer)
        for number in map(int, re.findall("[0-9]+", found[0]))
    ]


def check_packing(
    budget: int, reserved: int, order: str, template: str, special_tokens: Sequence[str]
) -> None:
    expect(0 <= reserved <= budget, "reserved", f"0 to {budget}", reserved)
    expect(order in ("rank", "edges"), "order", "rank or edges", order)
    for placeholder in ("{context}", "{question}"):
        times = template.count(placeholder)
        expect(times == 1, "template", f"{placeholder} once", f"it {times} times")
    expect(all(special_tokens), "special_tokens", "strings that are not empty", list(special_tokens))
