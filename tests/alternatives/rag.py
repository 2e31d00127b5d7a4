"""RAG in PyTorch: right, and of another structure, so that the suite can be held to it.

What differs, all of it free by the contract:

- splitting looks joints up in sorted lists, and finds the end of a chunk by doubling and halving;
- BM25 is an inverted index; scores are added token by token, and a token that comes twice is multiplied;
- a condition becomes a function once; values are compared as hashable keys with their kind in front;
- vectors stand in a table whose rows are freed and taken again; scores are one matrix product, in float32;
- saving renames nothing: each save is a generation, which counts once an empty file has its checksum;
- fusion adds fractions, and rounds once; MMR looks into a matrix of all similarities;
- a pipeline is a pointer to a snapshot that never changes; `ingest` computes the next and swaps them;
- measures are made of the places where relevant documents first stand.
"""

import hashlib
import json
import math
import operator
import re
import threading
import time
from bisect import bisect_right
from collections import Counter
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from fractions import Fraction
from heapq import nsmallest
from itertools import chain

import torch

from spec import ContextTooLong, DamagedIndex, InvalidArgument, NothingSaved, UnknownDocument
from spec.rag import TEMPLATE, Answer, Chunk, Citation, Hit, Ingested, PackedContext, Retrieved


def require(condition, name, expected, actual):
    if not condition:
        raise InvalidArgument(f"{name}: expected {expected}, got {actual!r}")


def require_there(name, ids, known):
    for one in ids:
        if one not in known:
            raise UnknownDocument(f"{name}: expected ids that are there, got {one!r}")


def best_first(hit):
    return -hit.score, hit.id


# Cutting --------------------------------------------------------------------------------------------------


def split(text, *, doc_id, size, overlap, length=None, separators=(), metadata=None):
    check_cutting(size, overlap, separators)
    chunks, seen = [], Counter()
    for start, end in spans(text, size, overlap, length, separators):
        piece = text[start:end]
        digest = hashlib.sha256(piece.encode()).hexdigest()[:16]
        again = f"-{seen[digest]}" if seen[digest] else ""
        seen[digest] += 1
        chunks.append(Chunk(f"{doc_id}#{digest}{again}", doc_id, start, end, piece, deepcopy(metadata or {})))
    return chunks


def check_cutting(size, overlap, separators):
    require(size >= 1, "size", "at least 1", size)
    require(0 <= overlap < size, "overlap", f"0 … {size - 1}", overlap)
    require(all(separators), "separators", "no empty one", separators)


def spans(text, size, overlap, length, separators):
    """(start, end) of each chunk."""
    measure = length or len
    joints = [[m.end(1) for m in re.finditer(f"(?=({re.escape(s)}))", text)] for s in separators]
    anywhere = sorted(set(chain(*joints)))

    def fits(start, end):
        return measure(text[start:end]) <= size

    def farthest(start, end):
        """An end that fits while the next does not. end + 1 fits."""
        low, high = end + 1, end + 2
        while high <= len(text) and fits(start, high):
            low, high = high, min(2 * high - end, len(text)) if high < len(text) else high + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(start, middle) else (low, middle)
        return low

    start, end = 0, 0
    while end < len(text):
        if start == end and not fits(start, end + 1):
            raise InvalidArgument(f"size: expected room for {text[end]!r} alone, got {size}")
        reach = farthest(start, end)
        if reach < len(text):
            ends = ([e for e in range_of(places, end, reach) if fits(start, e)] for places in joints)
            reach = next((places[-1] for places in ends if places), reach)
        yield start, reach
        if reach < len(text):
            first = start + 1 if length else max(start + 1, reach - overlap)
            begins = chain(range_of(anywhere, first - 1, reach), range(first, reach))
            begins = (s for s in begins if s == reach or measure(text[s:reach]) <= overlap)
            start = next((s for s in begins if fits(s, reach + 1)), reach)
        end = reach


def range_of(places, after, up_to):
    """Those of sorted places that lie in after + 1 … up_to."""
    return places[bisect_right(places, after) : bisect_right(places, up_to)]


