"""Agent with tools: right, and of another structure, so that the suite can be held to it.

What differs, all of it free by the contract:

- one JSON scanner by hand, a coroutine on a growing tape, serves parsing, streaming, checking and loops;
- arguments of a call are the slice of the text that the model wrote, and are not written anew;
- JSON Schema is a table of functions, one for each keyword, and has no library below;
- a call is a machine of stages that stops before each wait and each attempt, and can be dropped there;
- a run is a list of facts; its state is a fold over them, a checkpoint is the list, resuming is the fold;
- a constraint is an automaton over bytes, compiled from its end to its beginning; a state is a set of nodes.
"""

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from math import inf
from threading import Lock
from urllib.parse import unquote

import torch

from spec import Cancelled, CannotCompact, InvalidArgument, NotSupported, ToolFailure
from spec.agent import (
    MAX_MESSAGE,
    MAX_PERIOD,
    BreakerPolicy,
    Event,
    EventKind,
    Limits,
    Parsed,
    ParseProblem,
    Problem,
    Run,
    Status,
    StopReason,
    ToolCall,
    ToolContext,
    ToolResult,
)

BLANK = " \t\n\r"
DEEPEST = 128  # levels of a value that the scanner still follows


def require(condition, sentence):
    if not condition:
        raise InvalidArgument(sentence)


# Scanning JSON --------------------------------------------------------------------------------------------


class Bad(Exception):
    """Here is no JSON."""


class Tape:
    """Text that may still grow. Coroutines that read it yield when at its end, unless it is closed."""

    def __init__(self, text="", closed=True):
        self.text, self.closed, self.at, self.found = text, closed, 0, []

    def cut(self, end):
        """Takes the text before `end` off."""
        taken, self.text, self.at = self.text[:end], self.text[end:], 0
        return taken


NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
SURROGATES = re.compile("([\ud800-\udbff])([\udc00-\udfff])|[\ud800-\udfff]")
ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
WORDS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}


def join_surrogates(text):
    """Halves that stand together become the character that they are, others U+FFFD."""

    def whole(match):
        high, low = match.groups()
        return chr(0x10000 + (ord(high) - 0xD800 << 10) + ord(low) - 0xDC00) if high else "\ufffd"

    return SURROGATES.sub(whole, text)


def peek(tape):
    while tape.at == len(tape.text) and not tape.closed:
        yield
    return tape.text[tape.at : tape.at + 1]


def take(tape, expected):
    for character in expected:
        if (yield from peek(tape)) != character:
            raise Bad
        tape.at += 1


def blank(tape):
    while (character := (yield from peek(tape))) and character in BLANK:
        tape.at += 1
    return character


def scan(tape, depth=0):
    """A value, with white space before it."""
    if depth > DEEPEST:
        raise Bad
    first = yield from blank(tape)
    if first == "{":
        return {key: value for key, value, _ in (yield from scan_members(tape, depth))}
    if first == "[":
        return (yield from scan_items(tape, depth))
    if first == '"':
        return (yield from scan_string(tape))
    if first in WORDS:
        word, value = WORDS[first]
        yield from take(tape, word)
        return value
    return (yield from scan_number(tape))


def scan_members(tape, depth):
    """Key, value and text of the value, of each member of an object."""
    members, keys = [], set()
    yield from take(tape, "{")
    if (yield from blank(tape)) == "}":
        tape.at += 1
        return members
    while True:
        yield from blank(tape)
        key = yield from scan_string(tape)
        if key in keys:
            raise Bad
        keys.add(key)
        yield from blank(tape)
        yield from take(tape, ":")
        yield from blank(tape)
        start = tape.at
        value = yield from scan(tape, depth + 1)
        members.append((key, value, tape.text[start : tape.at]))
        if (yield from blank(tape)) == "}":
            tape.at += 1
            return members
        yield from take(tape, ",")


def scan_items(tape, depth):
    items = []
    yield from take(tape, "[")
    if (yield from blank(tape)) == "]":
        tape.at += 1
        return items
    while True:
        items.append((yield from scan(tape, depth + 1)))
        if (yield from blank(tape)) == "]":
            tape.at += 1
            return items
        yield from take(tape, ",")


def scan_string(tape):
    parts = []
    yield from take(tape, '"')
    while (character := (yield from peek(tape))) != '"':
        plain = PLAIN.match(tape.text, tape.at).group()
        parts.append(plain)
        tape.at += len(plain)
        if plain:
            continue
        yield from take(tape, "\\")
        character = yield from peek(tape)
        tape.at += 1
        if character == "u":
            digits = ""
            for _ in range(4):
                digits += yield from peek(tape)
                tape.at += 1
            if not re.fullmatch("[0-9a-fA-F]{4}", digits):
                raise Bad
            parts.append(chr(int(digits, 16)))
        elif character in ESCAPES:
            parts.append(ESCAPES[character])
        else:
            raise Bad
    tape.at += 1
    text = "".join(parts)
    if any(match[1] is None for match in SURROGATES.finditer(text)):
        raise Bad
    return join_surrogates(text)


