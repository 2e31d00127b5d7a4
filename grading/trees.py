"""Values within values: dataclasses of `spec`, lists, tuples and dicts, down to what is none of these."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same tree with every leaf replaced."""
    ours = type(value).__module__.split(".")[0] == "spec"
    if ours and is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: mapped(function, getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(function, each) for each in value)
    if isinstance(value, dict):
        return {key: mapped(function, each) for key, each in value.items()}
    return function(value)


def leaves(value: Any) -> list[Any]:
    """The leaves in the order in which `mapped` meets them."""
    found: list[Any] = []
    mapped(found.append, value)
    return found
