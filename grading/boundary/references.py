"""Things that stay where they are and cross by name: objects of contract classes, callables, streams.

An export is kept until the other side has released it as often as it was sent. The importing side notices
that a proxy died through a weak reference, whose callback only queues: it may run anywhere, in the middle
of anything. What is queued rides on the next message.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from grading.boundary.failures import BoundaryFailure, ProtocolViolation, Unsendable

CALLABLE, STREAM = "callable", "Stream"


class Side(Protocol):
    """What references need of a peer.

    classes: those whose objects are known by name here.
    """

    classes: Mapping[str, type[Any]]
    exports: "Exports"
    imports: "Imports"

    def call(
        self, name: str, object_id: str | None, args: tuple[Any, ...], kwargs: dict[str, Any], /
    ) -> Any: ...


class UnknownObject(BoundaryFailure):
    """A request names an object that does not exist (any more)."""


class Proxy:
    """Stands for an object of the other side. Subclasses: `RemoteCallable`, `Stream`, contract classes."""

    __slots__ = ("__weakref__", "_id", "_peer")
    _peer: Side
    _id: str


class RemoteCallable(Proxy):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._peer.call(CALLABLE, self._id, args, kwargs)


class Stream(Proxy):
    """An iterator of the other side, pulled one item at a time. `close` ends it early."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = self._peer.call("Stream.next", self._id, (), {})
        if item is None:
            raise StopIteration
        if not isinstance(item, tuple) or len(item) != 1:
            raise ProtocolViolation(f"a stream gives (item,) or None at its end, got a {type(item).__name__}")
        return item[0]

    def close(self) -> None:
        self._peer.call("Stream.close", self._id, (), {})


def pull(iterator: Iterator[Any]) -> tuple[Any] | None:
    for item in iterator:
        return (item,)
    return None


class Exports:
    """This side's objects that the other side knows."""

    def __init__(self) -> None:
        self._keep = False  # a recording may be asked for objects that were released since
        self._lock = threading.Lock()
        self._held: dict[str, list[Any]] = {}  # id: [kind, object, times sent and not yet released]
        self._names: dict[int, str] = {}  # id() of the object: id

    def keep(self) -> None:
        """From here on what is released stays, for who reads the recording. What was released before goes."""
        with self._lock:
            self._keep = True
            for identity in [identity for identity, entry in self._held.items() if not entry[2]]:
                self._drop(identity)

    def add(self, kind: str, value: object, new_id: Callable[[], str]) -> str:
        """The id of `value`, a new one unless it is exported already."""
        with self._lock:
            identity = self._names.get(id(value))
            if identity is None:
                identity = self._names[id(value)] = new_id()
                self._held[identity] = [kind, value, 0]
            self._held[identity][2] += 1
            return identity

    def adopt(self, kind: str, value: object, identity: str) -> None:
        """Exports `value` under an id that the other side chose."""
        with self._lock:
            self._names.setdefault(id(value), identity)
            self._held[identity] = [kind, value, 1]

    def get(self, kind: str, identity: str) -> Any:
        entry = self._held.get(identity)
        if entry is None or entry[0] != kind:
            raise UnknownObject(f"there is no {kind} {identity!r}: it was never made, or was released")
        return entry[1]

    def release(self, identity: str, times: int) -> None:
        with self._lock:
            entry = self._held.get(identity)
            if entry is None or not 1 <= times <= entry[2]:
                raise ProtocolViolation(f"a release of {identity!r}, which is not held that often")
            entry[2] -= times
            if not entry[2] and not self._keep:
                self._drop(identity)

    def _drop(self, identity: str) -> None:
        value = self._held.pop(identity)[1]
        if self._names.get(id(value)) == identity:  # made by the other side, it may have a second name
            del self._names[id(value)]


class Imports:
    """The other side's objects that this side knows, one proxy each."""

    def __init__(self, peer: Side, classes: Mapping[str, type[Proxy]]) -> None:
        self._peer = peer
        self._classes: dict[str, type[Proxy]] = {CALLABLE: RemoteCallable, STREAM: Stream, **classes}
        self._lock = threading.RLock()  # a weak reference's callback may come while it is held
        self._known: dict[str, _Import] = {}
        self._dead: deque[_Import] = deque()

    def get(self, kind: str, identity: str) -> Proxy:
        cls = self._classes.get(kind)
        if cls is None:
            raise ProtocolViolation(f"no class of the contract is called {kind[:80]!r}")
        with self._lock:
            known = self._known.get(identity)
            proxy = known.proxy() if known else None
            if known is None or proxy is None:
                proxy = object.__new__(cls)
                self._adopt(proxy, identity)
            elif type(proxy) is not cls:
                raise ProtocolViolation(f"{identity!r} is a {type(proxy).__name__}, not a {kind[:80]}")
            else:
                known.times += 1
            return proxy

    def adopt(self, proxy: Proxy, identity: str) -> None:
        """`proxy` stands for the object that the other side has just made under this id."""
        with self._lock:
            self._adopt(proxy, identity)

    def _adopt(self, proxy: Proxy, identity: str) -> None:
        proxy._peer, proxy._id = self._peer, identity
        self._known[identity] = _Import(identity, proxy, self._dead)

    def take_releases(self) -> list[list[Any]]:
        """[id, times] of every proxy that died since the last call."""
        releases = []
        while self._dead:
            gone = self._dead.popleft()
            with self._lock:
                if self._known.get(gone.identity) is gone:
                    del self._known[gone.identity]
                releases.append([gone.identity, gone.times])
        return releases


class _Import:
    def __init__(self, identity: str, proxy: Proxy, dead: "deque[_Import]") -> None:
        self.identity = identity
        self.times = 1
        self.proxy = weakref.ref(proxy, lambda _: dead.append(self))


class PeerReferences:
    """Packs and unpacks references for one message of a peer."""

    def __init__(self, peer: Side, scope: str) -> None:
        self._peer = peer
        self._scope = scope
        self._count = 0

    def pack(self, value: object) -> list[Any] | None:
        if isinstance(value, Proxy):
            if value._peer is not self._peer:
                raise Unsendable(f"this {type(value).__name__} belongs to another session or an ended worker")
            return [1, _kind_of_proxy(value), value._id]
        kind = self._kind(value)
        return None if kind is None else [0, kind, self._peer.exports.add(kind, value, self._new_id)]

    def unpack(self, whose: int, kind: str, identity: str) -> object:
        if whose:
            return self._peer.exports.get(kind, identity)
        return self._peer.imports.get(kind, identity)

    def _kind(self, value: object) -> str | None:
        for name, cls in self._peer.classes.items():
            if isinstance(value, cls):
                return name
        if isinstance(value, Iterator):
            return STREAM
        return CALLABLE if callable(value) and not isinstance(value, type) else None

    def _new_id(self) -> str:
        # Follows from the message alone, so that a replay of the same calls names the same objects.
        self._count += 1
        return f"{self._scope}.{self._count}"


def _kind_of_proxy(proxy: Proxy) -> str:
    if isinstance(proxy, RemoteCallable):
        return CALLABLE
    return type(proxy).__name__
