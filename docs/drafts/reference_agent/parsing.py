from spec.agent import Parsed, ParseProblem, ToolCall

from spec import InvalidArgument

from .basics import expect
from .formats import FORMATS


def check_format(format):
    expect(format in FORMATS, "format", f"one of {', '.join(FORMATS)}", format)


def parse_tool_calls(text, format, *, tools=None):
    check_format(format)
    found, _ = FORMATS[format](tools).take(text, True)
    return Parsed(
        "".join(each for each in found if isinstance(each, str)),
        [each for each in found if isinstance(each, ToolCall)],
        [each for each in found if isinstance(each, ParseProblem)],
    )


class StreamingToolParser:
    def __init__(self, format, *, tools=None):
        check_format(format)
        self.format = FORMATS[format](tools)
        self.text = ""
        self.closed = False

    def feed(self, text):
        return self.take(text, False)

    def close(self):
        return self.take("", True)

    def take(self, text, ended):
        if self.closed:
            raise InvalidArgument("text: expected none after close")
        self.closed = ended
        found, self.text = self.format.take(self.text + text, ended)
        return [each for each in found if each != ""]
