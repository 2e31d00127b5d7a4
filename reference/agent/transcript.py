"""What a server would refuse in a list of messages, what is done when they are too long, and circles."""

import json

from spec import CannotCompact
from spec.agent import MAX_PERIOD, Problem

from .arguments import read
from .basics import expect


def check_transcript(messages):
    found, used, waiting = [], set(), {}  # waiting: the ids of calls without a result, and their paths
    for i, message in enumerate([*messages, {"role": "end"}]):
        if message["role"] == "tool":
            if waiting.pop(message["tool_call_id"], None) is None:
                found.append(Problem(f"/{i}/tool_call_id", "unsolicited", "expected the id of a call before"))
            continue
        found += [Problem(path, "unanswered", "expected a result") for path in waiting.values()]
        waiting = {}
        for j, call in enumerate(message.get("tool_calls", [])):
            path = f"/{i}/tool_calls/{j}"
            if call["id"] in used:
                found.append(Problem(f"{path}/id", "duplicate", "expected an id of its own"))
            else:
                waiting[call["id"]] = path
            used.add(call["id"])
    return found


def compact(messages, *, budget, count_tokens, summarize):
    wrong = check_transcript(messages)
    expect(not wrong, "messages", "a valid transcript", wrong)
    if count_tokens(list(messages)) <= budget:
        return list(messages)
    roles = [message["role"] for message in messages]
    start = next((i for i, role in enumerate(roles) if role != "system"), len(roles))
    last = max((i for i, role in enumerate(roles) if role == "user"), default=None)
    for end in range(start + 1, len(messages) + 1):
        if end - 1 == last or roles[end : end + 1] == ["tool"]:
            continue
        dropped = [messages[i] for i in range(start, end) if i != last]
        kept = [messages[i] for i in range(start, len(messages)) if i >= end or i == last]
        shorter = [*messages[:start], {"role": "user", "content": summarize(dropped)}, *kept]
        if count_tokens(shorter) <= budget:
            return shorter
    raise CannotCompact(f"budget: expected room for the messages that must stay, got {budget}")


def detect_loop(steps, *, repeats):
    expect(repeats >= 2, "repeats", "at least 2", repeats)
    seen = [(call.name, canonical(call.arguments), result.status, result.content) for call, result in steps]
    return any(
        len(seen) >= repeats * period and seen[-repeats * period :] == seen[-period:] * repeats
        for period in range(1, MAX_PERIOD + 1)
    )


def canonical(arguments):
    """Equal for equal JSON, however it is written, and for equal text that is none."""
    try:
        return "json", json.dumps(read(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return "text", arguments
