"""A judge may run inside a test that another one judges, as it does here: it leaves nothing behind."""

import shutil
import subprocess
import sys
from dataclasses import replace

import hypothesis
import pytest
from hypothesis.internal.conjecture import engine, providers

from grading.audit.runs import nodes, verdicts
from grading.candidates import in_process
from grading.clone import ROOT
from grading.files import to_json
from grading.grade import grade
from grading.judging import inputs
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
    for name in ("week3.toml", "paged_attention.py"):
        shutil.copy(ROOT / "reference" / name, tmp_path / name)
    module = tmp_path / "paged_attention.py"
    right = module.read_text(encoding="utf-8")
    wrong = right.replace("return self.refs.count(0)", "return self.refs.count(0) + 1")
    assert wrong != right
    module.write_text(wrong, encoding="utf-8")
    report = graded(tmp_path)
    assert report.requirements["PA-17"].status == "broken"
    return tmp_path, to_json(report)


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