# Finding by words -----------------------------------------------------------------------------------------


IDF = {  # of N and df
    "lucene": lambda n, df: math.log1p((n - df + 0.5) / (df + 0.5)),
    "robertson": lambda n, df: math.log((n - df + 0.5) / (df + 0.5)),
    "atire": lambda n, df: math.log(n / df),
    "bm25l": lambda n, df: math.log((n + 1) / (df + 0.5)),
    "bm25+": lambda n, df: math.log((n + 1) / df),
    "okapi": lambda n, df: math.log((n - df + 0.5) / (df + 0.5)),
}


class BM25:
    def __init__(self, documents, *, variant="lucene", k1=1.5, b=0.75, delta=None, epsilon=0.25):
        require(variant in IDF, "variant", f"one of {list(IDF)}", variant)
        require(k1 >= 0, "k1", "at least 0", k1)
        require(0 <= b <= 1, "b", "0 … 1", b)
        require(delta is None or delta >= 0, "delta", "at least 0", delta)
        require(epsilon >= 0, "epsilon", "at least 0", epsilon)
        self._idf, self._floor = IDF[variant], epsilon if variant == "okapi" else None
        self._k1, self._b = k1, b
        self._inside = (0.5 if delta is None else delta) if variant == "bm25l" else 0
        self._outside = (1 if delta is None else delta) if variant == "bm25+" else 0
        self._scale = 1 if variant in ("lucene", "robertson") else k1 + 1
        self._postings = {}  # token → {id: tf}
        self._counts = {}  # id → {token: tf}
        self._lengths = {}  # id → dl
        self.add(documents)

    def add(self, documents):
        documents = {name: list(tokens) for name, tokens in documents.items()}
        self.remove([name for name in documents if name in self._counts])
        for name, tokens in documents.items():
            self._counts[name] = Counter(tokens)
            self._lengths[name] = len(tokens)
            for token, tf in self._counts[name].items():
                self._postings.setdefault(token, {})[name] = tf

    def remove(self, ids):
        require_there("ids", ids, self._counts)
        for name in set(ids):
            del self._lengths[name]
            for token in self._counts.pop(name):
                del self._postings[token][name]
                if not self._postings[token]:
                    del self._postings[token]

    def scores(self, query):
        return dict.fromkeys(self._counts, 0.0) | self._matched(query)

    def search(self, query, k, among=None):
        require(k >= 1, "k", "at least 1", k)
        among = self._counts if among is None else among
        hits = (Hit(name, score) for name, score in self._matched(query).items() if name in among)
        return nsmallest(k, hits, key=best_first)

    def _matched(self, query):
        """The score of each document that has a token of the query."""
        found, n = {}, len(self._counts)
        mean_length = sum(self._lengths.values()) / max(n, 1)
        for token, times in Counter(query).items():
            having = self._postings.get(token, {})
            worth = times * self._worth(len(having)) if having else 0
            for name, tf in having.items():
                c = tf / (1 - self._b + self._b * self._lengths[name] / mean_length) + self._inside
                factor = self._scale * c / (self._k1 + c) + self._outside
                found[name] = found.get(name, 0.0) + worth * factor
        return found

    def _worth(self, df):
        n = len(self._counts)
        idf = self._idf(n, df)
        if self._floor is None or idf >= 0:
            return idf
        how_many = Counter(map(len, self._postings.values()))  # df → tokens that have it
        total = sum(count * self._idf(n, each) for each, count in how_many.items())
        return self._floor * total / len(self._postings)


# Conditions -----------------------------------------------------------------------------------------------


def matches(metadata, where):
    return compiled(where)(metadata)


def key(value):
    """Equal for values that are equal, hashable, and with the kind in front."""
    if isinstance(value, list | tuple):
        return "list", tuple(map(key, value))
    kinds = {bool: "bool", int: "number", float: "number", str: "text", type(None): "none"}
    require(type(value) in kinds, "where", "None, a bool, a number, a string or a list of these", value)
    return kinds[type(value)], value


