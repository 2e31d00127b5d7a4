"""What a test is about, read off its pytest item."""

import re
from collections import Counter
from collections.abc import Iterable

import pytest

from grading.candidates import Candidate
from grading.clone import ROOT
from grading.requirements import LEVELS, by_id
from spec.topics import TOPICS

SUITE = ROOT / "tests" / "week3"


def topic_of(item: pytest.Item) -> str | None:
    """The topic that an item judges: a parameter `topic`, or the name of its file or folder."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    names = [parameters.get("topic"), item.path.stem.removeprefix("test_"), item.path.parent.name]
    return next((name for name in names if name in TOPICS), None)


def requirement_of(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("requirement")
    return mark.args[0] if mark else None


def node_of(item: pytest.Item) -> str:
    """The node id below tests/week3, without the name of the implementation.

    Where `ids` is a function, pytest escapes the backslashes of the ids once more in a process's second run.
    """
    node = re.sub(r"\\+", r"\\", item.nodeid.removeprefix("tests/week3/"))
    name = str(item.callspec.params["impl"])  # type: ignore[attr-defined]
    return node.replace(f"[{name}]", "").replace(f"[{name}-", "[").replace(f"-{name}]", "]")


def function_of(node: str) -> str:
    """The node id below tests/week3 of the function that is run, whatever its parameters."""
    return node.removeprefix("tests/week3/").partition("[")[0]


def labelled(candidates: Iterable[Candidate]) -> dict[str, Candidate]:
    """Each under its name, if that can stand in a node id and is no other's."""
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        plain = re.fullmatch(r"[\w.]{1,40}", candidate.name, re.ASCII) and candidate.name not in found
        found[candidate.name if plain else f"impl{len(found)}"] = candidate
    return found


def breadth_first(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """In an order that shows a failure soon: one case of each test, core first, then another one of each.

    Tests that measure memory are slow, and come last.
    """
    places: dict[pytest.Item, tuple[bool, int, int]] = {}
    seen: Counter[tuple[str, object]] = Counter()
    for item in items:
        requirement = requirement_of(item)
        level = LEVELS.index(by_id()[requirement].level) if requirement else 0
        test = function_of(item.nodeid), getattr(getattr(item, "callspec", None), "params", {}).get("impl")
        slow = "memory_growth" in getattr(item, "fixturenames", ())
        places[item] = (True, 0, 0) if slow else (False, seen[test], level)
        seen[test] += 1
    return sorted(places, key=places.__getitem__)


def half_of(items: list[pytest.Item], half: int) -> list[pytest.Item]:
    """Every second test, with all its cases: those of half 0 or of half 1."""
    functions = list(dict.fromkeys(function_of(item.nodeid) for item in items))
    mine = set(functions[half::2])
    return [item for item in items if function_of(item.nodeid) in mine]
