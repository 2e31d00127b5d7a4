"""Lists of messages: what a server would refuse, and shorter ones."""

from collections.abc import Callable, Iterable, Sequence

from spec import CannotCompact
from spec.agent import Message, Problem

from .checks import check_messages


def check_transcript(messages: Sequence[Message]) -> list[Problem]:
    found: list[Problem] = []
    known: set[str] = set()
    open_calls: dict[str, str] = {}  # id: path, of calls of the last assistant message without a result

    def leave_open() -> None:
        found.extend(Problem(path, "unanswered", "expected a result") for path in open_calls.values())
        open_calls.clear()

    for i, message in enumerate(messages):
        if message["role"] == "tool":
            if open_calls.pop(message["tool_call_id"], None) is None:
                found.append(Problem(f"/{i}/tool_call_id", "unsolicited", "expected an open call's id"))
            continue
        leave_open()
        for j, call in enumerate(message.get("tool_calls") or ()):
            path = f"/{i}/tool_calls/{j}"
            if call["id"] in known:
                found.append(Problem(f"{path}/id", "duplicate", "expected an id that no call before had"))
                continue
            known.add(call["id"])
            open_calls[call["id"]] = path
    leave_open()
    return found


def compact(
    messages: Sequence[Message],
    *,
    budget: int,
    count_tokens: Callable[[list[Message]], int],
    summarize: Callable[[list[Message]], str],
) -> list[Message]:
    """A summary is only asked for where there is room for an empty one."""
    check_messages(messages, check_transcript(messages))
    if count_tokens(list(messages)) <= budget:
        return list(messages)
    leading, units = _units(messages)
    last = max((i for i, unit in enumerate(units) if unit[0]["role"] == "user"), default=None)
    may_go = [i for i in range(len(units)) if i != last]
    for count in range(1, len(may_go) + 1):
        gone = set(may_go[:count])
        kept = _joined(unit for i, unit in enumerate(units) if i not in gone)
        if count_tokens([*leading, _summary(""), *kept]) > budget:
            continue
        dropped = _joined(units[i] for i in may_go[:count])
        shorter = [*leading, _summary(summarize(dropped)), *kept]
        if count_tokens(list(shorter)) <= budget:
            return shorter
    raise CannotCompact(f"budget: expected room for the messages that must stay, got {budget}")


def _units(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The leading system messages; and the others, results together with the message that called."""
    leading: list[Message] = []
    units: list[list[Message]] = []
    for message in messages:
        if message["role"] == "system" and not units:
            leading.append(message)
        elif message["role"] == "tool":
            units[-1].append(message)
        else:
            units.append([message])
    return leading, units


def _joined(units: Iterable[list[Message]]) -> list[Message]:
    return [message for unit in units for message in unit]


def _summary(text: str) -> Message:
    return {"role": "user", "content": text}
