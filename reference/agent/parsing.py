"""Four ways to write a call.

A format takes from the front of a text what is certain, `take(text, ended)`: what it found, in order, and the
text that it left. With `ended` all is certain.
"""

import json
import re
from dataclasses import replace

from spec import InvalidArgument
from spec.agent import Parsed, ParseProblem, ToolCall

from .arguments import JSON
from .basics import SPACE, expect


def parse_tool_calls(text, format):
    parser = StreamingToolParser(format)
    found = [*parser.feed(text), *parser.close()]
    return Parsed(
        "".join(each for each in found if isinstance(each, str)),
        [each for each in found if isinstance(each, ToolCall)],
        [each for each in found if isinstance(each, ParseProblem)],
    )


class StreamingToolParser:
    def __init__(self, format):
        expect(format in FORMATS, "format", f"one of {', '.join(FORMATS)}", format)
        self.take = FORMATS[format]()
        self.text = ""  # what was kept; None after the end

    def feed(self, text, ended=False):
        if self.text is None:
            raise InvalidArgument("text: expected none after close")
        found, self.text = self.take(self.text + text, ended)
        return [each for each in found if each != ""]

    def close(self):
        found = self.feed("", ended=True)
        self.text = None
        return found


def first_value(text):
    """The JSON value at the front of a text and where it ends; None and 0 if there is no complete one."""
    try:
        return JSON.raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0


def as_call(value):
    """The call that a JSON value is, or None."""
    fields = value if isinstance(value, dict) else {}
    name, key = fields.get("name"), "arguments" if "arguments" in fields else "parameters"
    if not name or not isinstance(name, str) or key not in fields:
        return None
    return ToolCall(None, name, as_text(fields[key]))


def as_text(arguments):
    """A string is the text of JSON itself: some models put their arguments into one."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


START, END = "<tool_call>", "</tool_call>"
BAD_END = re.compile(f"{END}|(?={START})|\\Z")


def hermes(text, ended):
    found = []
    while START in text:
        start = text.index(START)
        item, length = block(text[start:], ended)
        found.append(text[:start])
        if item is None:
            return found, text[start:]
        found.append(item)
        text = text[start + length :]
    kept = 0 if ended else begun(START, text)
    return [*found, text[: len(text) - kept]], text[len(text) - kept :]


def begun(tag, text):
    """How many characters at the end of a text may be the beginning of a tag."""
    return next(n for n in range(len(tag) - 1, -1, -1) if text.endswith(tag[:n]))


def block(text, ended):
    """The call or problem at the front of the text and its length; None while it is open."""
    inside = text[len(START) :].lstrip(SPACE)
    value, end = first_value(inside)
    call, rest = as_call(value), inside[end:].lstrip(SPACE)
    if (end and rest.startswith(END)) or (call and ended and not rest):
        length = len(text) - len(rest.removeprefix(END))
        return call or ParseProblem(text[:length]), length
    if not ended:
        return None, 0
    length = BAD_END.search(text, len(START)).end()
    return ParseProblem(text[:length]), length


OBSERVATION = re.compile(r"^Observation:", re.MULTILINE)
MARK = re.compile(r"^(Action|Final Answer):", re.MULTILINE)
INPUT = "Action Input:"


def react(text, ended):
    if not ended:
        return [], text
    text = OBSERVATION.split(text, 1)[0]
    mark = MARK.search(text)
    if mark is None or mark[1] == "Final Answer":
        return [MARK.sub("", text, 1)], ""
    content, text = text[: mark.start()], text[mark.start() :]
    line, _, below = text.removeprefix("Action:").partition("\n")
    name, below = line.strip(SPACE), below.lstrip(SPACE)
    inside = below.removeprefix(INPUT).lstrip(SPACE)
    value, end = first_value(inside) if name and below.startswith(INPUT) else (None, 0)
    if not end:
        return [content, ParseProblem(text)], ""
    call, rest = ToolCall(None, name, as_text(value)), inside[end:].strip(SPACE)
    return [content, call, ParseProblem(rest)] if rest else [content, call], ""


TAG = "<|python_tag|>"
BARE = re.compile(rf"[{SPACE}]*(?={{)")
BETWEEN = re.compile(rf"([{SPACE};]|{re.escape(TAG)})*")
OBJECT_END = re.compile(rf";|{re.escape(TAG)}|\Z")


class Llama3:
    def __init__(self):
        self.blank = True  # whether nothing but white space has come

    def __call__(self, text, ended):
        bare = BARE.match(text) if self.blank else None
        if bare:  # then it is as if the tag stood there
            text = text[: bare.end()] + TAG + text[bare.end() :]
        content, tag, inside = text.partition(TAG)
        if tag:
            found, left = objects(inside, ended)
            return [content, *found], tag + left
        kept = 0 if ended else begun(TAG, text)
        content, left = text[: len(text) - kept], text[len(text) - kept :]
        self.blank = self.blank and not content.strip(SPACE)
        return [content], left


def objects(text, ended):
    """The calls and problems at the front of the text, and what is left."""
    found = []
    while text := text[BETWEEN.match(text).end() :]:
        value, end = first_value(text)
        if isinstance(value, dict):
            found.append(as_call(value) or ParseProblem(text[:end]))
        elif ended:
            end = OBJECT_END.search(text).start()
            found.append(ParseProblem(text[:end].rstrip(SPACE)))
        else:
            break
        text = text[end:]
    return found, text


def openai(text, ended):
    if not ended:
        return [], text
    value, end = first_value(text.strip(SPACE))
    message = value if isinstance(value, dict) and end == len(text.strip(SPACE)) else {}
    content, entries = message.get("content"), message.get("tool_calls")
    shaped = isinstance(content, str | None) and isinstance(entries, list | None)
    if not shaped or not ("content" in message or "tool_calls" in message):
        return [text], ""
    return [content or "", *map(entry, entries or [])], ""


def entry(value):
    """The call or problem that an entry of "tool_calls" is."""
    call = as_call(value.get("function")) if isinstance(value, dict) else None
    if call is None:
        return ParseProblem(json.dumps(value, ensure_ascii=False))
    return replace(call, id=value["id"] if isinstance(value.get("id"), str) else None)


FORMATS = {"hermes": lambda: hermes, "react": lambda: react, "llama3": Llama3, "openai": lambda: openai}
