"""The model of `week3 agent`: what it is told, what it can write, and what it reads again."""

import json

import mlx.core as mx
import numpy as np
import pytest

from solution.agent import parse_tool_calls, validate_arguments
from solution.agent.leaning import Reader
from solution.agent.prompt import told
from solution.agent.vocabulary import token_bytes
from solution.agent.writing import Writer
from solution.models.vocabulary import read_vocabulary
from spec import ContextTooLong, NotSupported
from spec.model import Model
from tests.suite.test_tokenizer import bytewise, made

END = 256
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}~"
KNOWS_TOOLS = (
    "{% if tools %}Call in <tool_call>: {{ tools | tojson }}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.arguments.unit }}{% endfor %}{% endfor %}~"
)
UNIT = {
    "type": "object",
    "properties": {"unit": {"enum": ["metre", "mile"]}, "count": {"enum": [1, 2]}},
    "required": ["unit", "count"],
    "additionalProperties": False,
}


def tool(name, parameters):
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


TOOLS = [tool("convert", UNIT), tool("count", UNIT)]
ASKED = [{"role": "user", "content": "How far?"}]


class Recites:
    """Stands for a decoder: after each prompt, which ends with ~, it wants to write the next of these texts
    and to end. Where it may not, chance decides."""

    def __init__(self, tokenizer, texts, max_length):
        self.texts = [[*tokenizer.encode(text), END] for text in texts]
        (self.mark,) = tokenizer.encode("~")
        self.max_length = max_length
        self.read = []  # how many tokens each call has read
        self.text, self.begun = [END], 0  # what is written, and how many tokens were before it
        self.chance = np.random.default_rng(0).normal(size=(1000, END + 1)).astype(np.float32)

    def start(self):
        held = []

        def forward(tokens, *, last=None, parents=None):
            held.extend(np.asarray(tokens).tolist())
            self.read.append(len(tokens))
            if held[-1] == self.mark:
                self.text, self.begun = self.texts.pop(0), len(held)
            at = len(held) - self.begun
            row = self.chance[at % len(self.chance)].copy()
            row[self.text[min(at, len(self.text) - 1)]] = 100
            return mx.array(row[None])

        def truncate(length):
            del held[length:]

        return Model(END + 1, self.max_length, forward, lambda: len(held), truncate, accept=lambda path: None)


@pytest.fixture
def writer(tmp_path):
    (tmp_path / "tokenizer.json").write_text(bytewise(["<|end|>"]).to_str())
    words = token_bytes(read_vocabulary(tmp_path))

    def make(*texts, tools=TOOLS, template=KNOWS_TOOLS, max_tokens=400, max_length=10_000, **options):
        tokenizer = made(special=["<|end|>"], template=template, config={"eos_token_id": END})
        decoder = Recites(tokenizer, texts, max_length)
        return Writer(decoder, tokenizer, words, tools, max_tokens, **options), decoder

    return make


def block(text):
    return f"<tool_call>\n{text}\n</tool_call>"


CALL = block('{"name": "count", "arguments": {"unit": "mile", "count": 2}}')


def test_what_it_says_is_its_reply_in_pieces(writer):
    said = []
    model, _ = writer(f"Grüße. {CALL}", say=said.append)
    reply = model(ASKED, TOOLS)
    assert (reply.text, reply.finish) == (f"Grüße. {CALL}", "stop")
    assert "".join(said) == reply.text and len(said) > 10
    assert reply.tokens == len(model.prompt(ASKED)) + len(reply.text.encode())


@pytest.mark.parametrize(
    "wanted",
    ["nonsense", "[1]", '{"name": "fly", "arguments": {}}', '{"name": "count", "arguments": {"a": 1}}', ""],
)
def test_whatever_it_wants_a_call_is_one_of_a_tool_and_valid(writer, wanted):
    model, _ = writer(block(wanted))
    parsed = parse_tool_calls(model(ASKED, TOOLS).text, "hermes")
    (call,) = parsed.calls
    assert not parsed.problems and call.name in ("convert", "count")
    assert not validate_arguments(UNIT, call.arguments)


def test_unconstrained_it_writes_what_it_wants(writer):
    model, _ = writer(block("nonsense"), constrained=False)
    assert model(ASKED, TOOLS).text == block("nonsense")