def scan_number(tape):
    start = tape.at
    while (character := (yield from peek(tape))) and character in "+-.0123456789eE":
        tape.at += 1
    match = NUMBER.match(tape.text, start)
    if not match or abs(float(match.group())) == inf:
        raise Bad
    tape.at = match.end()
    return float(match.group()) if match[1] or match[2] else int(match.group())


def drain(coroutine):
    """What a coroutine on a closed tape returns."""
    try:
        next(coroutine)
    except StopIteration as end:
        return end.value


def decode(text):
    """The value that a text is. Raises Bad."""
    tape = Tape(text)
    value = drain(scan(tape))
    if drain(blank(tape)):
        raise Bad
    return value


def identity(value):
    """Something that is equal for equal values of JSON, and can be hashed."""
    if isinstance(value, bool) or value is None:
        return ("word", str(value))
    if isinstance(value, str):
        return ("text", value)
    if isinstance(value, int | float):
        return ("number", value)
    if isinstance(value, Mapping):
        return ("object", frozenset((key, identity(member)) for key, member in value.items()))
    return ("array", tuple(map(identity, value)))


# Reading calls --------------------------------------------------------------------------------------------

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


# Checking arguments ---------------------------------------------------------------------------------------


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value):
    return is_number(value) and value == value // 1


def is_array(value):
    return isinstance(value, list | tuple)


def is_object(value):
    return isinstance(value, Mapping)


def is_text(value):
    return isinstance(value, str)


def is_flag(value):
    return isinstance(value, bool)


TYPES = {
    "null": lambda value: value is None,
    "boolean": is_flag,
    "integer": is_integer,
    "number": is_number,
    "string": is_text,
    "array": is_array,
    "object": is_object,
}


def is_count(value):
    return is_integer(value) and value >= 0


def is_texts(value):
    return is_array(value) and all(map(is_text, value)) and len(set(value)) == len(value)


def is_type(value):
    return value in TYPES if is_text(value) else is_texts(value) and bool(value) and set(value) <= set(TYPES)


def is_pattern(value):
    with suppress(re.error):
        return is_text(value) and bool(re.compile(value))
    return False


def is_many(value):
    return is_array(value) and len(value) > 0


SHAPES = {
    **dict.fromkeys(["title", "description", "format", "$comment", "$schema", "$ref"], is_text),
    **dict.fromkeys(["deprecated", "readOnly", "writeOnly", "uniqueItems"], is_flag),
    **dict.fromkeys(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], is_number),
    **dict.fromkeys(["minLength", "maxLength", "minItems", "maxItems"], is_count),
    **dict.fromkeys(["minProperties", "maxProperties"], is_count),
    **dict.fromkeys(["examples", "enum"], is_array),
    **dict.fromkeys(["prefixItems", "anyOf", "oneOf", "allOf"], is_many),
    **dict.fromkeys(["properties", "$defs"], is_object),
    "type": is_type,
    "required": is_texts,
    "pattern": is_pattern,
    "multipleOf": lambda value: is_number(value) and value > 0,
}
UNNAMED = re.compile(
    r"\$(anchor|dynamicAnchor|dynamicRef|id|vocabulary|recursiveAnchor|recursiveRef)|(min|max)?[cC]ontains|if|then"
    "|content(Encoding|MediaType|Schema)|dependent(Required|Schemas)|dependencies|definitions|else"
    "|patternProperties|propertyNames|unevaluated(Items|Properties)"
)


def inner_schemas(keyword, content):
    if keyword in ("prefixItems", "anyOf", "oneOf", "allOf"):
        return list(content)
    if keyword in ("properties", "$defs"):
        return list(content.values())
    if keyword == "not" or (keyword in ("items", "additionalProperties") and not is_flag(content)):
        return [content]
    return []


def anything(value):
    return True


def is_one_of(value, values, schema):
    return identity(value) in map(identity, values)


def has_type(value, names, schema):
    return any(TYPES[name](value) for name in ([names] if is_text(names) else names))


def no_items_left(value, content, schema):
    return content is not False or len(value) <= len(schema.get("prefixItems", []))


def no_keys_left(value, content, schema):
    return content is not False or not value.keys() - schema.get("properties", {}).keys()


