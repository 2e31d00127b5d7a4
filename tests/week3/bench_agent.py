"""What stands between a model and its tools: reading calls, the loop, masks.

None of it may be felt beside a model: a token of a small one takes some milliseconds. The regular expression
is what SGLang's detector of this format does; it is wrong where a string holds a tag, so the texts have none.
So is its loop over the objects of Llama 3, wrong where something else stands between them.
The masks need SmolLM2's vocabulary of 49,152 tokens: week3 model fetch.
"""

from runtime import blas

blas.preload()  # before MLX is imported

import json  # noqa: E402
import re  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import cache, partial  # noqa: E402
from itertools import count  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from reference import agent as reference  # noqa: E402
from runtime import downloads  # noqa: E402
from solution import agent as solution  # noqa: E402
from spec.agent import Clock, Event, Limits, Message, Reply, Tool  # noqa: E402
from tests.week3.races import Row, measure, race, show  # noqa: E402

MODEL = "smollm2-135m-instruct"
ROUNDS = 5
CHARACTERS = 1_000_000  # of a text that is parsed
PIECE = 4  # characters, about a token
STEPS = 100  # of a run
MEGABYTES, STEP, MASK = 20, 1e-3, 0.2e-3  # a second; seconds: the bars of issue 14


# Reading calls --------------------------------------------------------------------------------------------


def block(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


SEARCH = block("search", query="weather in Oslo on Sunday", limit=5, language="en")
PROSE = "The harbour master keeps three lists. The first names every vessel that came in, with its cargo. "
CODE = 'def area(width, height):\n    return {"area": width * height}\n\n'
TEXTS = {  # what one output is made of
    "short calls": block("add", a=17, b=23) + "\n",
    "a sentence and a call": f"Let me look that up.\n{SEARCH}\n",
    "a page and a call": PROSE * 20 + SEARCH,
    "a file as an argument": block("write_file", path="area.py", content=CODE * 60),
}


QUERY = {"query": "weather in Oslo on Sunday", "limit": 5, "language": "en"}
OBJECT = json.dumps({"name": "search", "parameters": QUERY}) + "; "
FUNCTION = {"name": "search", "arguments": json.dumps(QUERY)}
ENTRY = json.dumps({"id": "call_0", "type": "function", "function": FUNCTION}) + ", "


def by_expression(text: str) -> list[tuple[str, str]]:
    """Names and arguments."""
    found = map(json.loads, re.findall(r"<tool_call>\n(.*?)\n</tool_call>", text, re.DOTALL))
    return [(each["name"], json.dumps(each["arguments"], ensure_ascii=False)) for each in found]


def by_a_loop(text: str) -> list[tuple[str, str]]:
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text):
        each, at = decoder.raw_decode(text, at)
        found.append((each["name"], json.dumps(each["parameters"], ensure_ascii=False)))
        at += len("; ")
    return found


def by_json(text: str) -> list[tuple[str, str]]:
    functions = [each["function"] for each in json.loads(text)["tool_calls"]]
    return [(each["name"], each["arguments"]) for each in functions]


