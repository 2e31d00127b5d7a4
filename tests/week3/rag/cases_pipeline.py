"""What a caller brings to a pipeline: an embedder, a tokenizer and a generator that anybody can foresee.

A line of a document has 20 code points and is a chunk. Its words are what BM25 finds. A number after «@»
says how near it is to every question, and a question's number after «?» which way: of «neon gas @7» and
«argon @3» the first is nearer to «neon ?1», the second to «neon ?-1». A passage that was embedded as a
question, or a question as a passage, has 0 with everything.
"""

import html
import re

import numpy as np

from spec.rag import Document, Embedder, RagConfig

SIZE = 20
DIM = 2
MARKS = {"passage": "@", "query": "?"}


def document(doc_id, /, *lines, **metadata):
    assert all(len(line) <= SIZE for line in lines), f"lines of at most {SIZE} code points"
    return Document(doc_id, "".join(f"{line:<{SIZE}}" for line in lines), metadata)


def texts(chunks):
    return [chunk.text.rstrip() for chunk in chunks]


def vector(text, kind):
    found = re.search(rf"[{MARKS[kind]}](-?[0-9]+)", text)
    number = int(found[1]) if found else 0
    return [number, 1] if kind == "passage" else [number, 0]


def words(text):
    return [word.strip(".,") for word in text.split() if word[0] not in "@?"]


def count_words(text):
    return len(text.split())


def still():
    return 0.0


class Caller:
    """The functions of a caller, which write down how they were called.

    A text that says «fails» cannot be embedded.
    """

    def __init__(self):
        self.embedded, self.tokenized, self.reranked, self.prompts = [], [], [], []
        self.embedder = Embedder(DIM, self.embed)

    def embed(self, texts, kind):
        self.embedded.append((list(texts), kind))
        assert texts, "texts: expected at least one for the embedder, got none"
        if any("fails" in text for text in texts):
            raise OSError("the embedder fails")
        return np.array([vector(text, kind) for text in texts], np.float32)

    def tokenize(self, text):
        self.tokenized.append(text)
        return words(text)

    def rerank(self, question, texts):
        """The number after «!» in a text."""
        self.reranked.append((question, list(texts)))
        return [float(re.search("!(-?[0-9.]+)", text)[1]) for text in texts]

    def generate(self, prompt):
        self.prompts.append(prompt)
        return ["Neon ", "[1]", "."]

    def forget(self):
        for calls in (self.embedded, self.tokenized, self.reranked, self.prompts):
            calls.clear()

    def passages(self):
        """All that was embedded to be searched, in order."""
        return sorted(text.rstrip() for texts, kind in self.embedded if kind == "passage" for text in texts)


def pipeline(
    impl,
    caller,
    *documents,
    index=None,
    rerank=None,
    generate=None,
    clock=still,
    count_tokens=count_words,
    **config,
):
    """A pipeline that has ingested these documents. BM25 alone finds, unless `config` says otherwise."""
    made = impl.RagPipeline(
        new_index(impl) if index is None else index,
        caller.embedder,
        generate or caller.generate,
        config=RagConfig(**{"size": SIZE, "overlap": 0, "retrieval": "bm25", **config}),
        tokenize=caller.tokenize,
        count_tokens=count_tokens,
        rerank=rerank,
        clock=clock,
    )
    if documents:
        made.ingest(list(documents))
        caller.forget()
    return made


def new_index(impl):
    return impl.VectorIndex(DIM)


def found(made, question, **options):
    """The texts that a pipeline retrieves, best first."""
    return texts(made.retrieve(question, **options).chunks)


# A generator that can only quote


def quote(prompt):
    """The line of the passages that shares most words with the question, and its number; else it declines."""
    question = words_of(prompt.rpartition("Question: ")[2])
    lines = []
    for number, text in re.findall(
        r'<passage number="(\d+)" source="[^"]*">\n(.*?)\n</passage>', prompt, re.DOTALL
    ):
        lines += [
            (len(question & words_of(line)), line.strip(), number) for line in html.unescape(text).split("\n")
        ]
    shared, line, number = max(lines, default=(0, "", ""))
    return ["I cannot tell."] if shared < 2 else [line, " ", f"[{number}]"]


def words_of(text):
    return set(re.findall(r"[a-z]{4,}", text.lower()))