RULES = {  # of which values a keyword speaks, and whether it holds
    "type": (anything, has_type),
    "enum": (anything, is_one_of),
    "const": (anything, lambda value, only, schema: identity(value) == identity(only)),
    "minLength": (is_text, lambda value, limit, schema: len(value) >= limit),
    "maxLength": (is_text, lambda value, limit, schema: len(value) <= limit),
    "pattern": (is_text, lambda value, pattern, schema: re.search(pattern, value)),
    "minimum": (is_number, lambda value, limit, schema: value >= limit),
    "maximum": (is_number, lambda value, limit, schema: value <= limit),
    "exclusiveMinimum": (is_number, lambda value, limit, schema: value > limit),
    "exclusiveMaximum": (is_number, lambda value, limit, schema: value < limit),
    "multipleOf": (is_number, lambda value, step, schema: Fraction(value) % Fraction(step) == 0),
    "minItems": (is_array, lambda value, limit, schema: len(value) >= limit),
    "maxItems": (is_array, lambda value, limit, schema: len(value) <= limit),
    "uniqueItems": (
        is_array,
        lambda value, on, schema: not on or len(set(map(identity, value))) == len(value),
    ),
    "items": (is_array, no_items_left),
    "minProperties": (is_object, lambda value, limit, schema: len(value) >= limit),
    "maxProperties": (is_object, lambda value, limit, schema: len(value) <= limit),
    "required": (is_object, lambda value, keys, schema: not set(keys) - value.keys()),
    "additionalProperties": (is_object, no_keys_left),
}
COUNTS = {
    "anyOf": lambda n: n > 0,
    "oneOf": lambda n: n == 1,
    "not": lambda n: n == 0,
}  # of schemas that accept


class Checker:
    """A schema, looked through."""

    def __init__(self, schema):
        self.root = schema
        self.inspect(schema)

    def inspect(self, schema):
        if is_flag(schema):
            raise NotSupported(f"schema: expected an object, got {schema}")
        require(is_object(schema), f"schema: expected an object, got {schema!r}")
        for keyword, content in schema.items():
            if UNNAMED.fullmatch(keyword):
                raise NotSupported(f"schema: expected the keywords of AG-10 to AG-12, got {keyword}")
            right = SHAPES.get(keyword, lambda content: True)(content)
            require(right, f"schema: expected a value of JSON Schema for {keyword}, got {content!r}")
            for inner in inner_schemas(keyword, content):
                self.inspect(inner)
            if keyword == "$ref":
                self.resolve(content)

    def resolve(self, reference):
        if reference == "#":
            return self.root
        match = re.fullmatch(r"#/\$defs/([^/]*)", reference)
        if not match:
            raise NotSupported(f"$ref: expected # or #/$defs/name, got {reference}")
        name = unquote(match[1]).replace("~1", "/").replace("~0", "~")
        require(name in self.root.get("$defs", {}), f"$ref: expected a name of $defs, got {name}")
        return self.root["$defs"][name]

    def see(self, schema, value, path):
        """The problems of a value, its own and those of what is in it."""
        for keyword, content in schema.items():
            if not self.holds(keyword, content, schema, value):
                message = f"{path}: expected {keyword} {str(content)[:80]}, got {str(value)[:80]}"
                times = len(set(content) - value.keys()) if keyword == "required" else 1
                yield from [Problem(path, keyword, message[-MAX_MESSAGE:])] * times
        for inner, member, place in self.within(schema, value, path):
            if not is_flag(inner):
                yield from self.see(inner, member, place)

    def holds(self, keyword, content, schema, value):
        if keyword in COUNTS:
            schemas = content if is_array(content) else [content]
            return COUNTS[keyword](sum(not any(self.see(inner, value, "")) for inner in schemas))
        if keyword not in RULES:
            return True
        speaks_of, test = RULES[keyword]
        return not speaks_of(value) or test(value, content, schema)

    def within(self, schema, value, path):
        """The schemas that must hold beside this one, of which value, and where that is."""
        for inner in schema.get("allOf", []):
            yield inner, value, path
        if "$ref" in schema:
            yield self.resolve(schema["$ref"]), value, path
        if is_array(value):
            first = schema.get("prefixItems", [])
            for i, item in enumerate(value):
                yield (first[i] if i < len(first) else schema.get("items", True)), item, f"{path}/{i}"
        if is_object(value):
            others = schema.get("additionalProperties", True)
            for key, member in value.items():
                place = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
                yield schema.get("properties", {}).get(key, others), member, place

    def judge(self, arguments):
        """The value of arguments, and its problems."""
        try:
            value = decode(arguments) if arguments.strip(BLANK) else None
        except Bad:
            return None, [Problem("", "json", f"expected JSON, got {arguments[:80]!r}"[:MAX_MESSAGE])]
        if value is None:
            value = {}
        if not is_object(value):
            return None, [Problem("", "type", f"expected an object, got {str(value)[:80]}")]
        return value, list(self.see(self.root, value, ""))


def validate_arguments(schema, arguments):
    return Checker(schema).judge(arguments)[1]


def detect_loop(steps, *, repeats):
    require(repeats >= 2, f"repeats: expected at least 2, got {repeats}")

    def key(step):
        call, result = step
        try:
            value = decode(call.arguments) if call.arguments.strip(BLANK) else None
            arguments = identity({} if value is None else value)
        except Bad:
            arguments = call.arguments
        return call.name, arguments, result.status, result.content

    last = [key(step) for step in steps[-repeats * MAX_PERIOD :]]
    return any(
        len(last) >= repeats * p and last[-repeats * p :] == last[-p:] * repeats
        for p in range(1, MAX_PERIOD + 1)
    )


# Running calls --------------------------------------------------------------------------------------------


USUAL_LIMITS, USUAL_BREAKER = Limits(), BreakerPolicy()


