"""What an implementation may decline: the list in `spec/capabilities.toml`, and which calls ask for it."""

import importlib
import inspect
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from grading.boundary.failures import Declined, SubmissionError
from grading.clone import ROOT

FILE = ROOT / "spec" / "capabilities.toml"


@dataclass(frozen=True)
class Condition:
    """On an argument.

    path: from a parameter on: "config.scoring".
    kind: "is" or "is_not" one of the values, a number, a text or a truth value; "type", the name of a class;
        "given", true or false. What is None, or not there, meets nothing but `given = false`.
    """

    path: str
    kind: str
    values: tuple[Any, ...]

    def met_by(self, arguments: Mapping[str, Any]) -> bool:
        value: Any = arguments
        for step in self.path.split("."):
            value = value.get(step) if isinstance(value, Mapping) else getattr(value, step, None)
        if self.kind == "given":
            return (value is not None) in self.values
        if self.kind == "type":
            return type(value).__name__ in self.values
        return isinstance(value, str | int | float) and (value in self.values) == (self.kind == "is")


@dataclass(frozen=True)
class Use:
    """Calls that ask for a capability: those of these functions whose arguments meet every condition."""

    calls: tuple[str, ...]  # "route", "PagedKVCache" (its constructor), "PagedKVCache.fork"
    where: tuple[Condition, ...]


@dataclass(frozen=True)
class Capability:
    name: str  # begins with its topic
    says: str
    uses: tuple[Use, ...]


@cache
def capabilities() -> dict[str, Capability]:
    """All that are published, by name."""
    tables = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: Capability(name, table["says"], tuple(map(_use, table["when"])))
        for name, table in tables.items()
    }


def of_topic(topic: str) -> list[Capability]:
    return [each for each in capabilities().values() if each.name.startswith(f"{topic}.")]


def check_names(names: Iterable[str]) -> None:
    """Raises SubmissionError for a name that is not published."""
    for name in names:
        if name not in capabilities():
            near = get_close_matches(name[:80], capabilities(), n=1)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise SubmissionError(
                f"week3.toml: declines: no capability {name[:80]!r}. {meant}"
                "All of them: week3 list --capabilities"
            )


class Declines:
    """What an implementation of a topic declines: names in `week3.toml`, of this topic and of others.

    Raises SubmissionError for a name that is not published.
    """

    def __init__(self, topic: str, names: Iterable[str]) -> None:
        names = set(names)
        check_names(names)
        self._topic = topic
        self._uses: defaultdict[str, list[tuple[str, Use]]] = defaultdict(list)
        for capability in of_topic(topic):
            for use in capability.uses if capability.name in names else ():
                for call in use.calls:
                    self._uses[call].append((capability.name, use))

    def check(self, call: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raises Declined where the call asks for something that is declined."""
        if call in self._uses:
            arguments = _arguments(self._topic, call, args, kwargs)
            _refuse(name for name, use in self._uses[call] if all(c.met_by(arguments) for c in use.where))

    def check_whole(self, name: str) -> None:
        """Raises Declined for a function, class or method that is declined whatever its arguments."""
        uses = [each for call in (name, name.partition(".")[0]) for each in self._uses.get(call, ())]
        _refuse(declined for declined, use in uses if not use.where)


def _refuse(names: Iterable[str]) -> None:
    if asked := tuple(dict.fromkeys(names)):
        raise Declined(asked)


def _use(table: Mapping[str, Any]) -> Use:
    conditions = [
        Condition(path, kind, tuple(values) if isinstance(values, list) else (values,))
        for path, asked in table.get("where", {}).items()
        for kind, values in asked.items()
    ]
    return Use(tuple(table["calls"]), tuple(conditions))


def _arguments(topic: str, call: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """By the names of the contract, with its defaults; nothing for a call that does not fit it."""
    signature = _signature(topic, call)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return {}
    bound.apply_defaults()
    return bound.arguments


@cache
def _signature(topic: str, call: str) -> inspect.Signature:
    """Of a function, constructor or method of the contract, without `self`."""
    owner, _, method = call.partition(".")
    found = getattr(importlib.import_module(f"spec.{topic}"), owner)
    if not isinstance(found, type):
        return inspect.signature(found)
    whole = inspect.signature(getattr(found, method or "__init__"))
    return whole.replace(parameters=list(whole.parameters.values())[1:])
