"""What `spec.<topic>` asks an implementation to offer: its functions, its classes and their signatures."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

# What stands for a parameter of this kind that is not named: calls may pass it in each of its ways.
TAKEN_BY = {
    "positional or keyword": {"variadic positional", "variadic keyword"},
    "keyword-only": {"variadic keyword"},
}
_IDS = re.compile(r"\b(PA|MOE|SD|RAG|AG|LC|SV)-(\d+)(?: to \1-(\d+))?")


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str  # as `inspect` describes it: "positional or keyword", "keyword-only", …
    optional: bool


@dataclass(frozen=True)
class Signature:
    """A function's or method's signature, `self` left out. name: "route" or "PagedKVCache.append"."""

    name: str
    parameters: tuple[Parameter, ...]
    docstring: str = ""

    @property
    def requirements(self) -> tuple[str, ...]:
        return requirement_ids(self.docstring)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(_show(self.parameters))})"


@dataclass(frozen=True)
class ContractClass:
    name: str
    methods: tuple[Signature, ...]  # `__init__` first
    docstring: str

    @property
    def requirements(self) -> tuple[str, ...]:
        return requirement_ids(self.docstring)


@dataclass(frozen=True)
class Contract:
    """functions and classes are what an implementation must offer; the rest are values it may use."""

    topic: str
    functions: tuple[Signature, ...]
    classes: tuple[ContractClass, ...]
    dataclasses: dict[str, type[Any]]
    exceptions: dict[str, type[Exception]]
    enums: dict[str, type[Enum]]

    @property
    def names(self) -> tuple[str, ...]:
        return (*(each.name for each in self.functions), *(each.name for each in self.classes))

    @property
    def called(self) -> dict[str, Signature]:
        """What can be called, by name: functions, constructors ("PagedKVCache") and methods."""
        methods = [method for each in self.classes for method in each.methods[1:]]
        constructors = {each.name: each.methods[0] for each in self.classes}
        return {each.name: each for each in (*self.functions, *methods)} | constructors


@cache
def contract(topic: str) -> Contract:
    """The contract of `spec.<topic>`, a module or a package."""
    module = importlib.import_module(f"spec.{topic}")
    public = {name: getattr(module, name) for name in module.__all__}
    reachable = _spec_classes(module)
    return Contract(
        topic=topic,
        functions=tuple(signature(f, name) for name, f in public.items() if isinstance(f, FunctionType)),
        classes=tuple(_contract_class(c) for c in public.values() if _is_to_implement(c)),
        dataclasses={c.__name__: c for c in reachable if is_dataclass(c)},
        exceptions={c.__name__: c for c in reachable if issubclass(c, Exception)},
        enums={c.__name__: c for c in reachable if issubclass(c, Enum)},
    )


def requirement_ids(docstring: str) -> tuple[str, ...]:
    """The ids a docstring names, in order: `PA-17 to PA-19` stands for three."""
    found = []
    for prefix, first, last in _IDS.findall(docstring):
        numbers = range(int(first), int(last or first) + 1)
        found += [f"{prefix}-{number:0{len(first)}}" for number in numbers]
    return tuple(dict.fromkeys(found))


def signature(function: Callable[..., Any], name: str, *, method: bool = False) -> Signature:
    """What `inspect` finds; `method` leaves out the first parameter."""
    parameters = list(inspect.signature(function).parameters.values())[int(method) :]
    return Signature(
        name,
        tuple(Parameter(p.name, p.kind.description, p.default is not p.empty) for p in parameters),
        inspect.cleandoc(function.__doc__ or ""),
    )


def check_signature(expected: Signature, actual: Signature) -> str | None:
    """None if `actual` can be called wherever `expected` can, else a sentence saying why not.

    Extra optional parameters are allowed, `*args` and `**kwargs` among them, which also stand for what is not
    named: a decorator's wrapper has often nothing else.
    """
    problem = _first_difference(expected.parameters, actual.parameters)
    if problem is None:
        return None
    return f"{expected.name}: {problem}; expected {expected}, got {actual}"


def _first_difference(expected: tuple[Parameter, ...], actual: tuple[Parameter, ...]) -> str | None:
    by_name = {p.name: p for p in actual}
    variadic = {p.kind for p in actual if p.kind.startswith("variadic")}
    for wanted in expected:
        got = by_name.get(wanted.name)
        if got is None and variadic >= TAKEN_BY[wanted.kind]:
            continue
        if got is None:
            return f"the parameter {wanted.name!r} is missing"
        keyword = wanted.kind == "keyword-only" and got.kind == "positional or keyword"
        if got.kind != wanted.kind and not keyword:
            return f"{wanted.name!r} is {got.kind} instead of {wanted.kind}"
        if wanted.optional and not got.optional:
            return f"{wanted.name!r} has no default"
    names = {p.name for p in expected}
    for extra in actual:
        if extra.name not in names and not extra.optional and not extra.kind.startswith("variadic"):
            return f"the extra parameter {extra.name!r} has no default"
    # Positional ones first and in order, so that calls by position mean the same.
    positions = [p.name for p in expected if p.kind != "keyword-only"]
    named = [p.name for p in actual if p.kind == "positional or keyword"]
    if named[: len(positions)] != positions[: len(named)]:
        return "the parameters come in another order"
    return None


def _show(parameters: Iterable[Parameter]) -> Iterable[str]:
    starred = False
    for p in parameters:
        if p.kind == "keyword-only" and not starred:
            yield "*"
        starred = starred or p.kind in ("keyword-only", "variadic positional")
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(p.kind, "")
        yield stars + p.name + ("=…" if p.optional else "")


def _is_to_implement(thing: object) -> bool:
    """A class of the contract that is neither a value, an error nor a protocol of its callers."""
    if not isinstance(thing, type) or getattr(thing, "_is_protocol", False):
        return False
    return not is_dataclass(thing) and not issubclass(thing, Exception | Enum | tuple)


def _contract_class(cls: type[Any]) -> ContractClass:
    methods = {
        name: member
        for base in reversed(cls.__mro__[:-1])
        for name, member in vars(base).items()
        if isinstance(member, FunctionType) and (name == "__init__" or not name.startswith("_"))
    }
    constructor = methods.pop("__init__", None)
    found = [signature(member, f"{cls.__name__}.{name}", method=True) for name, member in methods.items()]
    name = f"{cls.__name__}.__init__"
    first = Signature(name, ()) if constructor is None else signature(constructor, name, method=True)
    return ContractClass(cls.__name__, (first, *found), inspect.cleandoc(cls.__doc__ or ""))


def _spec_classes(module: ModuleType) -> list[type[Any]]:
    """Classes defined anywhere in `spec` that the topic or `spec` itself shows."""
    shown = [*vars(importlib.import_module("spec")).values(), *vars(module).values()]
    classes = [c for c in shown if isinstance(c, type) and c.__module__.split(".")[0] == "spec"]
    return list(dict.fromkeys(classes))
