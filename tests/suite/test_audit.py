"""The audit goes on where it was interrupted, and its page says what it found."""

import multiprocessing
import os
from dataclasses import replace

import pytest

from grading.audit import card, page, run, witnesses
from grading.audit.jobs import Job
from grading.audit.journal import Journal
from grading.audit.witnesses import Sighting

JOBS = [Job("right", "paged_attention", (number,), 1.0) for number in range(6)]


def found_by(job):
    return {"number": job.what[0]}


def process_of(job):
    return os.getpid()


def fails(job):
    raise ValueError(f"job {job.what[0]}")


class Progress:
    def __init__(self, *, interrupted_after=None):
        self.interrupted_after = interrupted_after
        self.ended = []

    def begun(self, jobs, resumed, seconds):
        self.jobs, self.resumed = jobs, resumed

    def done(self, job):
        self.ended.append(job)
        if len(self.ended) == self.interrupted_after:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def empty_journal(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_an_interrupted_audit_goes_on_where_it_stopped():
    first = Progress(interrupted_after=2)
    with pytest.raises(KeyboardInterrupt):
        run.run_all(JOBS, first, run=found_by, processes=1)
    assert multiprocessing.active_children() == []
    second = Progress()
    found = run.run_all(JOBS, second, run=found_by, processes=2)
    assert second.resumed == 2 and not set(second.ended) & set(first.ended)
    assert found == {job: found_by(job) for job in JOBS}
    assert all(Journal(job.topic).seconds(job) > 0 for job in JOBS), "those of the first are counted, too"
    assert run.run_all(JOBS, Progress(), run=fails) == found, "all was kept"


def test_processes_are_replaced_and_the_audit_goes_on(monkeypatch):
    monkeypatch.setattr(run, "JOBS_A_PROCESS", 1)
    found = run.run_all(JOBS, Progress(), run=process_of, processes=2)
    assert set(found) == set(JOBS)
    assert len(set(found.values())) >= 3


def test_a_job_that_fails_ends_the_audit_and_is_not_kept():
    with pytest.raises(ValueError, match="job"):
        run.run_all(JOBS[:1], Progress(), run=fails)
    again = Progress()
    run.run_all(JOBS[:1], again, run=found_by)
    assert again.resumed == 0


def test_a_change_of_the_suite_begins_anew(monkeypatch):
    run.run_all(JOBS[:1], Progress(), run=found_by)
    monkeypatch.setattr("grading.audit.journal.fingerprint", lambda topic: "another")
    again = Progress()
    run.run_all(JOBS[:1], again, run=found_by)
    assert again.resumed == 0


def test_witnesses_name_their_bug_and_leave_no_test_without_one():
    seen = [
        Sighting("a", "cheap", 0.1, named=False),
        Sighting("a", "names", 0.3, named=True),
        Sighting("b", "names", 0.3, named=True),
        Sighting("b", "other", 0.5, named=True),
        Sighting("b", "idle", 0.2, named=False),
    ]
    assert witnesses.choose(seen, {}) == {"a": ["names", "cheap"], "b": ["other", "idle"]}


def test_another_run_keeps_the_witnesses_that_it_sees_again():
    seen = [Sighting("a", "one", 0.1, named=True), Sighting("a", "two", 0.2, named=True)]
    slower = [replace(each, seconds=1 - each.seconds) for each in reversed(seen)]
    assert witnesses.choose(seen, {}) == {"a": ["one", "two"]}
    assert witnesses.choose(slower, {}) == {"a": ["two", "one"]}
    assert witnesses.choose(slower, {"a": ["one", "two"]}) == {"a": ["one", "two"]}
    assert witnesses.choose(slower, {"a": ["gone"]}) == {"a": ["two", "one"]}


def test_bars_that_are_missed_are_said():
    clean = card.Card("moe", killed=[3, 3], mutants=[19, 20], named_at_first=[9, 10])
    assert clean.missed() == []
    clean.survivors, clean.accused = ["MOE-01 forgets", "solution/moe/x.py: `a` became `b`"], ["solution"]
    clean.lucky = ["seed 2: MOE-01 forgets"]
    clean.mutants, clean.named_at_first = [18, 20], [8, 10]
    assert clean.missed() == [
        "lives: MOE-01 forgets",
        "lives at a seed: seed 2: MOE-01 forgets",
        "right code was accused: solution",
        "mutants: 18 of 20 killed, expected 95 %",
        "named: 8 of 10, expected 90 %",
    ]


def test_the_page_keeps_what_it_knew_of_other_topics(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DATA", tmp_path / "audit.json")
    monkeypatch.setattr(page, "PAGE", tmp_path / "audit.md")
    made = {"date": "2026-11-28", "machine": "2 cores", "options": "", "minutes": 5.0}
    for topic, killed in (("moe", 3), ("long_context", 5), ("moe", 4)):
        page.record(card.Card(topic, killed=[killed, 5]).to_json(), made)
    text = (tmp_path / "audit.md").read_text(encoding="utf-8")
    assert "| known bugs caught | 4 of 5 | 5 of 5 |" in text
