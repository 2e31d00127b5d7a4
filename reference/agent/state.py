"""All that a run knows: a checkpoint is its JSON."""

import json
from dataclasses import dataclass, field

from spec.agent import Status, StopReason, ToolCall, ToolResult


@dataclass
class Entry:
    """A call of the model and what came of it. attempts: that have begun. status: None without a result."""

    id: str
    name: str
    arguments: str
    attempts: int = 0
    status: Status | None = None
    content: str = ""

    def call(self):
        return ToolCall(self.id, self.name, self.arguments)

    def result(self):
        return ToolResult(self.id, self.name, Status(self.status), self.content, self.attempts)


@dataclass
class State:
    run_id: str
    messages: list
    entries: list[Entry] = field(default_factory=list)
    told: int = 0  # entries whose results are in `messages`
    note: str | None = None  # for the model, after these results
    stop: StopReason | None = None
    model_calls: int = 0
    tokens: int = 0
    elapsed: float = 0.0

    def to_json(self):
        return json.dumps(vars(self), default=plain)

    @classmethod
    def from_json(cls, text):
        fields = json.loads(text)
        return cls(**{**fields, "entries": [Entry(**each) for each in fields["entries"]]})


def plain(part):
    return vars(part) if isinstance(part, Entry) else part.value
