"""A starter offers the whole contract, implements none of it, and never overwrites anything."""

import importlib.util
import inspect
import sys

import pytest

from grading.clone import UsageError
from grading.contract import check_signature, contract, signature
from grading.requirements import topics
from grading.starter import stub, write_starter

TOPICS = topics()


@pytest.fixture(params=TOPICS)
def starter(request, tmp_path):
    """The stub module of a topic, imported."""
    write_starter(tmp_path)
    spec = importlib.util.spec_from_file_location(
        f"starter_{request.param}", tmp_path / f"{request.param}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return request.param, module


def test_it_has_every_signature_and_docstring_of_the_contract(starter):
    topic, module = starter
    for expected in contract(topic).functions:
        actual = signature(getattr(module, expected.name), expected.name)
        assert check_signature(expected, actual) is None
        assert actual.docstring == expected.docstring
    for cls in contract(topic).classes:
        for expected in cls.methods:
            method = getattr(getattr(module, cls.name), expected.name.split(".")[1])
            actual = signature(method, expected.name, method=True)
            assert check_signature(expected, actual) is None
            assert actual.docstring == expected.docstring


def test_it_implements_nothing(starter):
    topic, module = starter
    for name in contract(topic).names:
        thing = getattr(module, name)
        parameters = inspect.signature(thing).parameters.values()
        required = [p for p in parameters if p.default is p.empty]
        positional = [None for p in required if p.kind is not p.KEYWORD_ONLY]
        named = {p.name: None for p in required if p.kind is p.KEYWORD_ONLY}
        with pytest.raises(NotImplementedError):
            thing(*positional, **named)


def test_it_brings_the_values_and_errors_of_the_contract(starter):
    topic, module = starter
    named = set(importlib.import_module(f"spec.{topic}").__all__)
    assert {name for name in named if not hasattr(module, name)} == set()


def test_it_imports_only_what_a_submission_may_use():
    for topic in TOPICS:
        lines = [line for line in stub(topic).splitlines() if line.startswith(("import ", "from "))]
        sources = {line.split()[1].split(".")[0] for line in lines}
        assert sources <= {"spec", "mlx", *sys.stdlib_module_names}


def test_it_names_its_framework(tmp_path):
    write_starter(tmp_path)
    assert 'framework = "mlx"' in (tmp_path / "week3.toml").read_text()


@pytest.mark.parametrize("taken", [f"{TOPICS[0]}.py", f"{TOPICS[-1]}.py", "week3.toml"])
def test_it_overwrites_nothing_and_writes_nothing_beside_it(tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(UsageError, match=taken):
        write_starter(tmp_path)
    assert (tmp_path / taken).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_a_package_of_a_topic_counts_as_its_module(tmp_path):
    (tmp_path / TOPICS[0]).mkdir()
    with pytest.raises(UsageError, match=TOPICS[0]):
        write_starter(tmp_path)


def test_a_place_that_cannot_be_written_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_starter(tmp_path / "file" / "week3")
