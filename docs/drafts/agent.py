"""Contract of the agent with tools: what a module `agent` must offer.

The rules are in `agent.md`; the ids in the docstrings (AG-01 …) point there. Signatures and values only:
nothing here computes.

A `Message` is a dict as chat interfaces have it: {"role": "system" | "user", "content": text};
{"role": "assistant", "content": text, "tool_calls": [{"id": …, "type": "function", "function": {"name": …,
"arguments": JSON text}}]}, without "tool_calls" where there are none, "content" text or None where there are;
{"role": "tool", "tool_call_id": …, "content": text}. Times are seconds, sizes of text are characters (code
points). Whatever a model wrote is text until AG-11 has looked at it.

Sources: ReAct (Yao et al. 2022, arXiv 2210.03629); Hermes function calling (NousResearch); the Llama 3.1
prompt format; OpenAI API reference; JSON Schema 2020-12; Nygard, «Release It!», circuit breakers;
AWS Architecture Blog, «Exponential backoff and jitter»; SGLang `srt/function_call`; llguidance.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = [
    "MAX_ARGUMENTS",
    "MAX_DEPTH",
    "MAX_PROBLEMS",
    "MAX_SHOWN",
    "Agent",
    "BreakerPolicy",
    "Clock",
    "Event",
    "EventKind",
    "JsonConstraint",
    "Limits",
    "ParseProblem",
    "Parsed",
    "Policy",
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
    "Usage",
    "canonical_call",
    "check_transcript",
    "compact",
    "detect_loop",
    "parse_tool_calls",
    "validate_arguments",
]

Array = Any
Message = dict[str, Any]
Schema = Mapping[str, Any]

MAX_ARGUMENTS = 100_000  # characters of a call's arguments
MAX_DEPTH = 32  # objects and arrays inside each other in a call's arguments
MAX_PROBLEMS = 20  # that one answer of validate_arguments names
MAX_SHOWN = 200  # characters of `expected` and of `got` in a problem


# Calls ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToolCall:
    """id: the model's own where its format has one (openai), else None until the agent gives one.
    arguments: JSON text as the model wrote it, possibly invalid. AG-04.
    """

    id: str | None
    name: str
    arguments: str


@dataclass(frozen=True)
class ParseProblem:
    """text: the part of the output that could not be read, in full. reason: a sentence, its wording free."""

    text: str
    reason: str


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
    expected, got: for people, at most MAX_SHOWN characters each; their wording is free.
    """

    path: str
    rule: str
    expected: str
    got: str


# Tools ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RetryPolicy:
    """attempts: how often a call is tried at most, the first one counted, ≥ 1.

    Before retry i = 0, 1, … the wait is u · min(cap, base · 2^i), u a draw. AG-19.
    """

    attempts: int = 1
    base: float = 0.5
    cap: float = 30.0


@dataclass(frozen=True)
class BreakerPolicy:
    """failures: how many in a row open a resource's breaker. reset_after: seconds until a probe. AG-20."""

    failures: int = 5
    reset_after: float = 30.0


@dataclass(frozen=True)
class ToolContext:
    """What a tool's function is told beside its arguments.

    idempotency_key: the same for all attempts of a call, another for each other call. AG-22.
    attempt: counts from 1. deadline: time of the clock at which nobody waits any more, None for never.
    """

    run_id: str
    call_id: str
    idempotency_key: str
    attempt: int
    deadline: float | None