class Breaker:
    """What stands before a resource. opened: since when it is open, None: closed."""

    def __init__(self, policy):
        self.policy, self.count, self.opened, self.lock = policy, 0, None, Lock()

    def admits(self, now, first):
        """Whether an attempt may begin. A retry is no probe."""
        if self.opened is None:
            return True
        return first and now >= self.opened + self.policy.reset_after

    def report(self, failed, now):
        with self.lock:
            self.count = self.count + 1 if failed else 0
            if not failed:
                self.opened = None
            elif self.opened is not None or self.count >= self.policy.failures:
                self.opened = now


class Pause(Enum):
    """Where a call stops, and may be dropped."""

    BEFORE_WAIT = 0
    BEFORE_ATTEMPT = 1


class CallMachine:
    """A call on its way. `step` goes on to the next pause, or to the end: a ToolResult, or Cancelled."""

    def __init__(self, box, call, run_id, deadline, made):
        self.box, self.call, self.deadline, self.made = box, call, deadline, made
        self.key = json.dumps([run_id, call.id])
        self.tool = box.tools.get(call.name)
        self.last = self.result(Status.INTERRUPTED, "Nobody knows whether it happened.")
        self.step = self.admit

    def result(self, status, content):
        content = join_surrogates(content)
        if len(content) > self.box.max_result:
            mark = f"… [{len(content)} characters]"
            content = content[: self.box.max_result - len(mark)] + mark
        return ToolResult(self.call.id, self.call.name, status, content, self.made)

    def admit(self):
        if self.tool is None:
            return self.result(Status.UNKNOWN_TOOL, f"No such tool. There are: {', '.join(self.box.tools)}")
        _, problems = self.box.checkers[self.tool.name].judge(self.call.arguments)
        if problems:
            lines = (f"{p.path or '(all)'}: {p.rule}: {p.message}" for p in problems)
            return self.result(Status.BAD_ARGUMENTS, "\n".join(sorted(lines, key=len)))
        try:
            if self.tool.needs_approval and not (self.box.approve and self.box.approve(self.call) is True):
                return self.result(Status.DENIED, "This call was not approved.")
        except Cancelled as cancelled:
            return cancelled
        return self.plan(0.0) if self.made else self.prepare(first=True)

    def prepare(self, first):
        now, breaker = self.box.clock.now(), self.breaker
        with breaker.lock:
            if not breaker.admits(now, first):
                return self.result(Status.OPEN, "It is down. Try another way.") if first else self.last
            if now >= self.deadline:
                return self.result(Status.TIMEOUT, "No time was left.") if first else self.last
            self.before, self.taken = breaker.opened, now
            if breaker.opened is not None:
                breaker.opened = now
        self.step = self.attempt
        return Pause.BEFORE_ATTEMPT

    def drop(self):
        """No attempt follows: gives a probe back."""
        if self.step == self.attempt:
            with self.breaker.lock:
                if self.before is not None and self.breaker.opened == self.taken:
                    self.breaker.opened = self.before

    @property
    def breaker(self):
        return self.box.breakers[self.tool.resource or self.tool.name]

    def attempt(self):
        self.made += 1
        clock, tool, failure = self.box.clock, self.tool, None
        arguments, _ = self.box.checkers[tool.name].judge(self.call.arguments)
        begun = clock.now()
        until = min(begun + tool.timeout, self.deadline)
        context = ToolContext(self.key, self.made, until)
        timeout = max(0.0, min(tool.timeout, self.deadline - begun))
        try:
            value = clock.call(tool.function, arguments, context, timeout)
        except Cancelled as cancelled:
            return cancelled
        except TimeoutError as late:
            failure, self.last = late, self.result(Status.TIMEOUT, "It took too long.")
        except Exception as raised:
            failure, self.last = raised, self.result(Status.ERROR, wording(raised))
        else:
            self.last = self.written(value)
        answered = isinstance(failure, ToolFailure) and not failure.transient
        self.breaker.report(self.last.status is not Status.OK and not answered, clock.now())
        if isinstance(failure, ToolFailure):
            return self.plan(failure.retry_after) if failure.transient else self.last
        again = self.last.status is Status.TIMEOUT and tool.idempotent
        return self.plan(0.0) if again else self.last

    def written(self, value):
        if isinstance(value, str):
            return self.result(Status.OK, str.__str__(value))
        try:
            return self.result(Status.OK, json.dumps(value, ensure_ascii=False, allow_nan=False))
        except Exception as reason:
            return self.result(Status.ERROR, f"The tool returned what is no JSON: {wording(reason)}")

    def plan(self, at_least):
        retry = self.tool.retry
        if self.made >= retry.attempts or self.breaker.opened is not None:
            return self.last
        exponential = min(retry.cap, retry.base * 2.0 ** min(self.made - 1, 1000))
        self.pause = max(self.box.uniform() * exponential, at_least)
        if self.box.clock.now() + self.pause >= self.deadline:
            return self.last
        self.step = self.wait
        return Pause.BEFORE_WAIT

    def wait(self):
        try:
            self.box.clock.sleep(self.pause)
        except Cancelled as cancelled:
            return cancelled
        return self.prepare(first=False)


