"""Recorded calls, read back from their bytes: nothing that happened later can have changed them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from grading.boundary.codec import Array, Tree, Unpacker, Vocabulary, parse
from grading.boundary.frames import Frame
from grading.boundary.recording import Exchange


@dataclass(frozen=True)
class Reference:
    """An object, callable or stream in a trace. kind: "PagedKVCache", "callable", "Stream"."""

    kind: str
    id: str


@dataclass(frozen=True)
class RecordedCall:
    """One call of a test, outcome included.

    name: "paged_attention", "PagedKVCache" (made here, as `object_id`), "PagedKVCache.append",
        "callable" (a function that the submission returned), "Stream.next".
    value: what came back, None if `error` was raised.
    begun, ended: nanoseconds of one clock.
    """

    name: str
    object_id: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Any
    error: Exception | None
    begun: int = 0
    ended: int = 0


class _Snapshots:
    """Arrays that cannot be written to, and references as names."""

    def outgoing(self, value: object) -> Array | None:
        raise NotImplementedError("a trace is only read")

    def incoming(self, array: Array) -> object:
        array.flags.writeable = False
        return array

    def pack(self, value: object) -> list[Any] | None:
        raise NotImplementedError("a trace is only read")

    def unpack(self, whose: int, kind: str, identity: str) -> object:
        return Reference(kind, identity)


def read_trace(vocabulary: Vocabulary, exchanges: list[Exchange]) -> list[RecordedCall]:
    return list(_read(vocabulary, exchanges))


def _read(vocabulary: Vocabulary, exchanges: list[Exchange]) -> Iterator[RecordedCall]:
    snapshots = _Snapshots()
    for exchange in exchanges:
        request = exchange.request.copy()
        _, call_id, _, _, name, object_id, *arguments, _ = parse(request.body)
        unpacker = Unpacker(vocabulary, snapshots, snapshots, request.buffers)
        args, kwargs = (unpacker.unpack(tree) for tree in arguments)
        made = str(call_id) if name in vocabulary.classes else object_id
        value, error = _outcome(vocabulary, snapshots, exchange.reply)
        yield RecordedCall(name, made, args, kwargs, value, error, exchange.begun, exchange.ended)


def _outcome(
    vocabulary: Vocabulary, snapshots: _Snapshots, reply: Frame | Exception
) -> tuple[Any, Exception | None]:
    if isinstance(reply, Exception):
        return None, reply
    reply = reply.copy()
    unpacker = Unpacker(vocabulary, snapshots, snapshots, reply.buffers)
    tree: Tree = parse(reply.body)
    if tree[0] == "return":
        return unpacker.unpack(tree[3]), None
    return None, unpacker.exception(tree[3], [unpacker.unpack(each) for each in tree[4]])