def compiled(where):
    """A function of metadata that says whether they meet the condition."""
    require(hasattr(where, "items"), "where", "a condition", where)
    parts = [compiled_entry(name, operand) for name, operand in where.items()]
    return lambda metadata: all(part(metadata) for part in parts)


def compiled_entry(name, operand):
    if name == "$not":
        inner = compiled(operand)
        return lambda metadata: not inner(metadata)
    if name in ("$and", "$or"):
        require(isinstance(operand, list), "where", f"a list of conditions for {name}", operand)
        inner = [compiled(condition) for condition in operand]
        every = all if name == "$and" else any
        return lambda metadata: every(part(metadata) for part in inner)
    require(not name.startswith("$"), "where", "a field, $and, $or or $not", name)
    asked = operand if hasattr(operand, "items") else {"$eq": operand}
    for sign, wanted in asked.items():
        require(sign in OPERATORS, "where", f"one of {list(OPERATORS)}", sign)
        of_list = sign in ("$in", "$nin")
        require(isinstance(wanted, list) or not of_list, "where", f"a list for {sign}", wanted)
    tests = [(OPERATORS[sign], key(wanted)) for sign, wanted in asked.items()]
    return lambda m: name in m and all(test(key(m[name]), wanted) for test, wanted in tests)


def ordered(sign):
    """Whether two numbers or two strings are in this order."""
    return lambda found, wanted: found[0] == wanted[0] in ("number", "text") and sign(found[1], wanted[1])


OPERATORS = {  # of two keys
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$lt": ordered(operator.lt),
    "$lte": ordered(operator.le),
    "$gt": ordered(operator.gt),
    "$gte": ordered(operator.ge),
    "$in": lambda found, wanted: found in wanted[1],
    "$nin": lambda found, wanted: found not in wanted[1],
    "$contains": lambda found, wanted: found[0] == "list" and wanted in found[1],
}


# Finding by vectors ---------------------------------------------------------------------------------------


def unit(rows):
    """Rows of length 1, of length 0 where they were; in float64."""
    rows = rows.double()
    lengths = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, 1.0)


METRICS = {  # of queries and rows
    "cosine": lambda q, x: unit(q).float() @ unit(x).float().T,
    "ip": lambda q, x: q @ x.T,
    "l2": lambda q, x: -torch.cdist(q.double(), x.double(), compute_mode=EXPANDED).square(),
}
EXPANDED = "use_mm_for_euclid_dist"  # |q|² − 2 q·x + |x|²