def wording(exception):
    try:
        return str(exception)
    except Exception:
        return type(exception).__name__


def plain(value):
    if isinstance(value, Mapping):
        return {key: plain(member) for key, member in value.items()}
    return list(map(plain, value)) if is_array(value) else value


class Toolbox:
    def __init__(self, tools, *, clock, uniform, approve=None, breaker=USUAL_BREAKER, max_result=10_000):
        require(breaker.failures >= 1, f"breaker.failures: expected at least 1, got {breaker.failures}")
        require(max_result >= 100, f"max_result: expected at least 100, got {max_result}")
        self.clock, self.uniform, self.approve, self.max_result = clock, uniform, approve, max_result
        self.tools = {}
        for tool in tools:
            name = tool.name
            require(
                re.fullmatch("[a-zA-Z0-9_-]{1,64}", name), f"name: expected 1 to 64 letters, got {name!r}"
            )
            require(name not in self.tools, f"tools: expected one {name}, got two")
            require(tool.timeout > 0, f"timeout of {name}: expected more than 0, got {tool.timeout}")
            attempts = tool.retry.attempts
            require(attempts >= 1, f"attempts of {name}: expected at least 1, got {attempts}")
            self.tools[name] = tool
        self.checkers = {tool.name: Checker(plain(tool.parameters)) for tool in tools}
        self.breakers = {tool.resource or tool.name: Breaker(breaker) for tool in tools}

    def call(self, call, *, run_id, deadline=inf):
        require(call.id is not None, "call: expected an id, got None")
        machine = CallMachine(self, call, run_id, deadline, 0)
        while isinstance(outcome := machine.step(), Pause):
            pass
        if isinstance(outcome, Cancelled):
            raise outcome
        return outcome

    def definitions(self):
        return [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": plain(self.checkers[tool.name].root),
                },
            }
            for tool in self.tools.values()
        ]


# The loop -------------------------------------------------------------------------------------------------


class Story:
    """What a run's facts say: the fold over them. A fact: its kind, seconds since the begin, more."""

    def __init__(self, format, facts=()):
        self.format, self.facts = format, []
        self.tokens = self.model_calls = 0
        self.asking, self.reason = False, None
        self.results, self.steps = [], []
        for fact in facts:
            self.add(*fact)

    def add(self, kind, seconds, *rest):
        getattr(self, kind)(*rest)
        self.facts.append([kind, seconds, *rest])

    def begin(self, run_id, messages):
        self.run_id, self.messages = run_id, deepcopy(messages)
        self.reply("", "", 0, [], told=False)

    def ask(self):
        self.model_calls += not self.asking
        self.asking = True

    def reply(self, text, finish, tokens, ids, told=True):
        self.asking, self.tokens = False, self.tokens + tokens
        parsed = parse_tool_calls(text if told else "", self.format)
        self.calls, self.problems = [], []
        self.attempts, self.answers = dict.fromkeys(ids, 0), {}
        if not told:
            return
        message = {"role": "assistant", "content": text if finish == "length" else parsed.content}
        self.messages.append(message)
        if finish == "length":
            self.ending = StopReason.TRUNCATED
            return
        self.problems = parsed.problems
        self.calls = [ToolCall(i, c.name, c.arguments) for i, c in zip(ids, parsed.calls, strict=True)]
        if self.calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.calls
            ]
        elif not self.problems:
            self.ending = StopReason.DONE if parsed.content.strip(BLANK) else StopReason.EMPTY
        self.settle()

    ending = None

    def attempt(self, call_id):
        self.attempts[call_id] += 1

    def result(self, call_id, name, status, content, attempts):
        self.answers[call_id] = ToolResult(call_id, name, Status(status), content, attempts)
        self.settle()

    def settle(self):
        """Tells the results, when all are there, and the problems."""
        if len(self.answers) < len(self.calls):
            return
        for call in self.calls:
            result = self.answers[call.id]
            self.results.append(result)
            self.steps.append((call, result))
            self.messages.append({"role": "tool", "tool_call_id": call.id, "content": result.content})
        if self.problems:
            parts = [problem.text[:MAX_MESSAGE] for problem in self.problems[:5]]
            self.messages.append({"role": "user", "content": "\n".join(["This is no call:", *parts])})
        self.calls = []

    def stop(self, reason):
        self.reason = StopReason(reason)

    def run(self):
        return Run(
            self.run_id,
            deepcopy(self.messages),
            self.reason,
            list(self.results),
            self.model_calls,
            self.tokens,
        )


class Halted(Exception):
    """Something else has ended this run with an exception."""


