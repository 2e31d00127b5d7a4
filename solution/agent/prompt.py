"""What a model is told of its tools where its chat template knows none: in the system's message, in Hermes
form, with examples of the use of tools that it may not have. Results come as messages of the user.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from spec.agent import Message

from .arguments import NotJson, read
from .hermes import END, START

Definitions = Sequence[dict[str, Any]]

_TOOLS = (
    "You are a helpful assistant. You can use these tools:\n<tools>\n{}\n</tools>\n"
    f'To use a tool, answer only with\n{START}\n{{{{"name": the tool, "arguments": its arguments}}}}\n{END}'
)


def call_text(name: str, arguments: Any) -> str:
    return f"{START}\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n{END}"


def result_text(content: str) -> str:
    return f"<tool_response>\n{content}\n</tool_response>"


def told(messages: Sequence[Message], tools: Definitions) -> list[Message]:
    """The same conversation with contents alone, which every template knows."""
    said = [_plain(message) for message in messages]
    leading = next((i for i, message in enumerate(said) if message["role"] != "system"), len(said))
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    system = [message["content"] for message in said[:leading]]
    preface = {"role": "system", "content": "\n\n".join([_TOOLS.format(functions), *system])}
    return [preface, *_EXAMPLES, *_joined(said[leading:])]


def with_values(messages: Sequence[Message]) -> list[Message]:
    """As templates that know tools have them: the arguments of a call are an object, not its text."""
    return [
        {**message, "tool_calls": [_with_values(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _with_values(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": _value(function["arguments"])}}


def _value(arguments: str) -> Any:
    try:
        return read(arguments)
    except NotJson:
        return arguments


def _plain(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": result_text(message["content"])}
    calls = [each["function"] for each in message.get("tool_calls") or ()]
    texts = [call_text(call["name"], _value(call["arguments"])) for call in calls]
    content = message.get("content") or ""
    return {"role": message["role"], "content": "\n".join([*([content] if content else []), *texts])}


def _joined(messages: Sequence[Message]) -> Iterator[Message]:
    """Messages of one role in a row, as several results are, become one."""
    held: Message | None = None
    for message in messages:
        if held is not None and held["role"] == message["role"]:
            held = {**held, "content": held["content"] + "\n" + message["content"]}
            continue
        if held is not None:
            yield held
        held = message
    if held is not None:
        yield held


def _example(question: str, name: str, arguments: Any, result: str, answer: str) -> list[Message]:
    contents = question, call_text(name, arguments), result_text(result), answer
    roles = "user", "assistant", "user", "assistant"
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


_EXAMPLES = [
    *_example(
        "What does the file plan.txt say?",
        "read_file",
        {"path": "plan.txt", "line": 1},
        "Meet at noon.",
        "The file plan.txt says: Meet at noon.",
    ),
    *_example("What is 12 * 7?", "calculate", {"expression": "12 * 7"}, "84", "12 * 7 is 84."),
    {"role": "user", "content": "Who was the first president of the USA?"},
    {"role": "assistant", "content": "George Washington was the first president of the USA."},
    *_example(
        "How much is 20% of 50?",
        "calculate",
        {"expression": "50 * 20 / 100"},
        "10",
        "20% of 50 is 10.",
    ),
]
