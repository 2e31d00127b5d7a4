"""Inputs for the tests of retrieval, how their scores and rankings are judged, and a disk that crashes.

Where two scores are nearer than rounding, either order is right. Which of two equal ones comes first is
asked only where every way to compute them gives the same bits.
"""

import itertools
from types import SimpleNamespace

import numpy as np
from hypothesis import strategies as st

from grading.matching import assert_equal
from grading.truth import GroundTruth
from spec.rag import Hit, Storage

SEEDS = st.integers(0, 2**32 - 1)
METRICS = ("cosine", "ip", "l2")


# Scores and rankings --------------------------------------------------------------------------------------


class Scores(GroundTruth):
    """The scores of the reference as float arrays, with the allowance that follows from the input.

    words(documents, queries, options, numbers): (queries, documents). numbers: float32, what stands in
        options["numbers"], k1, b, ….
    vectors(metric, queries, vectors): (queries, vectors).
    """

    def __init__(self):
        super().__init__("rag")
        self.exact = evaluated(self.exact, np.float64)
        self.plain = evaluated(self.plain, np.float32)


def evaluated(rag, dtype):
    def words(documents, queries, variant, names, numbers):
        options = dict(zip(names, map(float, numbers), strict=True))
        options |= {"b": min(options["b"], 1.0)} if "b" in options else {}
        index = rag.BM25(documents, variant=variant, **options)
        found = [index.scores(query) for query in queries]
        return np.array([[scores[each] for each in documents] for scores in found], dtype)

    def vectors(metric, queries, rows):
        index = rag.VectorIndex(queries.shape[1], metric=metric)
        index.add([f"{i:06d}" for i in range(len(rows))], rows)
        found = [sorted(hits, key=lambda hit: hit.id) for hits in index.search(queries, len(rows) + 1)]
        scores = [[hit.score for hit in hits] for hits in found]
        return np.array(scores, dtype).reshape(len(queries), len(rows))

    return SimpleNamespace(words=words, vectors=vectors)


SCORES = Scores()


def words_scores(documents, queries, *, variant="lucene", **numbers):
    """For each query {id: score}, and the allowance of all of them."""
    values = np.float32(list(numbers.values()))
    assert values.tolist() == list(numbers.values()), "numbers that float32 has"
    found = SCORES.words(documents, queries, variant, tuple(numbers), values)
    return [dict(zip(documents, row, strict=True)) for row in found.value.tolist()], found.allowed


def vector_scores(metric, queries, rows):
    """rows: {id: vector}. For each query {id: score}, and the allowance of all of them.

    What rounding takes depends on the lengths, however little of them is left in a sum. So there are two
    more rows for each query, as long as the longest: one of its direction and one of the opposite.
    """
    stacked = np.array(list(rows.values()), np.float64).reshape(len(rows), queries.shape[1])
    longest = np.linalg.norm(stacked, axis=1).max(initial=0)
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    along = longest * np.divide(queries, lengths, where=lengths > 0, out=np.zeros(queries.shape))
    found = SCORES.vectors(metric, queries, np.concatenate([stacked, along, -along]).astype(np.float32))
    scores = found.value[:, : len(rows)].tolist()
    return [dict(zip(rows, row, strict=True)) for row in scores], found.allowed


def assert_scores(actual, expected, allowed, what="scores"):
    """A dict with a float for each document."""
    assert isinstance(actual, dict), f"{what}: expected a dict, got {type(actual).__name__}"
    assert_equal(sorted(actual), sorted(expected), f"documents in {what}")
    for each, score in expected.items():
        assert_score(actual[each], score, allowed, f"{what}[{each!r}]")


def assert_score(actual, expected, allowed, what="score"):
    assert isinstance(actual, float), f"{what}: expected a float, got {actual!r}"
    assert abs(actual - expected) <= allowed, (
        f"{what}: expected {expected:.7g} ± {allowed:.1e}, got {actual!r}"
    )


def assert_ranking(hits, scores, allowed, k, what="hits"):
    """The k best by these scores, {id: score}, where both of two that rounding could swap are right."""
    ids = ids_of(hits)
    assert_equal(len(ids), min(k, len(scores)), f"number of {what}")
    assert set(ids) <= set(scores), f"{what}: expected ids of {sorted(scores)}, got {ids}"
    assert len(set(ids)) == len(ids), f"{what}: expected each id once, got {ids}"
    for hit in hits:
        assert_score(hit.score, scores[hit.id], allowed, f"score of {hit.id!r}")
    left_out = [each for each in scores if each not in ids]
    for better, worse in [*itertools.pairwise(ids), *((ids[-1], each) for each in left_out if ids)]:
        assert scores[better] >= scores[worse] - 2 * allowed, (
            f"{what}: expected {worse!r} with {scores[worse]:.7g} before {better!r} with {scores[better]:.7g}"
        )


def ids_of(hits):
    assert isinstance(hits, list | tuple), f"hits: expected a list, got {type(hits).__name__}"
    assert all(isinstance(hit, Hit) for hit in hits), f"hits: expected Hit, got {hits}"
    return [hit.id for hit in hits]


# Documents and vectors ------------------------------------------------------------------------------------

