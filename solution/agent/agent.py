"""What is made once, and one run of it at a time."""

from collections.abc import Callable, Sequence
from typing import Any

from spec.agent import Event, Limits, Message, Reply, Run, Schema, Tool

from .checks import check_format, check_limits, check_messages, expect
from .journal import Counts, Journal
from .loop import Loop, Setup
from .toolbox import Toolbox
from .transcript import check_transcript

_LIMITS = Limits()


class Agent:
    def __init__(
        self,
        model: Callable[[list[Message], list[dict[str, Any]]], Reply],
        toolbox: Toolbox,
        *,
        new_id: Callable[[], str],
        format: str = "hermes",
        limits: Limits = _LIMITS,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        check_format(format)
        check_limits(limits)
        definitions = [definition(tool) for tool in toolbox.tools.values()]
        self._setup = Setup(model, toolbox, definitions, new_id, format, limits, on_event)
        self._journal: Journal | None = None  # of the run that is under way

    def run(self, messages: Sequence[Message]) -> Run:
        expect(len(messages) > 0, "messages", "at least one", list(messages))
        check_messages(messages, check_transcript(messages))
        return self._to_its_end(Journal(Counts(), list(messages)), is_new=True)

    def resume(self, checkpoint: str) -> Run:
        return self._to_its_end(Journal.of_checkpoint(checkpoint), is_new=False)

    def cancel(self) -> None:
        journal = self._journal
        if journal is not None:
            journal.counts.cancelled = True

    def _to_its_end(self, journal: Journal, *, is_new: bool) -> Run:
        self._journal = journal
        try:
            if is_new:
                journal.counts.run_id = self._setup.new_id()
            return Loop(self._setup, journal).to_its_end()
        finally:
            self._journal = None


def definition(tool: Tool) -> dict[str, Any]:
    """What a model is told of it."""
    return told_of(tool.name, tool.description, tool.parameters)


def told_of(name: str, description: str, parameters: Schema) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}
