"""The suite is worth what it catches: every known bug, every removed check, every lazy cheat."""

from collections import defaultdict
from functools import cache
from types import ModuleType

import pytest

from grading.boundary.session import InProcess
from grading.bugs import Bug, difference, known_bugs, reference, removed_checks
from grading.candidates import Candidate, edited_reference
from grading.contract import contract
from grading.requirements import requirements, topics
from tests.suite.trials import verdicts

BUGS = [pytest.param(topic, bug, id=bug.key) for topic in topics() for bug in known_bugs(topic)]
CHECKS = [pytest.param(topic, check, id=check.key) for topic in topics() for check in removed_checks(topic)]


@cache
def found_in_bugs(topic):
    """{key: results of the tests of the bug's own requirement}."""
    bugs = known_bugs(topic)
    candidates = [edited_reference(bug.key, bug, frozenset({bug.requirement})) for bug in bugs]
    return verdicts(candidates, topic, diagnosis=True)


@cache
def found_without_checks(topic):
    """{key: results}, of tests about errors first, and of all tests where these saw nothing."""
    about_errors = frozenset(r.id for r in requirements(topic) if "refused" in r.title)
    found = {}
    left = removed_checks(topic)
    for only in (about_errors, None):
        if not left:
            break
        found |= verdicts([edited_reference(check.key, check, only) for check in left], topic)
        left = [check for check in left if not failures(found[check.key])]
    return found


def failures(results):
    return [result for _, result in results if result.outcome == "failed"]


@pytest.mark.parametrize(("topic", "bug"), BUGS)
def test_a_known_bug_is_caught(topic, bug):
    results = found_in_bugs(topic)[bug.key]
    assert failures(results), f"survives the tests of {bug.requirement}:\n{difference(topic, bug)}"


@pytest.mark.parametrize(("topic", "bug"), BUGS)
def test_a_known_bug_is_named(topic, bug):
    named = [result.diagnosis for result in failures(found_in_bugs(topic)[bug.key])]
    if bug.seen_in_answers:
        assert any(bug.title in titles for titles in named), f"the failing tests name {named}"
    else:
        assert not any(bug.title in titles for titles in named), "it is named after all: say so in its list"


@pytest.mark.parametrize(("topic", "bug"), BUGS)
def test_a_known_bug_can_be_explained(topic, bug):
    assert bug.requirement in {requirement.id for requirement in requirements(topic)}
    assert bug.hint, "a learner who is told the bug wants to know what to do"
    assert bug.title[0].islower() and not bug.title.endswith("."), "the title completes a sentence"


@pytest.mark.parametrize(("topic", "check"), CHECKS)
def test_a_removed_check_is_caught(topic, check):
    assert failures(found_without_checks(topic)[check.key]), "no test misses it"


@pytest.mark.parametrize("topic", topics())
def test_every_test_catches_something(topic):
    caught = defaultdict(set)
    seen = set()
    for runs in (found_in_bugs(topic), found_without_checks(topic), found_in_cheats(topic)):
        for candidate, results in runs.items():
            seen |= {result.node for _, result in results}
            for result in failures(results):
                caught[result.node].add(candidate)
    assert not seen - set(caught), "these tests have never been seen to fail"


@pytest.mark.parametrize("topic", topics())
def test_every_requirement_is_defended(topic):
    runs = (found_in_bugs(topic), found_without_checks(topic))
    defended = {
        r for run in runs for results in run.values() for r, result in results if result.outcome == "failed"
    }
    assert defended == {requirement.id for requirement in requirements(topic)}


# Cheats: what takes no thought and must earn nothing.


def returns_nothing(*args, **options):
    return None


def returns_its_input(*args, **options):
    return next((a for a in (*args, *options.values())), None)


def is_absent():
    """The module and its classes are empty."""


def raises(*args, **options):
    from spec import InvalidArgument

    raise InvalidArgument(
        f"{' '.join(map(str, (*args, *options)))} seq_id block_size queries: expected more, got less"
    )


def returns_zero(*args, **options):
    return 0


CHEATS = (returns_nothing, returns_its_input, is_absent, raises, returns_zero)


def cheat_module(topic, body):
    """A module in which every function and method of the contract has this body."""
    module = ModuleType(f"{body.__name__}_{topic}")
    wanted = contract(topic)
    if body is is_absent:
        for cls in wanted.classes:
            setattr(module, cls.name, type(cls.name, (), {}))
        return module
    for function in wanted.functions:
        setattr(module, function.name, body)
    for cls in wanted.classes:
        names = [method.name.partition(".")[2] for method in cls.methods]
        members = {name: (lambda self, *a, **k: body(*a, **k)) for name in names if name != "__init__"}
        setattr(module, cls.name, type(cls.name, (), {"__init__": lambda self, *a, **k: None, **members}))
    return module


def cheat(body):
    def open_session(topic):
        return InProcess(lambda: cheat_module(topic, body), topic, "numpy")

    return Candidate(body.__name__, open_session)


@cache
def found_in_cheats(topic):
    return verdicts([cheat(body) for body in CHEATS], topic)


@pytest.mark.parametrize("topic", topics())
@pytest.mark.parametrize("body", CHEATS)
def test_a_cheat_earns_nothing(topic, body):
    by_requirement = defaultdict(list)
    for requirement, result in found_in_cheats(topic)[body.__name__]:
        by_requirement[requirement].append(result.outcome)
    met = [requirement for requirement, outcomes in by_requirement.items() if set(outcomes) == {"passed"}]
    assert not met, f"earns {met}"


@pytest.mark.parametrize("topic", topics())
def test_an_edit_must_match_exactly_once(topic):
    with pytest.raises(ValueError, match="0 matches"):
        reference(topic, Bug("", "has no place", "", (("no such line", ""),)))
