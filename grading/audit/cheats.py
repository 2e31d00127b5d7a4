"""What takes no thought and must earn nothing: modules in which every function has the same lazy body."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from grading.boundary.session import InProcess, Session
from grading.candidates import Candidate
from grading.contract import contract
from spec import InvalidArgument


def returns_nothing(*args: Any, **options: Any) -> None:
    return None


def returns_its_input(*args: Any, **options: Any) -> Any:
    return next((a for a in (*args, *options.values())), None)


def is_absent() -> None:
    """The module and its classes are empty."""


def raises(*args: Any, **options: Any) -> None:
    said = " ".join(map(str, (*args, *options)))
    raise InvalidArgument(f"{said} seq_id block_size queries: expected more, got less")


def returns_zero(*args: Any, **options: Any) -> int:
    return 0


CHEATS: tuple[Callable[..., Any], ...] = (returns_nothing, returns_its_input, is_absent, raises, returns_zero)


def cheat(body: Callable[..., Any]) -> Candidate:
    def open_session(topic: str) -> Session:
        return InProcess(lambda: cheat_module(topic, body), topic, "numpy")

    return Candidate(body.__name__, open_session, suspects=())


def cheat_module(topic: str, body: Callable[..., Any]) -> ModuleType:
    """A module in which every function and method of the contract has this body."""
    module = ModuleType(f"{body.__name__}_{topic}")
    wanted = contract(topic)
    if body is is_absent:
        for cls in wanted.classes:
            setattr(module, cls.name, type(cls.name, (), {}))
        return module
    for function in wanted.functions:
        setattr(module, function.name, body)
    for cls in wanted.classes:
        names = [method.name.partition(".")[2] for method in cls.methods]
        members: dict[str, Any] = {
            name: (lambda self, *a, **k: body(*a, **k)) for name in names if name != "__init__"
        }
        members["__init__"] = lambda self, *a, **k: None
        setattr(module, cls.name, type(cls.name, (), members))
    return module
