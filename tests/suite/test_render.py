"""The scorecard, JSON and JUnit say what was found, roots first, and carry hostile text safely."""

import io
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from rich.console import Console

from grading.clone import ROOT
from grading.files import to_json, to_junit, write_whole
from grading.render import scorecard
from grading.report import Report, RequirementResult, TopicResult
from grading.report import TestResult as Verdict
from grading.requirements import by_id, topics
from grading.roots import waits_for
from grading.terminal import ProgressBar, ProgressLines, printable, write_any_text

UNWRITTEN = "not implemented: paged_attention.slot_mapping"


def broken(id, *needs, message="index 3: expected 5, got 7", diagnosis=(), blob="AXic", level="core"):
    test = Verdict(f"test_{id}", "failed", message, list(diagnosis), blob)
    return RequirementResult(
        id,
        f"Title of {id}",
        "paged_attention",
        level,
        list(needs),
        "broken",
        [test],
        message,
        list(diagnosis),
    )


def met(id, *needs):
    test = Verdict(f"test_{id}", "passed")
    return RequirementResult(id, f"Title of {id}", "paged_attention", "core", list(needs), "met", [test])


def declined(id, *names):
    test = Verdict(f"test_{id}", "declined", f"declined: {', '.join(names)}", declined=list(names))
    return RequirementResult(
        id,
        f"Title of {id}",
        "paged_attention",
        "core",
        [],
        "declined",
        [Verdict("test_other", "passed"), test],
    )


def report_of(*requirements, score=50.0, topics=None, **changes):
    topics = topics or {"paged_attention": TopicResult("paged_attention", "complete", score)}
    found = {requirement.id: requirement for requirement in requirements}
    for id, first in waits_for(found, {}).items():
        found[id].waits_for = first
    values = {
        "implementation": "code/week3",
        "framework": "mlx",
        "suite_version": "1",
        "seed": 7,
        "isolation": "namespaces",
        "topics": topics,
        "requirements": found,
        "seconds": 1.25,
    }
    return Report(**{**values, **changes})


def card(report, width=100, **context):
    out = io.StringIO()
    scorecard(report, Console(file=out, width=width, highlight=False, markup=False), **context)
    return out.getvalue()


# ---- Roots first. ----


def test_the_card_tells_three_roots_in_full_and_the_rest_in_a_line_each():
    text = card(report_of(*(broken(f"PA-{n:02}", message=f"message {n}") for n in range(1, 16))))
    assert [f"message {n}" in text for n in range(1, 5)] == [True, True, True, False]
    assert "PA-11 · Title of PA-11" in text
    assert "PA-12" not in text
    assert "and 4 more" in text


def test_the_card_names_the_bug_its_hint_and_the_commands_to_go_on(monkeypatch):
    monkeypatch.chdir(ROOT)
    report = report_of(
        broken("PA-05", diagnosis=["divides by head_dim"], message="index 0: 1 ≠ 2"), broken("PA-06", "PA-05")
    )
    text = card(report, hints={"divides by head_dim": "look at scale"}, json_file="report.json")
    for line in (
        "index 0: 1 ≠ 2",
        "This is what happens when an implementation divides by head_dim.",
        "Hint: look at scale",
        "1 more waits for this. Mended, it brings up to 100.0 marks.",
        "week3 explain PA-05",
        "week3 replay report.json PA-05",
        "pytest -k week3 --impl=code/week3 --requirement PA-05",
        "week3 grade code/week3 --topic paged_attention --seed 7",
    ):
        assert line in text


def test_what_was_printed_in_the_test_that_failed_is_told():
    wrong = broken("PA-01")
    wrong.tests[0].output = "one\ntwo\nthree\nfour"
    assert "  It printed: …\n  | two\n  | three\n  | four\n" in card(report_of(wrong))


def test_what_cannot_be_imported_is_no_failure_of_a_requirement():
    failed = "paged_attention cannot be imported: SyntaxError: invalid syntax\nin paged_attention.py:3"
    text = card(report_of(broken("PA-01", message=failed)))
    told = "\npaged_attention cannot be imported\n  SyntaxError: invalid syntax\n  in paged_attention.py:3\n"
    assert told in text
    assert "PA-01 · Title" not in text
    assert "week3 explain" not in text


def test_a_bug_is_told_once_where_it_breaks_several_roots():
    text = card(
        report_of(broken("A", diagnosis=["forgets"]), broken("B", diagnosis=["forgets"]), broken("C"))
    )
    assert text.count("This is what happens when an implementation forgets.") == 1
    assert "  B · Title of B (the same bug as A)" in text
    assert "C · Title of C · core\n  index 3" in text


