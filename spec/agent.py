"""Contract of the agent with tools: what a module `agent` must offer.

The rules are in `agent.md`; the ids in the docstrings (AG-01 …) point there. Signatures and values only:
nothing here computes.

A `Message` is a dict as chat interfaces have it: {"role": "system" | "user", "content": text};
{"role": "assistant", "content": text, "tool_calls": [{"id": …, "type": "function", "function": {"name": …,
"arguments": JSON text}}]}, without "tool_calls" where there are none, "content" text or None where there are;
{"role": "tool", "tool_call_id": …, "content": text}. Times are seconds, sizes of text are characters (code
points). Whatever a model wrote is text until AG-09 has looked at it. Messages of another shape are nobody's.

Sources: ReAct (Yao et al. 2022, arXiv 2210.03629); Hermes function calling (NousResearch); Llama 3.1 prompt
formats (Meta); OpenAI API reference; JSON Schema 2020-12; Nygard, «Release It!», circuit breakers; AWS
Architecture Blog, «Exponential backoff and jitter»; SGLang `srt/function_call`; llguidance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Any

__all__ = [
    "MAX_MESSAGE",
    "MAX_PERIOD",
    "Agent",
    "BreakerPolicy",
    "Clock",
    "Event",
    "EventKind",
    "JsonConstraint",
    "Limits",
    "ParseProblem",
    "Parsed",
    "Problem",
    "Reply",
    "RetryPolicy",
    "Run",
    "Status",
    "StopReason",
    "StreamingToolParser",
    "Tool",
    "ToolCall",
    "ToolContext",
    "ToolResult",
    "Toolbox",
    "check_transcript",
    "compact",
    "detect_loop",
    "parse_tool_calls",
    "validate_arguments",
]

Array = Any
Message = dict[str, Any]
Schema = Mapping[str, Any]

MAX_MESSAGE = 200  # characters of a problem's message
MAX_PERIOD = 4  # calls in the longest circle that detect_loop sees


# Calls ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToolCall:
    """id: None until the agent gives one; AG-44 reads one. arguments: JSON text, possibly invalid. AG-04."""

    id: str | None
    name: str
    arguments: str


@dataclass(frozen=True)
class ParseProblem:
    """text: the part of the output that could not be read, in full; in "openai" spelled in any way. AG-44."""

    text: str


@dataclass(frozen=True)
class Parsed:
    """content: what is neither a call nor a problem, joined in the order of the text, nothing stripped."""

    content: str
    calls: list[ToolCall]
    problems: list[ParseProblem]


@dataclass(frozen=True)
class Problem:
    """What is wrong at one place.

    path: a JSON pointer (RFC 6901) into what was checked, "" for the whole of it.
    rule: the rule that is broken: a keyword of JSON Schema, "json", or one of `check_transcript`.
    message: what was expected and what came, at most MAX_MESSAGE characters; its wording is free.
    """

    path: str
    rule: str
    message: str


# Tools ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RetryPolicy:
    """attempts: how often a call is tried at most, the first one counted, ≥ 1.

    Before retry i = 0, 1, … the wait is u · min(cap, base · 2^i), u a draw. AG-17.
    """

    attempts: int = 1
    base: float = 0.5
    cap: float = 30.0


@dataclass(frozen=True)
class BreakerPolicy:
    """failures: how many in a row open a resource's breaker. reset_after: seconds until a probe. AG-18."""

    failures: int = 5
    reset_after: float = 30.0


@dataclass(frozen=True)
class ToolContext:
    """What a tool's function is told beside its arguments.

    idempotency_key: the same for all attempts of a call, another for each other call. AG-20.
    attempt: counts from 1. deadline: time of the clock at which nobody waits any more.
    """

    idempotency_key: str
    attempt: int
    deadline: float


@dataclass(frozen=True)
class Tool:
    """Something the model may ask for.

    name: 1 to 64 of a–z, A–Z, 0–9, _ and -.
    parameters: a JSON Schema of the arguments.
    function(arguments, context): arguments as a dict; returns text, or what JSON can say. What failed is
        raised: ToolFailure where the tool knows more, anything else where it does not.
    timeout: seconds of one attempt.
    idempotent: whether a second attempt with the same key does no more than the first. AG-16.
    needs_approval: whether each call is asked for. AG-21.
    resource: what the tool depends on, not empty; tools of the same resource share a breaker. None: its own
        name. AG-18.
    """

    name: str
    description: str
    parameters: Schema
    function: Callable[[dict[str, Any], ToolContext], Any]
    timeout: float = 30.0
    retry: RetryPolicy = RetryPolicy()
    idempotent: bool = False
    needs_approval: bool = False
    resource: str | None = None


