"""Ask, run, answer, again."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from spec.agent import BreakerPolicy, Event, EventKind, Limits, Policy, Status, StopReason

from spec import Cancelled

from .basics import expect
from .circles import detect_loop
from .journal import Journal, Pending
from .parsing import check_format, parse_tool_calls
from .results import result
from .toolbox import Toolbox
from .transcript import check_transcript, ids

_LIMITS, _POLICY, _BREAKER = Limits(), Policy(), BreakerPolicy()


class Agent:
    def __init__(
        self,
        model,
        tools,
        *,
        clock,
        uniform,
        new_id,
        format="hermes",
        limits=_LIMITS,
        policy=_POLICY,
        breaker=_BREAKER,
        max_result=10_000,
        on_event=None,
    ):
        check_format(format)
        check_limits(limits)
        self.toolbox = Toolbox(
            tools, policy=policy, clock=clock, uniform=uniform, breaker=breaker, max_result=max_result
        )
        self.model, self.format, self.limits, self.clock = model, format, limits, clock
        self.new_id, self.on_event, self.max_result = new_id, on_event, max_result
        self.definitions = [define(tool) for tool in tools if self.toolbox.allows(tool.name)]
        self.lock = threading.RLock()
        self.running = self.cancelled = False

    def run(self, messages):
        wrong = check_transcript(messages)
        expect(messages and not wrong, "messages", "a valid transcript", wrong)
        return self.to_its_end(Journal(self.new_id(), copy.deepcopy(list(messages))))

    def resume(self, checkpoint):
        return self.to_its_end(Journal.from_json(checkpoint))

    def cancel(self):
        self.cancelled = self.running

    def to_its_end(self, journal):
        self.journal = journal
        self.cancelled, self.fault = False, None
        self.running = True
        try:
            self.started = self.clock.now() - journal.elapsed
            while journal.stop is None:
                if journal.pending:
                    self.step()
                elif (reason := self.must_end()) is not None:
                    journal.stop = reason
                elif journal.model_calls >= self.limits.model_calls:
                    journal.stop = StopReason.MODEL_CALLS
                else:
                    self.ask()
        finally:
            self.running = False
        self.emit(EventKind.STOP)
        return journal.as_run()

    def must_end(self):
        """Why nothing may begin any more, or None."""
        limits = self.limits
        if self.cancelled:
            return StopReason.CANCELLED
        if limits.tokens is not None and self.journal.tokens() >= limits.tokens:
            return StopReason.TOKENS
        if limits.seconds is not None and self.clock.now() - self.started >= limits.seconds:
            return StopReason.SECONDS
        return None

    def emit(self, kind, call_id=None):
        """A CHECKPOINT holds what is known now."""
        with self.lock:
            now = self.clock.now()
            self.journal.elapsed = now - self.started
            text = self.journal.to_json() if kind is EventKind.CHECKPOINT else ""
            if self.on_event is not None:
                self.on_event(Event(kind, now, call_id, text))

    # ---- The model. ----

    def ask(self):
        self.emit(EventKind.MODEL_CALL)
        if self.cancelled:
            return
        journal = self.journal
        journal.model_calls += 1
        try:
            reply = self.model(copy.deepcopy(journal.messages), copy.deepcopy(self.definitions))
        except Cancelled:
            journal.stop = StopReason.CANCELLED
        except Exception:
            journal.stop = StopReason.MODEL_ERROR
        else:
            journal.prompt_tokens += reply.prompt_tokens
            journal.output_tokens += reply.output_tokens
            self.take(reply)
            self.emit(EventKind.MODEL_REPLY)
        if self.cancelled and not journal.pending:
            journal.stop = StopReason.CANCELLED

    def take(self, reply):
        journal = self.journal
        if reply.finish == "length":
            journal.messages.append({"role": "assistant", "content": reply.text})
            journal.stop = StopReason.TRUNCATED
            return
        parsed = parse_tool_calls(reply.text, self.format, tools=list(self.toolbox.tools))
        calls = self.with_ids(parsed.calls)
        content = reply.text if parsed.problems and not calls else parsed.content
        message = {"role": "assistant", "content": content}
        if calls:
            message["tool_calls"] = [written(call) for call in calls]
        journal.messages.append(message)
        journal.pending = [Pending(call) for call in calls]
        if parsed.problems:
            parts = [f"could not read: {each.text[:40]}" for each in parsed.problems[:5]]
            journal.note = "\n".join(parts)[: self.max_result]
            if not calls:
                self.tell()
        elif not calls:
            journal.stop = StopReason.DONE if content.strip(" \t\n\r") else StopReason.EMPTY

    def with_ids(self, calls):
        used, found = ids(self.journal.messages), []
        for call in calls:
            own = call.id is not None and call.id not in used
            found.append(call if own else replace(call, id=self.new_id()))
            used.add(found[-1].id)
        return found

    def tell(self):
        if self.journal.note is not None:
            self.journal.messages.append({"role": "user", "content": self.journal.note})
        self.journal.note = None

    # ---- The calls. ----

    def step(self):
        """Runs the calls that have no result yet, and answers all."""
        journal = self.journal
        if self.limits.parallel == 1:
            for entry in journal.pending:
                self.perform(entry)
        else:
            with ThreadPoolExecutor(self.limits.parallel) as threads:
                list(threads.map(self.perform, journal.pending))
        if self.fault is not None:
            raise self.fault
        for entry in journal.pending:
            found = entry.result
            journal.calls.append(entry.call)
            journal.results.append(found)
            journal.messages.append({"role": "tool", "tool_call_id": found.call_id, "content": found.content})
        journal.pending = []
        self.tell()
        repeats = self.limits.repeats
        if journal.stop is None and repeats and detect_loop(journal.calls, journal.results, repeats=repeats):
            journal.stop = StopReason.LOOP

    def perform(self, entry):
        if entry.result is not None or self.fault is not None:
            return
        try:
            found = self.result_of(entry)
            with self.lock:
                if self.fault is not None:
                    return
                entry.result, entry.running = found, False
                self.emit(EventKind.RESULT, entry.call.id)
                if found.attempts:
                    self.emit(EventKind.CHECKPOINT)
        except BaseException as fault:  # the host's: nothing may begin after it
            self.fault = self.fault or fault

    def result_of(self, entry):
        if entry.running and not self.may_go_on(entry):
            said = "interrupted: nobody knows whether it happened"
            return result(entry.call, Status.INTERRUPTED, said, entry.attempts, self.max_result)
        with self.lock:
            if not self.begins(entry):
                cancelled = self.journal.stop is StopReason.CANCELLED
                status = Status.CANCELLED if cancelled else Status.SKIPPED
                return result(entry.call, status, "not run: the run ended", entry.attempts, self.max_result)
        limit = self.limits.seconds
        try:
            return self.toolbox.call(
                entry.call,
                run_id=self.journal.run_id,
                deadline=None if limit is None else self.started + limit,
                attempts=entry.attempts,
                before=lambda attempt: self.before(entry, attempt),
            )
        except Cancelled:
            self.cancelled = True
            self.journal.stop = StopReason.CANCELLED
            return result(entry.call, Status.CANCELLED, "cancelled", entry.attempts, self.max_result)

    def may_go_on(self, entry):
        tool = self.toolbox.tools.get(entry.call.name)
        return tool is not None and tool.idempotent and entry.attempts < tool.retry.attempts

    def begins(self, entry):
        journal = self.journal
        reason = journal.stop or self.must_end()
        if reason is None and not entry.begun and journal.tool_calls >= self.limits.tool_calls:
            reason = StopReason.TOOL_CALLS
        if reason is not None:
            journal.stop = reason
            return False
        journal.tool_calls += not entry.begun
        entry.begun = True
        return True

    def before(self, entry, attempt):
        with self.lock:
            if self.fault is not None or self.cancelled:
                raise Cancelled("nothing begins any more")
            known = entry.attempts, entry.running
            entry.attempts, entry.running = attempt, True
            self.emit(EventKind.CHECKPOINT)
            self.emit(EventKind.ATTEMPT, entry.call.id)
            if self.cancelled:
                entry.attempts, entry.running = known
                raise Cancelled("nothing begins any more")


def define(tool):
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def written(call):
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def check_limits(limits):
    for name in ("model_calls", "tool_calls", "tokens", "seconds", "repeats"):
        value = getattr(limits, name)
        expect(value is None or value >= 0, "limits", f"{name} of at least 0", value)
    expect(limits.repeats != 1, "limits", "repeats of 0 or at least 2", limits.repeats)
    expect(limits.parallel >= 1, "limits", "parallel of at least 1", limits.parallel)
