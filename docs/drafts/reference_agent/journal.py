"""What a run knows, as plain data: a checkpoint is its JSON."""

import json
from dataclasses import asdict, dataclass, field

from spec.agent import Run, Status, StopReason, ToolCall, ToolResult, Usage

from spec import InvalidArgument


@dataclass
class Pending:
    """A call of the last reply. running: an attempt has begun and nothing is known of its end."""

    call: ToolCall
    begun: bool = False
    attempts: int = 0
    running: bool = False
    result: ToolResult | None = None


@dataclass
class Journal:
    run_id: str
    messages: list
    calls: list = field(default_factory=list)  # all whose results are in `results`
    results: list = field(default_factory=list)
    pending: list = field(default_factory=list)
    note: str | None = None  # what the model is told of its last reply, after its calls
    stop: StopReason | None = None
    model_calls: int = 0
    tool_calls: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    elapsed: float = 0.0

    def tokens(self):
        return self.prompt_tokens + self.output_tokens

    def as_run(self):
        usage = Usage(self.model_calls, self.tool_calls, self.prompt_tokens, self.output_tokens)
        return Run(self.run_id, self.messages, self.stop, self.results, usage)

    def to_json(self):
        return json.dumps(asdict(self), default=lambda member: member.value)

    @classmethod
    def from_json(cls, text):
        try:
            journal = cls(**json.loads(text))
            journal.calls = [ToolCall(**each) for each in journal.calls]
            journal.results = [result_of(each) for each in journal.results]
            journal.pending = [
                Pending(**{**each, "call": ToolCall(**each["call"]), "result": result_of(each["result"])})
                for each in journal.pending
            ]
            journal.stop = journal.stop and StopReason(journal.stop)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InvalidArgument(f"checkpoint: expected the text of one, got {text[:80]!r}") from error
        return journal


def result_of(fields):
    return fields and ToolResult(**{**fields, "status": Status(fields["status"])})