class Session:
    """A story that goes on in this process."""

    def __init__(self, agent, facts):
        self.agent, self.box, self.limits = agent, agent.toolbox, agent.limits
        self.story = Story(agent.format, facts)
        self.cancelled = self.broken = False
        self.lock = Lock()
        self.begun = self.box.clock.now() - (facts[-1][1] if facts else 0)

    @property
    def deadline(self):
        return self.begun + self.limits.seconds

    def tell(self, event, call_id, kind, *rest, begins=False):
        """Adds a fact and announces it; False where it would begin something after a cancel."""
        with self.lock:
            if self.broken:
                raise Halted
            if begins and self.cancelled:
                return False
            try:
                at = self.box.clock.now()
                self.story.add(kind, at - self.begun, *rest)
                if self.agent.on_event:
                    self.agent.on_event(Event(event, at, call_id, json.dumps(self.story.facts)))
            except BaseException:
                self.broken = True
                raise
        return True

    def why(self):
        """Why the run must end now, or None."""
        if self.cancelled:
            return StopReason.CANCELLED
        if self.story.tokens >= self.limits.tokens:
            return StopReason.TOKENS
        return StopReason.SECONDS if self.box.clock.now() >= self.deadline else None

    def go(self):
        story = self.story
        while story.reason is None:
            self.answer_calls()
            reason = story.ending or (None if story.asking else self.why_not_ask()) or self.ask()
            if reason:
                self.tell(EventKind.STOP, None, "stop", reason.value)
        return story.run()

    def why_not_ask(self):
        repeats = self.limits.repeats
        if repeats and detect_loop(self.story.steps, repeats=repeats):
            return StopReason.LOOP
        return self.why() or (
            StopReason.MODEL_CALLS if self.story.model_calls >= self.limits.model_calls else None
        )

    def ask(self):
        """A call of the model. What it is worth as a reason, if it is one."""
        if not self.tell(EventKind.MODEL_CALL, None, "ask", begins=True):
            return StopReason.CANCELLED
        try:
            reply = self.agent.model(deepcopy(self.story.messages), self.box.definitions())
        except Cancelled:
            return StopReason.CANCELLED
        except Exception:
            return StopReason.MODEL_ERROR
        whole = reply.finish != "length"
        calls = parse_tool_calls(reply.text, self.agent.format).calls if whole else []
        fact = [reply.text, reply.finish, reply.tokens, [self.agent.new_id() for _ in calls]]
        self.tell(EventKind.MODEL_REPLY, None, "reply", *fact)
        return None

    def answer_calls(self):
        calls = [call for call in self.story.calls if call.id not in self.story.answers]
        if self.limits.parallel == 1:
            for call in calls:
                self.answer(call)
        elif calls:
            with ThreadPoolExecutor(min(self.limits.parallel, len(calls))) as pool:
                errors = [future.exception() for future in [pool.submit(self.answer, call) for call in calls]]
            for error in sorted(filter(None, errors), key=lambda error: isinstance(error, Halted)):
                raise error

    def answer(self, call):
        try:
            result = None if self.why() else self.carry(call)
            if result is None:
                made = self.story.attempts[call.id]
                status = Status.INTERRUPTED if made else Status.SKIPPED
                content = (
                    "It was begun, and nobody knows whether it happened." if made else "It was not begun."
                )
                result = ToolResult(call.id, call.name, status, content, made)
        except BaseException:
            self.broken = True
            raise
        fact = [result.call_id, result.name, result.status.value, result.content, result.attempts]
        self.tell(EventKind.RESULT, call.id, "result", *fact)

    def carry(self, call):
        """The result of a call, or None where it was cut off."""
        made = self.story.attempts[call.id]
        machine = CallMachine(self.box, call, self.story.run_id, self.deadline, made)
        if made and not (machine.tool and machine.tool.idempotent and made < machine.tool.retry.attempts):
            return machine.last
        while isinstance(outcome := machine.step(), Pause):
            going = not self.cancelled
            try:
                if outcome is Pause.BEFORE_ATTEMPT:
                    going = self.tell(EventKind.ATTEMPT, call.id, "attempt", call.id, begins=True)
            except BaseException:
                machine.drop()
                raise
            if not going:
                machine.drop()
                return None
        if isinstance(outcome, Cancelled):
            self.cancelled = True
            return None
        return outcome


class Agent:
    def __init__(self, model, toolbox, *, new_id, format="hermes", limits=USUAL_LIMITS, on_event=None):
        require(format in READERS, f"format: expected one of {sorted(READERS)}, got {format!r}")
        for name in ("model_calls", "tokens", "seconds", "repeats"):
            least = getattr(limits, name)
            require(least >= 0, f"limits.{name}: expected at least 0, got {least}")
        require(limits.repeats != 1, "limits.repeats: expected 0 or at least 2, got 1")
        require(limits.parallel >= 1, f"limits.parallel: expected at least 1, got {limits.parallel}")
        self.model, self.toolbox, self.new_id = model, toolbox, new_id
        self.format, self.limits, self.on_event = format, limits, on_event
        self._session = None

    def run(self, messages):
        require(messages, "messages: expected at least one, got none")
        require_transcript(messages)
        return self._live([], lambda session: session.story.add("begin", 0, self.new_id(), list(messages)))

    def resume(self, checkpoint):
        return self._live(json.loads(checkpoint), lambda session: None)

    def _live(self, facts, begin):
        self._session = session = Session(self, facts)
        try:
            begin(session)
            return session.go()
        finally:
            self._session = None

    def cancel(self):
        session = self._session
        if session:
            session.cancelled = True


