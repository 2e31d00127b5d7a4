"""A run of an agent on a terminal: what it does as it does it, approval, Ctrl-C."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event as Flag
from typing import TYPE_CHECKING, Any

from . import output

if TYPE_CHECKING:
    from solution.agent import Agent
    from solution.agent.trace import Trace
    from solution.agent.writing import Writer
    from spec.agent import Event, Message, Reply, ToolCall

SHOWN = 300  # characters of a result


class Talk:
    """quiet: nothing is shown. failure: why the model gave no reply; the run only says that it did not."""

    writer: "Writer"
    trace: "Trace | None" = None

    def __init__(self, *, quiet: bool) -> None:
        from solution.agent import StreamingToolParser
        from solution.agent.trace import Lines

        self.cancelled = Flag()
        self.failure: Exception | None = None
        self._quiet, self._asking = quiet, False
        self._new_parser = StreamingToolParser
        self._parser = StreamingToolParser("hermes")
        self._line_of = Lines()

    # What the agent calls -----------------------------------------------------------------------------------

    def model(self, messages: "Sequence[Message]", tools: list[dict[str, Any]]) -> "Reply":
        from spec import Cancelled

        self._parser = self._new_parser("hermes")
        try:
            reply = self.writer(messages, tools)
            self._show(self._parser.close())
        except Cancelled:
            raise
        except Exception as error:
            self.failure = error
            raise
        return reply

    def say(self, piece: str) -> None:
        """A piece of a reply: what is no call is shown."""
        self._go_on()
        self._show(self._parser.feed(piece))

    def hears(self, event: "Event") -> None:
        line = self._line_of(event)
        if self.trace is not None:
            self.trace.write(line)
        if self._quiet:
            return
        if line["kind"] == "attempt":
            self._aside(f"→ {line['name']} {line['arguments']}")
        elif line["kind"] == "result":
            content = line["content"]
            shown = content if len(content) <= SHOWN else f"{content[:SHOWN]}…"
            self._aside(f"← {'' if line['status'] == 'ok' else line['status'] + ': '}{shown}")

    def approves(self, call: "ToolCall") -> bool:
        """Asks whoever sits there. Where nobody does, nothing that needs approval runs."""
        wanted = f"{call.name} {call.arguments}"
        if not sys.stdin.isatty():
            self._aside(f"{wanted}: needs approval, and standard input is no terminal to ask on")
            return False
        self._asking = True
        try:
            self._go_on()
            print(output.shown(f"? {wanted}\n  Run it? [y/N] "), end="", file=sys.stderr, flush=True)
            return sys.stdin.readline().strip().lower() in ("y", "yes")
        finally:
            self._asking = False

    # Ctrl-C -------------------------------------------------------------------------------------------------

    @contextmanager
    def interrupting(self, agent: "Agent") -> Iterator[None]:
        """The first one cancels the run, whose messages stay whole; the second one ends it at once."""

        def heard(*_: object) -> None:
            if self.cancelled.is_set():
                raise KeyboardInterrupt
            self.cancelled.set()
            agent.cancel()
            if self._asking:
                self._go_on()

        before = signal.signal(signal.SIGINT, heard)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _go_on(self) -> None:
        """Raises Cancelled after a first Ctrl-C."""
        from spec import Cancelled

        if self.cancelled.is_set():
            raise Cancelled("Ctrl-C")

    # What is shown ------------------------------------------------------------------------------------------

    def _show(self, found: Sequence[Any]) -> None:
        for each in found:
            if isinstance(each, str) and not self._quiet:
                output.say(each)

    def _aside(self, text: str) -> None:
        print(output.shown(text), file=sys.stderr, flush=True)
