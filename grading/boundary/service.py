"""What a submission offers under a contract: its functions, its classes, and a description of both."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

from grading.boundary import frameworks
from grading.boundary.failures import ProtocolViolation
from grading.contract import Contract, Parameter, Signature, signature

DESCRIBE = ":describe"
EMPTY_HEAP = ":empty_heap"


@dataclass(frozen=True)
class Described:
    """What the submission has under a name of the contract.

    kind: "missing", "function", "class", or "other" if it is neither.
    signatures: of the function, or of the class's methods by bare name; a missing method is left out.
    stub: nothing but a docstring and `raise NotImplementedError`, in a class every method of the contract.
    """

    name: str
    kind: str
    signatures: dict[str, Signature]
    stub: bool


class Service:
    """Serves one topic. `functions` and `classes` fill when `describe` loads the submission."""

    def __init__(self, contract: Contract, framework: str, load: Callable[[], ModuleType]) -> None:
        self._contract = contract
        self._load = load
        self.functions: dict[str, Callable[..., Any]] = {
            DESCRIBE: self.describe,
            EMPTY_HEAP: lambda: frameworks.empty_heap(framework),
        }
        self.classes: dict[str, type[Any]] = {}

    def describe(self) -> list[Any]:
        """Per name of the contract [name, kind, {name: parameters}, stub], as plain data."""
        module = self._load()
        for each in self._contract.functions:
            self.functions[each.name] = getattr(module, each.name, None) or _missing(each.name)
        for wanted in self._contract.classes:
            cls = getattr(module, wanted.name, None)
            self.functions[wanted.name] = cls or _missing(wanted.name)
            if isinstance(cls, type):
                self.classes[wanted.name] = cls
            for method in wanted.methods:
                self.functions[method.name] = _method(method.name)
        return [self._describe(module, name) for name in self._contract.names]

    def _describe(self, module: ModuleType, name: str) -> list[Any]:
        found = getattr(module, name, None)
        if isinstance(found, type):
            wanted = next((each for each in self._contract.classes if each.name == name), None)
            methods = [m.name.partition(".")[2] for m in wanted.methods] if wanted else []
            bodies = {m: getattr(found, m) for m in methods if callable(getattr(found, m, None))}
            if found.__init__ is object.__init__:  # type: ignore[misc]  # a constructor nobody wrote
                bodies.pop("__init__", None)
            parameters = {m: _parameters(body, method=True) for m, body in bodies.items()}
            return [name, "class", {"__init__": [], **parameters}, all(map(is_stub, bodies.values()))]
        if callable(found):
            return [name, "function", {name: _parameters(found)}, is_stub(found)]
        return [name, "missing" if found is None else "other", {}, False]


def read_description(contract: Contract, reply: object) -> dict[str, Described]:
    """What `describe` sent, which may be anything."""
    described = {}
    for entry in reply if isinstance(reply, list) else []:
        match entry:
            case [str(name), str(kind), dict(found), bool(stub)] if name in contract.names:
                signatures = {str(m): _signature(name, m, parameters) for m, parameters in found.items()}
                described[name] = Described(name, kind, signatures, stub)
            case _:
                raise ProtocolViolation("a description is [name, kind, signatures, stub]")
    if tuple(described) != contract.names:
        raise ProtocolViolation(f"a description of {contract.topic} must cover {contract.names}")
    return described


def is_stub(function: Callable[..., Any]) -> bool:
    """Whether the source says, and nothing else, that the function is not written yet."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # no source, no stub
        return False
    if not tree.body or not isinstance(tree.body[0], ast.FunctionDef):
        return False
    statements = [s for s in tree.body[0].body if not _says_nothing(s)]
    return len(statements) <= 1 and all(_raises_not_implemented(s) for s in statements)


def _says_nothing(statement: ast.stmt) -> bool:
    """A docstring, `...` or `pass`."""
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _raises_not_implemented(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Raise):
        return False
    raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
    return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"


def _parameters(function: Callable[..., Any], *, method: bool = False) -> list[Any]:
    try:
        found = signature(function, "", method=method)
    except (TypeError, ValueError):  # compiled code without a signature: takes what it takes
        kinds = ("variadic positional", "variadic keyword")
        return [("args", kinds[0], False), ("kwargs", kinds[1], False)]
    return [(p.name, p.kind, p.optional) for p in found.parameters]


def _signature(owner: str, name: object, parameters: object) -> Signature:
    full = owner if name == owner else f"{owner}.{name}"
    found = []
    for entry in parameters if isinstance(parameters, list) else []:
        match entry:
            case (str(parameter), str(kind), bool(optional)):
                found.append(Parameter(parameter, kind, optional))
            case _:
                raise ProtocolViolation("a parameter is (name, kind, optional)")
    return Signature(full, tuple(found))


def _method(full_name: str) -> Callable[..., Any]:
    name = full_name.partition(".")[2]

    def call(instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        method = getattr(instance, name, None)
        if method is None:
            raise NotImplementedError(full_name)
        return method(*args, **kwargs)

    return call


def _missing(name: str) -> Callable[..., NoReturn]:
    def call(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(name)

    return call
