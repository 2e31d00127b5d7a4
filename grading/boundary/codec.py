"""Values as a tagged JSON tree and, beside it, raw bytes. Every byte that is decoded may be hostile.

In the tree None, bool, int, float and short text stand for themselves. Everything else is a list that
starts with a tag:

    ["i", hex]              int beyond 64 bits          ["l", …]  ["t", …]     list, tuple
    ["s", n]  ["b", n]      n bytes of text, of bytes   ["d", k, v, k, v, …]   dict
    ["I", n]  ["F", n]      list of n ints, of floats   ["a", dtype, *shape]   array
    ["D", name, {field: …}]   dataclass of `spec`       ["e", name, member]    enum of `spec`
    ["x", name, [args]]       exception                 ["r", whose, kind, id] reference, see references.py

Raw bytes are taken in the order of the tree: short ones from buffer 0, long ones have a buffer each, so
that an array that arrives in its own memory is never copied. A NumPy scalar crosses as the plain Python
value (a 0-d array stays an array); subclasses of plain types cross as their base.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Protocol, TypeVar

import ml_dtypes
import numpy as np

from grading.boundary.failures import ProtocolViolation, SubmissionError, Unsendable
from grading.boundary.frames import Frame, over_cap
from grading.contract import Contract

MAX_DEPTH = 64
_OWN_BUFFER = 1 << 16  # bytes from which a value has a buffer of its own
_INLINE_TEXT = 256
_PACKED_LIST = 64
_MAX_EXPANDING = 1 << 26  # bytes of text and packed lists, which take up to five times that in memory

_ALIGNMENT = 64  # bytes; the last bits of a product may depend on where its operands begin

BUILTIN_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    FloatingPointError,
    ImportError,
    IndexError,
    KeyError,
    LookupError,
    MemoryError,
    ModuleNotFoundError,
    NotImplementedError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TimeoutError,
    TypeError,
    UnicodeError,
    ValueError,
    ZeroDivisionError,
)

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPES = {name: np.dtype(name) for name in ("bool", *_INTEGERS, "float16", "float32", "float64")}
_DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)

_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_from_json = json.JSONDecoder().raw_decode

T = TypeVar("T")
Tree = Any  # what json.loads gives
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Vocabulary:
    """The names that may cross: values of `spec`, errors, and the classes that implementations provide."""

    dataclasses: Mapping[str, type[Any]]
    exceptions: Mapping[str, type[Exception]]
    enums: Mapping[str, type[Enum]]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, contract: Contract) -> "Vocabulary":
        errors = {each.__name__: each for each in (*BUILTIN_ERRORS, SubmissionError)}
        classes = tuple(each.name for each in contract.classes)
        return cls(contract.dataclasses, errors | contract.exceptions, contract.enums, classes)


class Arrays(Protocol):
    """How arrays look on this side."""

    def outgoing(self, value: object) -> Array | None:
        """`value` as a NumPy array, or None if it is no array at all."""

    def incoming(self, array: Array) -> object:
        """A decoded array, writable and owned by nobody else."""


class References(Protocol):
    """Things that stay on their side and cross by name."""

    def pack(self, value: object) -> list[Any] | None:
        """[whose, kind, id], or None if `value` is nothing of the sort."""

    def unpack(self, whose: int, kind: str, identity: str) -> object: ...


class Packer:
    """Packs the values of one message."""

    def __init__(self, vocabulary: Vocabulary, arrays: Arrays, references: References) -> None:
        self._vocabulary = vocabulary
        self._arrays = arrays
        self._references = references
        self._short = bytearray()
        self._long: list[memoryview] = []
        self._expanding = 0

    def frame(self, tree: Tree) -> Frame:
        frame = Frame(unparse(tree), [memoryview(self._short), *self._long])
        problem = over_cap(len(frame.body), [b.nbytes for b in frame.buffers])
        if problem:
            raise Unsendable(problem)
        return frame

    def pack(self, value: object, depth: int = 0) -> Tree:
        if depth > MAX_DEPTH:
            raise Unsendable(f"a value may be nested {MAX_DEPTH} deep, this is deeper or contains itself")
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        plain = _PLAIN.get(kind)
        return plain(self, value, depth + 1) if plain else self._pack_other(value, depth + 1)

    def _pack_other(self, value: object, depth: int) -> Tree:
        array = self._arrays.outgoing(value)
        if array is not None:
            return self._array(array)
        if isinstance(value, np.generic) and value.dtype.name in _DTYPES:
            # Not isinstance(…, float): np.float64 is one. Exact for every dtype, bfloat16 included.
            return self.pack(float(value) if value.dtype.kind in "fV" else value.item(), depth)
        name = type(value).__name__
        if self._vocabulary.enums.get(name) is type(value) and isinstance(value, Enum):
            return ["e", name, value.name]
        for base in type(value).__mro__:
            if self._vocabulary.dataclasses.get(base.__name__) is base:
                values = {f.name: self.pack(getattr(value, f.name), depth) for f in fields(base)}
                return ["D", base.__name__, values]
        if isinstance(value, Exception) and self._vocabulary.exceptions.get(name) is type(value):
            return ["x", name, [self.pack(each, depth) for each in value.args]]
        reference = self._references.pack(value)
        if reference is not None:
            return ["r", *reference]
        for base in _PLAIN:
            if isinstance(value, base):
                return _PLAIN[base](self, value, depth)
        raise Unsendable(
            f"{_article(value)} cannot cross the boundary: expected plain data (None, bool, int, float, str, "
            "bytes, list, tuple, dict), an array, a value of spec, an object of the contract or a callable"
        )

    def _int(self, value: int, depth: int) -> Tree:
        return int(value) if _in_64_bits(value) else ["i", hex(value)]

    def _str(self, value: str, depth: int) -> Tree:
        if len(value) <= _INLINE_TEXT and (value.isascii() or not _has_surrogates(value)):
            return str(value)
        return ["s", self._put_expanding(value.encode("utf-8", "surrogatepass"))]

    def _bytes(self, value: bytes, depth: int) -> Tree:
        return ["b", self._put(value)]

    def _list(self, value: list[Any], depth: int) -> Tree:
        if len(value) >= _PACKED_LIST:
            kinds = set(map(type, value))
            if kinds == {float}:
                return ["F", self._put_expanding(np.array(value, np.float64).tobytes()) // 8]
            if kinds == {int} and all(_in_64_bits(n) for n in (min(value), max(value))):
                return ["I", self._put_expanding(np.array(value, np.int64).tobytes()) // 8]
        return ["l", *[self.pack(each, depth) for each in value]]

    def _tuple(self, value: tuple[Any, ...], depth: int) -> Tree:
        return ["t", *[self.pack(each, depth) for each in value]]

    def _dict(self, value: dict[Any, Any], depth: int) -> Tree:
        return ["d", *[self.pack(each, depth) for pair in value.items() for each in pair]]

    def _array(self, array: Array) -> Tree:
        native = _DTYPES.get(array.dtype.name)
        if native is None:
            known = ", ".join(_DTYPES)
            raise Unsendable(f"an array of dtype {array.dtype} cannot cross: expected one of {known}")
        raw = np.ascontiguousarray(array, dtype=native).reshape(-1).view(np.uint8)
        self._put(raw.data if raw.nbytes >= _OWN_BUFFER else raw.tobytes())
        return ["a", native.name, *array.shape]

    def _put_expanding(self, raw: bytes) -> int:
        self._expanding += len(raw)
        if self._expanding > _MAX_EXPANDING:
            raise Unsendable(f"a message may carry {_MAX_EXPANDING:,} bytes of text and lists: use arrays")
        return self._put(raw)

    def _put(self, raw: bytes | memoryview) -> int:
        size = len(raw)
        if size >= _OWN_BUFFER:
            self._long.append(memoryview(raw))
        else:
            self._short += raw
        return size


_PLAIN: dict[type[Any], Callable[[Packer, Any, int], Tree]] = {
    int: Packer._int,
    float: lambda packer, value, depth: float(value),  # a subclass of float
    str: Packer._str,
    bytes: Packer._bytes,
    list: Packer._list,
    tuple: Packer._tuple,
    dict: Packer._dict,
}


class Unpacker:
    """Unpacks the values of one message; `finish` after the last."""

    def __init__(
        self, vocabulary: Vocabulary, arrays: Arrays, references: References, buffers: Sequence[memoryview]
    ) -> None:
        if not buffers:
            raise ProtocolViolation("a message needs buffer 0, for short values")
        self._vocabulary = vocabulary
        self._arrays = arrays
        self._references = references
        self._short = buffers[0]
        self._long = list(reversed(buffers[1:]))
        self._expanding = 0

    def finish(self) -> None:
        if len(self._short) or self._long:
            raise ProtocolViolation("a message carries bytes that belong to no value")

    def unpack(self, tree: Tree, depth: int = 0) -> Any:
        if not isinstance(tree, list):
            if isinstance(tree, dict):
                raise ProtocolViolation("an object stands where a value should be")
            return tree
        if depth > MAX_DEPTH:
            raise ProtocolViolation(f"a value is nested more than {MAX_DEPTH} deep")
        tag = tree[0] if tree else None
        unpack = _TAGS.get(tag) if isinstance(tag, str) else None
        if unpack is None:
            raise ProtocolViolation(f"no value starts with the tag {_clip(tag)}")
        try:
            return unpack(self, tree, depth + 1)
        except (TypeError, ValueError, OverflowError, UnicodeError, IndexError) as error:
            raise ProtocolViolation(f"a value of tag {tag!r} is malformed: {error}") from None

    def _int(self, tree: Tree, depth: int) -> int:
        (text,) = tree[1:]
        return int(text, 16)

    def _text(self, tree: Tree, depth: int) -> str:
        return self._take_expanding(*tree[1:]).decode("utf-8", "surrogatepass")

    def _bytes(self, tree: Tree, depth: int) -> bytes:
        return bytes(self._take(*tree[1:]))

    def _ints(self, tree: Tree, depth: int) -> list[int]:
        return self._numbers(np.int64, *tree[1:])

    def _floats(self, tree: Tree, depth: int) -> list[float]:
        return self._numbers(np.float64, *tree[1:])

    def _numbers(self, dtype: type[Any], count: int) -> list[Any]:
        numbers: list[Any] = np.frombuffer(self._take_expanding(count * 8), dtype).tolist()
        return numbers

    def _list(self, tree: Tree, depth: int) -> list[Any]:
        return [self.unpack(each, depth) for each in tree[1:]]

    def _tuple(self, tree: Tree, depth: int) -> tuple[Any, ...]:
        return tuple([self.unpack(each, depth) for each in tree[1:]])

    def _dict(self, tree: Tree, depth: int) -> dict[Any, Any]:
        flat = [self.unpack(each, depth) for each in tree[1:]]
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def _dataclass(self, tree: Tree, depth: int) -> object:
        name, values = tree[1:]
        cls = _known(self._vocabulary.dataclasses, name, "dataclass")
        names = [f.name for f in fields(cls)]
        if not isinstance(values, dict) or list(values) != names:
            raise ProtocolViolation(f"{name} has the fields {names}, got {_clip(values)}")
        # Not through __init__: what crosses is a snapshot, checked where it was made.
        instance = object.__new__(cls)
        for field, value in values.items():
            object.__setattr__(instance, field, self.unpack(value, depth))
        return instance

    def _enum(self, tree: Tree, depth: int) -> Enum:
        name, member = tree[1:]
        cls = _known(self._vocabulary.enums, name, "enum")
        return _known(cls.__members__, member, f"member of {name}")

    def _exception(self, tree: Tree, depth: int) -> Exception:
        name, arguments = tree[1:]
        if not isinstance(arguments, list):
            raise ProtocolViolation("an exception's arguments are a list")
        return self.exception(name, [self.unpack(each, depth) for each in arguments])

    def exception(self, name: object, arguments: Iterable[Any]) -> Exception:
        cls = _known(self._vocabulary.exceptions, name, "exception")
        instance = cls.__new__(cls, *arguments)  # not through __init__, as above
        instance.args = tuple(arguments)
        return instance

    def _array(self, tree: Tree, depth: int) -> object:
        dtype = _known(_DTYPES, tree[1], "dtype")
        shape = [_size(each) for each in tree[2:]]
        count = 1
        for each in shape:
            count *= each
        raw = self._take(count * dtype.itemsize)
        array = np.frombuffer(raw, dtype) if count else np.empty(0, dtype)
        if dtype.kind == "b" and count and array.view(np.uint8).max() > 1:
            raise ProtocolViolation("a bool array holds a byte that is neither 0 nor 1")
        own = array if raw.nbytes >= _OWN_BUFFER else _aligned(array)
        return self._arrays.incoming(own.reshape(shape))

    def _reference(self, tree: Tree, depth: int) -> object:
        whose, kind, identity = tree[1:]
        if whose not in (0, 1) or not isinstance(kind, str) or not isinstance(identity, str):
            raise ProtocolViolation(f"a reference is whose, kind and id, got {_clip(tree[1:])}")
        return self._references.unpack(whose, kind, identity)

    def _take_expanding(self, size: int) -> bytes:
        self._expanding += _size(size)
        if self._expanding > _MAX_EXPANDING:
            raise ProtocolViolation(f"a message carries more than {_MAX_EXPANDING:,} bytes of text and lists")
        return bytes(self._take(size))

    def _take(self, size: int) -> memoryview:
        if _size(size) >= _OWN_BUFFER:
            if not self._long or self._long[-1].nbytes != size:
                raise ProtocolViolation(f"no buffer of {size:,} bytes comes next")
            return self._long.pop()
        if size > len(self._short):
            raise ProtocolViolation(f"a value needs {size:,} bytes, {len(self._short):,} are left")
        taken, self._short = self._short[:size], self._short[size:]
        return taken


_TAGS: dict[str, Callable[[Unpacker, Tree, int], Any]] = {
    "i": Unpacker._int,
    "s": Unpacker._text,
    "b": Unpacker._bytes,
    "I": Unpacker._ints,
    "F": Unpacker._floats,
    "l": Unpacker._list,
    "t": Unpacker._tuple,
    "d": Unpacker._dict,
    "D": Unpacker._dataclass,
    "e": Unpacker._enum,
    "x": Unpacker._exception,
    "a": Unpacker._array,
    "r": Unpacker._reference,
}


def unparse(tree: Tree) -> bytes:
    return _to_json(tree).encode()


def parse(body: bytes) -> Tree:
    try:
        text = body.decode()
        tree, end = _from_json(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation(f"a message's body is not JSON: {error}") from None
    if end != len(text):
        raise ProtocolViolation("a message's body goes on after its end")
    return tree


def _aligned(array: Array) -> Array:
    """A copy that begins where all others begin, so that equal arguments are equal to every library."""
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    own: Array = memory[start : start + array.nbytes].view(array.dtype)
    own[...] = array
    return own


def _known(names: Mapping[str, T], name: object, what: str) -> T:
    if not isinstance(name, str) or name not in names:
        raise ProtocolViolation(f"no {what} of the contract is called {_clip(name)}")
    return names[name]


def _size(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ProtocolViolation(f"a size is a count, got {_clip(value)}")
    return value


def _in_64_bits(value: int) -> bool:
    return -(1 << 63) <= value < 1 << 63


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _clip(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


def _article(value: object) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