def many(unit: str) -> str:
    return unit * (CHARACTERS // len(unit))


READINGS = [  # name, format, text, who else reads it
    *[(name, "hermes", many(unit), ("a regular expression", by_expression)) for name, unit in TEXTS.items()],
    ("objects of Llama 3", "llama3", many(OBJECT), ("a loop of raw_decode", by_a_loop)),
    ("a message", "openai", f'{{"tool_calls": [{many(ENTRY)[:-2]}]}}', ("json alone", by_json)),
]


def calls(text: str, format: str) -> list[tuple[str, str]]:
    return [(each.name, each.arguments) for each in solution.parse_tool_calls(text, format).calls]


def parsing_rows() -> list[Row]:
    """The ratio is the speed over that of the other one; the last column has MB a second."""
    rows = []
    for name, format, text, (other, contender) in READINGS:
        assert [each[0] for each in calls(text, format)] == [each[0] for each in contender(text)]
        theirs, mine = race([partial(contender, text), partial(calls, text, format)], ROUNDS)
        size = len(text.encode()) / 1e6
        rows += [
            Row(f"parsing, {name}: {other}", theirs, 1.0, "", True, f"{size / theirs:.0f} MB/s"),
            Row(
                f"parsing, {name}: solution",
                mine,
                theirs / mine,
                f"at least {MEGABYTES} MB/s",
                size / mine >= MEGABYTES,
                f"{size / mine:.0f} MB/s",
            ),
        ]
    return rows


def streamed(module: Any, format: str, text: str) -> int:
    """How many calls and strings came out."""
    parser = module.StreamingToolParser(format)
    found = sum(len(parser.feed(text[i : i + PIECE])) for i in range(0, len(text), PIECE))
    return found + len(parser.close())


def streaming_rows() -> list[Row]:
    """A file as an argument, token by token, and one of 8 times its length. The ratio is that of the times of
    a character, longer over shorter."""
    files = [{"name": "write_file", "arguments": {"path": "area.py", "content": CODE * n}} for n in (32, 256)]
    rows = []
    for format, tags in (("hermes", "<tool_call>{}</tool_call>"), ("llama3", "<|python_tag|>{}")):
        short, long = (tags.format(json.dumps(each)) for each in files)
        for name, module in (("reference", reference), ("solution", solution)):
            seconds = race([partial(streamed, module, format, text) for text in (short, long)], ROUNDS)
            growth = seconds[1] / len(long) / (seconds[0] / len(short))
            bar = "at most 1.5 times" if module is solution else ""
            told = f"{seconds[1] / len(long) * PIECE * 1e6:.1f} µs a token"
            label = f"streaming {len(long):,} characters in {format}: {name}"
            rows.append(Row(label, seconds[1], growth, bar, not bar or growth <= 1.5, told))
    return rows


# The loop -------------------------------------------------------------------------------------------------

CLOCK = Clock(
    time.perf_counter, time.sleep, lambda function, arguments, context, _: function(arguments, context)
)
PARAMETERS = {
    "type": "object",
    "properties": {
        "query": {"type": "string"},
        "limit": {"type": "integer"},
        "language": {"enum": ["en", "de"]},
    },
    "required": ["query", "limit"],
    "additionalProperties": False,
}
HISTORY = [{"role": "user", "content": PROSE * 10}, {"role": "assistant", "content": PROSE * 10}] * 50


def steps(module: Any, on_event: Callable[[Event], None] | None, before: list[Message]) -> None:
    """A run whose model and tool take no time: what is left is the loop's own."""
    number, ids = count(), count()
    tool = Tool("search", "Searches.", PARAMETERS, lambda arguments, context: f"{next(number)}: {PROSE}")
    toolbox = module.Toolbox([tool], clock=CLOCK, uniform=lambda: 0.5)
    agent = module.Agent(
        lambda messages, tools: Reply(TEXTS["a sentence and a call"]),
        toolbox,
        new_id=lambda: f"id{next(ids)}",
        limits=Limits(model_calls=STEPS),
        on_event=on_event,
    )
    found = agent.run([*before, {"role": "user", "content": "Go on."}])
    assert len(found.results) == STEPS, found.stop_reason


def loop_rows() -> list[Row]:
    """Times and ratios are those of one step: a reply read, its call checked and run, the model told. With
    events there are four checkpoints a step, each of all that was said."""
    rows = []
    for name, on_event, before in (
        ("no events", None, []),
        ("events", lambda event: None, []),
        ("events, 100 messages before", lambda event: None, HISTORY),
    ):
        contenders = [partial(steps, module, on_event, before) for module in (reference, solution)]
        theirs, mine = (seconds / STEPS for seconds in race(contenders, ROUNDS))
        rows += [
            Row(f"a step, {name}: reference", theirs, 1.0, "", True, ""),
            Row(f"a step, {name}: solution", mine, theirs / mine, "at most 1 ms", mine <= STEP, ""),
        ]
    return rows


# Masks ----------------------------------------------------------------------------------------------------


def strict(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


SCHEMA = strict(
    city={"type": "string"},
    days={"type": "integer"},
    unit={"enum": ["celsius", "fahrenheit"]},
    tags={"type": "array", "items": {"type": "string"}},
    place=strict(latitude={"type": "number"}, longitude={"type": "number"}),
)
VALUE = {
    "city": 'Oslo, where the river is short and the "old town" is near, as the harbour master says',
    "days": 14,
    "unit": "celsius",
    "tags": ["weather", "plans for the summer", "ü"],
    "place": {"latitude": 59.9139, "longitude": 10.7522},
}


@cache
def vocabulary() -> tuple[list[bytes], list[int], list[int]]:
    """The bytes of SmolLM2's tokens, those that end a text, and the tokens of VALUE."""
    from solution.agent.vocabulary import token_bytes  # needs an extra, and benches are collected without it
    from solution.models.vocabulary import read_vocabulary

    path = downloads.installed(MODEL)
    if path is None:
        raise FileNotFoundError(f"{MODEL} is not here: week3 model fetch {MODEL}")
    found = read_vocabulary(path)
    text = json.dumps(VALUE, ensure_ascii=False, separators=(",", ":"))
    return token_bytes(found), sorted(found.eos_ids), found.backend.encode(text).ids


def written(constraint: Any, tokens: list[int]) -> np.ndarray:
    """All along a text: a mask, then the token. How many tokens each of the masks has."""
    state, found = constraint.start(), []
    for token in tokens:
        found.append(constraint.allowed(state))
        state = constraint.advance(state, token)
    assert constraint.is_complete(state)
    return np.array([np.asarray(mask).sum() for mask in found])


def mask_rows() -> list[Row]:
    """Times are those of a token. The reference tries each of 49,152 tokens, so it is asked for a few."""
    tokens, eos, text = vocabulary()
    known = solution.JsonConstraint(SCHEMA, tokens, eos)
    notes = count()  # that make a schema a new one

    def new() -> np.ndarray:
        return written(solution.JsonConstraint({**SCHEMA, "title": str(next(notes))}, tokens, eos), text)

    again, first = race([partial(written, known, text), new], ROUNDS)
    few = reference.JsonConstraint(SCHEMA, tokens, eos)
    start = time.perf_counter()
    few.allowed(few.start())
    theirs = time.perf_counter() - start
    rows = [Row("a mask: reference", theirs, 1.0, "", True, "")]
    for name, seconds in (("a schema that is known", again), ("a new schema", first)):
        each = seconds / len(text)
        rows.append(Row(f"a mask, {name}: solution", each, theirs / each, "at most 0.2 ms", each <= MASK, ""))
    return rows


def report() -> list[Row]:
    """Every bar, measured in this process."""
    return [*parsing_rows(), *streaming_rows(), *loop_rows(), *mask_rows()]


# For pytest-benchmark -------------------------------------------------------------------------------------


def test_parsing(benchmark):
    text = TEXTS["a sentence and a call"] * 1000
    measure(benchmark, "parsing", lambda: calls(text, "hermes"))


def test_report(benchmark, capsys):
    show(benchmark, capsys, report)
