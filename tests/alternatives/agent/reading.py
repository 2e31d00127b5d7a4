"""Calls in what a model wrote, in four formats. A reader is a coroutine on the tape and puts what it finds
beside it, so that text at once and text in pieces are read by the same lines.
"""

import json
import re
from dataclasses import replace

from spec.agent import Parsed, ParseProblem, ToolCall

from .basics import BLANK, require
from .scanning import Bad, Tape, blank, decode, drain, scan, scan_members, take

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def as_call(name, value, text):
    return ToolCall(None, name, value if isinstance(value, str) else text)


def call_of(members):
    """The call that an object's members are, or None."""
    found = {key: (value, text) for key, value, text in members}
    name = found.get("name", (None, ""))[0]
    arguments = found.get("arguments", found.get("parameters"))
    if not isinstance(name, str) or not name or arguments is None:
        return None
    return as_call(name, *arguments)


def read_hermes(tape):
    while True:
        start = tape.text.find(OPEN)
        if start >= 0:
            tape.found.append(tape.cut(start))
            yield from read_block(tape)
            continue
        kept = 0 if tape.closed else max(n for n in range(len(OPEN)) if tape.text.endswith(OPEN[:n]))
        tape.found.append(tape.cut(len(tape.text) - kept))
        if tape.closed:
            return
        yield


def read_block(tape):
    try:
        item = yield from read_good_block(tape)
    except Bad:
        item = yield from read_bad_block(tape)
    tape.found.append(item)


def read_good_block(tape):
    tape.at = len(OPEN)
    if (yield from blank(tape)) == "{":
        call = call_of((yield from scan_members(tape, 0)))
    else:
        yield from scan(tape)
        call = None
    if (yield from blank(tape)):
        yield from take(tape, CLOSE)
    elif call is None:
        raise Bad
    text = tape.cut(tape.at)
    return call or ParseProblem(text)


def read_bad_block(tape):
    while True:
        end, following = tape.text.find(CLOSE), tape.text.find(OPEN, len(OPEN))
        ends = [end + len(CLOSE)] * (end >= 0) + [following] * (following >= 0)
        if ends or tape.closed:
            return ParseProblem(tape.cut(min(ends, default=len(tape.text))))
        yield


def read_react(tape):
    while not tape.closed:
        yield
    text = re.split(r"(?:(?<=\n)|\A)Observation:", tape.text, maxsplit=1)[0]
    mark = re.search(r"(?:(?<=\n)|\A)(?:(Action:)|Final Answer:)", text)
    if not mark:
        tape.found.append(text)
        return
    tape.found.append(text[: mark.start()])
    if not mark[1]:
        tape.found.append(text[mark.end() :])
        return
    action = re.compile(r"[ \t\r]*([^ \t\r\n][^\n]*)\n[ \t\n\r]*(?<=\n)Action Input:").match(text, mark.end())
    try:
        if not action:
            raise Bad
        rest = Tape(text[action.end() :])
        drain(blank(rest))
        start = rest.at
        value = drain(scan(rest))
    except Bad:
        tape.found.append(ParseProblem(text[mark.start() :]))
        return
    tape.found.append(as_call(action[1].strip(BLANK), value, rest.text[start : rest.at]))
    if left := rest.text[rest.at :].strip(BLANK):
        tape.found.append(ParseProblem(left))


TAG = "<|python_tag|>"
SEPARATOR = re.compile(r";|<\|python_tag\|>")


def read_llama3(tape):
    first = ""  # the first character that is not blank
    while True:
        first = first or tape.text.lstrip(BLANK)[:1]
        start = tape.text.find("{" if first == "{" else TAG)
        if start >= 0:
            break
        kept = 0 if tape.closed else max(n for n in range(len(TAG)) if tape.text.endswith(TAG[:n]))
        tape.found.append(tape.cut(len(tape.text) - kept))
        if tape.closed:
            return
        yield
    tape.found.append(tape.cut(start))
    while (yield from gap(tape)):
        tape.cut(tape.at)
        try:
            call = call_of((yield from scan_members(tape, 0)))
        except Bad:
            while not (end := SEPARATOR.search(tape.text)) and not tape.closed:
                yield
            text = tape.cut(end.start() if end else len(tape.text))
            tape.found.append(ParseProblem(text.rstrip(BLANK)))
        else:
            text = tape.cut(tape.at)
            tape.found.append(call or ParseProblem(text))


def gap(tape):
    """The first character that is not blank, a semicolon or of a tag."""
    while character := (yield from blank(tape)):
        start = tape.at
        try:
            yield from take(tape, ";" if character == ";" else TAG)
        except Bad:
            tape.at = start
            break
    return character


def read_openai(tape):
    """What does not begin as an object does is content at once."""
    first = yield from blank(tape)
    while not tape.closed:
        if first != "{":
            tape.found.append(tape.cut(len(tape.text)))
        yield
    tape.found += read_message(tape.text)


def read_message(text):
    try:
        message = decode(text)
    except Bad:
        return [text]
    if not isinstance(message, dict) or not message.keys() & {"content", "tool_calls"}:
        return [text]
    content, entries = message.get("content"), message.get("tool_calls")
    if not isinstance(content, str | None) or not isinstance(entries, list | None):
        return [text]
    return [content or "", *map(read_entry, entries or [])]


def read_entry(value):
    function = value.get("function") if isinstance(value, dict) else None
    members = function.items() if isinstance(function, dict) else ()
    call = call_of([(key, member, json.dumps(member)) for key, member in members])
    if call is None:
        return ParseProblem(json.dumps(value))
    return replace(call, id=value["id"]) if isinstance(value.get("id"), str) else call


READERS = {"hermes": read_hermes, "react": read_react, "llama3": read_llama3, "openai": read_openai}


class StreamingToolParser:
    def __init__(self, format):
        require(format in READERS, f"format: expected one of {sorted(READERS)}, got {format!r}")
        self._tape = Tape(closed=False)
        self._reader = READERS[format](self._tape)

    def feed(self, text):
        require(not self._tape.closed, "feed: expected a parser that is not closed, got one that is")
        self._tape.text += text
        return self._go_on()

    def close(self):
        require(not self._tape.closed, "close: expected a parser that is not closed, got one that is")
        self._tape.closed = True
        return self._go_on()

    def _go_on(self):
        drain(self._reader)
        found, self._tape.found = self._tape.found, []
        return [item for item in found if item]


def parse_tool_calls(text, format):
    parser = StreamingToolParser(format)
    items = parser.feed(text) + parser.close()
    sort = {
        kind: [item for item in items if isinstance(item, kind)] for kind in (str, ToolCall, ParseProblem)
    }
    return Parsed("".join(sort[str]), sort[ToolCall], sort[ParseProblem])
