"""A run: the story that its facts tell, the session that adds to them, the agent that begins and resumes."""

import json
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from threading import Lock

from spec import Cancelled
from spec.agent import (
    MAX_MESSAGE,
    Event,
    EventKind,
    Limits,
    Run,
    Status,
    StopReason,
    ToolCall,
    ToolResult,
)

from .basics import BLANK, require
from .calls import CallMachine, Pause
from .reading import READERS, parse_tool_calls
from .transcripts import detect_loop, require_transcript

USUAL_LIMITS = Limits()


class Story:
    """What a run's facts say: the fold over them. A fact: its kind, seconds since the begin, more."""

    def __init__(self, format, facts=()):
        self.format, self.facts = format, []
        self.tokens = self.model_calls = 0
        self.asking, self.reason = False, None
        self.results, self.steps = [], []
        for fact in facts:
            self.add(*fact)

    def add(self, kind, seconds, *rest):
        getattr(self, kind)(*rest)
        self.facts.append([kind, seconds, *rest])

    def begin(self, run_id, messages):
        self.run_id, self.messages = run_id, deepcopy(messages)
        self.reply("", "", 0, [], told=False)

    def ask(self):
        self.model_calls += not self.asking
        self.asking = True

    def reply(self, text, finish, tokens, ids, told=True):
        self.asking, self.tokens = False, self.tokens + tokens
        parsed = parse_tool_calls(text if told else "", self.format)
        self.calls, self.problems = [], []
        self.attempts, self.answers = dict.fromkeys(ids, 0), {}
        if not told:
            return
        message = {"role": "assistant", "content": text if finish == "length" else parsed.content}
        self.messages.append(message)
        if finish == "length":
            self.ending = StopReason.TRUNCATED
            return
        self.problems = parsed.problems
        self.calls = [ToolCall(i, c.name, c.arguments) for i, c in zip(ids, parsed.calls, strict=True)]
        if self.calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.calls
            ]
        elif not self.problems:
            self.ending = StopReason.DONE if parsed.content.strip(BLANK) else StopReason.EMPTY
        self.settle()

    ending = None

    def attempt(self, call_id):
        self.attempts[call_id] += 1

    def result(self, call_id, name, status, content, attempts):
        self.answers[call_id] = ToolResult(call_id, name, Status(status), content, attempts)
        self.settle()

    def settle(self):
        """Tells the results, when all are there, and the problems."""
        if len(self.answers) < len(self.calls):
            return
        for call in self.calls:
            result = self.answers[call.id]
            self.results.append(result)
            self.steps.append((call, result))
            self.messages.append({"role": "tool", "tool_call_id": call.id, "content": result.content})
        if self.problems:
            parts = [problem.text[:MAX_MESSAGE] for problem in self.problems[:5]]
            self.messages.append({"role": "user", "content": "\n".join(["This is no call:", *parts])})
        self.calls = []

    def stop(self, reason):
        self.reason = StopReason(reason)

    def run(self):
        return Run(
            self.run_id,
            deepcopy(self.messages),
            self.reason,
            list(self.results),
            self.model_calls,
            self.tokens,
        )


class Halted(Exception):
    """Something else has ended this run with an exception."""


