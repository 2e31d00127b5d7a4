"""The suite is worth what it catches: every known bug, every removed check, every lazy cheat.

Each defect meets the test that its witness names; `week3 audit` asks all of them.
"""

import warnings
from collections import defaultdict
from dataclasses import replace
from functools import cache

import pytest

from grading.audit import everyday, witnesses
from grading.audit.cheats import CHEATS
from grading.bugs import known_bugs, removed_checks
from grading.edited import difference, reference
from grading.requirements import requirements, topics


def of_topic(topic, *values, id):
    """One process proves a topic, for all the tests that ask about it."""
    return pytest.param(topic, *values, id=id, marks=pytest.mark.xdist_group(f"proof of {topic}"))


TOPICS = [of_topic(topic, id=topic) for topic in topics()]
BUGS = [of_topic(topic, bug, id=bug.key) for topic in topics() for bug in known_bugs(topic)]
CHECKS = [of_topic(topic, check, id=check.key) for topic in topics() for check in removed_checks(topic)]
LAZY = [of_topic(topic, body, id=f"{topic} {body.__name__}") for topic in topics() for body in CHEATS]


@cache
def proof(topic):
    return everyday.prove(topic)


@pytest.mark.parametrize("topic", TOPICS)
def test_witnesses_are_right(topic):
    """A wrong one costs time and hides nothing: it is said, and no failure."""
    wrong = proof(topic).wrong
    if wrong:
        warnings.warn(
            f"{len(wrong)} witnesses of {topic}: run week3 audit {topic}: {wrong[:3]}", stacklevel=1
        )


@pytest.mark.parametrize(("topic", "bug"), BUGS)
def test_a_known_bug_is_caught_and_named(topic, bug):
    failures = proof(topic).failures(bug.key)
    assert failures, f"survives the tests of {bug.requirement}:\n{difference(topic, bug)}"
    if bug.seen_in_answers:
        titles = [verdict.result.diagnosis for verdict in failures]
        assert everyday.named(failures, bug), f"the failing tests name {titles}"
    else:
        assert not everyday.named(failures, bug), "it is named after all: say so"


@pytest.mark.parametrize(("topic", "check"), CHECKS)
def test_a_removed_check_is_caught(topic, check):
    assert proof(topic).failures(check.key), "no test misses it"


@pytest.mark.parametrize("topic", TOPICS)
def test_every_test_catches_something(topic):
    seen = proof(topic).seen.values()
    caught = {verdict.result.node for found in seen for verdict in found if verdict.failed}
    assert not set(proof(topic).tests) - caught, "these tests have never been seen to fail"


@pytest.mark.parametrize("topic", TOPICS)
def test_every_requirement_is_defended(topic):
    edits = [edit.key for edit in (*known_bugs(topic), *removed_checks(topic))]
    defended = {verdict.requirement for key in edits for verdict in proof(topic).failures(key)}
    assert defended == {requirement.id for requirement in requirements(topic)}


@pytest.mark.parametrize(("topic", "body"), LAZY)
def test_a_cheat_earns_nothing(topic, body):
    outcomes = defaultdict(set)
    for verdict in proof(topic).seen[body.__name__]:
        outcomes[verdict.requirement].add(verdict.result.outcome)
    met = [requirement for requirement, found in outcomes.items() if found == {"passed"}]
    assert outcomes and not met, f"earns {met}"


def test_a_wrong_witness_hides_nothing(monkeypatch):
    """Planted ones: a test that passes, one that does not exist, and none."""
    topic = "paged_attention"
    bugs = known_bugs(topic)[:3]
    passing = next(node for node, requirement in proof(topic).tests.items() if requirement == "PA-56")
    planted = {bugs[0].key: [passing], bugs[1].key: ["paged_attention/test_cache.py::test_nothing"]}
    monkeypatch.setattr(witnesses, "read", lambda topic: planted)
    monkeypatch.setattr(everyday, "known_bugs", lambda topic: bugs)
    monkeypatch.setattr(everyday, "removed_checks", lambda topic: ())
    found = everyday.prove(topic)
    assert set(found.wrong) == {bug.key for bug in bugs}
    assert all(everyday.named(found.failures(bug.key), bug) for bug in bugs)


@pytest.mark.parametrize("topic", topics())
def test_an_edit_must_match_exactly_once(topic):
    bug = known_bugs(topic)[0]
    with pytest.raises(ValueError, match="0 matches"):
        reference(topic, replace(bug, changes=(("no such line", ""),)))