class VectorIndex:
    def __init__(self, dim, *, metric="cosine"):
        require(dim >= 1, "dim", "at least 1", dim)
        require(metric in METRICS, "metric", f"one of {list(METRICS)}", metric)
        self._dim, self._metric = dim, metric
        self._table = torch.empty(0, dim)
        self._row_of = {}  # id → row, in the order in which they came
        self._free = []  # rows that nobody has
        self._metadata = {}

    def add(self, ids, vectors, metadata=None):
        ids = list(ids)
        self._check_rows("vectors", vectors)
        require(len(ids) == len(vectors), "ids", f"{len(vectors)}, one a vector", len(ids))
        require(len(set(ids)) == len(ids), "ids", "each once", ids)
        metadata = [{} for _ in ids] if metadata is None else deepcopy(list(metadata))
        require(len(metadata) == len(ids), "metadata", f"{len(ids)}, one a vector", len(metadata))
        new, rows = [name for name in ids if name not in self._row_of], len(self._table)
        more = max(len(new) - len(self._free), 0)
        self._table = torch.cat([self._table, torch.full((more, self._dim), math.nan)])
        self._free += range(rows, rows + more)
        self._row_of |= {name: self._free.pop() for name in new}
        self._table[self._rows(ids)] = vectors
        self._metadata |= zip(ids, metadata, strict=True)

    def _rows(self, ids):
        return torch.tensor([self._row_of[name] for name in ids], dtype=torch.long)

    def remove(self, ids):
        require_there("ids", ids, self._row_of)
        for name in set(ids):
            del self._metadata[name]
            self._free.append(self._row_of.pop(name))
        self._table[self._free] = math.nan

    def ids(self):
        return sorted(self._row_of)

    def get(self, ids):
        require_there("ids", ids, self._row_of)
        return [deepcopy(self._metadata[name]) for name in ids]

    def search(self, queries, k, *, where=None, among=None):
        require(k >= 1, "k", "at least 1", k)
        self._check_rows("queries", queries)
        meets = compiled({} if where is None else where)
        among = [name for name in (self._metadata if among is None else among) if meets(self._metadata[name])]
        scores = METRICS[self._metric](queries, self._table[self._rows(among)]).tolist()
        hits = ([Hit(*pair) for pair in zip(among, row, strict=True)] for row in scores)
        return [nsmallest(k, row, key=best_first) for row in hits]

    def _check_rows(self, name, rows):
        fits = rows.dim() == 2 and rows.shape[1] == self._dim
        require(fits, name, f"shape (any, {self._dim})", tuple(rows.shape))
        require(bool(rows.isfinite().all()), name, "finite numbers", "one that is not")

    def save(self, storage):
        head = {"dim": self._dim, "metric": self._metric, "metadata": self._metadata}
        table = self._table[self._rows(self._metadata)]
        data = json.dumps(head).encode() + b"\n" + table.numpy().tobytes()
        before = generations(storage)
        generation = 1 + max((number for number, _, _ in before), default=0)
        content, mark = f"index-{generation}", f"index-{generation}-{hashlib.sha256(data).hexdigest()}"
        storage.write(content, data)
        storage.sync(content)
        storage.write(mark, b"")  # nothing that could be half of it
        storage.sync(mark)
        for _, _, name in before:
            storage.remove(name)


def generations(storage):
    """(generation, checksum or None, name) of each file that a save has left, whole or not."""
    found = (re.fullmatch(r"index-(\d+)(?:-([0-9a-f]{64}))?", name) for name in storage.names())
    return [(int(match[1]), match[2], match[0]) for match in found if match]


def load_index(storage):
    marks = [(number, checksum) for number, checksum, _ in generations(storage) if checksum]
    if not marks:
        raise NothingSaved("storage: expected an index that was saved, got none")
    generation, checksum = max(marks)
    data = storage.read(f"index-{generation}")
    if data is None or hashlib.sha256(data).hexdigest() != checksum:
        raise DamagedIndex(f"storage: expected the bytes that were saved in index-{generation}, got others")
    head, _, table = data.partition(b"\n")
    head = json.loads(head)
    index = VectorIndex(head["dim"], metric=head["metric"])
    if head["metadata"]:
        vectors = torch.frombuffer(bytearray(table), dtype=torch.float32).reshape(-1, head["dim"])
        index.add(list(head["metadata"]), vectors, list(head["metadata"].values()))
    return index


# Putting rankings together --------------------------------------------------------------------------------


def reciprocal_rank_fusion(rankings, *, k=60, weights=None):
    require(k >= 0, "k", "at least 0", k)
    parts = [{name: 1 / (Fraction(k) + rank) for name, rank in places(r).items()} for r in rankings]
    return weighted_sum(parts, weights)


def score_fusion(rankings, *, weights=None):
    for hit in chain(*rankings):
        require(math.isfinite(hit.score), "rankings", "finite scores", hit.score)
    return weighted_sum([scaled(ranking) for ranking in rankings], weights)


def scaled(ranking):
    ascending = sorted((Fraction(hit.score), hit.id) for hit in ranking)
    low, high = (ascending[0][0], ascending[-1][0]) if ascending else (0, 0)
    return {name: (score - low) / (high - low) if high > low else 1 for score, name in ascending}


