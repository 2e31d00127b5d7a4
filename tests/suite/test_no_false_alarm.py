"""Right implementations pass every test, whatever the seed, the framework and the isolation.

One seed is fixed, the other is the commit's, which also says whose turn it is behind the boundary: in time,
all are tried. In process the solution is judged by tests/week3, behind the boundary by the last step of CI.
"""

import subprocess
import time

import pytest

from grading.audit.jobs import RIGHT
from grading.audit.runs import verdicts
from grading.candidates import in_process, isolated
from grading.clone import ROOT
from grading.requirements import topics
from runtime.sandbox import Limits, best_tier
from tests.suite.machine import slowness

FIXED = 2
BUDGET = 60.0  # seconds of the processor that a topic may cost in process; long context takes 24
OTHERS = [name for name in RIGHT if name != "solution"]


def seed_of_commit():
    """Twenty bits of the commit's hash. FIXED outside of git, as in a hand-out."""
    asked = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True).stdout[:5]
    return int(commit, 16) if commit else FIXED


@pytest.mark.parametrize("topic", topics())
@pytest.mark.parametrize("name", OTHERS)
def test_right_code_is_never_accused(topic, name):
    slow, begun = slowness(), time.process_time()
    assert accusations(verdicts([in_process(RIGHT[name])], topic, seed=FIXED)) == []
    assert time.process_time() - begun <= BUDGET * max(slow, slowness())


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
