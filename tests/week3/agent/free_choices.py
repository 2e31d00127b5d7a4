"""What the answers of right implementations of the agent may differ in."""

import json
import re
from dataclasses import replace

from spec.agent import MAX_MESSAGE, Parsed, ParseProblem, Problem, Run, Status, ToolCall, ToolResult
from tests.week3.agent.cases_loop import Chat
from tests.week3.agent.cases_toolbox import World


class FreeChoices:
    """How JSON is spelled, wording and order of problems, ids, what the state of a constraint looks like, and
    a checkpoint.

    Worlds begin again, each with the first call to it.
    """

    def __init__(self):
        World.again += 1
        self.states = {}  # (constraint, the submission's state as text) -> this implementation's

    def arguments(self, call):
        if call.name == "Agent.resume":
            return tuple(map(Chat.checkpoint_again, call.args)), call.kwargs
        if not call.name.startswith("JsonConstraint.") or not call.args:
            return call.args, call.kwargs
        state, *others = call.args
        return (self.states.get((call.object_id, repr(state)), state), *others), call.kwargs

    def answer(self, call, answer):
        if call.name in ("JsonConstraint.start", "JsonConstraint.advance"):
            self.states[call.object_id, repr(call.value)] = answer
            return None
        return comparable(answer)

    def ended(self, call, error):
        pass


def comparable(answer):
    if isinstance(answer, Parsed):
        return answer.content, comparable(answer.calls), comparable(answer.problems)
    if isinstance(answer, ParseProblem):
        return replace(answer, text=respelled(answer.text))
    if isinstance(answer, ToolCall):
        return answer.id, answer.name, respelled(answer.arguments)
    if isinstance(answer, ToolResult):
        right = answer.status is Status.OK
        return replace(answer, content=respelled(answer.content) if right else marks(answer.content))
    if isinstance(answer, Run):
        return comparable_run(answer)
    if isinstance(answer, list) and answer and all(isinstance(each, Problem) for each in answer):
        return sorted({(each.path, each.rule, len(each.message) <= MAX_MESSAGE) for each in answer})
    return [comparable(each) for each in answer] if isinstance(answer, list) else answer


def comparable_run(run):
    ids = [call["id"] for message in run.messages for call in message.get("tool_calls", [])]
    ids += [each.call_id for each in run.results]
    names = {each: f"call {number}" for number, each in enumerate(dict.fromkeys(ids))}
    contents = {(each.call_id, each.content): comparable(each).content for each in run.results}

    def message(each):
        content = each["content"] or ""
        if each["role"] == "tool":
            said = contents.get((each["tool_call_id"], content), content)
            return each["role"], names.get(each["tool_call_id"]), said
        calls = [(names[call["id"]], *function(call)) for call in each.get("tool_calls", [])]
        return (
            each["role"],
            marks(content) if each["role"] == "user" else content,
            "tool_calls" in each,
            calls,
        )

    def function(call):
        arguments = call["function"]["arguments"]
        spelled = respelled(arguments) if isinstance(arguments, str) else arguments
        return call["function"]["name"], spelled

    results = [replace(comparable(each), call_id=names[each.call_id]) for each in run.results]
    return replace(run, messages=list(map(message, run.messages)), results=results)


def marks(text):
    """What is left of a text whose wording is free: what a test planted in it."""
    return re.findall("<<.*?>>", text, re.DOTALL)


def respelled(text):
    """JSON text in one spelling; what is none as it is."""
    try:
        return json.dumps(json.loads(text))
    except (ValueError, RecursionError):
        return text
