"""The specification and the tests speak of the same requirements."""

import re

import pytest

from grading.clone import ROOT
from grading.contract import contract
from grading.requirements import by_id, requirements, topics


def marked_ids(topic):
    text = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests/week3" / topic).glob("test_*.py")
    )
    return set(re.findall(r'@requirement\("([^"]+)"\)', text))


@pytest.mark.parametrize("topic", topics())
def test_every_requirement_has_a_test_and_every_test_a_requirement(topic):
    assert marked_ids(topic) == {requirement.id for requirement in requirements(topic)}


@pytest.mark.parametrize("topic", topics())
def test_every_docstring_of_the_contract_names_live_requirements(topic):
    wanted = contract(topic)
    for signature in (*wanted.functions, *(method for cls in wanted.classes for method in cls.methods)):
        assert signature.requirements, f"{signature.name} names no requirement"
        assert set(signature.requirements) <= set(by_id()), signature.name


@pytest.mark.parametrize("requirement", by_id().values(), ids=by_id())
def test_a_requirement_is_written_for_a_person(requirement):
    normative, *explanation = requirement.body.split("\n\n")
    assert re.search(r"\b(MUST|MAY)\b", normative), "the first paragraph says what must hold"
    for part in ("Example:", "Why:", "Source:"):
        assert any(paragraph.startswith(part) for paragraph in explanation), f"it has no {part}"
    example = next(paragraph for paragraph in explanation if paragraph.startswith("Example:"))
    assert re.search(r"\d", example), "the example has numbers"


@pytest.mark.parametrize("requirement", by_id().values(), ids=by_id())
def test_a_core_requirement_has_a_hint_that_is_a_sentence(requirement):
    assert requirement.hint or requirement.level != "core"
    assert re.fullmatch(r"(\S.{20,240}\.)?", requirement.hint)
    assert "Hint:" not in requirement.body, "only its last line is a hint"