def weighted_sum(parts, weights):
    """Of what each ranking gives to its ids, in order."""
    weights = [1] * len(parts) if weights is None else list(weights)
    require(len(weights) == len(parts), "weights", f"{len(parts)} numbers", len(weights))
    for weight in weights:
        require(math.isfinite(weight) and weight >= 0, "weights", "finite numbers of at least 0", weight)
    sums = dict.fromkeys(chain(*parts), Fraction(0))
    for weight, part in zip(weights, parts, strict=True):
        for name, value in part.items():
            sums[name] += Fraction(weight) * value
    return sorted((Hit(name, float(total)) for name, total in sums.items()), key=best_first)


def places(ranking):
    """The first rank of each id."""
    return {name: rank for rank, name in reversed(list(enumerate(ranking, start=1)))}


def maximal_marginal_relevance(query, candidates, k, lam):
    require(query.dim() == 1, "query", "1 axis", query.dim())
    fits = candidates.dim() == 2 and candidates.shape[1] == len(query)
    require(fits, "candidates", f"shape (any, {len(query)})", tuple(candidates.shape))
    require(k >= 1, "k", "at least 1", k)
    require(0 <= lam <= 1, "lam", "0 … 1", lam)
    rows = unit(torch.cat([candidates, query[None]]))
    similar = (rows @ rows.T).tolist()
    relevance, left, picked = similar.pop(), list(range(len(candidates))), []

    def value(row):
        if not picked:
            return relevance[row]
        return lam * relevance[row] - (1 - lam) * max(similar[row][other] for other in picked)

    while left and len(picked) < k:
        best = max(left, key=value)  # of equals the first
        left.remove(best)
        picked.append(best)
    return picked


# Bringing passages into the prompt ------------------------------------------------------------------------


def pack_context(
    chunks, *, question, budget, reserved, count_tokens, order="rank", template=TEMPLATE, special_tokens=()
):
    check_packing(budget, reserved, order, template, special_tokens)
    room = budget - reserved

    def packed(taken):
        if order == "edges":
            taken = taken[::2] + taken[1::2][::-1]
        text, spans = prompt(taken, question, template, special_tokens)
        return PackedContext(text, taken, spans, count_tokens(text))

    best, seen = packed([]), set()
    if best.tokens > room:
        raise ContextTooLong(f"question: expected a prompt of at most {room} tokens, got {best.tokens}")
    taken = []
    for chunk in chunks:
        if chunk.id not in seen:
            trial = packed([*taken, chunk])
            if trial.tokens <= room:
                best, taken = trial, [*taken, chunk]
        seen.add(chunk.id)
    return best


def check_packing(budget, reserved, order, template, special_tokens):
    require(0 <= reserved <= budget, "reserved", f"0 … {budget}", reserved)
    require(order in ("rank", "edges"), "order", '"rank" or "edges"', order)
    once = template.count("{context}") == template.count("{question}") == 1
    require(once, "template", "{context} and {question}, each once", template)
    require(all(special_tokens), "special_tokens", "no empty one", special_tokens)


def prompt(chunks, question, template, special_tokens):
    """The text, and where in it the text of each chunk stands."""
    begins = "|".join(map(re.escape, special_tokens)) or "(?!)"

    def harmless(text, quotes=False):
        text = text.replace("&", "&amp;").replace("<", "&lt;")
        text = text.replace('"', "&quot;") if quotes else text
        return re.sub(f"(?s)(?={begins}).", lambda match: f"&#{ord(match[0])};", text)

    text, spans = "", []
    for part in re.split(r"(\{context\}|\{question\})", template):
        if part != "{context}":
            text += harmless(question) if part == "{question}" else part
            continue
        for number, chunk in enumerate(chunks, start=1):
            text += f'<passage number="{number}" source="{harmless(chunk.doc_id, quotes=True)}">\n'
            inner = harmless(chunk.text)
            spans.append((len(text), len(text) + len(inner)))
            text += f"{inner}\n</passage>\n"
    return text, spans


def citations(answer, chunks):
    names = dict(enumerate((chunk.id for chunk in chunks), start=1))
    return [
        Citation(int(number), names.get(int(number)), pair.start(), pair.end())
        for pair in re.finditer(r"\[ *[0-9]{1,6}(?: *, *[0-9]{1,6})* *\]", answer)
        for number in re.findall("[0-9]+", pair[0])
    ]


