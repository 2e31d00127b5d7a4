"""Jobs in processes of their own: what they find arrives, and none stays behind."""

import multiprocessing
import os

import pytest

from grading.side_by_side import JobFailed, judge_all


def judge(job, told):
    told((job, os.getpid()))
    if job == "fails":
        raise ValueError("no verdict")
    if job == "dies":
        os._exit(3)
    return job.upper()


def test_each_job_is_judged_by_one_of_a_few_processes():
    heard = []
    assert judge_all([*"abcde"], judge, heard.append) == {job: job.upper() for job in "abcde"}
    assert sorted(job for job, _ in heard) == [*"abcde"]
    processes = {process for _, process in heard}
    assert os.getpid() not in processes
    assert len(processes) <= (os.cpu_count() or 1)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("job", "said"),
    [("fails", "ValueError: no verdict"), ("dies", "the process that judged dies has ended without a word")],
)
def test_a_job_that_fails_ends_all(job, said):
    with pytest.raises(JobFailed, match=said):
        judge_all(["a", job, *"bcde"], judge, lambda said: None)
    assert not multiprocessing.active_children()


def test_a_debugger_has_the_terminal_of_this_process():
    heard = []
    assert judge_all([*"ab"], judge, heard.append, here=True) == {"a": "A", "b": "B"}
    assert heard == [("a", os.getpid()), ("b", os.getpid())]
