"""From a call to its result."""

import json
import re
import threading
from contextlib import nullcontext
from dataclasses import dataclass

from spec.agent import BreakerPolicy, Status, ToolContext, ToolResult

from spec import Cancelled, ToolFailure

from .arguments import canonical_call, problems, read
from .basics import expect
from .breaker import Breaker
from .results import as_text, result
from .schemas import validator

_BREAKER = BreakerPolicy()


@dataclass
class Begun:
    """A call that came, under its run and id."""

    canonical: str
    attempts: int = 0
    result: ToolResult | None = None


class Toolbox:
    def __init__(self, tools, *, policy, clock, uniform, breaker=_BREAKER, max_result=10_000):
        for tool in tools:
            check_tool(tool)
        names = [tool.name for tool in tools]
        expect(len(set(names)) == len(names), "tools", "names that differ", names)
        expect(breaker.failures >= 1, "breaker", "failures of at least 1", breaker.failures)
        expect(breaker.reset_after >= 0, "breaker", "reset_after of at least 0", breaker.reset_after)
        expect(max_result >= 100, "max_result", "at least 100", max_result)
        self.tools = dict(zip(names, tools, strict=True))
        self.validators = {tool.name: validator(tool.parameters) for tool in tools}
        self.policy, self.clock, self.uniform, self.max_result = policy, clock, uniform, max_result
        self.breakers = {resource_of(tool): Breaker(breaker) for tool in tools}
        self.places = {
            tool.name: threading.Semaphore(tool.max_concurrency) if tool.max_concurrency else nullcontext()
            for tool in tools
        }
        self.changed = threading.Condition()
        self.begun = {}  # (run_id, call id): Begun

    def call(self, call, *, run_id, deadline=None, attempts=0, before=lambda attempt: None):
        """attempts: made already, before a resume. before: called before each attempt."""
        expect(call.id is not None, "call", "an id", call.id)
        mine = Begun(canonical_call(call), attempts)
        with self.changed:
            while (first := self.begun.get((run_id, call.id))) is not None:
                if first.canonical != mine.canonical:
                    return self.result(call, Status.CONFLICT, "this id stands for another call", 0)
                if first.result is not None:
                    return first.result
                self.changed.wait()
            self.begun[run_id, call.id] = mine
        try:
            mine.result = self.run(call, run_id, deadline, mine, before)
            return mine.result
        finally:
            with self.changed:
                if mine.attempts == 0:
                    del self.begun[run_id, call.id]
                elif mine.result is None:
                    mine.result = self.result(call, Status.CANCELLED, "cancelled", mine.attempts)
                self.changed.notify_all()

    def run(self, call, run_id, deadline, mine, before):
        refused = self.refusal(call)
        if refused is not None:
            return refused
        tool, last = self.tools[call.name], None
        breaker = self.breakers[resource_of(tool)]
        while True:
            last, again, least = self.attempt(tool, call, run_id, deadline, mine, before, last)
            if not again or mine.attempts >= tool.retry.attempts or breaker.opened is not None:
                return last
            growth = tool.retry.base * 2.0 ** min(mine.attempts - 1, 1000)
            wait = max(self.uniform() * min(tool.retry.cap, growth), least or 0.0)
            if deadline is not None and self.clock.now() + wait >= deadline:
                return last
            self.clock.sleep(wait)

    def refusal(self, call):
        """A result if nothing may be tried."""
        if call.name not in self.tools:
            there = [name for name in self.tools if self.allows(name)]
            return self.result(call, Status.UNKNOWN_TOOL, f"unknown tool; there are: {', '.join(there)}", 0)
        wrong = problems(self.validators[call.name], call.arguments)
        if wrong:
            lines = [f"{each.path} {each.rule}: expected {each.expected}, got {each.got}" for each in wrong]
            return self.result(call, Status.BAD_ARGUMENTS, "\n".join(lines), 0)
        if not self.allows(call.name) or not self.approves(call):
            return self.result(call, Status.DENIED, "this call was denied", 0)
        return None

    def allows(self, name):
        return self.policy.allowed is None or name in self.policy.allowed

    def approves(self, call):
        if not self.tools[call.name].needs_approval:
            return True
        if self.policy.approve is None:
            return False
        try:
            return self.policy.approve(call) is True
        except Cancelled:
            raise
        except Exception:
            return False

    def attempt(self, tool, call, run_id, deadline, mine, before, last):
        """The result, whether it may be tried again, and the least wait before."""
        with self.places[tool.name]:
            now = self.clock.now()
            if deadline is not None and now >= deadline:
                return (
                    last or self.result(call, Status.TIMEOUT, "no time was left", mine.attempts),
                    False,
                    None,
                )
            breaker = self.breakers[resource_of(tool)]
            with self.changed:
                admitted = breaker.admit(now)
            if admitted is None:
                return (
                    last or self.result(call, Status.OPEN, "this resource fails", mine.attempts),
                    False,
                    None,
                )
            outcome = "cancelled"
            try:
                before(mine.attempts + 1)
                left = None if deadline is None else deadline - now
                timeout = min((each for each in (tool.timeout, left) if each is not None), default=None)
                mine.attempts += 1
                outcome, found = self.try_once(tool, call, run_id, mine.attempts, now, timeout)
                return found
            finally:
                with self.changed:
                    breaker.ended(admitted, outcome, self.clock.now())

    def try_once(self, tool, call, run_id, attempt, now, timeout):
        """How it ended for the breaker, and what `attempt` returns."""
        end = None if timeout is None else now + timeout
        context = ToolContext(run_id, call.id, json.dumps([run_id, call.id]), attempt, end)
        arguments = read(call.arguments)
        try:
            value = self.clock.call(lambda: tool.function(arguments, context), timeout)
        except Cancelled:
            raise
        except TimeoutError:
            said = self.result(call, Status.TIMEOUT, "timed out: nobody knows whether it happened", attempt)
            return "failed", (said, tool.idempotent, None)
        except ToolFailure as error:
            said = self.result(call, Status.ERROR, str(error), attempt)
            return "failed" if error.transient else "refused", (said, error.transient, error.retry_after)
        except Exception as error:
            said = self.result(call, Status.ERROR, f"{type(error).__name__}: {error}", attempt)
            return "failed", (said, False, None)
        try:
            said = self.result(call, Status.OK, as_text(value), attempt)
        except (TypeError, ValueError, RecursionError) as error:
            said = self.result(call, Status.ERROR, f"the result is no JSON: {error}", attempt)
        return "ok", (said, False, None)

    def result(self, call, status, content, attempts):
        return result(call, status, content, attempts, self.max_result)


def resource_of(tool):
    return ("tool", tool.name) if tool.resource is None else ("resource", tool.resource)


def check_tool(tool):
    retry = tool.retry
    expect(re.fullmatch("[a-zA-Z0-9_-]{1,64}", tool.name), "tools", "a name of AG-44", tool.name)
    expect(tool.timeout is None or tool.timeout > 0, "tools", "a timeout above 0", tool.timeout)
    expect(retry.attempts >= 1, "tools", "at least 1 attempt", retry.attempts)
    expect(retry.base >= 0 and retry.cap >= 0, "tools", "base and cap of at least 0", retry)
    n = tool.max_concurrency
    expect(n is None or n >= 1, "tools", "max_concurrency of at least 1", n)
