"""What stands around a call: a clock made of numbers, and tools that do what they are told.

What comes of the attempts of a call stands in its arguments. {"do": ["transient", "ok 3"]} fails once and
works then, after 3 seconds; the last of them holds for all that follow.
"""

import json
import math
from functools import partial
from typing import NamedTuple

from spec import Cancelled, ToolFailure
from spec.agent import Clock, Status, Tool, ToolCall

PARAMETERS = {"properties": {"n": {"type": "integer"}}}  # little, since it is looked at for each toolbox


def act(*do, n=0, tool="act", id="c", **more):
    """A call, what comes of its attempts, and a number by which to know it."""
    return ToolCall(id, tool, json.dumps({"do": list(do), "n": n, **more}))


class Told(NamedTuple):
    """What an attempt was told. key: which of all keys of this world, from 1 on. at: when it began."""

    tool: str
    n: int
    attempt: int
    key: int
    at: float
    timeout: float
    deadline: float


class World:
    """Time, chance and people. Where calls are made again, to name a bug, it begins again.

    draws: what `uniform` gives, in a circle. approves: what `approve` returns, or a function of the call.
    brief: what works says only its tool, number and attempt, as it does at any other time.
    told: of each attempt. log: "try 1", "draw", "sleep 0.5", "ask 1", in order, with numbers of calls.
    meanwhile: {number of a call, or "ask", "sleep": a function}, which is called there.
    """

    again = 0  # how often calls were made again

    def __init__(self, *, now=0.0, draws=(0.5,), approves=True, brief=False):
        self.starts, self.draws, self.approves, self.brief = now, draws, approves, brief
        self.first, self.meanwhile = World.again, {}
        self.clock = Clock(self.now, self.sleep, self.call)
        self.begin()

    def begin(self):
        self.seen = World.again
        self.time, self.told, self.log, self.keys, self.timeout = self.starts, [], [], [], None

    def awake(self):
        if self.seen != World.again:
            self.begin()

    def interrupt(self, where):
        if where in self.meanwhile:
            self.once(self.meanwhile[where])

    def once(self, function):
        """Calls what would reach the object that is judged, and so none that is made again."""
        if self.seen != self.first:
            raise LookupError("this does not happen again")
        function()

    def tool(self, name="act", parameters=PARAMETERS, **options):
        return Tool(name, f"Does {name}.", parameters, partial(self.act, name), **options)

    # The clock

    def now(self):
        self.awake()
        return self.time

    def sleep(self, seconds):
        self.awake()
        if seconds:
            self.log.append(f"sleep {seconds:g}")
        self.interrupt("sleep")
        self.time += seconds

    def call(self, function, arguments, context, timeout):
        self.awake()
        self.timeout = timeout
        takes = script(arguments, context)[1]
        try:
            value = function(arguments, context)
        finally:
            self.time += min(takes, timeout)
            self.timeout = None
        if takes > timeout:
            raise TimeoutError(f"<<longer than {timeout:g} s>>")
        return value

    # The tools

    def act(self, name, arguments, context):
        self.awake()
        if context.idempotency_key not in self.keys:
            self.keys.append(context.idempotency_key)
        n, timeout = arguments.get("n", 0), math.nan if self.timeout is None else self.timeout
        key = 1 + self.keys.index(context.idempotency_key)
        told = Told(name, n, context.attempt, key, self.time, timeout, context.deadline)
        self.told.append(told)
        self.log.append(f"try {n}")
        self.interrupt(n)
        what, _, retry_after = script(arguments, context)
        if what == "transient":
            raise ToolFailure(f"<<busy {n}>>", True, retry_after)
        if what == "final":
            raise ToolFailure(f"<<no such city {n}>>")
        if what == "error":
            raise ValueError(f"<<broken {n}>>")
        if what == "lost":
            raise OSError(f"<<the connection is lost {n}>>")
        if what == "cancelled":
            raise Cancelled(f"<<nobody waits {n}>>")
        if what == "nan":
            return math.nan
        return f"{name} {n}, attempt {context.attempt}" if self.brief else " ".join(map(str, told))

    # The host

    def uniform(self):
        self.awake()
        self.log.append("draw")
        return self.draws[(self.log.count("draw") - 1) % len(self.draws)]

    def approve(self, call):
        self.awake()
        self.log.append(f"ask {json.loads(call.arguments or '{}').get('n', 0)}")
        self.interrupt("ask")
        return self.approves(call) if callable(self.approves) else self.approves

    def tries(self):
        return [line for line in self.log if line.startswith("try")]

    def sleeps(self):
        return [float(line.split()[1]) for line in self.log if line.startswith("sleep")]


def script(arguments, context):
    """(what comes of an attempt, the seconds it takes, retry_after)."""
    do = arguments.get("do") or ["ok"]
    what, *numbers = do[min(context.attempt, len(do)) - 1].split()
    takes, retry_after = [*map(float, numbers), 0.0, 0.0][:2]
    return what, math.inf if what == "hangs" else takes, retry_after


def toolbox(impl, world, *tools, **options):
    host = {"clock": world.clock, "uniform": world.uniform, "approve": world.approve, **options}
    return impl.Toolbox(list(tools) or [world.tool()], **host)


def outcome(result):
    return result.status, result.attempts


OK, ERROR, TIMEOUT, OPEN = Status.OK, Status.ERROR, Status.TIMEOUT, Status.OPEN
DENIED, BAD, UNKNOWN = Status.DENIED, Status.BAD_ARGUMENTS, Status.UNKNOWN_TOOL
SKIPPED, INTERRUPTED = Status.SKIPPED, Status.INTERRUPTED
