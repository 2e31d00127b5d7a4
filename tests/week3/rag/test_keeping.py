"""`save` and `load_index`: what is still there after a restart, a crash, a full disk, a bit that turned."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, passed_through, refused
from spec import DamagedIndex, NothingSaved
from tests.week3.rag.cases import (
    FULL,
    METRICS,
    SEEDS,
    Disk,
    assert_ranking,
    crashes,
    damages,
    f32,
    rows_of,
    vector_scores,
)


@dataclass(frozen=True)
class Kept:
    """What is in an index. rows: {id: vector}. metadata: {id: metadata}, of some."""

    rows: dict
    metadata: dict = field(default_factory=dict)
    metric: str = "cosine"
    dim: int = 2

    def index(self, impl):
        index = impl.VectorIndex(self.dim, metric=self.metric)
        if self.rows:
            index.add(
                list(self.rows), f32(*self.rows.values()), [self.metadata.get(i, {}) for i in self.rows]
            )
        return index

    def assert_in(self, index, what="the index"):
        ids = sorted(self.rows)
        assert_equal(index.ids(), ids, f"ids in {what}")
        assert_equal(index.get(ids), [self.metadata.get(each, {}) for each in ids], f"metadata in {what}")
        queries = np.linspace(-1, 2, self.dim, dtype=np.float32)[None]
        (scores,), allowed = vector_scores(self.metric, queries, self.rows)
        (hits,) = index.search(queries, len(ids) + 1)
        assert_ranking(hits, scores, allowed, len(ids) + 1, f"hits in {what}")


OLD = Kept({"a": [1, 2], "b": [3, -1]}, {"b": {"n": 1}})
NEW = Kept({"a": [-1, 2], "c": [0.5, 4], "d": [1, 1]}, {"c": {"text": "é", "tags": ["x", None]}}, "ip")


def saved(impl, *all_kept, before=None):
    """A disk with these files, after all this was saved on it, one after another."""
    disk = Disk(before)
    for kept in all_kept:
        kept.index(impl).save(disk.storage)
    return disk


def load(impl, files):
    return impl.load_index(Disk(files).storage)


def load_old_or_new(impl, files, old, what):
    """Whether it is the new one: either is right, and nothing else. old: None where nothing was saved."""
    try:
        index = load(impl, files)
    except NothingSaved as error:
        assert old is None, f"{what}: expected what was saved before, got {error!r}"
        return False
    is_new = index.ids() == sorted(NEW.rows)
    assert is_new or old is not None, (
        f"{what}: expected NothingSaved or all of the new, got ids {index.ids()}"
    )
    (NEW if is_new else old).assert_in(index, what)
    return is_new


# RAG-20


@requirement("RAG-20")
@given(seed=SEEDS, metric=st.sampled_from(METRICS), dim=st.sampled_from([1, 3, 8]), n=st.integers(0, 7))
@example(seed=1, metric="cosine", dim=3, n=7)
@example(seed=2, metric="l2", dim=1, n=0)
@example(seed=3, metric="ip", dim=8, n=1)
def test_what_was_saved_comes_back(impl, seed, metric, dim, n):
    rng = np.random.default_rng(seed)
    kept = Kept(rows_of(rng, n, dim), {"v0": {"n": 1}, "v2": {"n": 2.5}} if n > 2 else {}, metric, dim)
    disk = saved(impl, kept)
    index = impl.load_index(disk.storage)
    kept.assert_in(index)
    more = rng.standard_normal((1, dim)).astype(np.float32)
    index.add(["v0"], more)
    grown = Kept({**kept.rows, "v0": more[0]}, {**kept.metadata, "v0": {}}, metric, dim)
    grown.assert_in(index, "what grew")
    index.save(disk.storage)
    grown.assert_in(impl.load_index(disk.storage), "what grew and was saved again")


@requirement("RAG-20")
def test_all_kinds_of_metadata_come_back(impl):
    metadata = {
        "": {"a": 1, "b": 1.0, "c": True, "d": None, "e": "1", "f": [1, 1.0, False, None, "é", ""], "g": []},
        "é\n\U0001d11e": {
            "": 2**60,
            "ids": 0,
            "vectors": "x",
            "metadata": -0.5,
            "dim": 0.1,
            "\U0001d11e\0": "\n",
        },
        "/../x": {"x": 1e-300, "y": -(2**63), "z": "x" * 300},
    }
    kept = Kept({each: [i, 1] for i, each in enumerate(metadata)}, metadata)
    kept.assert_in(impl.load_index(saved(impl, kept).storage))


@requirement("RAG-20")
def test_vectors_come_back_as_they_were(impl):
    """Short ones, long ones, and what float16 does not have."""
    rows = {"a": [1e-18, 2e-18], "b": [1e18, -2e18], "c": [1 + 2**-20, 1], "d": [0, 0]}
    for metric in METRICS:
        kept = Kept(rows, metric=metric)
        kept.assert_in(impl.load_index(saved(impl, kept).storage))
    kept = Kept({"c": [1 + 2**-20, 1], "e": [1, 1]}, metric="ip")
    (hits,) = impl.load_index(saved(impl, kept).storage).search(f32([2**20, -(2**20)]), 2)
    assert_equal([(hit.id, hit.score) for hit in hits], [("c", 1.0), ("e", 0.0)], "hits")


@requirement("RAG-20")
def test_where_nothing_was_saved_there_is_nothing(impl):
    with refused(NothingSaved):
        load(impl, {})


@requirement("RAG-20")
def test_what_comes_after_is_not_in_it(impl):
    index = OLD.index(impl)
    disk = Disk()
    index.save(disk.storage)
    index.remove(["a"])
    index.add(["b", "z"], f32([5, 5], [1, 0]), [{"n": 2}, {}])
    OLD.assert_in(impl.load_index(disk.storage), "what was saved before")
    index.save(disk.storage)
    changed = Kept({"b": [5, 5], "z": [1, 0]}, {"b": {"n": 2}})
    changed.assert_in(impl.load_index(disk.storage), "what was saved again")
    changed.assert_in(index, "the index that was saved")
    other = Disk()
    index.save(other.storage)
    changed.assert_in(impl.load_index(other.storage), "what was saved on another disk")
    OLD.index(impl).save(disk.storage)
    OLD.assert_in(impl.load_index(disk.storage), "what was saved at last")
    index.save(disk.storage)
    changed.assert_in(impl.load_index(disk.storage), "what was saved over the index of another")


@requirement("RAG-20")
def test_an_index_that_was_emptied_is_saved_as_well(impl):
    disk, index = Disk(), OLD.index(impl)
    index.save(disk.storage)
    index.remove(["a", "b"])
    index.save(disk.storage)
    Kept({}).assert_in(impl.load_index(disk.storage))


# RAG-21


@requirement("RAG-21")
@pytest.mark.parametrize("before", ["nothing", "an older one", "what a crash left"])
def test_a_crash_leaves_the_old_or_the_new(impl, before):
    """At every step of `save`, whatever the disk has then of the files that were not synced."""
    old, base = (None, {}) if before == "nothing" else (OLD, saved(impl, OLD).files)
    if before == "what a crash left":
        left = crashes(saved(impl, NEW, before=base).states)
        base = left[len(left) // 2]
        old = NEW if load_old_or_new(impl, base, OLD, "a crash before") else OLD
    disk = saved(impl, NEW, before=base)
    for files in crashes(disk.states):
        load_old_or_new(impl, files, old, f"after a crash with {sizes(files)}")
    for files in crashes(disk.states[-1:]):
        NEW.assert_in(load(impl, files), f"after `save` has returned and a crash, with {sizes(files)}")


def sizes(files):
    return {name: f"{len(data)} bytes" for name, data in files.items()}


# RAG-22


@requirement("RAG-22")
@pytest.mark.parametrize("old", [None, OLD], ids=["nothing before", "an older one"])
def test_a_failed_save_loses_nothing(impl, old):
    before = [] if old is None else [old]
    undisturbed = saved(impl, *before, NEW), saved(impl, OLD, NEW)
    NEW.assert_in(load(impl, undisturbed[0].files))
    most = max(len(disk.files) for disk in undisturbed)
    begun = len(saved(impl, *before).steps)
    for step, name in enumerate(undisturbed[0].steps[begun:]):
        what = f"after step {step}, {name}, failed"
        index, disk = NEW.index(impl), saved(impl, *before)
        disk.fails_at = begun + step
        with passed_through(FULL):
            index.save(disk.storage)
        NEW.assert_in(index, f"the index {what}")
        load_old_or_new(impl, disk.files, old, what)
        index.save(disk.storage)
        NEW.assert_in(impl.load_index(disk.storage), f"what was saved {what}")
        assert len(disk.files) <= most, f"files {what}: expected at most {most}, got {sorted(disk.files)}"


# RAG-23


@requirement("RAG-23")
@pytest.mark.parametrize("before", [None, OLD], ids=["nothing before", "an older one"])
def test_damage_is_told(impl, before):
    disk = saved(impl, *([] if before is None else [before]), NEW)
    assert_damage_is_told(impl, disk.files, NEW, places=150)


@requirement("RAG-23")
def test_damage_far_into_a_long_file_is_told(impl):
    """64 KiB of vectors, whole numbers, so that another digit is another number; a place every 2 KiB."""
    long = Kept({f"v{i:03}": np.arange(i, i + 64) % 10 for i in range(256)}, metric="ip", dim=64)
    assert_damage_is_told(impl, saved(impl, long).files, long, places=40)


def assert_damage_is_told(impl, files, kept, places):
    kept.assert_in(load(impl, files))
    for what, damaged in damages(files, places):
        try:
            index = load(impl, damaged)
        except DamagedIndex:
            continue
        except NothingSaved as error:
            assert len(damaged) < len(files), f"{what}: expected DamagedIndex, got {error!r}"
            continue
        kept.assert_in(index, f"the index with {what}")
