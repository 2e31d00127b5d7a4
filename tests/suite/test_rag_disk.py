"""An index on a real disk: it is full at any byte, or the process is killed at any moment."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from grading.clone import ROOT
from solution.rag import VectorIndex, load_index
from solution.rag.folder import folder

VECTORS = np.random.default_rng(7).standard_normal((3, 4)).astype(np.float32)

# A child process, since the limit cannot be lifted again. Prints how the index loads after each failed save.
FULL = """
import resource, signal, sys
from pathlib import Path
from tests.suite.test_rag_disk import index_of, state
from solution.rag import load_index
from solution.rag.folder import folder

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit raises OSError
storage = folder(Path(sys.argv[1]))
new = index_of(3)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in range(100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        new.save(storage)
    except OSError:
        print(limit, *state(load_index(storage)), len(storage.names()))
    else:
        print("saved", *state(load_index(storage)), len(storage.names()))
        break
"""

# Saves two and three vectors in turn until it is killed.
BUSY = """
import itertools, sys
from pathlib import Path
from tests.suite.test_rag_disk import index_of
from solution.rag.folder import folder

storage, both = folder(Path(sys.argv[1])), [index_of(2), index_of(3)]
both[0].save(storage)
print("saved", flush=True)
for turn in itertools.count(1):
    both[turn % 2].save(storage)
"""


def index_of(count):
    index = VectorIndex(4)
    ids = [f"d{i}" for i in range(count)]
    index.add(ids, VECTORS[:count], [{"of": count, "name": id} for id in ids])
    return index


def state(index):
    """Its ids, what its metadata say, and the best for each vector."""
    hits = index.search(VECTORS, 1)
    return index.ids(), [each["of"] for each in index.get(index.ids())], [each[0].id for each in hits]


OLD, NEW = state(index_of(2)), state(index_of(3))


def child(source, path):
    return subprocess.Popen(
        [sys.executable, "-B", "-c", source, str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_disk_that_is_full_at_any_byte_keeps_what_was_saved(tmp_path):
    index_of(2).save(folder(tmp_path))
    files = len(folder(tmp_path).names())
    process = child(FULL, tmp_path)
    *failed, saved = process.communicate()[0].splitlines()
    assert process.returncode == 0
    assert len(failed) > VECTORS.nbytes
    for limit, line in enumerate(failed):
        number, _, rest = line.partition(" ")
        assert (int(number), rest.rpartition(" ")[0]) == (limit, " ".join(map(str, OLD)))
    assert saved == f"saved {' '.join(map(str, NEW))} {files}"  # and the half files are gone


@pytest.mark.parametrize("seed", range(8))
def test_a_process_that_is_killed_at_any_moment_leaves_the_old_or_the_new(tmp_path, seed):
    with child(BUSY, tmp_path) as process:
        assert process.stdout.readline() == "saved\n"
        time.sleep(0.01 + random.Random(seed).random() / 10)
        process.send_signal(signal.SIGKILL)
    assert state(load_index(folder(tmp_path))) in (OLD, NEW)
    index_of(2).save(folder(tmp_path))
    assert state(load_index(folder(tmp_path))) == OLD


def test_a_folder_that_is_not_there_has_no_files(tmp_path):
    storage = folder(tmp_path / "later")
    assert storage.names() == [] and storage.read("index") is None
    assert not Path(tmp_path / "later").exists()