class Session:
    """A story that goes on in this process."""

    def __init__(self, agent, facts):
        self.agent, self.box, self.limits = agent, agent.toolbox, agent.limits
        self.story = Story(agent.format, facts)
        self.cancelled = self.broken = False
        self.lock = Lock()
        self.begun = self.box.clock.now() - (facts[-1][1] if facts else 0)

    @property
    def deadline(self):
        return self.begun + self.limits.seconds

    def tell(self, event, call_id, kind, *rest, begins=False):
        """Adds a fact and announces it; False where it would begin something after a cancel."""
        with self.lock:
            if self.broken:
                raise Halted
            if begins and self.cancelled:
                return False
            try:
                at = self.box.clock.now()
                self.story.add(kind, at - self.begun, *rest)
                if self.agent.on_event:
                    self.agent.on_event(Event(event, at, call_id, json.dumps(self.story.facts)))
            except BaseException:
                self.broken = True
                raise
        return True

    def why(self):
        """Why the run must end now, or None."""
        if self.cancelled:
            return StopReason.CANCELLED
        if self.story.tokens >= self.limits.tokens:
            return StopReason.TOKENS
        return StopReason.SECONDS if self.box.clock.now() >= self.deadline else None

    def go(self):
        story = self.story
        while story.reason is None:
            self.answer_calls()
            reason = story.ending or (None if story.asking else self.why_not_ask()) or self.ask()
            if reason:
                self.tell(EventKind.STOP, None, "stop", reason.value)
        return story.run()

    def why_not_ask(self):
        repeats = self.limits.repeats
        if repeats and detect_loop(self.story.steps, repeats=repeats):
            return StopReason.LOOP
        return self.why() or (
            StopReason.MODEL_CALLS if self.story.model_calls >= self.limits.model_calls else None
        )

    def ask(self):
        """A call of the model. What it is worth as a reason, if it is one."""
        if not self.tell(EventKind.MODEL_CALL, None, "ask", begins=True):
            return StopReason.CANCELLED
        try:
            reply = self.agent.model(deepcopy(self.story.messages), self.box.definitions())
        except Cancelled:
            return StopReason.CANCELLED
        except Exception:
            return StopReason.MODEL_ERROR
        whole = reply.finish != "length"
        calls = parse_tool_calls(reply.text, self.agent.format).calls if whole else []
        fact = [reply.text, reply.finish, reply.tokens, [self.agent.new_id() for _ in calls]]
        self.tell(EventKind.MODEL_REPLY, None, "reply", *fact)
        return None

    def answer_calls(self):
        calls = [call for call in self.story.calls if call.id not in self.story.answers]
        if self.limits.parallel == 1:
            for call in calls:
                self.answer(call)
        elif calls:
            with ThreadPoolExecutor(min(self.limits.parallel, len(calls))) as pool:
                errors = [future.exception() for future in [pool.submit(self.answer, call) for call in calls]]
            for error in sorted(filter(None, errors), key=lambda error: isinstance(error, Halted)):
                raise error

    def answer(self, call):
        try:
            result = None if self.why() else self.carry(call)
            if result is None:
                made = self.story.attempts[call.id]
                status = Status.INTERRUPTED if made else Status.SKIPPED
                content = (
                    "It was begun, and nobody knows whether it happened." if made else "It was not begun."
                )
                result = ToolResult(call.id, call.name, status, content, made)
        except BaseException:
            self.broken = True
            raise
        fact = [result.call_id, result.name, result.status.value, result.content, result.attempts]
        self.tell(EventKind.RESULT, call.id, "result", *fact)

    def carry(self, call):
        """The result of a call, or None where it was cut off."""
        made = self.story.attempts[call.id]
        machine = CallMachine(self.box, call, self.story.run_id, self.deadline, made)
        if made and not (machine.tool and machine.tool.idempotent and made < machine.tool.retry.attempts):
            return machine.last
        while isinstance(outcome := machine.step(), Pause):
            going = not self.cancelled
            try:
                if outcome is Pause.BEFORE_ATTEMPT:
                    going = self.tell(EventKind.ATTEMPT, call.id, "attempt", call.id, begins=True)
            except BaseException:
                machine.drop()
                raise
            if not going:
                machine.drop()
                return None
        if isinstance(outcome, Cancelled):
            self.cancelled = True
            return None
        return outcome


class Agent:
    def __init__(self, model, toolbox, *, new_id, format="hermes", limits=USUAL_LIMITS, on_event=None):
        require(format in READERS, f"format: expected one of {sorted(READERS)}, got {format!r}")
        for name in ("model_calls", "tokens", "seconds", "repeats"):
            least = getattr(limits, name)
            require(least >= 0, f"limits.{name}: expected at least 0, got {least}")
        require(limits.repeats != 1, "limits.repeats: expected 0 or at least 2, got 1")
        require(limits.parallel >= 1, f"limits.parallel: expected at least 1, got {limits.parallel}")
        self.model, self.toolbox, self.new_id = model, toolbox, new_id
        self.format, self.limits, self.on_event = format, limits, on_event
        self._session = None

    def run(self, messages):
        require(messages, "messages: expected at least one, got none")
        require_transcript(messages)
        return self._live([], lambda session: session.story.add("begin", 0, self.new_id(), list(messages)))

    def resume(self, checkpoint):
        return self._live(json.loads(checkpoint), lambda session: None)

    def _live(self, facts, begin):
        self._session = session = Session(self, facts)
        try:
            begin(session)
            return session.go()
        finally:
            self._session = None

    def cancel(self):
        session = self._session
        if session:
            session.cancelled = True