IDS = ("d10", "d9", "B", "a", "\uffee", "\U0001d11e", "d")  # in no order, and in another one in UTF-16


def corpus(rng, *, tokens="abcde", most=7, longest=6):
    """{id: tokens}, some of them without any; letters early in the alphabet are in most of them."""
    weights = 1 / np.arange(1, len(tokens) + 1)
    return {
        each: tuple(
            rng.choice(list(tokens), rng.integers(0, longest + 1), p=weights / weights.sum()).tolist()
        )
        for each in IDS[: rng.integers(1, most + 1)]
    }


def rows_of(rng, n, dim):
    """{id: vector} whose lengths differ."""
    lengths = rng.choice([0.1, 1, 7], n)
    return {f"v{i}": (lengths[i] * rng.standard_normal(dim)).astype(np.float32) for i in rng.permutation(n)}


def f32(*rows):
    return np.array(rows, np.float32)


# A disk ---------------------------------------------------------------------------------------------------

FULL = OSError("no space left on the disk")


class Disk:
    """A disk as `Storage` promises it. Where calls are made again, to name a bug, it begins again.

    before: what is on it at first, {name: bytes}, all of it durable.
    fails_at: the number of the step, from 0 on, that fails as a full disk does: a write leaves half a file.
    files: what is on it now. loose: names of those whose bytes a crash may still take.
    steps: the names of all functions called. states: (files, loose) at first and after each change.
    """

    again = 0  # how often calls were made again

    def __init__(self, before=None, *, fails_at=None):
        self.before, self.fails_at = dict(before or {}), fails_at
        self.begin()
        self.storage = Storage(self.read, self.names, self.write, self.sync, self.rename, self.remove)

    def begin(self):
        self.files, self.loose, self.steps, self.failed = dict(self.before), frozenset(), [], False
        self.states = [(dict(self.files), self.loose)]
        self.seen = Disk.again

    def step(self, name):
        """Whether this step fails."""
        if self.seen != Disk.again:
            self.begin()
        self.steps.append(name)
        fails = len(self.steps) - 1 == self.fails_at
        self.failed |= fails
        return fails

    def changed(self, *, loose=(), durable=()):
        self.loose = (self.loose | {*loose}) - {*durable}
        self.states.append((dict(self.files), self.loose))

    def read(self, name):
        if self.step("read"):
            raise OSError(*FULL.args)
        return self.files.get(name)

    def names(self):
        if self.step("names"):
            raise OSError(*FULL.args)
        return list(self.files)

    def write(self, name, data):
        fails = self.step("write")
        self.files[name] = data[: len(data) // 2] if fails else data
        self.changed(loose=[name])
        if fails:
            raise OSError(*FULL.args)

    def sync(self, name):
        if self.step("sync"):
            raise OSError(*FULL.args)
        self.changed(durable=[name])

    def rename(self, old, new):
        if self.step("rename"):
            raise OSError(*FULL.args)
        if old not in self.files:
            raise OSError(f"no file {old!r}")
        self.files[new] = self.files.pop(old)
        if old in self.loose:
            self.changed(loose=[new], durable=[old])
        else:
            self.changed(durable=[new])

    def remove(self, name):
        if self.step("remove"):
            raise OSError(*FULL.args)
        self.files.pop(name, None)
        self.changed(durable=[name])


PREFIXES = (None, lambda n: 0, lambda n: 1, lambda n: n // 2, lambda n: n - 1, lambda n: n)


def after_crash(files, loose):
    """What may be on the disk: of each loose file a prefix, or no file. One is unlike the others."""
    if not loose:
        yield files
    for odd in sorted(loose):
        for one, others in itertools.product(PREFIXES, repeat=2):
            left = {name: data for name, data in files.items() if name not in loose}
            for name in loose:
                length = one if name == odd else others
                if length is not None:
                    left[name] = files[name][: max(length(len(files[name])), 0)]
            yield left


def crashes(states):
    """All that may be on the disk after a crash in one of these states, each once."""
    found = {}
    for files, loose in states:
        for left in after_crash(files, loose):
            found[tuple(sorted(left.items()))] = left
    return list(found.values())


def damages(files, places):
    """(what was done, files): of one file a byte changed, at each of about so many places, two neighbours
    swapped, at a tenth of them, cut short, or gone."""
    for name, data in files.items():
        others = {other: files[other] for other in files if other != name}
        for at in range(0, len(data), max(len(data) // places, 1)):
            flipped = data[at] ^ (1, 2, 0x10, 0x80, 0xFF)[at % 5]
            yield f"byte {at} of {name!r} changed", others | {name: with_bytes(data, at, [flipped])}
        for at in range(0, len(data) - 1, max(10 * len(data) // places, 1)):
            if data[at] != data[at + 1]:
                swapped = with_bytes(data, at, [data[at + 1], data[at]])
                yield f"bytes {at} and {at + 1} of {name!r} swapped", others | {name: swapped}
        for length in sorted({0, 1, 32, len(data) // 2, len(data) - 1} & {*range(len(data))}):
            yield f"{name!r} cut to {length} bytes", others | {name: data[:length]}
        yield f"{name!r} gone", others


def with_bytes(data, at, new):
    return data[:at] + bytes(new) + data[at + len(new) :]
