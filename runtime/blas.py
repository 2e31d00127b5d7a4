"""A fast BLAS for MLX on the CPU of Linux.

The wheel `mlx-cpu` carries the reference BLAS: about 7 GFLOP/s where the same two cores reach 180. Its
`cblas_sgemm` calls the first `sgemm_` that the dynamic linker finds, so opening the BLAS inside PyTorch with
global symbols, before `mlx.core` is imported, replaces it. PyTorch is not imported: that takes a second."""

import ctypes
import os
import sys
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

SWITCH = "WEEK3_BLAS"
PRODUCT = "sgemm_"


def preload() -> str:
    """Opens the fast BLAS where that helps and says what was done. Call it before `import mlx.core`.

    On a GPU float32 becomes float32: MLX would multiply in TF32 there, with 10 bits instead of 23.
    """
    os.environ["MLX_ENABLE_TF32"] = "0"  # read once, when MLX is imported
    return _opened()


@cache
def _opened() -> str:
    if sys.platform != "linux":
        return f"nothing to preload on {sys.platform}: MLX brings what is fast there"
    if os.environ.get(SWITCH) == "stock":
        return f"not preloaded: {SWITCH}=stock"
    if "mlx.core" in sys.modules:
        return "not preloaded: mlx.core was imported before runtime.blas.preload()"
    if not _installed("mlx-cpu") or _installed("mlx-cuda-12") or _installed("mlx-cuda-13"):
        return "nothing to preload: MLX does not run on the mlx-cpu wheel"
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return "not preloaded: PyTorch, whose BLAS it would be, is not installed"
    libraries = Path(torch.origin).parent / "lib"
    openmp = sorted(libraries.glob("libgomp*"))
    try:
        for library in [
            *openmp,
            libraries / "libc10.so",
            libraries / "libtorch_cpu.so",
        ]:  # each needs the last
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f"not preloaded: {error}"
    found = _library_that_offers(PRODUCT)
    return f"preloaded {found}" if found else f"not preloaded: PyTorch's libraries offer no {PRODUCT}"


def in_use() -> str:
    """Which BLAS MLX takes, asked of the dynamic linker and not remembered."""
    if sys.platform != "linux":
        return f"MLX's own ({preload()})"
    library = _library_that_offers(PRODUCT)
    return f"{library.name} (fast)" if library else f"MLX's own ({preload()})"


def measure_gflops(size: int = 1024, repeats: int = 3) -> float:
    """1e9 operations a second in a float32 matrix product of MLX: the best of a few, after a warm-up."""
    import mlx.core as mx

    a = mx.random.normal((size, size))  # (size, size)
    mx.eval(a, a @ a)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(a @ a)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


class _Found(ctypes.Structure):  # Dl_info of <dlfcn.h>
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _library_that_offers(symbol: str) -> Path | None:
    """The library whose global `symbol` a newly loaded library would be given."""
    everything = ctypes.CDLL(None)
    if not hasattr(everything, symbol):
        return None
    found = _Found()
    everything.dladdr(ctypes.cast(getattr(everything, symbol), ctypes.c_void_p), ctypes.byref(found))
    return Path(os.fsdecode(found.file))