@dataclass(frozen=True)
class Tool:
    """Something the model may ask for.

    name: 1 to 64 of a–z, A–Z, 0–9, _ and -.
    parameters: a JSON Schema of the arguments, of the keywords that AG-12 to AG-14 name.
    function(arguments, context): arguments as a dict; returns text, or what JSON can say, or bytes. What
        failed is raised: ToolFailure where the tool knows more, anything else where it does not.
    timeout: seconds of one attempt; None waits.
    idempotent: whether a second attempt with the same key does no more than the first. AG-18.
    needs_approval: whether each call is asked for. AG-24.
    resource: what the tool depends on; tools of the same resource share a breaker. None: itself alone, which
        is no other tool's, whatever that one's resource is called.
    max_concurrency: how many calls of this tool run at once; None for any number. AG-23.
    """

    name: str
    description: str
    parameters: Schema
    function: Callable[[dict[str, Any], ToolContext], Any]
    timeout: float | None = 30.0
    retry: RetryPolicy = RetryPolicy()
    idempotent: bool = False
    needs_approval: bool = False
    resource: str | None = None
    max_concurrency: int | None = None


@dataclass(frozen=True)
class Policy:
    """What may be done, whatever the model or a tool says. AG-24, AG-37.

    allowed: names of the tools that may run; None for all there are.
    approve(call): whether a call of a tool that needs approval may run. None: no such call may.
    """

    allowed: Collection[str] | None = None
    approve: Callable[[ToolCall], bool] | None = None


@dataclass(frozen=True)
class Clock:
    """Time. In tests it is made of numbers.

    now(): seconds, never less than before.
    sleep(seconds): waits. May raise Cancelled.
    call(fn, timeout): what fn() returns, or raises what it raises; TimeoutError when that takes longer than
        `timeout` seconds (None: however long it takes), and what fn still does is then nobody's. fn takes
        nothing and returns plain data. May raise Cancelled. Calls may overlap.
    """

    now: Callable[[], float]
    sleep: Callable[[float], None]
    call: Callable[[Callable[[], Any], float | None], Any]


class Status(Enum):
    """How a call ended. Tests compare this, never wording."""

    OK = "ok"
    UNKNOWN_TOOL = "unknown tool"  # nothing of that name
    BAD_ARGUMENTS = "bad arguments"  # AG-11 to AG-14 refuse them
    DENIED = "denied"  # by the policy
    OPEN = "open"  # the breaker was, and nothing was tried
    ERROR = "error"  # the function raised, or returned what cannot be written down
    TIMEOUT = "timeout"  # nobody knows whether it happened
    CONFLICT = "conflict"  # the id stands for another call already
    CANCELLED = "cancelled"  # the run was
    SKIPPED = "skipped"  # the run ended for another reason before the call began
    INTERRUPTED = "interrupted"  # was under way when the process died: nobody knows whether it happened


@dataclass(frozen=True)
class ToolResult:
    """content: text for the model. AG-15, AG-25. attempts: how often the function was called for it.

    length: characters of the content before it was cut; len(content) where it was not.
    """

    call_id: str
    name: str
    status: Status
    content: str
    attempts: int
    length: int


