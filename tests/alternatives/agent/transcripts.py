"""What has been said and done, seen from outside: messages that a server would refuse, messages that are too
long, calls that turn in a circle.
"""

from copy import deepcopy

from spec import CannotCompact
from spec.agent import MAX_PERIOD, Problem

from .basics import BLANK, require
from .scanning import Bad, decode, identity


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
