"""The reference with edits, whether it is one file or a package."""

import time

import pytest

from grading.bugs import Bug, known_bugs
from grading.edited import difference, edited_functions, file_name, reference
from grading.requirements import topics
from tests.suite.machine import slowness

BUDGET = 0.03  # seconds of the processor for an edit, on average: a file of 740 lines takes 0.008


def bug(*changes):
    return Bug("", "is made up", "", changes)


@pytest.fixture(params=["file", "package"])
def topic(request, tmp_path, monkeypatch):
    """Adds up squares: `base` is edited, `total` and the topic itself build on it."""
    base = "POWER = 2\n\n\ndef power(x):\n    return x**POWER\n"
    total = "def total(xs):\n    return sum(power(x) for x in xs)\n"
    folder = tmp_path / "reference"
    name = f"made_up_{request.param}"
    (folder / name).mkdir(parents=True)
    if request.param == "file":
        (folder / f"{name}.py").write_text(f"{base}\n\n{total}")
    else:
        (folder / name / "base.py").write_text(base)
        (folder / name / "a_total.py").write_text(f"from .base import power\n\n\n{total}")
        (folder / name / "__init__.py").write_text("from .a_total import total\n")
    monkeypatch.setattr("grading.edited.ROOT", tmp_path)
    return name


def test_an_edit_reaches_whoever_imports_what_it_changes(topic):
    assert reference(topic).total([1, 2, 3]) == 14
    assert reference(topic, bug(("POWER = 2", "POWER = 3"))).total([1, 2, 3]) == 36
    assert reference(topic).total([1, 2, 3]) == 14


def test_edits_of_several_functions_are_told(topic):
    edit = bug(("x**POWER", "-(x**POWER)"), ("sum(", "-sum("))
    assert reference(topic, edit).total([1, 2]) == 5
    places = edited_functions(topic, edit)
    if topic.endswith("package"):
        assert places == {(file_name(f"{topic}/base.py"), 4), (file_name(f"{topic}/a_total.py"), 4)}
    else:
        assert places == {(file_name(f"{topic}.py"), 4), (file_name(f"{topic}.py"), 8)}
    assert edited_functions(topic, bug(("POWER = 2", "POWER = 3"))) is None
    assert "-    return x**POWER\n+    return -(x**POWER)" in difference(topic, edit)


def test_a_function_begins_with_its_decorator(tmp_path, monkeypatch):
    """As its code does."""
    (tmp_path / "reference").mkdir()
    text = "def same(f):\n    return f\n\n\n@same\n@same\ndef one():\n    return 1\n"
    (tmp_path / "reference" / "decorated.py").write_text(text)
    monkeypatch.setattr("grading.edited.ROOT", tmp_path)
    code = reference("decorated").one.__code__
    places = edited_functions("decorated", bug(("return 1", "return 2")))
    assert places == {(code.co_filename, code.co_firstlineno)}


def test_what_occurs_in_two_places_is_no_edit(topic):
    with pytest.raises(ValueError, match="2 matches of 'return ', expected 1"):
        reference(topic, bug(("return ", "return -")))


@pytest.mark.parametrize("topic", topics())
def test_an_edit_costs_milliseconds(topic):
    """Only the file that it changes is compiled anew; hundreds of edits are tried a run."""
    bugs = known_bugs(topic)[:40]
    reference(topic, bugs[0])
    slow, begun = slowness(), time.process_time()
    for each in bugs:
        reference(topic, each)
    assert time.process_time() - begun <= BUDGET * len(bugs) * max(slow, slowness())
