"""What a tool returned, as text for the model."""

import base64
import json

from spec.agent import ToolResult


def as_text(value):
    """Raises where JSON cannot say it."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
    return whole_characters(text)


def whole_characters(text):
    """U+FFFD for each surrogate without its partner."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def result(call, status, content, attempts, max_result):
    content = whole_characters(content)
    short = content
    if len(content) > max_result:
        mark = f"\n[cut: {len(content)} characters in all]"
        short = content[: max_result - len(mark)] + mark
    return ToolResult(call.id, call.name, status, short, attempts, len(content))
