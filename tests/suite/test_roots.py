"""One defect has one address: what is broken by itself is a root, what only depends on it waits."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from grading.audit.runs import verdicts
from grading.bugs import Bug, known_bugs
from grading.candidates import edited_reference
from grading.clone import ROOT
from grading.grade import grade, judged, scored
from grading.report import Report, RequirementResult, TopicResult
from grading.report import TestResult as Verdict
from grading.requirements import by_id
from grading.roots import roots, waits_for
from grading.terminal import Silent

HOME = {"of A": "A", "of B": "B", "of C": "C"}


def failed(id, *needs, tests=((),), level="core", outcome="failed"):
    """tests: the titles of the known bugs that explain each of its failing tests."""
    results = [Verdict(f"test_{id}", outcome, "wrong", list(titles)) for titles in tests]
    diagnosis = [title for titles in tests for title in titles]
    status = "broken" if outcome == "failed" else "error"
    return RequirementResult(
        id, id, "paged_attention", level, list(needs), status, results, "wrong", diagnosis
    )


def met(id, *needs, level="core"):
    test = Verdict(f"test_{id}", "passed")
    return RequirementResult(id, id, "paged_attention", level, list(needs), "met", [test])


def waiting(*results):
    return waits_for({result.id: result for result in results}, HOME)


def report_of(*results):
    found = {result.id: result for result in results}
    for id, first in waits_for(found, HOME).items():
        found[id].waits_for = first
    topic = TopicResult("paged_attention", "incomplete", 50.0)
    return Report("code/week3", "numpy", "1", 7, "namespaces", {topic.name: topic}, found, 1.0)


# ---- By what they need. ----


def test_what_fails_with_what_it_needs_waits_for_the_first_of_them():
    results = met("A"), failed("B", "A"), failed("C", "B"), failed("D", "C", "A"), failed("E")
    assert waiting(*results) == {"B": [], "C": ["B"], "D": ["B"], "E": []}


def test_a_link_that_is_met_does_not_hide_what_lies_behind_it():
    assert waiting(failed("A"), met("B", "A"), failed("C", "B")) == {"A": [], "C": ["A"]}


def said(id, *needs, message, outcome="failed"):
    result = failed(id, *needs, outcome=outcome)
    return replace(result, tests=[replace(test, message=message) for test in result.tests])


@pytest.mark.parametrize(
    "message",
    [
        "BlockAllocator.num_free did not answer within 10 s; its process was ended",
        "in BlockAllocator.num_free, the submission's process was killed by SIGSEGV",
    ],
)
def test_what_hung_or_crashed_is_the_root_of_what_is_not_called_again(message):
    not_run = {"message": "BlockAllocator.num_free is not called again: it crashed", "outcome": "error"}
    other = {"message": "BlockAllocator.share is not called again: it crashed", "outcome": "error"}
    results = said("A", **not_run), said("B", "A", message=message), said("C", "A", **not_run)
    assert waiting(*results, said("D", **other)) == {"A": ["B"], "B": [], "C": ["B"], "D": []}


def test_what_was_not_graded_holds_nothing_back():
    """With --topic or --only, `needs` may name a requirement that the report does not have."""
    assert waiting(failed("B", "MOE-01")) == {"B": []}


def test_what_is_wrong_is_not_hidden_behind_what_is_not_written():
    unwritten = failed("A")
    unwritten.tests[0].message = "not implemented: paged_attention.slot_mapping"
    assert waiting(unwritten, failed("B", "A")) == {"A": [], "B": []}


# ---- By what is not there. ----


def lacks(id, *needs, names):
    return said(id, *needs, message=f"not implemented: {names}")


def test_what_lacks_a_function_waits_for_the_requirement_about_it():
    """Else an engine without forks would read that it loses what was appended."""
    results = lacks("A", names="a.fork"), lacks("C", "A", names="a.fork"), lacks("D", "C", names="a.fork")
    home = {"a.fork": "C", "a.truncate": "E"}
    assert waits_for({each.id: each for each in results}, home) == {"A": ["C"], "C": [], "D": ["C"]}
    results = lacks("A", names="a.truncate"), failed("B"), lacks("C", "A", names="a.fork"), met("E")
    assert waits_for({each.id: each for each in results}, home) == {"A": [], "B": [], "C": []}


def test_an_engine_without_forks_waits_for_forks(tmp_path):
    source = (ROOT / "reference" / "paged_attention.py").read_text(encoding="utf-8")
    (tmp_path / "paged_attention.py").write_text(f"{source}\n\ndel PagedKVCache.fork\n")
    (tmp_path / "week3.toml").write_text('framework = "numpy"\n')
    how = {"topics": ["paged_attention"], "seed": 1, "isolation": "in-process", "listener": Silent()}
    report = grade(tmp_path, only={"PA-22", "PA-23", "PA-28", "PA-31"}, **how)
    found = {id: (result.status, result.waits_for) for id, result in report.requirements.items()}
    assert found == {
        "PA-22": ("broken", ["PA-31"]),
        "PA-23": ("met", []),
        "PA-28": ("broken", ["PA-31"]),
        "PA-31": ("broken", []),
    }


# ---- By the known bug that explains them. ----


def test_a_bug_is_told_under_its_own_requirement_though_that_needs_the_other():
    results = failed("A", tests=[["of B"]]), failed("B", "A", tests=[["of B"]]), failed("C", "A")
    assert waiting(*results) == {"A": ["B"], "B": [], "C": ["B"]}


def test_a_failure_that_no_bug_explains_is_its_own():
    results = failed("A", tests=[["of B"], []]), failed("B", "A", tests=[["of B"]])
    assert waiting(*results) == {"A": [], "B": []}


def test_a_bug_whose_own_tests_pass_is_no_address():
    assert waiting(failed("A", tests=[["of B"]]), met("B")) == {"A": []}
    assert waiting(failed("A", tests=[["of B"]]), failed("B", tests=[[]])) == {"A": [], "B": []}


def test_of_several_possible_bugs_the_fewest_that_explain_all_count():
    results = (
        failed("A", tests=[["of A", "of B"]]),
        failed("B", tests=[["of B"]]),
        failed("C", tests=[["of B"]]),
    )
    assert waiting(*results) == {"A": ["B"], "B": [], "C": ["B"]}


def test_a_bug_that_is_needed_has_its_root_though_another_explains_that_too():
    results = (
        failed("A", tests=[["of A"]]),
        failed("B", tests=[["of A", "of B"]]),
        failed("C", tests=[["of A"]]),
        failed("D", tests=[["of B"]]),
    )
    assert waiting(*results) == {"A": [], "B": [], "C": ["A"], "D": ["B"]}


# ---- What a root costs. ----


def test_a_root_counts_what_waits_for_it_and_what_that_costs():
    found = roots(
        report_of(failed("A"), failed("B", "A", level="edge"), met("C"), failed("D", level="scale"), met("E"))
    )
    assert [(root.requirement.id, [r.id for r in root.waiting]) for root in found] == [
        ("A", ["B"]),
        ("D", []),
    ]
    assert [root.marks for root in found] == [pytest.approx(100 * 5 / 12), pytest.approx(100 * 1 / 12)]


def test_core_is_told_first_and_what_was_not_run_last():
    found = roots(report_of(failed("A", outcome="error"), failed("B", level="edge"), failed("C")))
    assert [root.requirement.id for root in found] == ["C", "B", "A"]


def score(*results):
    report = report_of(*results)
    return scored("paged_attention", report.requirements, Path(), "").score


def test_breaking_a_root_never_pays():
    """Where what waits were paid, this submission would hide three defects behind one known bug, and gain."""
    honest = met("A"), failed("B", "A"), failed("C", "A"), failed("D", "A")
    hidden = [failed(id, *["A"] * (id != "A"), tests=[["of A"]]) for id in "ABCD"]
    assert waiting(*hidden) == {"A": [], "B": ["A"], "C": ["A"], "D": ["A"]}
    assert score(*hidden) == 0 < score(*honest)


# ---- On a real defect. ----

KV_HEAD = next(bug for bug in known_bugs("paged_attention") if bug.requirement == "PA-09")
HOW_FAR = (
    "PA-05",
    "PA-09",
    "PA-12",
    "PA-24",
    "PA-25",
    "PA-29",
    "PA-59",
)  # all of them attend with several heads


@pytest.fixture(scope="module")
def kv_head():
    return graded(KV_HEAD)


def graded(bug):
    candidate = replace(edited_reference("wrong", bug, frozenset(HOW_FAR)), suspects=None)
    tests = defaultdict(list)
    for verdict in verdicts([candidate], "paged_attention")["wrong"]:
        tests[verdict.requirement].append(verdict.result)
    home = {each.title: each.requirement for each in known_bugs("paged_attention")}
    results = {id: judged(by_id()[id], tests[id], True, home) for id in HOW_FAR}
    return results, waits_for(results, home)


def test_a_wrong_kv_head_is_told_where_the_text_speaks_of_heads(kv_head):
    results, found = kv_head
    assert {id for id, result in results.items() if result.status == "broken"} == set(HOW_FAR)
    assert found == {id: [] if id == "PA-09" else ["PA-09"] for id in HOW_FAR}


def test_without_a_name_what_attends_waits_for_attention():
    """Heads in reverse are no known bug. Then the first of what is needed is all that can be said."""
    new = "kv = kv_heads - 1 - h // (heads // kv_heads)"
    reverse = Bug("PA-09", "is not in the list", "", ((KV_HEAD.changes[0][0], new),))
    _, found = graded(reverse)
    assert found == {id: [] if id == "PA-05" else ["PA-05"] for id in HOW_FAR}
