"""A topic made up for the tests of the boundary, and a submission to it."""

import math
import struct
from pathlib import Path
from textwrap import dedent

import numpy as np

from grading.boundary.session import Isolated, Limits, best_tier

CONTRACT = '''
    from dataclasses import dataclass
    from enum import Enum
    from typing import Any

    from spec.errors import SpecError

    __all__ = [
        "Box", "Colour", "Pair", "Wobble", "act", "apply", "count", "echo", "open_box", "take", "unwritten",
    ]

    class Colour(Enum):
        RED = 1
        GREEN = 2

    class Wobble(SpecError):
        """An error of this topic."""

    @dataclass(frozen=True)
    class Pair:
        first: Any
        second: Any = None

    class Box:
        """Holds one thing. PA-01"""

        def __init__(self, content: Any) -> None: ...
        def get(self) -> Any: ...
        def put(self, content: Any) -> None: ...
        def twin(self) -> "Box": ...

    def echo(value): ...
    def act(what): ...
    def apply(function, *args): ...
    def count(n): ...
    def take(stream, n): ...
    def open_box(box): ...
    def unwritten(x): ...
'''

SUBMISSION = '''
    import helpers, os, sys, threading, time

    from spec.errors import InvalidArgument, OutOfBlocks
    from spec.probe import Pair

    KEPT = []

    class Own(InvalidArgument):
        pass

    class Other(Exception):
        pass

    class Box:
        def __init__(self, content):
            self.content = content
        def get(self):
            return self.content
        def put(self, content):
            self.content = content
        def twin(self):
            return Box(self.content)

    def echo(value):
        return value

    def act(what):
        return eval(what) if isinstance(what, str) else what()

    def raises(error):
        raise error

    def spoil(array):
        array[...] = 7
        return array

    def swallow(function):
        try:
            function()
        except Exception as error:
            return type(error).__name__, error.args
        return "nothing"

    def fork_threads(function, n):
        threads = [threading.Thread(target=function, args=(i,)) for i in range(n)]
        [t.start() for t in threads]
        [t.join() for t in threads]

    def apply(function, *args):
        return globals()[function](*args) if isinstance(function, str) else function(*args)

    def count(n):
        try:
            for i in range(n):
                yield i
        finally:
            KEPT.append("closed")

    def take(stream, n):
        taken = [next(stream) for _ in range(n)]
        stream.close()
        return taken

    def open_box(box):
        return box.content

    def unwritten(x):
        """To be written."""
        raise NotImplementedError("not yet")
'''


def write_submission(folder: Path, source: str = SUBMISSION, framework: str = "numpy") -> Path:
    folder.mkdir(mode=0o755)
    (folder / "probe.py").write_text(dedent(source))
    (folder / "helpers.py").write_text("NAME = 'helpers'")
    (folder / "week3.toml").write_text(f'framework = "{framework}"')
    return folder


def isolated(folder, **limits):
    return Isolated(folder, "probe", best_tier(), Limits(**limits))


def same(a, b) -> bool:
    """Equal, of the same types, bit by bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    return a == b
