"""What tests hold in their hands: a function and a class per name of the contract."""

from collections.abc import Callable
from typing import Any, Protocol

from grading.boundary.failures import NotImplementedBySubmission, SubmissionError
from grading.boundary.peer import Peer
from grading.boundary.references import Proxy
from grading.boundary.service import Described
from grading.contract import Contract, ContractClass


class Connection(Protocol):
    """The part of a session that proxies need."""

    @property
    def topic(self) -> str: ...

    def peer(self) -> Peer:
        """A peer that works: a fresh one if the last has failed."""

    def described(self, name: str) -> Described: ...

    def check_name(self, name: str) -> None:
        """Raises Declined for what is declined whatever its arguments."""

    def check_call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises Declined for a call that is, NotCalledAgain for a function that hung or crashed before."""


class Namespace:
    """One attribute per name of the contract. A name that the submission lacks raises when asked for."""

    def __init__(self, contract: Contract, connection: Connection, classes: dict[str, type[Proxy]]) -> None:
        self._connection = connection
        functions = {each.name: _function(connection, each.name) for each in contract.functions}
        self._functions: dict[str, Callable[..., Any]] = {**functions, **classes}

    def __getattr__(self, name: str) -> Any:
        found = self._functions.get(name)
        if found is None:
            raise AttributeError(f"the contract of {self._connection.topic} has no {name!r}")
        self._connection.check_name(name)
        described = self._connection.described(name)
        if described.kind == "missing":
            raise NotImplementedBySubmission(f"not implemented: {self._connection.topic}.{name}")
        if isinstance(found, type) and described.kind != "class":
            raise SubmissionError(f"{name}: expected a class, got a {described.kind}")
        return found

    def __dir__(self) -> list[str]:
        return list(self._functions)


def proxy_classes(contract: Contract, connection: Connection) -> dict[str, type[Proxy]]:
    return {each.name: _class(connection, each) for each in contract.classes}


def _function(connection: Connection, name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        connection.check_call(name, args, kwargs)
        peer = connection.peer()
        try:
            return peer.call(name, None, args, kwargs)
        except NotImplementedError as error:
            raise _not_implemented(connection, name) from error

    call.__name__ = call.__qualname__ = name
    return call


def _class(connection: Connection, wanted: ContractClass) -> type[Proxy]:
    def construct(self: Proxy, *args: Any, **kwargs: Any) -> None:
        connection.check_call(wanted.name, args, kwargs)
        peer = connection.peer()
        try:
            peer.construct(self, wanted.name, args, kwargs)
        except NotImplementedError as error:
            raise _not_implemented(connection, wanted.name) from error

    members: dict[str, Any] = {"__slots__": (), "__doc__": wanted.docstring, "__init__": construct}
    for method in wanted.methods[1:]:
        members[method.name.partition(".")[2]] = _method(connection, method.name)
    return type(wanted.name, (Proxy,), members)


def _method(connection: Connection, name: str) -> Callable[..., Any]:
    def call(self: Proxy, *args: Any, **kwargs: Any) -> Any:
        connection.check_call(name, args, kwargs)
        try:
            return self._peer.call(name, self._id, args, kwargs)
        except NotImplementedError as error:
            raise _not_implemented(connection, name) from error

    call.__name__, call.__qualname__ = name.partition(".")[2], name
    return call


def _not_implemented(connection: Connection, name: str) -> NotImplementedBySubmission:
    return NotImplementedBySubmission(f"not implemented: {connection.topic}.{name}")