def test_the_command_for_a_debugger_works_from_where_one_is(monkeypatch, tmp_path):
    """Only the root of the clone knows where the suite is, and paths may have spaces."""
    monkeypatch.chdir(tmp_path)
    text = card(report_of(broken("PA-05"), implementation="my code"))
    assert f"pytest {ROOT / 'tests' / 'week3'} --impl='my code' --requirement PA-05" in text
    monkeypatch.chdir(ROOT)
    assert "pytest -k week3 --impl='my code' --requirement PA-05" in card(
        report_of(broken("PA-05"), implementation="my code")
    )


def test_what_fails_everything_alike_is_told_once():
    message = "SyntaxError: invalid syntax (paged_attention.py, line 3)"
    ids = [f"PA-{n:02}" for n in range(1, 9)]
    text = card(report_of(*(broken(id, message=message) for id in ids), score=0.0))
    assert f"paged_attention · every requirement\n  {message}\n" in text
    assert text.count(message) == 1
    text = card(report_of(*(broken(id, message=message) for id in ids), met("PA-09")))
    assert "every requirement\n" not in text


def test_several_possible_bugs_are_told_as_possible():
    text = card(report_of(broken("PA-05", diagnosis=["does this", "does that"])))
    assert "This may be what happens when an implementation does that." in text


def test_replay_is_offered_only_where_there_is_something_to_replay():
    assert "replay" not in card(report_of(broken("PA-05")))
    assert "replay" not in card(report_of(broken("PA-01", message=UNWRITTEN)), json_file="report.json")


def test_a_function_that_is_not_written_is_the_next_step_and_not_a_bug():
    text = card(report_of(broken("PA-01", message=UNWRITTEN), broken("PA-05", message="wrong"), met("PA-17")))
    assert text.index("PA-05 · Title of PA-05 · core\n  wrong") < text.index(
        "Next to write: paged_attention.slot_mapping"
    )


def test_a_starter_sees_one_friendly_step():
    text = card(report_of(*(broken(f"PA-{n:02}", message=UNWRITTEN) for n in range(1, 61)), score=0.0))
    assert "Nothing is written yet. paged_attention begins with 60 core requirements." in text
    assert "Next to write: paged_attention.slot_mapping" in text
    assert "week3 explain PA-01" in text
    assert len(text.splitlines()) < 16


def test_an_empty_folder_is_told_about_the_starter():
    nothing = {"moe": TopicResult("moe", "not attempted", 0.0)}
    absent = RequirementResult("MOE-01", "Title", "moe", "core", [], "not attempted", [])
    assert "none of moe.py is there. A starter: week3 new DIR" in card(report_of(absent, topics=nothing))


def test_a_green_card_is_short():
    text = card(report_of(met("PA-01"), met("PA-02"), score=100.0))
    assert "█" * 24 + "  100.0  2 of 2 requirements" in text
    assert text.endswith("Every requirement is met.\n")
    assert len(text.splitlines()) <= 7


def test_the_way_is_core_first():
    edge = broken("PA-03", level="edge")
    assert "core 1 of 2, then 0 of 1\n" in card(report_of(met("PA-01"), broken("PA-02"), edge))
    assert "core 1 of 2\n" in card(report_of(met("PA-01"), broken("PA-02")))


def test_a_topic_of_stubs_has_no_row_of_zeros():
    topics = {name: TopicResult(name, "incomplete", 10.0) for name in ("paged_attention", "moe")}
    stub = replace(broken("MOE-01", message=UNWRITTEN), topic="moe")
    assert "not written yet\n" in card(report_of(broken("PA-01"), stub, topics=topics))
    assert "not written yet" not in card(report_of(broken("PA-01"), replace(stub, tests=[]), topics=topics))


def test_what_is_written_and_right_is_praised_while_more_is_to_write():
    text = card(report_of(met("PA-01"), broken("PA-02", message=UNWRITTEN)))
    assert "Everything that is written so far is right." in text
    assert "Everything" not in card(report_of(met("PA-01"), broken("PA-02")))


def test_a_hint_is_offered_where_there_is_one():
    without = next(each.id for each in by_id().values() if not each.hint)
    assert "--hint, --spoil" in card(report_of(broken("PA-01")))
    assert "what must hold; --spoil" in card(report_of(broken(without)))


