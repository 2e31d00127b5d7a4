"""The solution's searches where its shortcuts begin: many vectors and many tokens, and what changes them."""

import mlx.core as mx
import numpy as np
import pytest

from grading.tolerance import allowance
from solution.rag import BM25, VectorIndex
from solution.rag.columns import BLOCK
from solution.rag.postings import LATE
from solution.rag.ranking import STRIDE, contenders
from spec.rag import Hit

DIM = 24
N = 2 * BLOCK + 77


def ranked(ids, scores, k):
    """The k best of all, by a sort of all."""
    return [Hit(ids[i], scores[i]) for i in sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))[:k]]


def clustered(rng, n):
    """Vectors of which many are equal, and many so near that float32 products do not tell them apart."""
    centres = rng.standard_normal((40, DIM))
    rows = centres[rng.integers(40, size=n)] + rng.choice([0, 0, 1e-7, 1e-3], (n, 1)) * rng.random((n, DIM))
    return (rows * rng.choice([1, 2], (n, 1))).astype(np.float32)


def similarities(metric, query, rows, dtype=np.float64):
    query, rows = query.astype(dtype), rows.astype(dtype)
    if metric == "l2":
        return -((rows - query) ** 2).sum(axis=1)
    products = (rows * query).sum(axis=1)
    if metric == "ip":
        return products
    return products / np.sqrt((rows**2).sum(axis=1) * (query**2).sum())


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_many_vectors_are_ranked_as_in_float64(metric):
    """Each hit has its score, none is better that is not there, and equals come by their ids."""
    rng = np.random.default_rng(1)
    rows, ids = clustered(rng, N), [f"v{i}" for i in rng.permutation(N)]
    rows[::1000] = rows[500]
    queries = np.concatenate([clustered(rng, 3), rows[500:501]])
    index = VectorIndex(DIM, metric=metric)
    for first in range(0, N, 9000):
        index.add(ids[first : first + 9000], mx.array(rows[first : first + 9000]))
    number = {each: i for i, each in enumerate(ids)}
    for k in (1, 10, N // STRIDE + 1, N):
        batch = index.search(mx.array(queries), k)
        for query, hits in zip(queries, batch, strict=True):
            scores = similarities(metric, query, rows)
            allowed = allowance(similarities(metric, query, rows, np.longdouble), scores)
            found = np.array([number[hit.id] for hit in hits])
            assert (len(hits), len(set(found))) == (k, k)
            assert np.abs([hit.score for hit in hits] - scores[found]).max() <= allowed
            assert scores[found].min() >= np.sort(scores)[-k] - 2 * allowed
            assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.id))
            assert index.search(mx.array(query[None]), k) == [hits]
    twins = index.search(mx.array(queries[3:]), N)[0]
    equal = {hit.score for hit in twins if (rows[number[hit.id]] == rows[500]).all()}
    assert len(equal) == 1, "equal vectors have equal scores, wherever they lie"


def test_vectors_that_move_keep_their_ids():
    """Rows are removed from the middle of blocks, and others take their places."""
    rng = np.random.default_rng(2)
    rows, ids = rng.standard_normal((N, DIM)).astype(np.float32), [f"v{i}" for i in range(N)]
    index = VectorIndex(DIM, metric="ip")
    index.add(ids, mx.array(rows))
    gone = set(rng.choice(ids, N - BLOCK - 5, replace=False).tolist())
    index.remove(sorted(gone))
    kept = [i for i, each in enumerate(ids) if each not in gone]
    changed = kept[::3]
    rows[changed] *= -1
    index.add([ids[i] for i in changed], mx.array(rows[changed]))
    query = rng.standard_normal(DIM).astype(np.float32)
    expected = ranked([ids[i] for i in kept], similarities("ip", query, rows[kept]).tolist(), 50)
    found = index.search(mx.array(query[None]), 50)[0]
    assert [hit.id for hit in found] == [hit.id for hit in expected]


@pytest.mark.parametrize("k", [1, 3, 20])
def test_contenders_are_all_that_may_be_among_the_best(k):
    rng = np.random.default_rng(k)
    for n in (1, 2, STRIDE, 5 * STRIDE + 3, 40 * STRIDE):
        for scores in (rng.random(n), rng.integers(0, 3, n) - 1.0, np.sort(rng.random(n)), np.zeros(n)):
            scores = np.where(rng.random(n) < 0.1, -np.inf, scores)
            for slack, above in ((0.0, -np.inf), (0.1, -np.inf), (0.0, 0.0)):
                found = contenders(scores, k, slack=slack, above=above)
                least = np.sort(scores)[-min(k, n)] - slack
                assert set(np.flatnonzero((scores >= least) & (scores > above))) <= set(found)
                assert (scores[found] > above).all()


@pytest.mark.parametrize("variant", ["lucene", "okapi"])
def test_words_are_counted_whatever_came_when(variant):
    """So many tokens come and go that they are laid out anew in between."""
    rng = np.random.default_rng(3)
    words = [f"w{i}" for i in range(300)]
    shares = 1 / np.arange(1, 301)

    def documents(first, count, length):
        tokens = rng.choice(words, (count, length), p=shares / shares.sum())
        return {f"d{first + i}": row.tolist() for i, row in enumerate(tokens)}

    there = documents(0, 3000, 40)
    index = BM25(there, variant=variant)
    steps = [documents(2900, 200, 10), [f"d{i}" for i in range(2500)], documents(5000, LATE // 50 + 1, 50)]
    for step in [*steps, documents(100, 5, 9), ["d5001"]]:
        if isinstance(step, dict):
            index.add(step)
            there |= step
        else:
            index.remove(step)
            there = {each: tokens for each, tokens in there.items() if each not in set(step)}
        anew = BM25(there, variant=variant)
        for query in (["w0", "w7"], ["w299", "w299", "w50", "nowhere"], ["w0"]):
            assert index.search(query, 20) == anew.search(query, 20)
            assert index.scores(query) == anew.scores(query)
        some = sorted(there)[::7]
        expected = [hit for hit in anew.search(["w1", "w2"], len(there)) if hit.id in set(some)]
        assert index.search(["w1", "w2"], 9, among=some) == expected[:9]
