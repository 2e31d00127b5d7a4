"""Four ways to write a call. Each takes from the front of a text what is certain, and leaves the rest.

`take(text, ended)` returns what it found, in order, and what it left; with `ended` it leaves nothing.
"""

import re

from spec.agent import ParseProblem, ToolCall

from .scanning import SPACE, as_call, elements, end_of_value, is_value, members, plain_arguments, skip, string


def held(text, mark):
    """How many characters at the end of a text could begin a mark."""
    return next((n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n])), 0)


def problem(text, reason):
    return ParseProblem(text, reason)


class Hermes:
    START, END = "<tool_call>", "</tool_call>"

    def take(self, text, ended):
        found = []
        while (start := text.find(self.START)) >= 0:
            found.append(text[:start])
            text = text[start:]
            items, length = self.block(text, ended)
            if length == 0:
                return found, text
            found += items
            text = text[length:]
        cut = len(text) - (0 if ended else held(text, self.START))
        return [*found, text[:cut]], text[cut:]

    def block(self, text, ended):
        """What the block at the front of the text gives, and its length; 0 while that is open."""
        start = skip(text, len(self.START))
        end = end_of_value(text, start)
        if end is not None:
            after = skip(text, end)
            if text.startswith(self.END, after):
                return self.calls(text[start:end], text[: after + len(self.END)]), after + len(self.END)
            if ended and after == len(text):
                return self.calls(text[start:end], text), len(text)
        if not ended:
            return [], 0
        ends = [text.find(self.END) + len(self.END)] if self.END in text else []
        following = text.find(self.START, len(self.START))
        length = min([*ends, len(text), *([following] if following > 0 else [])])
        return [problem(text[:length], "expected one JSON value between the tags")], length

    def calls(self, value, block):
        if value.startswith("["):
            return [as_call(each) or problem(each, "expected a name") for each in elements(value)]
        return [as_call(value) or problem(block, "expected an object with a name")]


class Whole:
    """A format that is read when all of it is there."""

    def __init__(self, read):
        self.read = read

    def take(self, text, ended):
        return (self.read(text), "") if ended else ([], text)


# ---- Llama 3: objects with semicolons between. ----

TAG = "<|python_tag|>"


def llama3(text, tools):
    start = skip(text, 0)
    if text[start : start + 1] == "{":
        end = end_of_value(text, start)
        first = None if end is None else as_call(text[start:end])
        known = first is not None and (tools is None or first.name in tools)
        return objects(text[start:]) if known else [text]
    content, tag, rest = text.partition(TAG)
    return [content, *objects(rest)]


def objects(text):
    found = []
    while text := text.strip(SPACE):
        end = end_of_value(text, 0) if text.startswith("{") else None
        if end is None:
            return [*found, problem(text, "expected a JSON object")]
        found.append(as_call(text[:end]) or problem(text[:end], "expected a name"))
        text = text[end:].strip(SPACE)
        if text and not text.startswith(";"):
            return [*found, problem(text, "expected a semicolon")]
        text = text[1:]
    return found


# ---- ReAct: lines with marks. ----

ACTION = re.compile(r"Action:([^\n]*)\n[ \t\n\r]*Action Input:[ \t\n\r]*(?=[{\"])")
FINAL = "Final Answer:"


def react(text):
    text = text[: mark(text, "Observation:")]
    action, final = mark(text, "Action:"), mark(text, FINAL)
    if final < action:
        return [text[:final] + text[final + len(FINAL) :]]
    return [text[:action], *(acting(text[action:]) if action < len(text) else [])]


def mark(text, mark):
    """Where a line begins with it; the end of the text if none does."""
    found = 0 if text.startswith(mark) else text.find("\n" + mark) + 1
    return found if found or text.startswith(mark) else len(text)


def acting(text):
    shape = ACTION.match(text)
    end = end_of_value(text, shape.end()) if shape else None
    if end is None or not shape[1].strip(SPACE):
        return [problem(text, "expected Action, Action Input and a JSON object")]
    rest = text[end:].strip(SPACE)
    call = ToolCall(None, shape[1].strip(SPACE), plain_arguments(text[shape.end() : end]))
    return [call, *([problem(rest, "expected nothing after the input")] if rest else [])]


# ---- OpenAI: the message as JSON. ----


def openai(text):
    message = text.strip(SPACE)
    if not is_value(message, "{"):
        return [problem(text, "expected a message as a JSON object")]
    fields, found = dict(members(message)), []
    content, calls = fields.get("content", "null"), fields.get("tool_calls", "null")
    if content != "null":
        written = string(content)
        found.append(problem(content, "expected text") if written is None else written)
    if calls.startswith("["):
        found += [function_call(each) or problem(each, "expected a function") for each in elements(calls)]
    elif calls != "null":
        found.append(problem(calls, "expected a list"))
    return found


def function_call(text):
    entry = dict(members(text)) if text.startswith("{") else {}
    function = entry.get("function", "")
    fields = dict(members(function)) if function.startswith("{") else {}
    name, arguments = string(fields.get("name", "")), fields.get("arguments", "")
    if not name:
        return None
    written = string(arguments)
    identity = string(entry.get("id", "")) or None
    return ToolCall(identity, name, plain_arguments(arguments if written is None else written))


FORMATS = {
    "hermes": lambda tools: Hermes(),
    "openai": lambda tools: Whole(openai),
    "llama3": lambda tools: Whole(lambda text: llama3(text, tools)),
    "react": lambda tools: Whole(react),
}
