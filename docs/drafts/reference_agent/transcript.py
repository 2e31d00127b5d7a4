"""What a server would refuse in a list of messages."""

from .arguments import shown

ROLES = ("system", "user", "assistant", "tool")


def check_transcript(messages):
    found, used, waiting = [], set(), {}  # waiting: id of a call, and its path

    def wrong(path, rule, expected, got):
        found.append(shown(path, rule, expected, repr(got)))

    for i, message in enumerate(messages):
        role, calls, content = message.get("role"), message.get("tool_calls"), message.get("content")
        if role not in ROLES:
            wrong(f"/{i}/role", "role", "one of four", role)
        if role != "tool":
            for identity, path in waiting.items():
                wrong(path, "unanswered", "a result", identity)
            waiting = {}
        if not isinstance(content, str) and not (content is None and role == "assistant" and calls):
            wrong(f"/{i}/content", "content", "text", content)
        if "tool_calls" in message and not (role == "assistant" and isinstance(calls, list) and calls):
            wrong(f"/{i}/tool_calls", "calls", "a list of calls of the assistant", calls)
        elif "tool_calls" in message:
            for j, call in enumerate(calls):
                if not is_call(call):
                    wrong(f"/{i}/tool_calls/{j}", "calls", "a call", call)
                elif call["id"] in used:
                    wrong(f"/{i}/tool_calls/{j}/id", "duplicate", "a new id", call["id"])
                else:
                    used.add(call["id"])
                    waiting[call["id"]] = f"/{i}/tool_calls/{j}"
        if role == "tool":
            identity = message.get("tool_call_id")
            if not isinstance(identity, str) or waiting.pop(identity, None) is None:
                wrong(f"/{i}/tool_call_id", "unsolicited", "a call that waits", identity)
    for identity, path in waiting.items():
        wrong(path, "unanswered", "a result", identity)
    return found


def is_call(call):
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type") != "function":
        return False
    texts = (call.get("id"), function.get("name"), function.get("arguments"))
    return all(isinstance(text, str) for text in texts)


def ids(messages):
    """Of all calls."""
    return {call["id"] for message in messages for call in message.get("tool_calls", [])}
