"""Right implementations pass every test, whatever the seed, the framework and the isolation."""

import pytest

from grading.candidates import in_process, isolated
from grading.clone import ROOT
from grading.requirements import topics
from runtime.sandbox import Limits, best_tier
from tests.suite.trials import verdicts

RIGHT = {
    "the reference": ROOT / "reference",
    "the solution": ROOT / "solution",
    "another structure": ROOT / "tests" / "alternatives",
}


@pytest.mark.parametrize("topic", topics())
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("name", RIGHT)
def test_right_code_is_never_accused(topic, name, seed):
    candidate = in_process(RIGHT[name])
    assert accusations(verdicts([candidate], topic, seed=seed)) == []


@pytest.mark.parametrize("topic", topics())
@pytest.mark.parametrize("name", RIGHT)
def test_right_code_is_never_accused_behind_the_boundary(topic, name):
    candidate = isolated(RIGHT[name], best_tier(), Limits())
    assert accusations(verdicts([candidate], topic, seed=4)) == []


def accusations(found):
    (results,) = found.values()
    assert results, "no test ran"
    return [
        (requirement, result.node, result.message)
        for requirement, result in results
        if result.outcome != "passed"
    ]
