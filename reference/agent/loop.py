"""Ask, run, answer, again."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import RLock

from spec import Cancelled
from spec.agent import MAX_MESSAGE, Event, EventKind, Limits, Run, Status, StopReason

from .basics import SPACE, expect
from .parsing import FORMATS, parse_tool_calls
from .state import Entry, State
from .toolbox import Attempt
from .transcript import check_transcript, detect_loop

_LIMITS = Limits()


class Agent:
    def __init__(self, model, toolbox, *, new_id, format="hermes", limits=_LIMITS, on_event=None):
        expect(format in FORMATS, "format", f"one of {', '.join(FORMATS)}", format)
        expect(min(limits.model_calls, limits.tokens, limits.seconds) >= 0, "limits", "none below 0", limits)
        expect(limits.repeats == 0 or limits.repeats >= 2, "limits", "repeats of 0 or at least 2", limits)
        expect(limits.parallel >= 1, "limits", "parallel of at least 1", limits)
        self.model, self.toolbox, self.clock, self.format = model, toolbox, toolbox.clock, format
        self.limits, self.new_id, self.lock = limits, new_id, RLock()
        self.on_event = on_event or (lambda event: None)
        self.definitions = [definition(tool) for tool in toolbox.tools.values()]

    def run(self, messages):
        wrong = check_transcript(messages)
        expect(messages and not wrong, "messages", "a valid transcript", wrong)
        return self.to_its_end(State(self.new_id(), list(messages)))

    def resume(self, checkpoint):
        return self.to_its_end(State.from_json(checkpoint))

    def cancel(self):
        self.cancelled = True

    def to_its_end(self, state):
        self.state, self.cancelled = state, False
        self.started = self.clock.now() - state.elapsed
        self.deadline = self.started + self.limits.seconds
        while True:
            self.answer()  # also where a resumed run was about to end
            state.stop = state.stop or self.over() or self.enough()
            if state.stop is not None:
                break
            self.ask()
        self.emit(EventKind.STOP)
        results = [entry.result() for entry in state.entries]
        stop, counts = StopReason(state.stop), (state.model_calls, state.tokens)
        return Run(state.run_id, state.messages, stop, results, *counts)

    def over(self):
        """Why nothing may begin any more, or None."""
        if self.cancelled:
            return StopReason.CANCELLED
        if self.state.tokens >= self.limits.tokens:
            return StopReason.TOKENS
        return StopReason.SECONDS if self.clock.now() >= self.deadline else None

    def enough(self):
        """Why the model is not asked again, or None."""
        steps = [(entry.call(), entry.result()) for entry in self.state.entries]
        if self.limits.repeats and detect_loop(steps, repeats=self.limits.repeats):
            return StopReason.LOOP
        return StopReason.MODEL_CALLS if self.state.model_calls >= self.limits.model_calls else None

    def emit(self, kind, call_id=None):
        with self.lock:
            now = self.clock.now()
            self.state.elapsed = now - self.started
            try:
                self.on_event(Event(kind, now, call_id, self.state.to_json()))
            except BaseException:
                self.cancelled = True  # before another thread has the lock
                raise

    def ask(self):
        state = self.state
        self.emit(EventKind.MODEL_CALL)
        state.model_calls += 1
        try:
            reply = self.model(list(state.messages), list(self.definitions))
        except Cancelled:
            state.stop = StopReason.CANCELLED
        except Exception:
            state.stop = StopReason.MODEL_ERROR
        else:
            state.tokens += reply.tokens
            self.take(reply)
            self.emit(EventKind.MODEL_REPLY)

    def take(self, reply):
        state, parsed = self.state, parse_tool_calls(reply.text, self.format)
        message = {"role": "assistant", "content": parsed.content}
        state.messages.append(message)
        if reply.finish == "length":
            message["content"], state.stop = reply.text, StopReason.TRUNCATED
            return
        calls = [Entry(self.new_id(), call.name, call.arguments) for call in parsed.calls]
        state.entries += calls
        if calls:
            message["tool_calls"] = [written(call) for call in calls]
        if parsed.problems:
            state.note = "\n".join(f"unreadable: {each.text[:MAX_MESSAGE]}" for each in parsed.problems[:5])
        elif not calls:
            state.stop = StopReason.DONE if parsed.content.strip(SPACE) else StopReason.EMPTY

    def answer(self):
        """Runs the calls that have no result, and tells the model what came of its last reply."""
        state = self.state
        untold = state.entries[state.told :]
        with ThreadPoolExecutor(self.limits.parallel) as threads:
            each = map if self.limits.parallel == 1 else threads.map  # where it can be interrupted
            list(each(self.perform, untold))
        for entry in untold:
            state.messages.append({"role": "tool", "tool_call_id": entry.id, "content": entry.content})
        if state.note is not None:
            state.messages.append({"role": "user", "content": state.note})
        state.told, state.note = len(state.entries), None

    def perform(self, entry):
        if entry.status is None:
            result = self.result_of(entry)
            entry.content, entry.status = result.content, result.status
            self.emit(EventKind.RESULT, entry.id)

    def result_of(self, entry):
        state, call = self.state, entry.call()
        state.stop = state.stop or self.over()
        if state.stop is None:
            known = {"run_id": state.run_id, "deadline": self.deadline, "made": entry.attempts}
            try:
                return self.toolbox.call(call, **known, begin=partial(self.begin, entry))
            except Cancelled:
                self.cancelled = True
        status = Status.INTERRUPTED if entry.attempts else Status.SKIPPED
        return self.toolbox.result(call, Attempt(status, "the run ended before its end"), entry.attempts)

    def begin(self, entry, attempt):
        with self.lock:
            if self.cancelled:
                raise Cancelled("nothing begins any more")
            entry.attempts = attempt
            self.emit(EventKind.ATTEMPT, entry.id)


def definition(tool):
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def written(call):
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
