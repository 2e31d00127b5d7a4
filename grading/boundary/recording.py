"""The calls of one test as bytes: for a trace of them, and to be made again."""

import itertools
from dataclasses import dataclass, field

from grading.boundary.failures import ProtocolViolation
from grading.boundary.frames import Frame

MOST_BYTES = 1 << 30  # of the replies to one test, which are kept until the next begins

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Exchange:
    """A call as bytes, and the reply to it, or why there is none. begun, ended: nanoseconds of one clock."""

    request: Frame
    reply: Frame | Exception
    begun: int = 0
    ended: int = 0


@dataclass
class Recording:
    """test: a number that no other recording has."""

    test: int = field(default_factory=lambda: next(_numbers))
    exchanges: list[Exchange] = field(default_factory=list)
    nbytes: int = 0

    def add(self, exchange: Exchange) -> None:
        if isinstance(exchange.reply, Frame):
            self.nbytes += sum(buffer.nbytes for buffer in exchange.reply.buffers)
            if self.nbytes > MOST_BYTES:
                raise ProtocolViolation(f"the results of one test may have {MOST_BYTES:,} bytes in all")
        self.exchanges.append(exchange)