@dataclass(frozen=True)
class Clock:
    """Time. In tests it is made of numbers.

    now(): seconds, never less than before.
    sleep(seconds): waits. May raise Cancelled.
    call(function, arguments, context, timeout): what function(arguments, context) returns, or raises what it
        raises; TimeoutError when that takes longer than `timeout` seconds, which may be infinite; what the
        function still does is then nobody's. May raise Cancelled. Calls may overlap.
    """

    now: Callable[[], float]
    sleep: Callable[[float], None]
    call: Callable[[Callable[[dict[str, Any], ToolContext], Any], dict[str, Any], ToolContext, float], Any]


class Status(Enum):
    """How a call ended. Tests compare this, never wording."""

    OK = "ok"
    UNKNOWN_TOOL = "unknown tool"  # nothing of that name
    BAD_ARGUMENTS = "bad arguments"  # AG-09 to AG-12 refuse them
    DENIED = "denied"  # not approved
    OPEN = "open"  # the breaker was, and nothing was tried
    ERROR = "error"  # the function raised, or returned what cannot be written down
    TIMEOUT = "timeout"  # nobody knows whether it happened; with no attempts: no time was left
    SKIPPED = "skipped"  # the run ended before an attempt
    INTERRUPTED = "interrupted"  # after an attempt it ended, or its process died: nobody knows


@dataclass(frozen=True)
class ToolResult:
    """content: text for the model. AG-13, AG-22. attempts: how often the function was called for it."""

    call_id: str
    name: str
    status: Status
    content: str
    attempts: int


# The loop -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """What a model gave. text: its output, in the agent's format, raw. finish: "stop", or "length" where the
    output was cut. tokens: what the call cost, prompt and output together.
    """

    text: str
    finish: str = "stop"
    tokens: int = 0


@dataclass(frozen=True)
class Limits:
    """What a run may cost. AG-26 to AG-28, AG-33.

    model_calls: how many. tokens: of all replies. seconds: from the beginning.
    repeats: how often the same calls with the same results make a loop; 0 is off, else ≥ 2.
    parallel: how many calls of one reply run at once.
    """

    model_calls: int = 20
    tokens: float = inf
    seconds: float = inf
    repeats: int = 3
    parallel: int = 1


class StopReason(Enum):
    """Why a run ended."""

    DONE = "done"  # the model answered without a call
    EMPTY = "empty"  # it wrote nothing
    TRUNCATED = "truncated"  # its output was cut
    MODEL_ERROR = "model error"  # it raised
    MODEL_CALLS = "model calls"
    TOKENS = "tokens"
    SECONDS = "seconds"
    LOOP = "loop"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Run:
    """How a run ended.

    messages: those given and all that were added. results: one for each call, in their order. model_calls:
    how often the model was called, failures included. tokens: of all replies.
    """

    run_id: str
    messages: list[Message]
    stop_reason: StopReason
    results: list[ToolResult]
    model_calls: int
    tokens: int


class EventKind(Enum):
    """What happened."""

    MODEL_CALL = "model call"
    MODEL_REPLY = "model reply"
    ATTEMPT = "attempt"
    RESULT = "result"
    STOP = "stop"


@dataclass(frozen=True)
class Event:
    """Something that happened in a run. AG-34, AG-35.

    at: time of the clock. call_id: of ATTEMPT and RESULT, else None. checkpoint: what `Agent.resume` takes.
    """

    kind: EventKind
    at: float
    call_id: str | None
    checkpoint: str


# What the model wrote -------------------------------------------------------------------------------------


def parse_tool_calls(text: str, format: str) -> Parsed:
    """The calls in a model's output. AG-01 to AG-06, AG-43, AG-44.

    format: "hermes", "react", "llama3" or "openai". Never raises because of `text`.

    Raises InvalidArgument for any other format. AG-42.
    """
    ...


class StreamingToolParser:
    """`parse_tool_calls`, while the text is still coming. AG-07, AG-08."""

    def __init__(self, format: str) -> None:
        """Raises InvalidArgument for an unknown format. AG-07, AG-42."""

    def feed(self, text: str) -> list[str | ToolCall | ParseProblem]:
        """What is certain by now and was not returned before, in the order of the text. AG-07, AG-08.

        Raises InvalidArgument after `close`. AG-42.
        """
        ...

    def close(self) -> list[str | ToolCall | ParseProblem]:
        """The rest: no text follows. AG-07. Raises InvalidArgument the second time. AG-42."""
        ...


def validate_arguments(schema: Schema, arguments: str) -> list[Problem]:
    """What is wrong with the arguments of a call; [] if nothing. AG-09 to AG-12.

    arguments: JSON text. Empty text, white space and null count as {}. Never raises because of it.

    Raises InvalidArgument for a schema that is none, and may raise NotSupported for one of other keywords
    than those of AG-10 to AG-12. AG-41.
    """
    ...


def detect_loop(steps: Sequence[tuple[ToolCall, ToolResult]], *, repeats: int) -> bool:
    """Whether the calls have come to turn in a circle, of at most MAX_PERIOD calls. AG-33.

    steps: calls and their results, in order. Raises InvalidArgument when repeats < 2. AG-42.
    """
    ...


# Running calls --------------------------------------------------------------------------------------------


class Toolbox:
    """Tools, and all that stands between a call and its result. AG-13 to AG-22.

    Any thread may call.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        *,
        clock: Clock,
        uniform: Callable[[], float],
        approve: Callable[[ToolCall], bool] | None = None,
        breaker: BreakerPolicy = BreakerPolicy(),
        max_result: int = 10_000,
    ) -> None:
        """uniform(): a number in [0, 1). approve(call): whether a call that needs approval may run; None: no
        such call may. breaker: of each resource. max_result: characters, ≥ 100. AG-13 to AG-22.

        Raises InvalidArgument for a tool or value out of its range and for a name that two tools have, and
        what `validate_arguments` raises for a schema. AG-41.
        """

    def call(self, call: ToolCall, *, run_id: str, deadline: float = inf) -> ToolResult:
        """Runs a call to its end. AG-13 to AG-22. deadline: time of the clock; AG-17.

        Raises Cancelled when the clock, the function or `approve` does, and InvalidArgument when the call's
        id is None. AG-42.
        """
        ...