# The loop -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """What a model gave. text: its output, in the agent's format, raw. finish: "stop", or "length" where the
    output was cut. prompt_tokens, output_tokens: what the call cost.
    """

    text: str
    finish: str = "stop"
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Limits:
    """What a run may cost. AG-30, AG-31, AG-35.

    model_calls, tool_calls: how many. tokens: of prompts and outputs together; None for any. seconds: None
    for any. repeats: how often the same calls with the same results make a loop; 0 is off, else ≥ 2.
    parallel: how many calls of one reply run at once.
    """

    model_calls: int = 20
    tool_calls: int = 100
    tokens: int | None = None
    seconds: float | None = None
    repeats: int = 3
    parallel: int = 1


class StopReason(Enum):
    """Why a run ended."""

    DONE = "done"  # the model answered without a call
    EMPTY = "empty"  # it wrote nothing
    TRUNCATED = "truncated"  # its output was cut
    MODEL_ERROR = "model error"  # it raised
    MODEL_CALLS = "model calls"
    TOOL_CALLS = "tool calls"
    TOKENS = "tokens"
    SECONDS = "seconds"
    LOOP = "loop"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Usage:
    """model_calls: how often the model was called, failures included. tool_calls: how many calls began."""

    model_calls: int
    tool_calls: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Run:
    """messages: those given and all that were added. results: one for each call, in their order."""

    run_id: str
    messages: list[Message]
    stop_reason: StopReason
    results: list[ToolResult]
    usage: Usage


class EventKind(Enum):
    MODEL_CALL = "model call"
    MODEL_REPLY = "model reply"
    ATTEMPT = "attempt"
    RESULT = "result"
    CHECKPOINT = "checkpoint"
    STOP = "stop"


@dataclass(frozen=True)
class Event:
    """Something that happened in a run. AG-36, AG-38.

    at: time of the clock. call_id: of ATTEMPT and RESULT. text: of a CHECKPOINT what `Agent.resume` takes; of
    the others, free.
    """

    kind: EventKind
    at: float
    call_id: str | None = None
    text: str = ""


# ---- What the model wrote. ----


def parse_tool_calls(text: str, format: str, *, tools: Collection[str] | None = None) -> Parsed:
    """The calls in a model's output. AG-01 to AG-08, AG-45.

    format: "hermes", "openai", "llama3" or "react". tools: names that exist; a bare JSON object of llama3
    that names none of them is text. None: any name will do. Never raises because of `text`.

    Raises InvalidArgument for any other format.
    """
    ...


class StreamingToolParser:
    """`parse_tool_calls`, while the text is still coming. AG-09, AG-10."""

    def __init__(self, format: str, *, tools: Collection[str] | None = None) -> None:
        """Raises InvalidArgument for an unknown format. AG-09, AG-45."""

    def feed(self, text: str) -> list[str | ToolCall | ParseProblem]:
        """What is certain by now and was not returned before, in the order of the text. AG-09, AG-10, AG-45.

        Raises InvalidArgument after `close`.
        """
        ...

    def close(self) -> list[str | ToolCall | ParseProblem]:
        """The rest: no text follows. AG-09, AG-45. Raises InvalidArgument the second time."""
        ...


def validate_arguments(schema: Schema, arguments: str) -> list[Problem]:
    """What is wrong with the arguments of a call; [] if nothing. AG-11 to AG-14, AG-44.

    arguments: JSON text. Empty text, white space and null count as {}. Never raises because of it.

    Raises InvalidArgument for a schema that is none, NotSupported for keywords other than those of AG-12 to
    AG-14.
    """
    ...


def canonical_call(call: ToolCall) -> str:
    """Equal for equal calls and different for others; what it looks like is free. AG-35."""
    ...


def detect_loop(
    calls: Sequence[ToolCall], results: Sequence[ToolResult], *, repeats: int, max_period: int = 4
) -> bool:
    """Whether the calls have come to turn in a circle. AG-35, AG-45.

    Raises InvalidArgument unless there are as many results as calls, repeats ≥ 2 and max_period ≥ 1.
    """
    ...


# ---- Running calls. ----


class Toolbox:
    """Tools, and all that stands between a call and its result. AG-15 to AG-25.

    Any thread may call.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        *,
        policy: Policy,
        clock: Clock,
        uniform: Callable[[], float],
        breaker: BreakerPolicy = BreakerPolicy(),
        max_result: int = 10_000,
    ) -> None:
        """uniform(): a number in [0, 1). max_result: characters, ≥ 100. AG-15, AG-25, AG-44.

        Raises InvalidArgument for a tool or value out of its range and for a name that two tools have;
        InvalidArgument or NotSupported for a schema that `validate_arguments` would refuse.
        """

    def call(self, call: ToolCall, *, run_id: str, deadline: float | None = None) -> ToolResult:
        """Runs a call to its end. AG-15 to AG-25. deadline: time of the clock, None for never; AG-19.

        Raises Cancelled when the clock or the function does, and InvalidArgument when the call's id is None.
        """
        ...


# ---- The loop. ----


