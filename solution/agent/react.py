"""Lines of «Action:» and «Final Answer:»."""

import re

from spec.agent import ParseProblem, ToolCall

from .blocks import SPACE, Found, front_value

_OBSERVATION = re.compile("^Observation:", re.MULTILINE)
_MARK = re.compile("^(?:Action|Final Answer):", re.MULTILINE)
_CALL = re.compile(f"Action:([^\n]*)\n[{SPACE}]*Action Input:")


def react(text: str) -> Found:
    invented = _OBSERVATION.search(text)
    text = text[: invented.start()] if invented else text
    mark = _MARK.search(text)
    if mark is None:
        return [text]
    if mark[0] == "Final Answer:":
        return [text[: mark.start()] + text[mark.end() :]]
    return [text[: mark.start()], *_action(text[mark.start() :])]


def _action(text: str) -> Found:
    shape = _CALL.match(text)
    name = shape[1].strip(SPACE) if shape else ""
    given = front_value(text[shape.end() :]) if shape and name else None
    if given is None:
        return [ParseProblem(text)]
    arguments, length = given
    left = text[shape.end() + length :].strip(SPACE)
    return [ToolCall(None, name, arguments), *([ParseProblem(left)] if left else [])]
