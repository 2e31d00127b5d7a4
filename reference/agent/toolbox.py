"""From a call to its result."""

import json
import re
from math import inf
from typing import NamedTuple

from spec import Cancelled, ToolFailure
from spec.agent import BreakerPolicy, Status, ToolContext, ToolResult

from .arguments import problems, read, validator
from .basics import expect
from .breaker import Breaker

_BREAKER = BreakerPolicy()


class Attempt(NamedTuple):
    """How one ended. failed: by what the tool depends on. safe: to be made again, `wait` seconds later."""

    status: Status
    said: str
    failed: bool = False
    safe: bool = False
    wait: float = 0.0


class Toolbox:
    def __init__(self, tools, *, clock, uniform, approve=None, breaker=_BREAKER, max_result=10_000):
        self.tools = {tool.name: tool for tool in tools}
        expect(len(self.tools) == len(tools), "tools", "names that differ", [tool.name for tool in tools])
        for name, tool in self.tools.items():
            expect(re.fullmatch("[a-zA-Z0-9_-]{1,64}", name), "tools", "names of a-z, A-Z, 0-9, _, -", name)
            expect(tool.timeout > 0, "tools", "a timeout above 0", tool.timeout)
            expect(tool.retry.attempts >= 1, "tools", "attempts of at least 1", tool.retry.attempts)
        expect(breaker.failures >= 1, "breaker", "failures of at least 1", breaker.failures)
        expect(max_result >= 100, "max_result", "at least 100", max_result)
        self.clock, self.uniform, self.approve, self.max_result = clock, uniform, approve, max_result
        self.validators = {tool.name: validator(tool.parameters) for tool in tools}
        self.breakers = {tool.resource or tool.name: Breaker(breaker) for tool in tools}

    def call(self, call, *, run_id, deadline=inf, made=0, begin=lambda attempt: None):
        """made: attempts that were made before a resume. begin: called before each attempt."""
        expect(call.id is not None, "call", "an id", call)
        if (refusal := self.refusal(call, made)) is not None:
            return self.result(call, refusal, made)
        tool, last = self.tools[call.name], None
        breaker = self.breakers[tool.resource or tool.name]
        while True:
            now = self.clock.now()
            if now >= deadline:
                return self.result(call, last or Attempt(Status.TIMEOUT, "no time was left"), made)
            if not breaker.admits(now):
                return self.result(call, last or Attempt(Status.OPEN, "what it depends on is down"), made)
            begin(made + 1)
            made += 1
            timeout = min(tool.timeout, deadline - now)
            context = ToolContext(json.dumps([run_id, call.id]), made, now + timeout)
            last = self.attempt(tool, read(call.arguments), context, timeout)
            breaker.heard(last.failed, self.clock.now())
            if not last.safe or made >= tool.retry.attempts or breaker.opened is not None:
                return self.result(call, last, made)
            growing = tool.retry.base * 2.0 ** min(made - 1, 1000)
            wait = max(self.uniform() * min(tool.retry.cap, growing), last.wait)
            if self.clock.now() + wait >= deadline:
                return self.result(call, last, made)
            self.clock.sleep(wait)

    def refusal(self, call, made):
        """Why nothing may be tried, or None."""
        tool = self.tools.get(call.name)
        if tool is None:
            return Attempt(Status.UNKNOWN_TOOL, f"there are only {', '.join(self.tools)}")
        if made and not (tool.idempotent and made < tool.retry.attempts):
            return Attempt(Status.INTERRUPTED, "nobody knows whether it happened")
        wrong = problems(self.validators[tool.name], call.arguments)
        if wrong:
            return Attempt(Status.BAD_ARGUMENTS, "\n".join(f"{each.path}: {each.message}" for each in wrong))
        if tool.needs_approval and not (self.approve and self.approve(call)):
            return Attempt(Status.DENIED, "not approved")
        return None

    def attempt(self, tool, arguments, context, timeout):
        try:
            value = self.clock.call(tool.function, arguments, context, timeout)
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
        except Cancelled:
            raise
        except TimeoutError:
            return Attempt(Status.TIMEOUT, "nobody knows whether it happened", True, tool.idempotent)
        except ToolFailure as error:
            return Attempt(Status.ERROR, str(error), error.transient, error.transient, error.retry_after)
        except Exception as error:
            return Attempt(Status.ERROR, f"{type(error).__name__}: {error}", True)
        return Attempt(Status.OK, text)

    def result(self, call, attempt, made):
        """With U+FFFD for each surrogate without its partner, and cut where it is too long."""
        text = attempt.said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if len(text) > self.max_result:
            mark = f"\n[cut: {len(text)} characters in all]"
            text = text[: self.max_result - len(mark)] + mark
        return ToolResult(call.id, call.name, attempt.status, text, made)
