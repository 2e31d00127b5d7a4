"""What `grading.contract` reads from the specification, and which signatures it accepts."""

import importlib
import sys
from pathlib import Path

import pytest

import spec
from grading.contract import check_signature, contract, requirement_ids, signature


def test_functions_and_classes_are_to_implement_and_the_rest_are_values():
    topic = contract("paged_attention")
    assert {each.name for each in topic.classes} == {"BlockAllocator", "PagedKVCache"}
    assert "slot_mapping" in {each.name for each in topic.functions}
    assert "PageTable" in topic.dataclasses
    assert {"InvalidArgument", "OutOfBlocks"} <= set(topic.exceptions)
    assert set(topic.names).isdisjoint(topic.dataclasses)


def test_a_class_has_its_constructor_first_then_its_public_methods():
    allocator = next(each for each in contract("paged_attention").classes if each.name == "BlockAllocator")
    names = [each.name for each in allocator.methods]
    assert names[0] == "BlockAllocator.__init__"
    assert "BlockAllocator.allocate" in names
    assert str(allocator.methods[0]) == "BlockAllocator.__init__(num_blocks, block_size)"


def test_a_topic_may_be_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "packed_topic"
    package.mkdir()
    (package / "__init__.py").write_text("from spec.packed_topic.inner import f\n__all__ = ['f']\n")
    (package / "inner.py").write_text("def f(a, *, b=1): 'SD-01'\n")
    monkeypatch.setattr(spec, "__path__", [*spec.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    try:
        (function,) = contract("packed_topic").functions
    finally:
        for name in [name for name in sys.modules if name.startswith("spec.packed_topic")]:
            del sys.modules[name]
    assert str(function) == "f(a, *, b=…)"
    assert function.requirements == ("SD-01",)


def test_requirement_ids_come_in_order_and_ranges_are_spelled_out():
    assert requirement_ids("MOE-07, PA-09 to PA-11 and PA-09 again.") == ("MOE-07", "PA-09", "PA-10", "PA-11")


def wanted(a, b, c=1, *, d=2): ...


def same(a, b, c=3, *, d=4): ...


def extra_optional(a, b, c=1, e=None, *, d=2, **more): ...


def keyword_by_position(a, b, c=1, d=2): ...


def wrapper(*args, **kwargs): ...


def half_a_wrapper(a, *args, **kwargs): ...


def rest_by_keyword(a, b, c=1, **more): ...


def no_keywords(a, *args, d=2): ...


def no_positions(a, **kwargs): ...


def takes_its_place(a, e=0, *args, **kwargs): ...


def extra_required(a, b, e, c=1, *, d=2): ...


def renamed(a, x, c=1, *, d=2): ...


def swapped(b, a, c=1, *, d=2): ...


def no_default(a, b, c, *, d=2): ...


def only_by_keyword(a, *, b, c=1, d=2): ...


def inserted(a, e=0, b=0, c=1, *, d=2): ...


@pytest.mark.parametrize(
    "function", [same, extra_optional, keyword_by_position, wrapper, half_a_wrapper, rest_by_keyword]
)
def test_compatible_signatures_are_accepted(function):
    assert check_signature(signature(wanted, "f"), signature(function, "f")) is None


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (extra_required, "the extra parameter 'e' has no default"),
        (renamed, "the parameter 'b' is missing"),
        (swapped, "the parameters come in another order"),
        (no_default, "'c' has no default"),
        (only_by_keyword, "'b' is keyword-only instead of positional or keyword"),
        (inserted, "the parameters come in another order"),
        (no_keywords, "the parameter 'b' is missing"),
        (no_positions, "the parameter 'b' is missing"),
        (takes_its_place, "the parameters come in another order"),
    ],
)
def test_other_signatures_are_refused_with_both_shown(function, reason):
    sentence = check_signature(signature(wanted, "f"), signature(function, "f"))
    assert sentence is not None
    assert reason in sentence
    assert "expected f(a, b, c=…, *, d=…)" in sentence
    assert "got f(" in sentence
