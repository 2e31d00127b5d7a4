"""One run: the model is asked, its calls are carried out, it is told what came of them, until it ends.

Whatever changes while calls run changes under a lock, together with the event that tells of it: a checkpoint
never knows more than what was told.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from spec import Cancelled
from spec.agent import (
    MAX_MESSAGE,
    Event,
    EventKind,
    Limits,
    Message,
    Reply,
    Run,
    Status,
    StopReason,
    ToolResult,
)

from .attempts import UNKNOWN, Outcome
from .blocks import SPACE
from .circles import Step, ends_in_a_circle, step
from .journal import Entry, Journal
from .parsing import parse_tool_calls
from .toolbox import Toolbox, Watch

_PROBLEMS_TOLD = 5
_NEVER_BEGUN = Outcome(Status.SKIPPED, "It was not begun, for the run was over.")


@dataclass(frozen=True)
class Setup:
    """What an agent is made of."""

    model: Callable[[list[Message], list[dict[str, Any]]], Reply]
    toolbox: Toolbox
    definitions: Sequence[dict[str, Any]]
    new_id: Callable[[], str]
    format: str
    limits: Limits
    on_event: Callable[[Event], None] | None


class Halted(Exception):
    """Something reaches the caller soon; until then nothing begins."""


class Loop:
    """failure: what reaches the caller. deaf: `on_event` has raised, and is not called again."""

    def __init__(self, setup: Setup, journal: Journal) -> None:
        self.setup, self.journal, self.counts = setup, journal, journal.counts
        self.clock, self.limits = setup.toolbox.clock, setup.limits
        self.began = self.clock.now() - self.counts.elapsed
        self.deadline = self.began + self.limits.seconds
        self.steps: list[Step] = []  # of calls that were told
        self.lock = Lock()
        self.failure: BaseException | None = None
        self.deaf = False

    def to_its_end(self) -> Run:
        counts = self.counts
        self.steps += [step(entry.call(), entry.result()) for entry in self.journal.entries[: counts.told]]
        while counts.stop is None:
            self.answer()
            counts.stop = self.why_over() or self.why_enough()
            if counts.stop is None:
                self.ask()
        with self.lock:
            self.tell(EventKind.STOP)
        return self.journal.run()

    # Reasons ----------------------------------------------------------------------------------------------

    def why_over(self) -> StopReason | None:
        """Why nothing may begin any more."""
        if self.counts.cancelled:
            return StopReason.CANCELLED
        if self.counts.tokens >= self.limits.tokens:
            return StopReason.TOKENS
        return StopReason.SECONDS if self.clock.now() >= self.deadline else None

    def why_enough(self) -> StopReason | None:
        """Why the model is not asked again."""
        if self.limits.repeats and ends_in_a_circle(self.steps, self.limits.repeats):
            return StopReason.LOOP
        return StopReason.MODEL_CALLS if self.counts.model_calls >= self.limits.model_calls else None

    # The model --------------------------------------------------------------------------------------------

    def ask(self) -> None:
        with self.lock:
            self.tell(EventKind.MODEL_CALL)
        self.counts.model_calls += 1
        try:
            reply = self.setup.model(list(self.journal.messages), list(self.setup.definitions))
        except Cancelled:
            self.counts.stop = StopReason.CANCELLED
        except Exception:
            self.counts.stop = StopReason.MODEL_ERROR
        else:
            self.take(reply)
            with self.lock:
                self.tell(EventKind.MODEL_REPLY)

    def take(self, reply: Reply) -> None:
        self.counts.tokens += reply.tokens
        if reply.finish == "length":
            self.journal.messages.append({"role": "assistant", "content": reply.text})
            self.counts.stop = StopReason.TRUNCATED
            return
        parsed = parse_tool_calls(reply.text, self.setup.format)
        message: Message = {"role": "assistant", "content": parsed.content}
        entries = [Entry(self.setup.new_id(), call.name, call.arguments) for call in parsed.calls]
        if entries:
            message["tool_calls"] = [entry.asked() for entry in entries]
        self.journal.messages.append(message)
        self.journal.entries += entries
        if parsed.problems:
            texts = [problem.text[:MAX_MESSAGE] for problem in parsed.problems[:_PROBLEMS_TOLD]]
            self.counts.note = "\n".join(["This could not be read as a call:", *texts])
        elif not entries:
            said = parsed.content.strip(SPACE)
            self.counts.stop = StopReason.DONE if said else StopReason.EMPTY

    # Its calls --------------------------------------------------------------------------------------------

    def answer(self) -> None:
        """What the last reply asked for, and the messages about it."""
        journal, counts = self.journal, self.counts
        untold = range(counts.told, len(journal.entries))
        self.carry_out_all([index for index in untold if journal.entries[index].status is None])
        for entry in journal.entries[counts.told :]:
            journal.messages.append(entry.answered())
            self.steps.append(step(entry.call(), entry.result()))
        if counts.note is not None:
            journal.messages.append({"role": "user", "content": counts.note})
        counts.told, counts.note = len(journal.entries), None

    def carry_out_all(self, indices: Sequence[int]) -> None:
        threads = min(self.limits.parallel, len(indices))
        if threads <= 1:  # here, where it can be interrupted
            for index in indices:
                self.carry_out(index)
            return
        with ThreadPoolExecutor(threads) as pool:
            try:
                list(pool.map(self.carry_out, indices))
            except BaseException as error:
                raise self.failed(error) from None

    def carry_out(self, index: int) -> None:
        try:
            result = self.result(index)
            with self.lock:
                entry = self.journal.entries[index]
                self.journal.put(index, replace(entry, status=result.status, content=result.content))
                self.tell(EventKind.RESULT, entry.id)
        except BaseException as error:
            self.failed(error)
            raise

    def result(self, index: int) -> ToolResult:
        toolbox, entry = self.setup.toolbox, self.journal.entries[index]
        if self.failure is not None:
            raise Halted
        if self.why_over() is None:
            errand, run_id = Errand(self, index, entry.attempts), self.counts.run_id
            try:
                return toolbox.carry_out(entry.call(), run_id=run_id, deadline=self.deadline, watch=errand)
            except Cancelled:
                if self.failure is not None:  # it came from `on_event`
                    raise
                self.counts.cancelled = True
        attempts = self.journal.entries[index].attempts
        return toolbox.result(entry.call(), UNKNOWN if attempts else _NEVER_BEGUN, attempts)

    # Who is told ------------------------------------------------------------------------------------------

    def failed(self, error: BaseException) -> BaseException:
        """What reaches the caller."""
        if self.failure is None:
            self.failure = error
        return self.failure

    def tell(self, kind: EventKind, call_id: str | None = None) -> None:
        """Under the lock."""
        if self.setup.on_event is None or self.deaf:
            return
        now = self.clock.now()
        self.counts.elapsed = now - self.began
        event = Event(kind, now, call_id, self.journal.checkpoint())
        try:
            self.setup.on_event(event)
        except BaseException as error:
            self.deaf = True
            self.failed(error)
            raise


class Errand(Watch):
    """A call of the run, as the toolbox sees it."""

    def __init__(self, loop: Loop, index: int, made: int) -> None:
        self.loop, self.index, self.made = loop, index, made

    def may_go_on(self) -> None:
        if self.loop.failure is not None:
            raise Halted
        if self.loop.counts.cancelled:
            raise Cancelled("The run was cancelled.")

    def begins(self, number: int) -> None:
        loop, journal = self.loop, self.loop.journal
        with loop.lock:
            self.may_go_on()  # an event may have been heard meanwhile
            entry = replace(journal.entries[self.index], attempts=number)
            journal.put(self.index, entry)
            loop.tell(EventKind.ATTEMPT, entry.id)
