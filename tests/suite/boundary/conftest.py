"""A topic made up here, `probe`, and sessions of a submission to it, in process and isolated."""

import importlib
import sys
from textwrap import dedent

import pytest

import spec
from grading.boundary.session import InProcess
from grading.contract import contract
from tests.suite.boundary.probes import CONTRACT, isolated, write_submission


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder, and in `spec` the topic `probe` while this module runs."""
    place = tmp_path_factory.mktemp("boundary")
    (place / "spec").mkdir()
    (place / "spec/probe.py").write_text(dedent(CONTRACT))
    before = list(spec.__path__)
    spec.__path__.append(str(place / "spec"))
    importlib.invalidate_caches()
    yield place
    spec.__path__[:] = before
    sys.modules.pop("spec.probe", None)
    contract.cache_clear()  # the next module has classes of its own


@pytest.fixture(scope="module")
def probe(place):
    return importlib.import_module("spec.probe")


@pytest.fixture(scope="module")
def folder(place):
    return write_submission(place / "submission")


@pytest.fixture(scope="module", params=["in process", "isolated"])
def session(request, folder, probe):
    session = InProcess.from_folder(folder, "probe") if request.param == "in process" else isolated(folder)
    yield session
    session.close()


@pytest.fixture
def submission(session):
    return session.namespace


@pytest.fixture
def spawn(folder, probe):
    """Isolated sessions that the test may break."""
    opened = []

    def spawn(**limits):
        opened.append(isolated(folder, **limits))
        return opened[-1]

    yield spawn
    for session in opened:
        session.close()


@pytest.fixture
def hurried(folder, probe):
    session = InProcess.from_folder(folder, "probe")
    session._call_seconds = 0.3
    return session
