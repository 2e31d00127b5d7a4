"""From a call to its result: what may run, how often, and when no more."""

import json
from collections.abc import Callable, Sequence
from math import inf

from spec.agent import BreakerPolicy, Clock, Status, Tool, ToolCall, ToolContext, ToolResult

from .arguments import Checker, read
from .attempts import DOWN, NO_TIME, UNKNOWN, Outcome, attempt, sendable, wait_before
from .breakers import Breaker
from .checks import check_breaker, check_max_result, check_tools, expect

_BREAKER = BreakerPolicy()


class Watch:
    """Who is told about the attempts of a call. made: how many there were already, in a process that died."""

    made = 0

    def may_go_on(self) -> None:
        """Raises Cancelled where nothing may begin any more."""

    def begins(self, number: int) -> None:
        """An attempt is about to begin, and does unless this raises."""


_NOBODY = Watch()


class Toolbox:
    def __init__(
        self,
        tools: Sequence[Tool],
        *,
        clock: Clock,
        uniform: Callable[[], float],
        approve: Callable[[ToolCall], bool] | None = None,
        breaker: BreakerPolicy = _BREAKER,
        max_result: int = 10_000,
    ) -> None:
        check_tools(tools)
        check_breaker(breaker)
        check_max_result(max_result)
        self.tools = {tool.name: tool for tool in tools}
        self.clock = clock
        self._uniform, self._approve, self._max_result = uniform, approve, max_result
        self._checkers = {tool.name: Checker(tool.parameters) for tool in tools}
        self._breakers = {_resource(tool): Breaker(breaker) for tool in tools}

    def call(self, call: ToolCall, *, run_id: str, deadline: float = inf) -> ToolResult:
        return self.carry_out(call, run_id=run_id, deadline=deadline, watch=_NOBODY)

    def carry_out(self, call: ToolCall, *, run_id: str, deadline: float, watch: Watch) -> ToolResult:
        """`call`, for somebody who watches."""
        expect(call.id is not None, "call", "one with an id", call)
        refused = self._refusal(call, watch.made)
        if refused is not None:
            return self.result(call, refused, watch.made)
        return self._tried(self.tools[call.name], call, run_id, deadline, watch)

    def _refusal(self, call: ToolCall, made: int) -> Outcome | None:
        tool = self.tools.get(call.name)
        if tool is None:
            return Outcome(Status.UNKNOWN_TOOL, f"There is no such tool. There are: {', '.join(self.tools)}.")
        if made > 0 and not (tool.idempotent and made < tool.retry.attempts):
            return UNKNOWN
        problems = self._checkers[tool.name].problems(call.arguments)
        if problems:
            told = (f"{each.path or 'the arguments'}: {each.message}" for each in problems)
            return Outcome(Status.BAD_ARGUMENTS, "Nothing was done. Wrong are\n" + "\n".join(told))
        if tool.needs_approval and not (self._approve is not None and self._approve(call)):
            return Outcome(Status.DENIED, "Nothing was done, for it was not approved.")
        return None

    def _tried(self, tool: Tool, call: ToolCall, run_id: str, deadline: float, watch: Watch) -> ToolResult:
        clock, breaker, made = self.clock, self._breakers[_resource(tool)], watch.made
        key = json.dumps([run_id, call.id])
        last = UNKNOWN if made > 0 else None
        while True:
            watch.may_go_on()
            now = clock.now()
            if now >= deadline:
                return self.result(call, last or NO_TIME, made)
            if not breaker.lets_through(now):
                return self.result(call, last or DOWN, made)
            made += 1
            watch.begins(made)
            timeout = min(tool.timeout, deadline - now)
            context = ToolContext(key, made, min(now + tool.timeout, deadline))
            last = attempt(clock, tool, read(call.arguments), context, timeout)
            is_open = breaker.heard(failed=last.failed, now=clock.now())
            if not last.again or made >= tool.retry.attempts or is_open:
                return self.result(call, last, made)
            wait = wait_before(made - 1, tool.retry, self._uniform(), last.at_least)
            if clock.now() + wait >= deadline:
                return self.result(call, last, made)
            watch.may_go_on()
            clock.sleep(wait)

    def result(self, call: ToolCall, outcome: Outcome, attempts: int) -> ToolResult:
        text = sendable(outcome.text, self._max_result)
        return ToolResult(str(call.id), call.name, outcome.status, text, attempts)


def _resource(tool: Tool) -> str:
    return tool.name if tool.resource is None else tool.resource
