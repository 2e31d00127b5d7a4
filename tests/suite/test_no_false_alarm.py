"""Right implementations pass every test, whatever the seed, the framework and the isolation.

One seed is fixed, the other is the commit's, which also says whose turn it is behind the boundary: in time,
all are tried. In process the solution is judged by tests/week3, behind the boundary by the last step of CI.
"""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial

import pytest

from grading.audit.jobs import RIGHT
from grading.audit.runs import verdicts
from grading.boundary import loading
from grading.boundary.failures import Declined
from grading.boundary.session import InProcess
from grading.candidates import Candidate, in_process, isolated
from grading.capabilities import of_topic
from grading.clone import ROOT
from grading.requirements import topics
from runtime.sandbox import Limits, best_tier
from tests.suite.machine import slowness

FIXED = 2
BUDGET = 60.0  # seconds of the processor that a topic may cost in process; long context takes 24
OTHERS = [name for name in RIGHT if name != "solution"]
# One process judges the reference of a topic, for both tests that ask about it.
OF_REFERENCE = [
    pytest.param(topic, marks=pytest.mark.xdist_group(f"reference of {topic}")) for topic in topics()
]


def seed_of_commit():
    """Twenty bits of the commit's hash. FIXED outside of git, as in a hand-out."""
    asked = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True).stdout[:5]
    return int(commit, 16) if commit else FIXED


class Asked(InProcess):
    """Makes every call of a session that declines all there is, and notes what would have been declined."""

    def __init__(self, names, topic):
        self.names = names
        published = {each.name for each in of_topic(topic)}
        folder = RIGHT["reference"]
        super().__init__(
            partial(loading.load, folder, topic), topic, "numpy", folder=folder, declines=published
        )

    def check_name(self, name):
        try:
            super().check_name(name)
        except Declined as declined:
            self.names.update(declined.names)

    def check_call(self, name, args, kwargs):
        try:
            super().check_call(name, args, kwargs)
        except Declined as declined:
            self.names.update(declined.names)


def judged(candidate, topic):
    """Who accuses it, and what that cost: seconds of the processor, of the machine of the budget."""
    slow, begun = slowness(), time.process_time()
    accused = accusations(verdicts([candidate], topic, seed=FIXED))
    return accused, (time.process_time() - begun) / max(slow, slowness())


@cache
def the_reference(topic):
    """The same of the reference, and the capabilities that the tests ask it for."""
    names = set()
    return *judged(Candidate("reference", partial(Asked, names)), topic), names


@pytest.mark.parametrize("topic", OF_REFERENCE)
def test_the_reference_is_never_accused(topic):
    accused, seconds, _ = the_reference(topic)
    assert accused == []
    assert seconds <= BUDGET


@pytest.mark.parametrize("topic", OF_REFERENCE)
def test_every_capability_is_asked_for_by_some_test(topic):
    *_, names = the_reference(topic)
    assert names == {each.name for each in of_topic(topic)}


@pytest.mark.parametrize("topic", topics())
def test_another_structure_is_never_accused(topic):
    accused, seconds = judged(in_process(RIGHT["another structure"]), topic)
    assert accused == []
    assert seconds <= BUDGET


class Overtaking(ThreadPoolExecutor):
    """What is handed in first begins last, as on a busy machine."""

    jobs = 0

    def submit(self, job, *args):
        self.jobs += 1
        late = self.jobs == 1

        def begin():
            time.sleep(0.1 * late)
            return job(*args)

        return super().submit(begin)


def test_threads_may_overtake_each_other(monkeypatch):
    folder = RIGHT["another structure"]
    loading.load(folder, "agent")
    monkeypatch.setattr(sys.modules["agent.runs"], "ThreadPoolExecutor", Overtaking)
    in_parallel = frozenset({"AG-26", "AG-30", "AG-34", "AG-36"})
    assert accusations(verdicts([replace(in_process(folder), only=in_parallel)], "agent", seed=FIXED)) == []


TURNS = [(topic, OTHERS[(seed_of_commit() + place) % len(OTHERS)]) for place, topic in enumerate(topics())]


@pytest.mark.parametrize(("topic", "name"), TURNS)
@pytest.mark.parametrize("seed", [seed_of_commit()], ids=lambda seed: f"seed {seed}")
def test_right_code_is_never_accused_behind_the_boundary(topic, name, seed):
    candidate = isolated(RIGHT[name], best_tier(), Limits())
    assert accusations(verdicts([candidate], topic, seed=seed)) == []


def accusations(found):
    (given,) = found.values()
    assert given, "no test ran"
    return [
        (verdict.requirement, verdict.result.node, verdict.result.message)
        for verdict in given
        if verdict.result.outcome != "passed"
    ]