def test_the_topic_that_something_is_written_of_is_suggested():
    topics = {name: TopicResult(name, "incomplete", 10.0) for name in ("paged_attention", "moe")}
    of_moe = replace(broken("MOE-01", message=UNWRITTEN.replace("paged_attention", "moe")), topic="moe")
    suggestion = "week3 grade code/week3 --topic paged_attention "
    assert suggestion in card(report_of(broken("PA-01"), of_moe, topics=topics))
    assert "you are at" not in card(report_of(broken("PA-01"), replace(of_moe, tests=[]), topics=topics))
    assert "you are at" not in card(report_of(broken("PA-01")))


def test_this_run_again_is_this_run():
    chosen = {name: TopicResult(name, "incomplete", 10.0) for name in topics()}
    assert "week3 grade code/week3 --seed 7 " in card(report_of(broken("PA-01"), topics=chosen))
    alone = card(report_of(broken("PA-01"), isolation="in-process"))
    assert "week3 grade code/week3 --topic paged_attention --in-process --seed 7 " in alone


def test_what_is_declined_is_told_apart_from_what_is_wrong():
    report = report_of(met("PA-01"), declined("PA-02", "paged_attention.csr", "paged_attention.fork"))
    text = card(report)
    assert "core 1 of 2, 1 declined" in text
    assert "1 asks for what week3.toml declines, and earns nothing:\n  PA-02\n" in text
    assert "All else that is asked is met in PA-02.\n" in text
    assert "They ask for paged_attention.csr, paged_attention.fork." in text
    assert "Everything that is done, and not declined, is right." in text
    assert "Title of PA-02" not in text
    whole = declined("PA-02", "paged_attention.csr")
    whole.tests[0].node = "tests/week3/test_signatures.py::test_signature[week3-paged_attention.to_csr]"
    text = card(report_of(whole, score=0.0))
    assert "All else" not in text
    assert "1 declined" in text
    assert "Nothing is written yet" not in text
    text = card(report_of(broken("PA-01"), declined("PA-02", "paged_attention.csr")))
    assert "PA-01 · Title of PA-01" in text
    assert "is right" not in text


def test_only_a_full_score_fills_the_bar():
    assert "░" in card(report_of(broken("PA-01"), score=99.9))


def test_a_weak_isolation_says_what_it_leaves_open():
    text = card(report_of(met("PA-01"), isolation="process"), lacks=["files: it reads the solution"])
    assert "isolation: process, which leaves open:\n  files: it reads the solution\n" in text


def test_a_topic_that_ended_early_says_why():
    topics = {"moe": TopicResult("moe", "incomplete", 10.0, note="three calls timed out")}
    assert "three calls timed out" in card(report_of(broken("PA-01"), topics=topics))


# ---- Hostile text. ----

HOSTILE = "\x1b[2J\x1b]0;owned\x07 [bold red]x[/] \u202egnp \ud800 \x00 <b>&"


