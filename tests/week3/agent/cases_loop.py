"""What stands around a run: a model that reads from a script, ids that are counted, and a log of events."""

import json
from collections import deque
from itertools import count

from grading.edited import reference
from grading.matching import assert_equal
from spec.agent import Limits, Reply
from tests.week3.agent.cases_toolbox import World, toolbox

TRUTH = reference("agent")
USER = {"role": "user", "content": "<<What is 17 + 23?>>"}
DIED = OSError("<<the process died>>")


def asks(*do, n=0, tool="act", **more):
    """A call as a model writes it."""
    return block({"name": tool, "arguments": {"do": list(do), "n": n, **more}})


def block(value):
    return f"<tool_call>{value if isinstance(value, str) else json.dumps(value)}</tool_call>"


ROLES = {"s": "system", "u": "user", "a": "assistant"}


def talk(text):
    """Messages. "u ?ab =b =a a": a user's, calls with ids a and b, their results, an answer."""
    return [spoken(word, i) for i, word in enumerate(text.split())]


def spoken(word, number):
    kind, ids = word[0], word[1:]
    if kind == "=":
        return {"role": "tool", "tool_call_id": ids, "content": f"{number}"}
    if kind == "?":
        function = {"name": "f", "arguments": "{}"}
        calls = [{"id": id, "type": "function", "function": function} for id in ids]
        return {"role": "assistant", "content": None, "tool_calls": calls}
    return {"role": ROLES[kind], "content": f"{number}"}


class Chat(World):
    """A world with a model.

    replies: of the model, the last of them again and again: texts, Replies, exceptions, or functions of the
        messages that return one of these. Which one comes, is told by the number of messages of an assistant
        that it was given, less those that were there at first.
    prompts, offered: what the model was given. ids: all that `new_id` gave. events: all that were heard.
    dies_at: the number of the event, from 0 on, at which the process dies, None where it lives.
    hears: called with each event.
    """

    recent = deque(maxlen=64)  # chats, the oldest first

    def __init__(self, *replies, there=0, prefix="id", dies_at=None, hears=None, **world):
        self.replies, self.there, self.prefix = replies, there, prefix
        self.dies_at, self.hears = dies_at, hears
        self.texts = []  # of the checkpoints of the first time
        super().__init__(**{"brief": True, **world})
        Chat.recent.append(self)

    def begin(self):
        super().begin()
        self.prompts, self.offered, self.ids, self.events = [], [], [], []
        self.numbers = count(1)

    def model(self, messages, tools):
        self.awake()
        self.log.append("model")
        self.prompts.append(messages)
        self.offered.append(tools)
        number = sum(message["role"] == "assistant" for message in messages) - self.there
        reply = self.replies[min(number, len(self.replies) - 1)]
        reply = reply(messages) if callable(reply) else reply
        if isinstance(reply, Exception):
            raise type(reply)(*reply.args)
        return Reply(reply) if isinstance(reply, str) else reply

    def new_id(self):
        self.awake()
        self.ids.append(f"{self.prefix}{next(self.numbers)}")
        return self.ids[-1]

    def on_event(self, event):
        self.awake()
        number = len(self.events)
        self.events.append(event)
        if self.seen == self.first:
            self.texts.append(event.checkpoint)
        if number == self.dies_at:
            raise OSError(*DIED.args)
        if self.hears is not None:
            self.hears(event)

    @classmethod
    def checkpoint_again(cls, text):
        """Where calls are made again: the checkpoint of the same event."""
        for chat in cls.recent:
            if chat.seen == World.again and text in chat.texts[: len(chat.events)]:
                return chat.events[chat.texts.index(text)].checkpoint
        return text

    def kinds(self):
        return [event.kind.value for event in self.events]


def agent(impl, chat, *tools, box=None, format="hermes", events=True, **limits):
    """box: the options of its toolbox. limits: those that are not as by default."""
    made = toolbox(impl, chat, *tools, **(box or {}))
    options = {"on_event": chat.on_event} if events else {}
    return impl.Agent(chat.model, made, new_id=chat.new_id, format=format, limits=Limits(**limits), **options)


def run(impl, chat, *tools, messages=(USER,), **options):
    """A run that is whole."""
    found = agent(impl, chat, *tools, events=False, **options).run(list(messages))
    assert_whole(found, chat, list(messages))
    return found


def assert_whole(found, chat, messages):
    """Every list of messages is valid and a continuation of the one before, and each call has one result."""
    prompts = [*chat.prompts, found.messages]
    for i, prompt in enumerate(prompts):
        assert_equal(TRUTH.check_transcript(prompt), [], f"what a server would refuse in {prompt}")
        before = prompts[i - 1] if i else messages
        assert_equal(prompt[: len(before)], before, "messages that were there before")
    added = found.messages[len(messages) :]
    ids = [call["id"] for message in added for call in message.get("tool_calls", [])]
    told = [(message["tool_call_id"], message["content"]) for message in added if message["role"] == "tool"]
    assert_equal([each.call_id for each in found.results], ids, "ids of the results, those of the calls")
    assert_equal(told, [(each.call_id, each.content) for each in found.results], "what the model is told")
    assert set(ids) <= set(chat.ids), f"ids: expected some that new_id gave, {chat.ids}, got {ids}"
    assert_equal(found.model_calls, len(chat.prompts), "calls of the model")


def outcomes(found):
    """(status, attempts) of each call of a run."""
    return [(each.status, each.attempts) for each in found.results]


def plain(messages):
    """In a form that is the same for every right run: arguments as values, ids as "call 0", "call 1", …"""
    ids = {}
    return [plain_message(message, ids) for message in messages]


def plain_message(message, ids):
    message = dict(message)
    if message["role"] == "tool":
        message["tool_call_id"] = ids.get(message["tool_call_id"], message["tool_call_id"])
    if "tool_calls" in message:
        message["content"] = message["content"] or ""
        message["tool_calls"] = [plain_call(call, ids) for call in message["tool_calls"]]
    return message


def plain_call(call, ids):
    ids[call["id"]] = f"call {len(ids)}"
    arguments = call["function"]["arguments"]
    assert isinstance(arguments, str), f"arguments: expected JSON text, got {arguments!r}"
    return {**call, "id": ids[call["id"]], "function": {**call["function"], "arguments": loaded(arguments)}}


def loaded(arguments):
    """What JSON text says; the text itself where it is none."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments
