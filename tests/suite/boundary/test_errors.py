"""Errors of a submission, as the tests see them."""

import pytest

from grading.boundary.failures import (
    NotAttempted,
    NotImplementedBySubmission,
    SubmissionError,
)
from grading.boundary.places import add_note, called_at
from grading.boundary.session import InProcess
from grading.judging.texts import message_of
from spec.errors import InvalidArgument
from tests.suite.boundary.probes import SUBMISSION, isolated, write_submission


def test_errors_arrive_as_the_nearest_class_with_arguments_and_traceback(submission):
    with pytest.raises(InvalidArgument, match="window: expected 1") as caught:
        submission.act("raises(Own('window: expected 1'))")
    assert type(caught.value) is InvalidArgument
    assert "in raises" in caught.value.__notes__[0]
    assert "grading/boundary" not in caught.value.__notes__[0]
    with pytest.raises(KeyError):
        submission.act("{}['x']")
    with pytest.raises(SubmissionError, match=r"^Other: odd(\n|$)"):
        submission.act("raises(Other('odd'))")


def test_an_error_tells_what_was_called_and_the_line_that_raised_it(submission):
    line = SUBMISSION.splitlines().index("        raise error")
    with pytest.raises(KeyError) as caught:
        submission.apply("raises", KeyError("x"))
    assert called_at(caught.value) == ("apply", f"probe.py:{line + 1}, in raises: raise error")
    text = message_of(caught.value, "")
    assert text == f"apply raised KeyError: 'x'\nin probe.py:{line + 1}, in raises: raise error"
    with pytest.raises(SubmissionError) as caught:
        submission.act("raises(Other('odd'))")
    assert message_of(caught.value, "").startswith("act raised Other: odd\nin probe.py:")


def test_an_error_of_the_language_tells_the_line_that_is_wrong(place, probe):
    folder = write_submission(place / "unfinished", "x = 1\ny = (\n")
    for session in (InProcess.from_folder(folder, "probe"), isolated(folder)):
        with pytest.raises(SubmissionError, match="^SyntaxError: '\\(' was never closed") as caught:
            session.describe()
        assert called_at(caught.value)[1] == "probe.py:2: y = ("
        session.close()


def test_what_is_told_of_an_error_is_bounded_and_in_its_place():
    error = ValueError()
    add_note(error, "act", "x" * 100_000 + "\n" + "y" * 100_000)
    assert called_at(error) == ("act", "x" * 200)
    assert len(error.__notes__[0]) < 17_000
    assert called_at(ValueError()) == ("", "")


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration"])
def test_what_would_end_the_tests_is_an_ordinary_error(submission, name):
    with pytest.raises(SubmissionError, match=rf"^{name}: 0(\n|$)"):
        submission.act(f"raises({name}(0))")


def test_outcomes_of_pytest_cannot_be_forged(submission):
    with pytest.raises(SubmissionError, match="Skipped: no"):
        submission.act("__import__('pytest').skip('no')")


def test_an_error_whose_arguments_cannot_cross_arrives_as_text(submission):
    with pytest.raises(ValueError, match="object"):
        submission.act("raises(ValueError({1}, object))")


def test_missing_names_and_unwritten_ones_say_so(place, probe, submission):
    folder = place / "sparse"
    if not folder.exists():
        write_submission(folder, "class Box:\n    def __init__(self, content): pass")
    sparse = InProcess.from_folder(folder, "probe").namespace
    with pytest.raises(NotImplementedBySubmission, match=r"^not implemented: probe\.echo$"):
        sparse.echo(1)
    with pytest.raises(NotImplementedBySubmission, match=r"^not implemented: probe\.Box\.get$"):
        sparse.Box(1).get()
    with pytest.raises(NotImplementedBySubmission, match=r"^not implemented: probe\.unwritten$"):
        submission.unwritten(1)
    with pytest.raises(AttributeError):
        _ = submission.no_such_name


def test_the_description_tells_stubs_and_signatures(session):
    described = session.describe()
    assert described["unwritten"].stub and not described["echo"].stub and not described["Box"].stub
    assert str(described["Box"].signatures["put"]) == "Box.put(content)"
    assert str(described["apply"].signatures["apply"]) == "apply(function, *args)"


def test_a_class_of_stubs_is_a_stub_even_without_a_constructor(place, probe):
    names = ("get", "put", "twin")
    methods = "".join(f"    def {name}(self, *a):\n        raise NotImplementedError\n" for name in names)
    folder = place / "stubs"
    write_submission(folder, "class Box:\n" + methods)
    described = InProcess.from_folder(folder, "probe").describe()["Box"]
    assert described.stub
    assert "content" not in str(described.signatures["__init__"])


def test_a_folder_without_the_topic_was_not_attempted(tmp_path, probe):
    for session in (InProcess.from_folder(tmp_path, "probe"), isolated(tmp_path)):
        with pytest.raises(NotAttempted, match="has no probe.py"):
            session.describe()
        session.close()


def test_what_importing_raises_is_raised_for_every_name(place, probe):
    folder = write_submission(place / "broken", "import no_such_module_at_all")
    session = InProcess.from_folder(folder, "probe")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
            _ = session.namespace.echo


def test_siblings_can_be_imported_but_never_hide_the_standard_library(place, probe):
    source = "import helpers, json\ndef act(what): return helpers.NAME, hasattr(json, 'loads')"
    for name in ("one", "two"):  # both have a helpers.py
        folder = write_submission(place / name, source)
        (folder / "helpers.py").write_text(f"NAME = {name!r}")
        (folder / "json.py").write_text("raise SystemExit")
        assert InProcess.from_folder(folder, "probe").namespace.act("") == (name, True)