# The pipeline ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """What there is at one moment. Nothing in it ever changes."""

    documents: dict  # id → metadata
    chunks: dict  # id → Chunk
    tokens: dict  # id of a chunk → its tokens
    words: BM25
    vectors: VectorIndex


class Stopwatch:
    def __init__(self, clock):
        self.clock = clock
        self.seconds = dict.fromkeys(("embed", "search", "rerank", "pack", "generate"), 0.0)

    @contextmanager
    def __call__(self, stage):
        begin = self.clock()
        try:
            yield
        finally:
            self.seconds[stage] += self.clock() - begin


class RagPipeline:
    def __init__(self, index, embedder, generate, *, config, tokenize, count_tokens, rerank=None, clock=None):
        require(embedder.dim == index._dim, "embedder", f"dim {index._dim}, as the index has", embedder.dim)
        self._cutting = {name: getattr(config, name) for name in ("size", "overlap", "separators")}
        packing = ("budget", "reserved", "order", "template", "special_tokens")
        self._packing = {name: getattr(config, name) for name in packing}
        check_cutting(**self._cutting)
        check_packing(**self._packing)
        known = ("bm25", "dense", "hybrid")
        require(config.retrieval in known, "retrieval", f"one of {known}", config.retrieval)
        require(config.candidates >= 1, "candidates", "at least 1", config.candidates)
        require(config.k >= 1, "k", "at least 1", config.k)
        self._index, self._embedder, self._generate, self._config = index, embedder, generate, config
        self._tokenize, self._count_tokens, self._rerank = tokenize, count_tokens, rerank
        self._clock = clock or time.perf_counter
        self._change = threading.Lock()  # held while nobody else is called
        chunks = {name: Chunk(**about) for name, about in deepcopy(index._metadata).items()}
        documents = {chunk.doc_id: chunk.metadata for chunk in chunks.values()}
        tokens = {name: list(tokenize(chunk.text)) for name, chunk in chunks.items()}
        self._now = Snapshot(documents, chunks, tokens, BM25(tokens), deepcopy(index))

    def ingest(self, documents):
        documents = deepcopy(list(documents))
        named = Counter(document.id for document in documents)
        require(len(named) == len(documents), "documents", "each id once", named.most_common(1))
        cut = {d.id: split(d.text, doc_id=d.id, metadata=d.metadata, **self._cutting) for d in documents}
        vectors, tokens = {}, {}  # of this call's own chunks, kept where it has to begin again
        while True:
            now = self._now
            kinds = [kind_of(document, cut[document.id], now) for document in documents]
            touched = [d for d, kind in zip(documents, kinds, strict=True) if kind != "unchanged"]
            chunks = {chunk.id: chunk for d in touched for chunk in cut[d.id]}
            missing = [name for name in chunks if name not in now.chunks and name not in vectors]
            if missing:
                rows = self._embedder.embed([chunks[name].text for name in missing], "passage")
                self._index._check_rows("embedder", rows)
                require(len(rows) == len(missing), "embedder", f"{len(missing)} vectors", len(rows))
                vectors |= zip(missing, rows, strict=True)
                tokens |= {name: list(self._tokenize(chunks[name].text)) for name in missing}
            with self._change:
                if self._now is now:
                    self._swap({d.id: d.metadata for d in touched}, chunks, vectors, tokens)
                    break
        names = {kind: [] for kind in ("added", "changed", "unchanged")}
        for document, kind in zip(documents, kinds, strict=True):
            names[kind].append(document.id)
        return Ingested(**names)

    def remove(self, doc_ids):
        with self._change:
            require_there("doc_ids", doc_ids, self._now.documents)
            self._swap(dict.fromkeys(doc_ids), {}, {}, {})

    def _swap(self, touched, chunks, vectors, tokens):
        """touched: metadata of documents that change, None where one goes. chunks: all that they have now."""
        old, index = self._now, self._index
        chunks_now = {
            name: chunk for name, chunk in old.chunks.items() if chunk.doc_id not in touched
        } | chunks
        new = [name for name in chunks if name not in old.chunks]
        index.remove(old.chunks.keys() - chunks_now.keys())
        if new:
            index.add(new, torch.stack([vectors[name] for name in new]))
        index._metadata |= {name: asdict(chunk) for name, chunk in chunks.items()}
        documents = {name: about for name, about in (old.documents | touched).items() if about is not None}
        tokens = {name: old.tokens[name] if name in old.tokens else tokens[name] for name in chunks_now}
        self._now = Snapshot(documents, chunks_now, tokens, BM25(tokens), deepcopy(index))

    def documents(self):
        return sorted(self._now.documents)

    def retrieve(self, question, *, where=None):
        return self._retrieve(question, where, Stopwatch(self._clock))

    def _retrieve(self, question, where, stage):
        meets = compiled({} if where is None else where)
        c, now, problems = self._config, self._now, []
        query = None
        if c.retrieval != "bm25":
            try:
                with stage("embed"):
                    query = self._embedder.embed([question], "query")
            except Exception:
                if c.retrieval == "dense":
                    raise
                problems.append("embed")
        with stage("search"):
            open_to = {name for name, metadata in now.documents.items() if meets(metadata)}
            allowed = [name for name, chunk in now.chunks.items() if chunk.doc_id in open_to]
            found = []
            if c.retrieval != "dense":
                found.append(now.words.search(self._tokenize(question), c.candidates, {*allowed}))
            if query is not None:
                found += now.vectors.search(query, c.candidates, among=allowed)
            hits = found[0]
            if c.retrieval == "hybrid":
                hits = reciprocal_rank_fusion([[hit.id for hit in ranking] for ranking in found], k=10)
        if hits and self._rerank is not None:
            with stage("rerank"):
                again = self._reranked(question, [now.chunks[hit.id].text for hit in hits])
            if again is None:
                problems.append("rerank")
            else:
                hits = [Hit(hit.id, score) for hit, score in zip(hits, again, strict=True)]
                hits.sort(key=lambda hit: -hit.score)
        good = [hit for hit in hits[: c.k] if c.min_score is None or hit.score >= c.min_score]
        chunks = [deepcopy(now.chunks[hit.id]) for hit in good]
        return Retrieved(chunks, [hit.score for hit in good], problems)

    def _reranked(self, question, texts):
        """None where it failed."""
        try:
            scores = [float(score) for score in self._rerank(question, texts)]
        except Exception:
            return None
        return scores if len(scores) == len(texts) and all(map(math.isfinite, scores)) else None

    def answer(self, question, *, where=None, on_text=None):
        on_text = on_text or (lambda piece: None)
        stage, fallback = Stopwatch(self._clock), self._config.fallback
        found = self._retrieve(question, where, stage)
        chunks = []
        if found.chunks:
            count = self._count_tokens
            with stage("pack"):
                packed = pack_context(found.chunks, question=question, count_tokens=count, **self._packing)
            chunks = packed.chunks
        if not chunks:
            on_text(fallback)
            return Answer(fallback, [], [], stage.seconds, found.problems)
        text = ""
        with stage("generate"):
            for piece in self._generate(packed.text):
                text += piece
                on_text(piece)
        return Answer(text, chunks, citations(text, chunks), stage.seconds, found.problems)