# The loop -------------------------------------------------------------------------------------------------


class Agent:
    """Asks the model, runs what it calls, tells it the results, until the run ends. AG-23 to AG-36.

    One run at a time.
    """

    def __init__(
        self,
        model: Callable[[list[Message], list[dict[str, Any]]], Reply],
        toolbox: Toolbox,
        *,
        new_id: Callable[[], str],
        format: str = "hermes",
        limits: Limits = Limits(),
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """model(messages, tools): tools as OpenAI has them, {"type": "function", "function": {"name",
        "description", "parameters"}}. toolbox: of the same implementation; its clock is the agent's.
        new_id(): text, new each time. AG-23.

        Raises InvalidArgument for limits out of their range or an unknown format. AG-42.
        """

    def run(self, messages: Sequence[Message]) -> Run:
        """From these messages to the end. AG-23 to AG-34.

        Raises InvalidArgument when check_transcript finds something in `messages`, or they are none (AG-42).
        What `new_id`, `on_event` or the clock's `now` raises reaches the caller.
        """
        ...

    def resume(self, checkpoint: str) -> Run:
        """The rest of a run whose process died, from its last Event.checkpoint. AG-35, AG-36."""
        ...

    def cancel(self) -> None:
        """Ends the run that is under way, if there is one, from any thread or callback. AG-30."""
        ...


def check_transcript(messages: Sequence[Message]) -> list[Problem]:
    """What a server would refuse in a list of messages; [] if nothing. AG-24.

    Rules and their paths, i the message's index: "duplicate" /i/tool_calls/j/id; "unanswered"
    /i/tool_calls/j; "unsolicited" /i/tool_call_id.
    """
    ...


def compact(
    messages: Sequence[Message],
    *,
    budget: int,
    count_tokens: Callable[[list[Message]], int],
    summarize: Callable[[list[Message]], str],
) -> list[Message]:
    """The messages, shortened where they would not fit. AG-37.

    budget: tokens that the prompt may have: what the model can hold, less what is kept for its output.
    count_tokens(messages): of the rendered prompt, the definitions of the tools included.
    summarize(messages): text that stands for them.

    Raises CannotCompact when nothing that is allowed fits; InvalidArgument when check_transcript finds
    something in `messages`. AG-42.
    """
    ...


# Writing nothing else -------------------------------------------------------------------------------------


class JsonConstraint:
    """Which tokens may follow, so that what is written is JSON that a schema accepts. AG-38 to AG-40.

    A state is plain data that stands for what was written; what it looks like is free. It stays valid.
    """

    def __init__(self, schema: Schema, vocabulary: Sequence[bytes], eos: Sequence[int]) -> None:
        """vocabulary: the bytes of each id, V of them. eos: ids that end it, whatever their bytes. AG-38.

        Raises NotSupported for a schema that is outside what AG-38 names and that it cannot keep to;
        InvalidArgument for eos that is empty or not in 0 … V − 1. AG-42.
        """

    def start(self) -> Any:
        """The state in which nothing is written. AG-38."""
        ...

    def allowed(self, state: Any) -> Array:
        """(V,) bool: which tokens may come next. AG-38 to AG-40.

        Raises InvalidArgument after the end. AG-42.
        """
        ...

    def advance(self, state: Any, token: int) -> Any:
        """The state after a token. AG-39.

        Raises InvalidArgument for a token that is not allowed, and after the end. AG-42.
        """
        ...

    def is_complete(self, state: Any) -> bool:
        """Whether what is written could end here, or has ended. AG-39."""
        ...
