"""Every name of every contract can be called as its contract says. Generated from `spec`."""

import pytest

from grading.contract import check_signature, contract
from grading.marks import requirement
from grading.requirements import topics


def promised(topic):
    """(name, signature) of every function and method, with the first requirement its docstring names."""
    wanted = contract(topic)
    for signature in (*wanted.functions, *(method for cls in wanted.classes for method in cls.methods)):
        name, _, method = signature.name.partition(".")
        yield pytest.param(
            topic,
            name,
            method or name,
            signature,
            marks=requirement(signature.requirements[0]),
            id=f"{topic}.{signature.name}",
        )


@pytest.mark.parametrize(
    ("topic", "name", "function", "expected"), [case for topic in topics() for case in promised(topic)]
)
def test_signature(impl, described, topic, name, function, expected):
    found = described(expected.name)
    kind = "function" if function == name else "class"
    assert found.kind != "missing", f"not implemented: {topic}.{name}"
    assert found.kind == kind, f"{name}: expected a {kind}, got a {found.kind}"
    actual = found.signatures.get(function)
    assert actual is not None and not found.stub, f"not implemented: {topic}.{expected.name}"
    problem = check_signature(expected, actual)
    assert problem is None, problem