def kind_of(document, chunks, now):
    """Whether a document, cut into these chunks, is "added", "changed" or "unchanged"."""
    if document.id not in now.documents:
        return "added"
    pieces = sorted((chunk.start, chunk.text) for chunk in now.chunks.values() if chunk.doc_id == document.id)
    same_text = pieces == [(chunk.start, chunk.text) for chunk in chunks]
    old, new = ({k: key(v) for k, v in m.items()} for m in (now.documents[document.id], document.metadata))
    return "unchanged" if same_text and old == new else "changed"


# How good it is -------------------------------------------------------------------------------------------


def relevant(qrels):
    return {name for name, grade in qrels.items() if grade >= 1}


def relevant_places(ranked_ids, qrels, k=None):
    """Ranks at which relevant documents first stand, ascending, among the first k."""
    require(k is None or k >= 1, "k", "at least 1", k)
    good = relevant(qrels)
    return sorted(rank for name, rank in places(ranked_ids[:k]).items() if name in good)


def recall_at_k(ranked_ids, qrels, k):
    return len(relevant_places(ranked_ids, qrels, k)) / max(len(relevant(qrels)), 1)


def precision_at_k(ranked_ids, qrels, k):
    return len(relevant_places(ranked_ids, qrels, k)) / k


def reciprocal_rank(ranked_ids, qrels, k=None):
    return 1 / min(relevant_places(ranked_ids, qrels, k), default=math.inf)


