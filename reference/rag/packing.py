"""Passages in a prompt, and what an answer cites of them."""

import re

from spec import ContextTooLong
from spec.rag import TEMPLATE, Citation, PackedContext

from .basics import expect

PLACEHOLDER = re.compile(r"(\{context\}|\{question\})")
BRACKETS = re.compile(r"\[ *[0-9]{1,6}( *, *[0-9]{1,6})* *\]")


def pack_context(
    chunks, *, question, budget, reserved, count_tokens, order="rank", template=TEMPLATE, special_tokens=()
):
    check_packing(budget, reserved, order, template, special_tokens)
    room = budget - reserved
    taken, seen = [], set()
    text, spans = rendered(taken, question, template, special_tokens)
    tokens = count_tokens(text)
    if tokens > room:
        raise ContextTooLong(f"question: expected a prompt of at most {room} tokens, got {tokens}")
    for chunk in chunks:
        if chunk.id in seen:
            continue
        seen.add(chunk.id)
        tried = in_order([*taken, chunk], order)
        tried_text, tried_spans = rendered(tried, question, template, special_tokens)
        tried_tokens = count_tokens(tried_text)
        if tried_tokens <= room:
            taken.append(chunk)
            text, spans, tokens = tried_text, tried_spans, tried_tokens
    return PackedContext(text, in_order(taken, order), spans, tokens)


def in_order(chunks, order):
    """As they stand in the prompt: for "edges" ranks 1, 3, 5, … and then …, 6, 4, 2."""
    return list(chunks) if order == "rank" else chunks[::2] + chunks[1::2][::-1]


def rendered(chunks, question, template, special_tokens):
    """The prompt, and (start, end) of each chunk's text in it."""
    text, spans = "", []
    for part in PLACEHOLDER.split(template):
        if part == "{question}":
            text += harmless(question, special_tokens)
        elif part == "{context}":
            for number, chunk in enumerate(chunks, start=1):
                source = harmless(chunk.doc_id, special_tokens, in_quotes=True)
                text += f'<passage number="{number}" source="{source}">\n'
                start = len(text)
                text += harmless(chunk.text, special_tokens)
                spans.append((start, len(text)))
                text += "\n</passage>\n"
        else:
            text += part
    return text, spans


def harmless(text, special_tokens, in_quotes=False):
    """The text without anything that ends a passage, or that a tokenizer takes for a control token."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    if in_quotes:
        text = text.replace('"', "&quot;")
    return "".join(
        f"&#{ord(point)};" if any(text.startswith(token, i) for token in special_tokens) else point
        for i, point in enumerate(text)
    )


def citations(answer, chunks):
    found = []
    for brackets in BRACKETS.finditer(answer):
        for number in map(int, re.findall("[0-9]+", brackets[0])):
            chunk_id = chunks[number - 1].id if 1 <= number <= len(chunks) else None
            found.append(Citation(number, chunk_id, brackets.start(), brackets.end()))
    return found


def check_packing(budget, reserved, order, template, special_tokens):
    expect(0 <= reserved <= budget, "reserved", f"0 to {budget}", reserved)
    expect(order in ("rank", "edges"), "order", "rank or edges", order)
    for placeholder in ("{context}", "{question}"):
        times = template.count(placeholder)
        expect(times == 1, "template", f"{placeholder} once", f"it {times} times")
    expect(all(special_tokens), "special_tokens", "strings that are not empty", list(special_tokens))
