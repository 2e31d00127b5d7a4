from spec import CannotCompact

from .basics import expect
from .transcript import check_transcript


def compact(messages, *, tools, budget, reserved, count_tokens, summarize):
    expect(budget >= 1, "budget", "at least 1", budget)
    expect(reserved >= 0, "reserved", "at least 0", reserved)
    wrong = check_transcript(messages)
    expect(not wrong, "messages", "a valid transcript", wrong)
    messages, tools = list(messages), list(tools)

    def fits(candidate):
        return count_tokens(candidate, tools) + reserved <= budget

    if fits(messages):
        return messages
    leading = 0
    while leading < len(messages) and messages[leading]["role"] == "system":
        leading += 1
    groups = units(messages[leading:])
    users = [i for i, group in enumerate(groups) if group[0]["role"] == "user"]
    kept = users[-1] if users else None
    droppable = [i for i in range(len(groups)) if i != kept]
    for count in range(1, len(droppable) + 1):
        gone = droppable[:count]
        dropped = [message for i in gone for message in groups[i]]
        summary = {"role": "user", "content": summarize(dropped)}
        rest = [message for i, group in enumerate(groups) if i not in gone for message in group]
        candidate = [*messages[:leading], summary, *rest]
        if fits(candidate):
            return candidate
    raise CannotCompact(f"budget: expected one that holds what must stay, got {budget}")


def units(messages):
    """An assistant's message with its results, any other alone."""
    groups = []
    for message in messages:
        if message["role"] == "tool":
            groups[-1].append(message)
        else:
            groups.append([message])
    return groups
