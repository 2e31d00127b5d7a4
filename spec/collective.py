"""How the processes of one group talk to each other: the part of MPI that the contracts need."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Array = Any


@dataclass(frozen=True)
class Collective:
    """One process's end of a group of `size` processes; `rank` counts from 0.

    all_gather(array): every rank passes an array of one shape and dtype, and receives all of them stacked,
        (size, …), rank 0 first. Returns when all ranks have called.
    send(array, rank): to one other rank. Returns at once; messages between two ranks keep their order.
    recv(shape, dtype, rank): the next message from that rank. It must have this shape and dtype ("float32",
        "bfloat16", "int32", …).

    When all ranks have returned, every message that was sent has been received.
    """

    rank: int
    size: int
    all_gather: Callable[[Array], Array]
    send: Callable[[Array, int], None]
    recv: Callable[[tuple[int, ...], str, int], Array]
