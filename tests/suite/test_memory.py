"""Memory is measured from outside: what a submission takes is seen, what it does not take is not.

The submission offers `fragmentation` of the topic paged_attention, made to take memory instead."""

import contextlib
import os
import sys
from textwrap import dedent

import numpy as np
import pytest

from grading import candidates, memory
from grading.boundary.session import InProcess, Isolated, Limits
from grading.clone import ROOT
from grading.grade import only_our_plugins
from grading.judging.judge import Judge
from runtime.sandbox import tiers
from runtime.sandbox.values import MIB

linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS never forgets the highest point")

SUBMISSION = '''
    import ctypes, os, time
    import numpy as np

    KEPT = []

    def take(mib):
        """For a moment, and touches it: memory that nobody touched is not there."""
        return float(np.ones(mib << 17).sum())

    def fork_and_take(mib):
        read, write = os.pipe()
        if os.fork() == 0:
            kept = np.ones(mib << 17)
            os.write(write, b"x")
            time.sleep(60)
        os.read(read, 1)

    def litter(mib):
        """Leaves that much of the heap free and resident, below something that is in use."""
        np.ones(20 << 17)  # freed, it teaches malloc to take less than this from the heap
        pieces = [np.ones(1 << 17) for _ in range(mib)]
        KEPT.append(np.ones(1 << 17))

    def lies_in_the_heap(mib):
        sbrk = ctypes.CDLL(None).sbrk
        sbrk.restype, sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
        return np.ones(mib << 17).ctypes.data < sbrk(0)

    def keep(array):
        KEPT.append(array.copy())

    def look(array):
        return float(array.sum())

    def fragmentation(what, argument):
        return globals()[what](argument)
'''

MLX_SUBMISSION = """
    import mlx.core as mx

    def fragmentation(what, mib):
        for i in range(mib):
            mx.eval(mx.ones(((1 << 18) + (i << 14),)))
"""

MEASURED_TESTS = """
    import pytest

    @pytest.mark.requirement("PA-01")
    def test_litters(impl):
        impl.fragmentation("litter", 300)

    @pytest.mark.requirement("PA-01")
    @pytest.mark.parametrize("mib", [1, 256])
    def test_takes_little(impl, memory_growth, mib):
        with memory_growth() as growth:
            impl.fragmentation("take", mib)
        assert growth.highest < 40 << 20
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "submission"
    folder.mkdir(mode=0o755)
    (folder / "paged_attention.py").write_text(dedent(SUBMISSION))
    (folder / "week3.toml").write_text('framework = "numpy"')
    return folder


@contextlib.contextmanager
def opened(folder, tier):
    open_in = InProcess.from_folder if tier is None else Isolated
    session = open_in(folder, "paged_attention", *(() if tier is None else (tier, Limits())))
    with contextlib.closing(session):
        yield session


@pytest.fixture(params=[None, *tiers()], ids=lambda tier: tier.name if tier else "in process")
def session(request, folder):
    with opened(folder, request.param) as session:
        yield session


def grown(session, what, *arguments) -> float:
    """MiB at the highest point."""
    return measured(session, what, *arguments).highest / MIB


def held(session, what, *arguments) -> float:
    """MiB at the end."""
    return measured(session, what, *arguments).held / MIB


def measured(session, what, *arguments) -> memory.Growth:
    with memory.growth(session) as growth:
        for argument in arguments:
            session.namespace.fragmentation(what, argument)
    return growth


@linux
def test_memory_that_is_taken_for_a_moment_is_seen(session):
    assert 200 < grown(session, "take", 256) < 300


@linux
def test_what_was_taken_before_is_not_held_against_it(session):
    assert grown(session, "take", 1) < 40
    session.namespace.fragmentation("take", 256)
    assert grown(session, "take", 1) < 40
    assert 200 < grown(session, "take", 256) < 300


@linux
@pytest.mark.parametrize("tier", tiers(), ids=lambda tier: tier.name)
def test_where_memory_is_measured_no_array_lies_in_a_hole_of_the_heap(folder, tier):
    """One after another they would touch all of it, and what they touched would count."""
    with opened(folder, tier) as session:
        session.namespace.fragmentation("litter", 300)
        assert session.namespace.fragmentation("lies_in_the_heap", 1)
        session.empty_heap()
        assert not session.namespace.fragmentation("lies_in_the_heap", 1)


@linux
def test_what_stays_is_told_from_what_was_only_looked_at(session):
    session.start_recording()
    chunks = [np.full(MIB, i, np.uint8) for i in range(100)]
    assert grown(session, "look", *chunks) < 20
    assert 80 < grown(session, "keep", *chunks) < 120
    assert 80 < held(session, "keep", *chunks) < 120


@linux
def test_what_was_given_back_is_not_held(session):
    assert held(session, "take", 256) < 10


@linux
@pytest.mark.parametrize("tier", [None, tiers()[0]], ids=["in process", "isolated"])
def test_what_mlx_keeps_of_freed_memory_is_not_the_submissions(tier, folder):
    (folder / "paged_attention.py").write_text(dedent(MLX_SUBMISSION))
    (folder / "week3.toml").write_text('framework = "mlx"')
    with opened(folder, tier) as session:
        session.namespace.fragmentation("litter", 1)
        assert grown(session, "litter", 20) < 10


@linux
@pytest.mark.parametrize("tier", tiers(), ids=lambda tier: tier.name)  # in process, it would fork the tests
def test_a_process_that_the_submission_starts_is_seen(folder, tier):
    with opened(folder, tier) as session:
        assert grown(session, "fork_and_take", 256) > 200


def test_without_permission_to_forget_only_what_is_higher_than_ever_is_seen(session, monkeypatch):
    monkeypatch.setattr(memory, "_forget_highest", lambda pid: None)
    with memory.growth(session):  # the highest of this process may be anything by now
        session.namespace.fragmentation("take", 256)
    assert grown(session, "take", 128) < 40


def test_a_process_that_is_gone_has_no_highest_point():
    child = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(child, 0)
    memory._forget_highest(child)
    assert memory._taken_by(child) == memory._largest([])


@linux
@pytest.mark.parametrize("tier", [None, tiers()[0]], ids=["in process", "isolated"])
def test_tests_measure_with_a_fixture(tier, folder, tmp_path):
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_paged_attention.py").write_text(dedent(MEASURED_TESTS))
    submission = (
        candidates.in_process(folder) if tier is None else candidates.isolated(folder, tier, Limits())
    )
    found = {}
    judge = Judge(
        [submission],
        seed=1,
        diagnosis=False,
        finished=lambda result, requirement, candidate: found.update({result.node: result.outcome}),
    )
    quiet = ("terminal", "cacheprovider", "junitxml", "faulthandler")
    options = ["--capture=no", "-p", "grading.plugin", *(o for name in quiet for o in ("-p", f"no:{name}"))]
    with only_our_plugins():
        pytest.main(
            [str(tests), f"--rootdir={tests}", f"--config-file={ROOT / 'pyproject.toml'}", *options], [judge]
        )
    assert [outcome for _, outcome in sorted(found.items())] == ["passed", "passed", "failed"], found