def check_transcript(messages):
    problems, known, waiting = [], set(), {}

    def find(path, rule, message):
        problems.append(Problem(path, rule, message))

    for i, message in enumerate([*messages, {"role": "end"}]):
        if message["role"] == "tool":
            if waiting.pop(message["tool_call_id"], None) is None:
                find(f"/{i}/tool_call_id", "unsolicited", "expected the id of a call that waits")
            continue
        for path in waiting.values():
            find(path, "unanswered", f"expected a result before message {i}")
        waiting = {}
        for j, call in enumerate(message.get("tool_calls") or []):
            path = f"/{i}/tool_calls/{j}"
            if call["id"] in known:
                find(f"{path}/id", "duplicate", "expected an id that no call before has")
            else:
                known.add(call["id"])
                waiting[call["id"]] = path
    return problems


def require_transcript(messages):
    problems = check_transcript(messages)
    require(not problems, f"messages: expected a valid transcript, got {problems[:1]}")


def compact(messages, *, budget, count_tokens, summarize):
    require_transcript(messages)
    messages = deepcopy(list(messages))
    if count_tokens(deepcopy(messages)) <= budget:
        return messages
    roles = [message["role"] for message in messages]
    head = next((i for i, role in enumerate(roles) if role != "system"), len(roles))
    last = max((i for i, role in enumerate(roles) if role == "user"), default=None)
    droppable = [i for i in range(head, len(roles)) if i != last]
    for n, i in enumerate(droppable, 1):
        if droppable[n:] and roles[droppable[n]] == "tool":
            continue
        dropped = [messages[i] for i in droppable[:n]]
        kept = [messages[i] for i in range(head, len(roles)) if i > droppable[n - 1] or i == last]
        summary = {"role": "user", "content": summarize(deepcopy(dropped))}
        shorter = [*messages[:head], summary, *kept]
        if count_tokens(deepcopy(shorter)) <= budget:
            return shorter
    raise CannotCompact(f"budget: expected room for what must stay, got {budget}")


# Writing nothing else -------------------------------------------------------------------------------------

DIGIT = b"0123456789"
TAILS = [  # ranges of the bytes of a character of UTF-8, but for control characters, quote and backslash
    [(0x20, 0x21)],
    [(0x23, 0x5B)],
    [(0x5D, 0x7F)],
    [(0xC2, 0xDF), (0x80, 0xBF)],
    [(0xE0, 0xE0), (0xA0, 0xBF), (0x80, 0xBF)],
    [(0xE1, 0xEC), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xED, 0xED), (0x80, 0x9F), (0x80, 0xBF)],
    [(0xEE, 0xEF), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xF0, 0xF0), (0x90, 0xBF), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xF1, 0xF3), (0x80, 0xBF), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xF4, 0xF4), (0x80, 0x8F), (0x80, 0xBF), (0x80, 0xBF)],
]
KEYWORDS = {
    "array": {"type", "items"},
    "object": {"type", "properties", "required", "additionalProperties"},
}