def test_a_model_that_was_trained_goes_on_after_a_call(writer):
    model, _ = writer(f"{CALL} and {CALL}")
    assert model(ASKED, TOOLS).text == f"{CALL} and {CALL}"


@pytest.mark.parametrize("length", [1, 30])
def test_a_reply_that_is_cut_off_says_so(writer, length):
    model, _ = writer(f"Let me see. {CALL}", max_tokens=length)
    reply = model(ASKED, TOOLS)
    assert (reply.text, reply.finish) == (f"Let me see. {CALL}"[:length], "length")


def test_what_was_read_is_not_read_again(writer):
    model, decoder = writer(CALL, "Two miles.")
    model(ASKED, TOOLS)
    decoder.read.clear()
    calls = [{"id": "c", "type": "function", "function": {"name": "count", "arguments": "{}"}}]
    asked = {"role": "assistant", "content": CALL, "tool_calls": calls}
    model([*ASKED, asked, {"role": "tool", "tool_call_id": "c", "content": "2"}], TOOLS)
    assert decoder.read[0] == len(f"[assistant]{CALL}[tool]2~")


def test_a_conversation_that_is_too_long_is_told(writer):
    model, _ = writer("x", max_length=20)
    with pytest.raises(ContextTooLong, match="messages: expected fewer than 20 tokens"):
        model(ASKED, TOOLS)


def test_a_tool_that_no_constraint_takes_is_named(writer):
    loose = tool("loose", {"type": "object", "properties": {"a": {"type": "string"}}})
    with pytest.raises(NotSupported, match="tool loose: schema: expected"):
        writer(tools=[*TOOLS, loose])
    writer(tools=[*TOOLS, loose], constrained=False)


# ---- What it is told. ----

CALLED = {"id": "c", "type": "function", "function": {"name": "count", "arguments": '{"unit": "mile"}'}}
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    *ASKED,
    {"role": "assistant", "content": "Let me see.", "tool_calls": [CALLED, {**CALLED, "id": "d"}]},
    {"role": "tool", "tool_call_id": "c", "content": "1"},
    {"role": "tool", "tool_call_id": "d", "content": "2"},
]


def test_a_template_that_knows_tools_is_given_them(writer):
    model, _ = writer("x")
    prompt = model._tokenizer.decode(model.prompt(CONVERSATION))
    assert prompt.startswith(f"Call in <tool_call>: {json.dumps(TOOLS)}[system]Be brief.[user]How far?")
    assert prompt.endswith("[assistant]Let me see.milemile[tool]1[tool]2~")


def test_another_template_is_given_the_same_in_words(writer):
    model, _ = writer("x", template=PLAIN)
    prompt = model._tokenizer.decode(model.prompt(CONVERSATION))
    block_of_it = block('{"name": "count", "arguments": {"unit": "mile"}}')
    result = "<tool_response>\n{}\n</tool_response>"
    assert json.dumps(TOOLS[0]["function"]) in prompt and "Be brief.[user]" in prompt
    end = f"[user]How far?[assistant]Let me see.\n{block_of_it}\n{block_of_it}[user]"
    assert prompt.endswith(f"{end}{result.format(1)}\n{result.format(2)}~")


def test_examples_are_calls_of_a_conversation():
    """What the model sees is what the parser reads."""
    said = [message["content"] for message in told(ASKED, TOOLS) if message["role"] == "assistant"]
    found = [parse_tool_calls(text, "hermes") for text in said]
    assert not any(each.problems for each in found)
    assert sorted(len(each.calls) for each in found) == [0] * 4 + [1] * 3


def test_a_reader_reads_what_is_new():
    read = []

    def forward(tokens, *, last=None, parents=None):
        read.append(np.asarray(tokens).tolist())
        return mx.zeros((last, 4))

    kept = []
    reader = Reader(Model(4, 100, forward, lambda: 0, kept.append, accept=lambda path: None))
    for ids, last in (([1, 2, 3], 1), ([1, 2, 3, 0], 1), ([1, 3], 1), ([1, 3], 2)):
        reader.logits(ids, last)
    assert (kept, read) == ([0, 3, 1, 0], [[1, 2, 3], [0], [3], [1, 3]])