class Agent:
    """Asks the model, runs what it calls, tells it the results, until the run ends. AG-26 to AG-39.

    Its tools stand in one Toolbox, whose breakers live as long as the agent. One run at a time.
    """

    def __init__(
        self,
        model: Callable[[list[Message], list[dict[str, Any]]], Reply],
        tools: Sequence[Tool],
        *,
        clock: Clock,
        uniform: Callable[[], float],
        new_id: Callable[[], str],
        format: str = "hermes",
        limits: Limits = Limits(),
        policy: Policy = Policy(),
        breaker: BreakerPolicy = BreakerPolicy(),
        max_result: int = 10_000,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """model(messages, tools): tools as OpenAI has them, {"type": "function", "function": {"name",
        "description", "parameters"}}, those that the policy allows. AG-26. new_id(): text, new each time.

        Raises what `Toolbox` raises, and InvalidArgument for limits out of their range or an unknown format.
        AG-44, AG-45.
        """

    def run(self, messages: Sequence[Message]) -> Run:
        """From these messages to the end. AG-26 to AG-37, AG-45.

        Raises InvalidArgument when check_transcript finds something in `messages`, or they are none. What
        `new_id`, `on_event` or the clock's `now` raises reaches the caller.
        """
        ...

    def resume(self, checkpoint: str) -> Run:
        """The rest of a run whose process died, from the text of a CHECKPOINT. AG-38, AG-39, AG-45.

        Raises InvalidArgument for a text that is none.
        """
        ...

    def cancel(self) -> None:
        """Ends the run that is under way, if there is one, from any thread or callback. AG-33."""
        ...


def check_transcript(messages: Sequence[Message]) -> list[Problem]:
    """What a server would refuse in a list of messages; [] if nothing. AG-27.

    Rules and their paths, i the message's index: "role" /i/role; "content" /i/content; "calls" /i/tool_calls
    or /i/tool_calls/j; "duplicate" /i/tool_calls/j/id; "unanswered" /i/tool_calls/j; "unsolicited"
    /i/tool_call_id.
    """
    ...


def compact(
    messages: Sequence[Message],
    *,
    tools: Sequence[dict[str, Any]],
    budget: int,
    reserved: int,
    count_tokens: Callable[[list[Message], list[dict[str, Any]]], int],
    summarize: Callable[[list[Message]], str],
) -> list[Message]:
    """The messages, shortened where they would not fit. AG-40, AG-45.

    budget: tokens that the model can hold. reserved: of those, for its output. count_tokens(messages, tools):
    of the rendered prompt. summarize(messages): text that stands for them.

    Raises CannotCompact when nothing that is allowed fits; InvalidArgument when check_transcript finds
    something in `messages`, budget < 1 or reserved < 0.
    """
    ...


# ---- Writing nothing else. ----


class JsonConstraint:
    """Which tokens may follow, so that what is written is JSON that a schema accepts. AG-41 to AG-43.

    A state is plain data that stands for what was written; what it looks like is free. It stays valid.
    """

    def __init__(self, schema: Schema, vocabulary: Sequence[bytes], eos: Sequence[int]) -> None:
        """vocabulary: the bytes of each id, V of them. eos: ids that end it, whatever their bytes. AG-41.

        Raises NotSupported for a schema that is outside what AG-41 names and that it cannot keep to;
        InvalidArgument for one that is none, for eos that is empty or not in 0 … V − 1. AG-45.
        """

    def start(self) -> Any:
        """The state in which nothing is written. AG-41."""
        ...

    def allowed(self, state: Any) -> Array:
        """(V,) bool: which tokens may come next. AG-41 to AG-43.

        Raises InvalidArgument after the end.
        """
        ...

    def advance(self, state: Any, token: int) -> Any:
        """The state after a token. AG-42.

        Raises InvalidArgument for a token that is not allowed, and after the end.
        """
        ...

    def is_complete(self, state: Any) -> bool:
        """Whether what is written could end here, or has ended. AG-42."""
        ...
