"""Two ways to write a call.

A format takes from the front of a text what is certain, `take(text, ended)`: what it found, in order, and the
text that it left. With `ended` it leaves nothing.
"""

import json
import re

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
        self.take = FORMATS[format]
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
    kept = 0 if ended else next(n for n in range(len(START) - 1, -1, -1) if text.endswith(START[:n]))
    return [*found, text[: len(text) - kept]], text[len(text) - kept :]


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


FORMATS = {"hermes": hermes, "react": react}
