"""What a judge runs, in which order, and that nothing of it is left in a test that another one judges."""

import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import hypothesis
import pytest
from hypothesis.internal.conjecture import engine, providers

from grading.audit.runs import nodes, verdicts
from grading.candidates import Candidate, in_process
from grading.clone import ROOT
from grading.files import to_json
from grading.grade import grade, run_suite
from grading.judging import inputs, trial
from grading.judging.items import function_of
from grading.judging.judge import Judge
from grading.requirements import LEVELS, by_id, requirements
from grading.terminal import Silent


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


def test_a_debugger_stops_where_the_submission_failed(tmp_path):
    (tmp_path / "week3.toml").write_text('framework = "numpy"\n')
    (tmp_path / "paged_attention.py").write_text(
        "def slot_mapping(block_table, start, count, block_size):\n"
        "    half = block_size / 2\n"
        "    page, offset, more = divmod(start, block_size)\n"
    )
    options = ["-q", f"--impl={tmp_path}", "--requirement=PA-01", "--pdb"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/week3/paged_attention", *options],
        cwd=ROOT,
        input="p half * 2 == block_size\nq\n",
        capture_output=True,
        text=True,
    )
    assert "paged_attention.py(3)slot_mapping()" in done.stdout
    assert "(Pdb) True" in done.stdout


def test_a_test_has_one_name_in_every_run_of_a_process():
    first, second = nodes("agent"), nodes("agent")
    assert any("u2003" in node for node in first)
    assert first == second


@pytest.fixture
def broken(tmp_path):
    """A folder whose pool counts one block too many, and the report of what fails."""
    folder = tmp_path / "submission"  # as the sandbox reads it: tmp_path is its user's alone
    folder.mkdir()
    for name in ("week3.toml", "paged_attention.py"):
        shutil.copy(ROOT / "reference" / name, folder / name)
    module = folder / "paged_attention.py"
    right = module.read_text(encoding="utf-8")
    wrong = right.replace("return self.refs.count(0)", "return self.refs.count(0) + 1")
    assert wrong != right
    module.write_text(wrong, encoding="utf-8")
    report = graded(folder)
    assert report.requirements["PA-17"].status == "broken"
    return folder, to_json(report)


def graded(folder, report=None):
    options = {"topics": ["paged_attention"], "only": {"PA-17"}, "seed": 7, "isolation": "in-process"}
    return grade(folder, **options, replay=report, listener=Silent())


def test_a_replay_tells_the_input_again(broken):
    folder, report = broken
    again = graded(folder, report).requirements["PA-17"]
    assert again.status == "broken"
    assert "smallest input: " in again.message
    assert again.message == report["requirements"]["PA-17"]["message"]


def test_a_replay_of_what_is_mended_is_met(broken):
    _, report = broken
    assert graded(ROOT / "reference", report).requirements["PA-17"].status == "met"


def test_a_replay_of_another_input_comes_to_no_verdict(broken):
    _, report = broken
    recorded = report["requirements"]["PA-17"]
    recorded["replay"] = dict.fromkeys(recorded["replay"], "AAE=")
    found = graded(ROOT / "reference", report).requirements["PA-17"]
    assert found.status == "error"
    assert "the input of the report is none of this test" in found.message


# ---- Which tests are run, and when. ----

ANY = Candidate("any", lambda _: NotImplemented)


def test_a_failure_shows_soon():
    """One case of each test before the second of any, core first; what measures memory at the end."""
    asked = nodes("long_context")
    functions = list(map(function_of, asked))
    slow = {function for function in functions if "memory" in function or "what_is_held" in function}
    assert len(slow) == 4
    quick = len(set(functions) - slow)
    first = list(asked)[:quick]
    assert len(set(map(function_of, first))) == quick
    levels = [LEVELS.index(by_id()[asked[node]].level) for node in first]
    assert levels == sorted(levels)
    assert set(functions[-sum(function in slow for function in functions) :]) == slow


@pytest.mark.parametrize("half", [0, 1])
def test_a_half_without_a_test_is_no_failure_of_the_grader(half):
    """As where a hand-out asks for one requirement."""
    asked = nodes("moe")
    tests = Counter(asked[node] for node in {function_of(node): node for node in asked}.values())
    alone = next(id for id, count in tests.items() if count == 1)
    run_suite(Judge([ANY], seed=1, topics=["moe"], half=half, only=frozenset({alone})), collect_only=True)


def test_half_of_a_topic_has_half_of_its_time():
    halves = [Judge([ANY], seed=1, half=half).trial("any", "moe") for half in (None, 0, 1)]
    assert [each.allowed / trial.TOPIC_SECONDS for each in halves] == [1, 0.5, 0.5]


def test_two_halves_find_what_one_process_finds(broken):
    """In the same order, with the same words: whichever of them was quicker."""
    folder, _ = broken
    ids = {each.id for each in requirements("paged_attention")}
    how = {"topics": ["paged_attention"], "seed": 7, "isolation": None, "listener": Silent()}
    halves, whole = grade(folder, **how), grade(folder, **how, only=ids)
    assert halves.requirements["PA-17"].status == "broken"
    assert [said(each) for each in halves.requirements.values()] == list(
        map(said, whole.requirements.values())
    )


def said(requirement):
    tests = [(test.node, test.outcome) for test in requirement.tests]
    return requirement.id, requirement.status, requirement.message, requirement.waits_for, tests
