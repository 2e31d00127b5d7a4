"""The message of a chat server, as JSON text."""

import json

from spec.agent import ParseProblem, ToolCall

from .blocks import Found, call_of, value_of


def openai(text: str) -> Found:
    try:
        return _said(value_of(text)) or [text]
    except (ValueError, RecursionError):
        return [text]


def _said(message: object) -> Found:
    """Nothing if it is no message."""
    if not isinstance(message, dict) or not message.keys() & {"content", "tool_calls"}:
        return []
    content, entries = message.get("content"), message.get("tool_calls")
    if not isinstance(content, str | None) or not isinstance(entries, list | None):
        return []
    return [content or "", *map(_entry, entries or [])]


def _entry(entry: object) -> ToolCall | ParseProblem:
    fields = entry if isinstance(entry, dict) else {}
    function = fields.get("function")
    given = function.items() if isinstance(function, dict) else ()
    members = {key: (each, "" if isinstance(each, str) else _json(each)) for key, each in given}
    id = fields.get("id")
    call = call_of(members, id if isinstance(id, str) else None)
    return ParseProblem(_json(entry)) if call is None else call


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
