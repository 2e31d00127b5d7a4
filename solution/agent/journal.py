"""All that a run knows, and its checkpoints.

A checkpoint is lines of JSON: what changes, then one for each message and each call. Lines are written once
and kept, so that an event costs what is new and a copy.
"""

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from spec.agent import Message, Run, Status, StopReason, ToolCall, ToolResult


@dataclass(frozen=True)
class Entry:
    """A call of the model and what came of it. attempts: that were told. status: None without a result."""

    id: str
    name: str
    arguments: str
    attempts: int = 0
    status: Status | None = None
    content: str = ""

    def call(self) -> ToolCall:
        return ToolCall(self.id, self.name, self.arguments)

    def result(self) -> ToolResult:
        return ToolResult(self.id, self.name, Status(self.status), self.content, self.attempts)

    def asked(self) -> dict[str, Any]:
        """Within an assistant's message."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}

    def answered(self) -> Message:
        return {"role": "tool", "tool_call_id": self.id, "content": self.content}


@dataclass
class Counts:
    """told: how many calls have their results in the messages. note: for the model, after those of its last
    reply. cancelled: nothing may begin any more. elapsed: seconds."""

    run_id: str = ""
    told: int = 0
    note: str | None = None
    stop: StopReason | None = None
    cancelled: bool = False
    model_calls: int = 0
    tokens: int = 0
    elapsed: float = 0.0


@dataclass
class Journal:
    """Messages and entries are appended to; an entry changes by `put` alone."""

    counts: Counts
    messages: list[Message]
    entries: list[Entry] = field(default_factory=list)
    _message_lines: list[str] = field(default_factory=list)
    _entry_lines: list[str | None] = field(default_factory=list)  # None: it has changed

    def put(self, index: int, entry: Entry) -> None:
        self.entries[index] = entry
        if index < len(self._entry_lines):
            self._entry_lines[index] = None

    def checkpoint(self) -> str:
        self._message_lines += map(_line, self.messages[len(self._message_lines) :])
        known = self._entry_lines + [None] * (len(self.entries) - len(self._entry_lines))
        self._entry_lines = [
            _line(vars(entry)) if line is None else line
            for line, entry in zip(known, self.entries, strict=True)
        ]
        counts = {**vars(self.counts), "messages": len(self.messages)}
        return "\n".join([_line(counts), *self._message_lines, *self._entry_lines])

    @classmethod
    def of_checkpoint(cls, text: str) -> "Journal":
        counts, *lines = map(json.loads, text.split("\n"))
        messages = counts.pop("messages")
        counts["stop"] = None if counts["stop"] is None else StopReason(counts["stop"])
        entries = [
            Entry(**{**line, "status": None if line["status"] is None else Status(line["status"])})
            for line in lines[messages:]
        ]
        return cls(Counts(**counts), lines[:messages], entries)

    def run(self) -> Run:
        counts = self.counts
        results = [entry.result() for entry in self.entries]
        return Run(counts.run_id, self.messages, counts.stop, results, counts.model_calls, counts.tokens)


def _line(value: Any) -> str:
    return json.dumps(value, default=_member)


def _member(value: Enum) -> Any:
    return value.value