class Automaton:
    """Nodes with edges {byte: [nodes]} and free edges. Each thing is compiled with what follows it."""

    def __init__(self, schema):
        self.edges, self.free = [], []
        self.final = self.node()
        self.begin = self.schema(schema, self.final)
        self.alive = self.reaching()

    def node(self, *free):
        self.edges.append({})
        self.free.append(list(free))
        return len(self.edges) - 1

    def edge(self, node, data, target):
        for byte in data:
            self.edges[node].setdefault(byte, []).append(target)
        return node

    def word(self, data, follow):
        for byte in reversed(data):
            follow = self.edge(self.node(), [byte], follow)
        return follow

    def ranges(self, node, ranges, follow):
        for low, high in reversed(ranges[1:]):
            follow = self.edge(self.node(), range(low, high + 1), follow)
        self.edge(node, range(ranges[0][0], ranges[0][1] + 1), follow)

    def schema(self, schema, follow):
        if not is_object(schema):
            raise NotSupported(f"schema: expected an object, got {schema!r}")
        said = {k: v for k, v in schema.items() if k not in ("title", "description", "default")}
        kind = said.get("type")
        if set(said) == {"enum"}:
            return self.node(*(self.value(value, follow) for value in said["enum"]))
        if set(said) == {"anyOf"}:
            return self.node(*(self.schema(inner, follow) for inner in said["anyOf"]))
        if not is_text(kind) or kind not in TYPES or set(said) - KEYWORDS.get(kind, {"type"}):
            raise NotSupported(f"schema: expected the keywords of AG-38, got {sorted(said)}")
        return getattr(self, kind)(said, follow)

    def value(self, value, follow):
        """A constant in its canonical form."""
        if is_object(value):
            return self.members(
                [(k, lambda after, v=v: self.value(v, after)) for k, v in value.items()], follow
            )
        if is_array(value):
            follow = self.word(b"]", follow)
            for i, item in reversed(list(enumerate(value))):
                follow = self.word(b"," * (i > 0), self.value(item, follow))
            return self.word(b"[", follow)
        if isinstance(value, float):
            text = format(Decimal(repr(value)), "f")
            return self.node(*(self.word(t.encode(), follow) for t in {text, text.removesuffix(".0")}))
        return self.word(self.spell(value), follow)

    def spell(self, value):
        try:
            return json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise NotSupported(f"schema: expected text, got {value!r}") from error

    def members(self, members, follow):
        follow = self.word(b"}", follow)
        for i, (key, member) in reversed(list(enumerate(members))):
            follow = self.word(b"," * (i > 0) + self.spell(key) + b":", member(follow))
        return self.word(b"{", follow)

    def null(self, said, follow):
        return self.word(b"null", follow)

    def boolean(self, said, follow):
        return self.node(self.word(b"true", follow), self.word(b"false", follow))

    def integer(self, said, follow):
        more = self.node(follow)
        self.edge(more, DIGIT, more)
        whole = self.edge(self.edge(self.node(), b"0", follow), DIGIT[1:], more)
        return self.edge(self.node(whole), b"-", whole)

    def number(self, said, follow):
        more = self.node(follow)
        self.edge(more, DIGIT, more)
        point = self.edge(self.node(), b".", self.edge(self.node(), DIGIT, more))
        return self.integer(said, self.node(follow, point))

    def string(self, said, follow):
        inside = self.node()
        for ranges in TAILS:
            self.ranges(inside, ranges, inside)
        low = self.edge(self.node(), b"0123456789abcdef", inside)
        control = self.word(b"u00", self.edge(self.node(), b"01", low))
        self.edge(inside, b"\\", self.edge(self.node(control), b'"\\bfnrt', inside))
        self.edge(inside, b'"', follow)
        return self.word(b'"', inside)

    def array(self, said, follow):
        if "items" not in said:
            raise NotSupported("schema: expected items in an array, got none")
        after = self.word(b"]", follow)
        item = self.schema(said["items"], after)
        self.edge(after, b",", item)
        return self.word(b"[", self.node(item, self.word(b"]", follow)))

    def object(self, said, follow):
        inner = said.get("properties", {})
        if set(said.get("required", [])) != set(inner) or said.get("additionalProperties") is not False:
            raise NotSupported("schema: expected all properties required and no others, got another object")
        return self.members([(k, lambda after, v=v: self.schema(v, after)) for k, v in inner.items()], follow)

    def reaching(self):
        """The nodes from which the end can be reached."""
        before = [set() for _ in self.edges]
        for node, edges in enumerate(self.edges):
            for target in [*self.free[node], *(t for targets in edges.values() for t in targets)]:
                before[target].add(node)
        return self.closure([self.final], before)

    @staticmethod
    def closure(nodes, following):
        found, todo = set(), list(nodes)
        while todo:
            node = todo.pop()
            if node not in found:
                found.add(node)
                todo.extend(following[node])
        return found

    def state(self, nodes):
        return tuple(sorted(self.closure(nodes, self.free) & self.alive))

    def step(self, state, byte):
        return self.state([target for node in state for target in self.edges[node].get(byte, ())])


class JsonConstraint:
    ENDED = ("ended",)

    def __init__(self, schema, vocabulary, eos):
        size = len(vocabulary)
        right = len(eos) > 0 and all(0 <= i < size for i in eos)
        require(right, f"eos: expected ids from 0 to {size - 1}, at least one, got {list(eos)}")
        self.automaton, self.vocabulary, self.eos = Automaton(schema), list(vocabulary), set(eos)
        self.moves, self.masks = {}, {}
        self.trie = ({}, [])
        for token, data in enumerate(self.vocabulary):
            children, ids = self.trie
            for byte in data:
                children, ids = children.setdefault(byte, ({}, []))
            if data and token not in self.eos:
                ids.append(token)

    def start(self):
        return self.automaton.state([self.automaton.begin])

    def move(self, state, byte):
        if (state, byte) not in self.moves:
            self.moves[state, byte] = self.automaton.step(state, byte)
        return self.moves[state, byte]

    def allowed(self, state):
        require(state != self.ENDED, "state: expected one before the end, got the end")
        if state not in self.masks:
            mask = torch.zeros(len(self.vocabulary), dtype=torch.bool)
            todo = [(state, self.trie)]
            while todo:
                here, (children, ids) = todo.pop()
                mask[ids] = True
                for byte, child in children.items():
                    if there := self.move(here, byte):
                        todo.append((there, child))
            mask[list(self.eos)] = self.is_complete(state)
            self.masks[state] = mask
        return self.masks[state].clone()

    def advance(self, state, token):
        token = int(token)
        right = 0 <= token < len(self.vocabulary) and bool(self.allowed(state)[token])
        require(right, f"token: expected one that is allowed, got {token}")
        if token in self.eos:
            return self.ENDED
        for byte in self.vocabulary[token]:
            state = self.move(state, byte)
        return state

    def is_complete(self, state):
        return state == self.ENDED or self.automaton.final in state
