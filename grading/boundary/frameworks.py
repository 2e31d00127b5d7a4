"""NumPy on the wire, the submission's framework in its hands. Runs where the submission runs.

Frameworks are imported only when the submission declares them.
"""

import ctypes
import gc
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from grading.boundary.codec import Array
from grading.boundary.failures import SubmissionError

FRAMEWORKS = ("mlx", "torch", "numpy")

_PACKAGES = {"mlx": "mlx.core", "torch": "torch", "numpy": "numpy"}
_FOREIGN = {
    "mlx": "an mlx.core.array",
    "torch": "a torch.Tensor",
    "numpy": "a numpy.ndarray",
    "jaxlib": "a jax.Array",
}

_M_MMAP_THRESHOLD = -3  # of mallopt
_OUTSIDE_THE_HEAP = 64 << 10  # bytes from which on freed memory leaves no hole
_LARGEST_HOLE = 64 << 20
_plugs: list[int] = []  # addresses


def start(framework: str) -> None:
    """Imports the framework, set up so that its float32 is float32, and its threads wait asleep.

    Products of tests are small, and two topics are judged at once: threads of OpenMP that spun until the next
    product came took most of a topic's time. Benchmarks do not start here, and keep what is usual.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read once, when OpenMP is loaded
    if framework == "mlx":
        importlib.import_module("runtime.blas").preload()
    importlib.import_module(_PACKAGES[framework])


def empty_heap(framework: str) -> None:
    """Gives back what this process keeps of freed memory, and has it keep little from here on.

    Taken again, it would hide growth; kept, it would be taken for growth. MLX alone keeps 32 MiB on a CPU.
    """
    gc.collect()
    if framework == "mlx":
        mx = importlib.import_module("mlx.core")
        mx.set_cache_limit(0)
        mx.clear_cache()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.mallopt(_M_MMAP_THRESHOLD, _OUTSIDE_THE_HEAP)
        _plug_holes(libc)


def _plug_holes(libc: ctypes.CDLL) -> None:
    """Takes the large free parts of the heap without touching them, until the next time.

    Arrays would lie there otherwise, each in another part, and what one has touched stays when it goes: up to
    all that an earlier test has left free would count as what this one takes.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    while _plugs:
        libc.free(_plugs.pop())
    libc.malloc_trim(0)
    size = _LARGEST_HOLE
    while size >= _OUTSIDE_THE_HEAP:
        place = libc.malloc(size)
        if not place:
            break
        if _is_outside_the_heap(place):  # there is no hole as large as that
            libc.free(place)
            size //= 2
        else:
            _plugs.append(place)


def _is_outside_the_heap(place: int) -> bool:
    """glibc keeps the size of a block before it, and in its second lowest bit whether it was mapped alone."""
    return bool(ctypes.c_size_t.from_address(place - ctypes.sizeof(ctypes.c_size_t)).value & 2)


class NumpyArrays:
    """The tests' side, and submissions in NumPy."""

    def outgoing(self, value: object) -> Array | None:
        return np.asarray(value) if isinstance(value, np.ndarray) else None

    def incoming(self, array: Array) -> object:
        return array


@dataclass(frozen=True)
class SubmissionArrays:
    """framework: what `week3.toml` says. An array of any other is an error that says so.

    bits: a copy of what is in an array.
    owns_its_memory: whether nobody can reach an array's memory but through that array, for all we know.
    """

    framework: str
    array_type: type[Any]
    to_numpy: Callable[[Any], Array]
    from_numpy: Callable[[Array], object]
    bits: Callable[[Any], bytes]
    owns_its_memory: Callable[[Any], bool]

    def outgoing(self, value: object) -> Array | None:
        if isinstance(value, self.array_type):
            return self.to_numpy(value)
        foreign = _FOREIGN.get(type(value).__module__.split(".")[0])
        if foreign and hasattr(value, "shape") and not isinstance(value, np.generic):
            raise SubmissionError(f"returned {foreign}, but week3.toml says {self.framework}")
        return None

    def incoming(self, array: Array) -> object:
        return self.from_numpy(array)


def arrays_of(framework: str) -> SubmissionArrays:
    if framework == "mlx":
        return _mlx()
    if framework == "torch":
        return _torch()
    return SubmissionArrays(
        "numpy", np.ndarray, np.asarray, lambda array: array, lambda array: array.tobytes(), _owns_its_memory
    )


def _owns_its_memory(array: Any) -> bool:
    """Whether an array has no base, or one that only the array refers to, and so on."""
    holder = [array]
    while True:
        name = "obj" if isinstance(holder[0], memoryview) else "base"
        if getattr(holder[0], name, None) is None:
            return True
        if not held_once(getattr(holder[0], name)):
            return False
        holder[0] = getattr(holder[0], name)


def _references(value: object) -> int:
    return sys.getrefcount(value)


_HOLDER = [object()]
_ONE = _references(_HOLDER[0])


def held_once(value: object) -> bool:
    """Whether the list item or attribute that is passed here is the only reference to its value."""
    return sys.getrefcount(value) <= _ONE


def _mlx() -> SubmissionArrays:
    mx = importlib.import_module("mlx.core")

    def to_numpy(array: Any) -> Array:
        if array.dtype == mx.bfloat16:  # NumPy knows no bfloat16 in MLX's buffers
            return np.asarray(array.view(mx.uint16)).view(ml_dtypes.bfloat16)
        return np.asarray(array)

    def from_numpy(array: Array) -> object:
        if array.dtype == ml_dtypes.bfloat16:
            return mx.array(array.view(np.uint16)).view(mx.bfloat16)
        if array.dtype == np.float64:  # would silently become float32
            return mx.array(array, dtype=mx.float64)
        return mx.array(array)

    def bits(array: Any) -> bytes:
        return bytes(memoryview(array))

    # Two arrays never share what one of them can change.
    return SubmissionArrays("mlx", mx.array, to_numpy, from_numpy, bits, lambda array: True)


def _torch() -> SubmissionArrays:
    torch = importlib.import_module("torch")

    def to_numpy(tensor: Any) -> Array:
        plain = tensor.detach().cpu().contiguous()
        if plain.dtype == torch.bfloat16:
            return np.asarray(plain.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)
        return np.asarray(plain.numpy())

    def from_numpy(array: Array) -> object:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    def bits(tensor: Any) -> bytes:
        return to_numpy(tensor).tobytes()

    # PyTorch does not tell who else holds a tensor's storage.
    return SubmissionArrays("torch", torch.Tensor, to_numpy, from_numpy, bits, lambda tensor: False)
