"""One call on its way to a result, the breaker before its resource, and the toolbox that has both."""

import json
import re
from collections.abc import Mapping
from enum import Enum
from math import inf
from threading import Lock

from spec import Cancelled, ToolFailure
from spec.agent import BreakerPolicy, Status, ToolContext, ToolResult

from .basics import require
from .scanning import join_surrogates
from .schemas import Checker, is_array

USUAL_BREAKER = BreakerPolicy()


class Breaker:
    """What stands before a resource. opened: since when it is open, None: closed."""

    def __init__(self, policy):
        self.policy, self.count, self.opened, self.lock = policy, 0, None, Lock()

    def admits(self, now, first):
        """Whether an attempt may begin. A retry is no probe."""
        if self.opened is None:
            return True
        return first and now >= self.opened + self.policy.reset_after

    def report(self, failed, now):
        with self.lock:
            self.count = self.count + 1 if failed else 0
            if not failed:
                self.opened = None
            elif self.opened is not None or self.count >= self.policy.failures:
                self.opened = now


class Pause(Enum):
    """Where a call stops, and may be dropped."""

    BEFORE_WAIT = 0
    BEFORE_ATTEMPT = 1


class CallMachine:
    """A call on its way. `step` goes on to the next pause, or to the end: a ToolResult, or Cancelled."""

    def __init__(self, box, call, run_id, deadline, made):
        self.box, self.call, self.deadline, self.made = box, call, deadline, made
        self.key = json.dumps([run_id, call.id])
        self.tool = box.tools.get(call.name)
        self.last = self.result(Status.INTERRUPTED, "Nobody knows whether it happened.")
        self.step = self.admit

    def result(self, status, content):
        content = join_surrogates(content)
        if len(content) > self.box.max_result:
            mark = f"… [{len(content)} characters]"
            content = content[: self.box.max_result - len(mark)] + mark
        return ToolResult(self.call.id, self.call.name, status, content, self.made)

    def admit(self):
        if self.tool is None:
            return self.result(Status.UNKNOWN_TOOL, f"No such tool. There are: {', '.join(self.box.tools)}")
        _, problems = self.box.checkers[self.tool.name].judge(self.call.arguments)
        if problems:
            lines = (f"{p.path or '(all)'}: {p.rule}: {p.message}" for p in problems)
            return self.result(Status.BAD_ARGUMENTS, "\n".join(sorted(lines, key=len)))
        try:
            if self.tool.needs_approval and not (self.box.approve and self.box.approve(self.call) is True):
                return self.result(Status.DENIED, "This call was not approved.")
        except Cancelled as cancelled:
            return cancelled
        return self.plan(0.0) if self.made else self.prepare(first=True)

    def prepare(self, first):
        now, breaker = self.box.clock.now(), self.breaker
        with breaker.lock:
            if not breaker.admits(now, first):
                return self.result(Status.OPEN, "It is down. Try another way.") if first else self.last
            if now >= self.deadline:
                return self.result(Status.TIMEOUT, "No time was left.") if first else self.last
            self.before, self.taken = breaker.opened, now
            if breaker.opened is not None:
                breaker.opened = now
        self.step = self.attempt
        return Pause.BEFORE_ATTEMPT

    def drop(self):
        """No attempt follows: gives a probe back."""
        if self.step == self.attempt:
            with self.breaker.lock:
                if self.before is not None and self.breaker.opened == self.taken:
                    self.breaker.opened = self.before

    @property
    def breaker(self):
        return self.box.breakers[self.tool.resource or self.tool.name]

    def attempt(self):
        self.made += 1
        clock, tool, failure = self.box.clock, self.tool, None
        arguments, _ = self.box.checkers[tool.name].judge(self.call.arguments)
        begun = clock.now()
        until = min(begun + tool.timeout, self.deadline)
        context = ToolContext(self.key, self.made, until)
        timeout = max(0.0, min(tool.timeout, self.deadline - begun))
        try:
            value = clock.call(tool.function, arguments, context, timeout)
        except Cancelled as cancelled:
            return cancelled
        except TimeoutError as late:
            failure, self.last = late, self.result(Status.TIMEOUT, "It took too long.")
        except Exception as raised:
            failure, self.last = raised, self.result(Status.ERROR, wording(raised))
        else:
            self.last = self.written(value)
        answered = isinstance(failure, ToolFailure) and not failure.transient
        self.breaker.report(self.last.status is not Status.OK and not answered, clock.now())
        if isinstance(failure, ToolFailure):
            return self.plan(failure.retry_after) if failure.transient else self.last
        again = self.last.status is Status.TIMEOUT and tool.idempotent
        return self.plan(0.0) if again else self.last

    def written(self, value):
        if isinstance(value, str):
            return self.result(Status.OK, str.__str__(value))
        try:
            return self.result(Status.OK, json.dumps(value, ensure_ascii=False, allow_nan=False))
        except Exception as reason:
            return self.result(Status.ERROR, f"The tool returned what is no JSON: {wording(reason)}")

    def plan(self, at_least):
        retry = self.tool.retry
        if self.made >= retry.attempts or self.breaker.opened is not None:
            return self.last
        exponential = min(retry.cap, retry.base * 2.0 ** min(self.made - 1, 1000))
        self.pause = max(self.box.uniform() * exponential, at_least)
        if self.box.clock.now() + self.pause >= self.deadline:
            return self.last
        self.step = self.wait
        return Pause.BEFORE_WAIT

    def wait(self):
        try:
            self.box.clock.sleep(self.pause)
        except Cancelled as cancelled:
            return cancelled
        return self.prepare(first=False)


def wording(exception):
    try:
        return str(exception)
    except Exception:
        return type(exception).__name__


def plain(value):
    if isinstance(value, Mapping):
        return {key: plain(member) for key, member in value.items()}
    return list(map(plain, value)) if is_array(value) else value


class Toolbox:
    def __init__(self, tools, *, clock, uniform, approve=None, breaker=USUAL_BREAKER, max_result=10_000):
        require(breaker.failures >= 1, f"breaker.failures: expected at least 1, got {breaker.failures}")
        require(max_result >= 100, f"max_result: expected at least 100, got {max_result}")
        self.clock, self.uniform, self.approve, self.max_result = clock, uniform, approve, max_result
        self.tools = {}
        for tool in tools:
            name = tool.name
            require(
                re.fullmatch("[a-zA-Z0-9_-]{1,64}", name), f"name: expected 1 to 64 letters, got {name!r}"
            )
            require(name not in self.tools, f"tools: expected one {name}, got two")
            require(tool.timeout > 0, f"timeout of {name}: expected more than 0, got {tool.timeout}")
            attempts = tool.retry.attempts
            require(attempts >= 1, f"attempts of {name}: expected at least 1, got {attempts}")
            self.tools[name] = tool
        self.checkers = {tool.name: Checker(plain(tool.parameters)) for tool in tools}
        self.breakers = {tool.resource or tool.name: Breaker(breaker) for tool in tools}

    def call(self, call, *, run_id, deadline=inf):
        require(call.id is not None, "call: expected an id, got None")
        machine = CallMachine(self, call, run_id, deadline, 0)
        while isinstance(outcome := machine.step(), Pause):
            pass
        if isinstance(outcome, Cancelled):
            raise outcome
        return outcome

    def definitions(self):
        return [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": plain(self.checkers[tool.name].root),
                },
            }
            for tool in self.tools.values()
        ]