def average_precision(ranked_ids, qrels):
    ranks = relevant_places(ranked_ids, qrels)
    return sum(nth / rank for nth, rank in enumerate(ranks, start=1)) / max(len(relevant(qrels)), 1)


def ndcg_at_k(ranked_ids, qrels, k, *, gain="linear"):
    require(k >= 1, "k", "at least 1", k)
    require(gain in ("linear", "exponential"), "gain", '"linear" or "exponential"', gain)
    gains = {name: 2 ** qrels[name] - 1 if gain == "exponential" else qrels[name] for name in relevant(qrels)}
    if not gains:
        return 0.0
    most = max(gains.values())  # divided out, so that integers of any size stay inside what a float holds
    got = {rank: gains.get(name, 0) / most for name, rank in places(ranked_ids[:k]).items()}
    best = sorted((value / most for value in gains.values()), reverse=True)[:k]
    return discounted(got) / discounted(dict(enumerate(best, start=1)))


def discounted(gains):
    return math.fsum(value / math.log2(rank + 1) for rank, value in gains.items())


MEASURES = {
    "ndcg": ndcg_at_k,
    "recall": recall_at_k,
    "precision": precision_at_k,
    "mrr": reciprocal_rank,
    "map": average_precision,
}


def evaluate(run, qrels, metrics):
    asked = [query for query, grades in qrels.items() if relevant(grades)]
    means = {}
    for name in metrics:
        known = re.fullmatch(r"(map)|(ndcg|recall|precision|mrr)@([1-9][0-9]*)", name)
        require(known, "metrics", "ndcg@K, recall@K, precision@K, mrr@K or map", name)
        measure, k = MEASURES[known[1] or known[2]], [int(known[3])] if known[3] else []
        total = sum(measure(run.get(query, ()), qrels[query], *k) for query in asked)
        means[name] = total / max(len(asked), 1)
    return means


# Answers as mixtures over documents -----------------------------------------------------------------------


def rag_sequence_log_prob(doc_scores, token_log_probs, mask):
    weights, tokens = mixture(doc_scores, token_log_probs, mask)
    return float((weights + tokens.sum(dim=1)).logsumexp(dim=0)) if tokens.shape[1] else 0.0


def rag_token_log_prob(doc_scores, token_log_probs, mask):
    weights, tokens = mixture(doc_scores, token_log_probs, mask)
    return float((weights[:, None] + tokens).logsumexp(dim=0).sum())


def mixture(doc_scores, token_log_probs, mask):
    """ln p(z), (Z,), and the log-probabilities of the tokens that are there, (Z, how many)."""
    some = doc_scores.dim() == 1 and len(doc_scores) > 0
    require(some, "doc_scores", "shape (Z,), Z ≥ 1", doc_scores.shape)
    require(mask.dim() == 1, "mask", "shape (L,)", mask.shape)
    shape = (len(doc_scores), len(mask))
    require(tuple(token_log_probs.shape) == shape, "token_log_probs", f"shape {shape}", token_log_probs.shape)
    return doc_scores.double().log_softmax(dim=0), token_log_probs.double()[:, mask.bool()]