def test_messages_cannot_steer_the_terminal_or_break_the_markup():
    text = card(report_of(broken("PA-01", message=HOSTILE)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[2J" in text
    assert "[bold red]x[/]" in text


@pytest.mark.parametrize("message", ["x" * 10**6, "x\n" * 10**6])
def test_a_flood_is_cut(message):
    assert len(card(report_of(broken("PA-01", message=message))).splitlines()) < 40


def test_hostile_text_makes_valid_xml_and_json():
    report = report_of(broken("PA-01", message=HOSTILE))
    suite = ElementTree.fromstring(to_junit([report]))[0]
    assert suite[0][0].text.startswith("\\x1b[2J")
    said = json.loads(json.dumps(to_json(report)).encode())["requirements"]["PA-01"]["message"]
    assert said == HOSTILE


def test_printable_keeps_what_people_write():
    assert printable("⌈n/B⌉ · 漢字\n\tindented") == "⌈n/B⌉ · 漢字\n\tindented"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_can_show_a_card(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    write_any_text(stream)
    report = report_of(broken("PA-01", message="got ≤ 漢 \ud800 … ·"), met("PA-02"))
    scorecard(report, Console(file=stream, width=100, highlight=False))
    stream.flush()
    shown = raw.getvalue().decode(encoding)
    assert ("████" in shown) == (encoding == "utf-8")
    assert ("####" in shown) == (encoding != "utf-8")


def test_without_a_terminal_there_is_no_colour(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert "\x1b" not in card(report_of(broken("PA-01")))


def test_no_color_is_honoured_on_a_terminal(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    scorecard(report_of(broken("PA-01")), Console(file=out, force_terminal=True, highlight=False))
    assert "\x1b[3" not in out.getvalue()


# ---- Files. ----


def test_json_has_the_promised_fields_and_what_replay_needs():
    data = to_json(report_of(broken("PA-05", "PA-01", diagnosis=["does this"])))
    assert set(data) == {
        "implementation", "path", "framework", "suite_version", "seed", "isolation", "score", "max_score",
        "declines", "topics", "requirements", "roots", "seconds",
    }  # fmt: skip
    assert data["roots"] == {"PA-05": 100.0}
    assert data["topics"] == {"paged_attention": {"status": "complete", "score": 50.0, "max_score": 100.0}}
    assert data["requirements"]["PA-05"] == {
        "status": "broken",
        "level": "core",
        "needs": ["PA-01"],
        "waits_for": [],
        "tests": {"test_PA-05": "failed"},
        "message": "index 3: expected 5, got 7",
        "diagnosis": ["does this"],
        "declined": [],
        "output": {},
        "replay": {"test_PA-05": "AXic"},
    }


def test_junit_has_a_suite_per_topic_and_a_case_per_test():
    passed = met("PA-01")
    passed.tests[0].seconds = 0.25
    text = to_junit([report_of(passed, broken("PA-05", diagnosis=["does this"]))])
    assert text.startswith("<?xml version='1.0' encoding='utf-8'?>")
    suite = ElementTree.fromstring(text.encode())[0]
    assert suite.attrib == {
        "name": "code/week3.paged_attention", "tests": "2", "failures": "1", "errors": "0", "skipped": "0",
        "time": "0.250",
    }  # fmt: skip
    assert [(case.get("classname"), case.get("name"), len(case)) for case in suite] == [
        ("paged_attention.PA-01", "test_PA-01", 0),
        ("paged_attention.PA-05", "test_PA-05", 1),
    ]
    assert [case.get("time") for case in suite] == ["0.250", "0.000"]
    assert suite[1][0].text == "index 3: expected 5, got 7\nKnown bug: it does this."


def test_json_and_junit_show_what_was_declined():
    report = report_of(declined("PA-02", "paged_attention.csr"), declines=["paged_attention.csr"])
    data = to_json(report)
    assert data["declines"] == ["paged_attention.csr"]
    assert data["roots"] == {}
    asked = data["requirements"]["PA-02"]
    assert (asked["status"], asked["declined"]) == ("declined", ["paged_attention.csr"])
    assert asked["tests"] == {"test_other": "passed", "test_PA-02": "declined"}
    suite = ElementTree.fromstring(to_junit([report]))[0]
    assert (suite.get("tests"), suite.get("skipped"), suite.get("failures")) == ("2", "1", "0")
    assert [each.get("message") for each in suite.iter("skipped")] == ["declined: paged_attention.csr"]


def test_junit_shows_a_requirement_without_tests_as_a_failure():
    absent = RequirementResult("PA-01", "Title", "paged_attention", "core", [], "not attempted", [])
    suite = ElementTree.fromstring(to_junit([report_of(absent, score=0.0)]))[0]
    assert suite.get("failures") == "1"


def test_a_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path):
    file = tmp_path / "report.json"
    file.write_text("old")
    write_whole(file, "new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_keeps_the_old_file(tmp_path):
    file = tmp_path / "report.json"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "new \ud800")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_log_of_a_ci_run_has_a_line_per_topic():
    out = io.StringIO()
    lines = ProgressLines(Console(file=out), "solution", {"PA-01": "paged_attention", "MOE-01": "moe"})
    lines.started(3)
    for id in ("PA-01", "PA-01", "MOE-01"):
        lines.finished(Verdict("test", "passed"), id)
    assert out.getvalue() == "solution: 3 tests\nsolution: paged_attention\nsolution: moe\n"


def test_the_bar_counts_what_is_wrong_and_not_what_is_unwritten_or_declined():
    out = io.StringIO()
    with ProgressBar(Console(file=out, force_terminal=True, width=100), "code/week3") as bar:
        bar.started(3)
        bar.finished(Verdict("test", "failed", UNWRITTEN), "PA-01")
        bar.finished(Verdict("test", "failed", "wrong"), "PA-01")
        bar.finished(Verdict("test", "declined", "declined: paged_attention.csr"), "PA-01")
    assert "1 failed" in out.getvalue()
    assert "2 failed" not in out.getvalue()
