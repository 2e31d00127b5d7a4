"""A judge may run inside a test that another one judges, as it does here: it leaves nothing behind."""

from dataclasses import replace

import hypothesis
from hypothesis.internal.conjecture import engine, providers

from grading.audit.runs import verdicts
from grading.candidates import in_process
from grading.clone import ROOT
from grading.judging import inputs


def state():
    settings = hypothesis.settings.default
    return (
        hypothesis.core.global_force_seed,
        providers._get_local_constants,
        engine.MAX_SHRINKING_SECONDS,
        hypothesis.settings.get_current_profile_name(),
        settings.max_examples,
        settings.phases,
    )


def test_a_nested_judge_leaves_seed_profile_and_limits_as_they_were():
    put_back = inputs.set_up(4711, thorough=True, shrink=True)
    try:
        inputs.shrink_for(1.25)
        before = state()
        candidate = in_process(ROOT / "reference")
        found = verdicts([replace(candidate, only=frozenset({"PA-01"}))], "paged_attention", seed=5)
        assert any(each.requirement == "PA-01" for each in found[candidate.name])
        assert state() == before
    finally:
        put_back()


def test_while_it_judges_its_own_seed_and_profile_hold():
    before = state()
    put_back = inputs.set_up(4711, thorough=False, shrink=False)
    inside = state()
    put_back()
    assert inside[0] == 4711
    assert inside[4:] == (inputs.EXAMPLES, (hypothesis.Phase.explicit, hypothesis.Phase.generate))
    assert state() == before
