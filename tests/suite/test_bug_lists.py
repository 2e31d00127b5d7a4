"""How known bugs are written down, and where."""

import re

import pytest

from grading.bugs import Bug, known_bugs, read_bugs, removed_checks
from grading.clone import ROOT
from grading.requirements import topics

LISTS = sorted((ROOT / "tests" / "week3").glob("*/bugs_*.diff"))


def read(text):
    return list(read_bugs(text, "bugs_part.diff"))


def test_a_list_is_read():
    text = (
        "@@ PA-01 @@\n\n"
        "forgets one line\nKeep it.\n-    a\n-\n-    b\n\n"
        "forgets another · in no answer\nKeep it, too.\n-x\n+y\n+\n+    z\n-all\n+\n\n"
        "@@ PA-02 @@\n\n"
        "adds a line\nDo not.\n-one\n+one\n+two\n"
    )
    assert read(text) == [
        Bug("PA-01", "forgets one line", "Keep it.", (("    a\n\n    b\n", ""),)),
        Bug("PA-01", "forgets another", "Keep it, too.", (("x", "y\n\n    z"), ("all", "")), False),
        Bug("PA-02", "adds a line", "Do not.", (("one", "one\ntwo"),)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "has no requirement\nHint.\n-a\n+b\n",
        "@@ PA-01 @@\n\nhas no hint\n-a\n+b\n",
        "@@ PA-01 @@\n\nhas no changes\nHint.\n",
        "@@ PA-01 @@\n\nadds to nothing\nHint.\n+b\n",
        "@@ PA-01 @@\n\nhas a line without a sign\nHint.\n-a\n b\n+c\n",
        "@@ PA-01 @@\nhas no blank line before it\nHint.\n-a\n+b\n",
        "@@ the first @@\n\nhas no id\nHint.\n-a\n+b\n",
    ],
)
def test_what_is_no_bug_is_an_error(text):
    with pytest.raises(ValueError, match=r"bugs_part\.diff: expected .* got "):
        read(text)


@pytest.mark.parametrize("path", LISTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_bugs_stand_beside_the_tests_that_catch_them(path):
    tests = path.with_name(f"{path.stem.replace('bugs_', 'test_')}.py").read_text(encoding="utf-8")
    tested = {
        each for ids in re.findall(r"@requirement\((.*?)\)", tests) for each in re.findall(r'"(.+?)"', ids)
    }
    assert {bug.requirement for bug in read_bugs(path.read_text(encoding="utf-8"), path.name)} <= tested


def test_no_two_edits_share_a_key():
    edits = [edit for topic in topics() for edit in (*known_bugs(topic), *removed_checks(topic))]
    assert len({edit.key for edit in edits}) == len(edits)


@pytest.mark.parametrize("topic", topics())
def test_no_two_bugs_of_a_topic_share_a_title(topic):  # by which a diagnosis names them
    titles = [bug.title for bug in known_bugs(topic)]
    assert sorted(set(titles)) == sorted(titles)
