"""week3 agent: a model that calls tools."""

import json
import random
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from runtime import blas

from . import output, rag
from .agent_eval import evaluate
from .generate import DEFAULT_MODEL
from .models import installed
from .talk import Talk

if TYPE_CHECKING:
    from spec.agent import Run, Tool

MAX_RESULT = 4_000  # characters: a thousand tokens or so of the context
ASK = "ask"


class AskByDefault(TyperGroup):
    """What begins with none of the commands is a question."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_named = not args or args[0] == "--help" or args[0] in self.commands
        return super().parse_args(ctx, args if is_named else [ASK, *args])


app = typer.Typer(cls=AskByDefault, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback()
def agent() -> None:
    """Let a model answer with tools: week3 agent "What is 17 * 23?" is short for week3 agent ask."""


@app.command(ASK)
def ask(
    question: Annotated[str, typer.Argument(help="What to answer; - reads it from standard input.")],
    tools: Annotated[
        Path | None, typer.Option(metavar="FILE.py", help="Your own: a file that defines TOOLS.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Let it list and read the files of this folder.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Let it search what week3 rag ingest has put there.")
    ] = None,
    python: Annotated[
        bool, typer.Option("--python", help="Let it run Python, where nothing of this machine is in reach.")
    ] = False,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A fetched model, a folder or a GGUF file.")
    ] = DEFAULT_MODEL,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Of each reply.")] = 256,
    max_calls: Annotated[int, typer.Option(metavar="N", min=1, help="How often the model is asked.")] = 10,
    unconstrained: Annotated[
        bool, typer.Option("--unconstrained", help="Calls may be anything, and tools have any parameters.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append what happens, for week3 trace.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object at the end, no stream.")] = False,
) -> None:
    """Answer a question, with the help of a calculator and of what else is given."""
    text = sys.stdin.read() if question == "-" else question
    if not text.strip():
        output.end("question: expected words, got an empty text", output.USAGE)
    path = installed(model)
    blas.preload()
    with output.models_needed():
        from solution.agent import Agent, Toolbox
        from solution.agent.agent import definition
        from solution.agent.clock import real_clock
        from solution.agent.trace import Trace
        from solution.agent.writing import Writer
    from spec import SpecError
    from spec.agent import Limits

    given = _tools(tools, folder, store, python)
    talk = Talk(quiet=as_json)
    try:
        clock = real_clock(talk.cancelled)
        box = Toolbox(given, clock=clock, uniform=random.random, approve=talk.approves, max_result=MAX_RESULT)
        options = {"constrained": not unconstrained, "say": talk.say}
        talk.writer = Writer.open(path, [definition(tool) for tool in given], max_tokens, **options)
    except SpecError as error:
        output.end(str(error), output.USAGE)
    try:
        talk.trace = None if trace is None else Trace(trace)
    except OSError as error:
        output.end(f"--trace: {trace}: {error.strerror}", output.USAGE)
    made = Agent(talk.model, box, new_id=_new_id, limits=Limits(model_calls=max_calls), on_event=talk.hears)
    begun = time.monotonic()
    try:
        with talk.interrupting(made):
            run = made.run([{"role": "user", "content": text}])
    except KeyboardInterrupt:  # the second one
        raise typer.Exit(output.INTERRUPTED) from None
    except BrokenPipeError:
        output.let_go()
        raise typer.Exit(output.NOBODY_READS) from None
    finally:
        if talk.trace is not None:
            talk.trace.close()
    if as_json:
        print(json.dumps({"model": model, "question": text, **_facts(run)}, ensure_ascii=False))
    else:
        print(flush=True)
        seconds, counts = (
            time.monotonic() - begun,
            f"model calls: {run.model_calls}, tokens: {run.tokens}",
        )
        print(f"{counts}, {seconds:.1f} s ({run.stop_reason.value})", file=sys.stderr)
    _end(run, talk)


app.command("eval")(evaluate)


def _tools(own: Path | None, folder: Path | None, store: Path | None, python: bool) -> "list[Tool]":
    from solution.agent.own_tools import BadTools, own_tools
    from solution.agent.sandboxed import python as python_tool
    from solution.agent.tools import calculator, folder_tools, search
    from spec import SpecError

    try:
        return [
            calculator(),
            *(folder_tools(folder) if folder else []),
            *([search(_passages(store))] if store else []),
            *([python_tool()] if python else []),
            *(own_tools(own) if own else []),
        ]
    except (BadTools, SpecError) as error:
        output.end(str(error), output.USAGE)


def _passages(store: Path) -> Callable[[str], list[tuple[str, str]]]:
    """What finds passages in what `week3 rag ingest` has put there."""
    from solution.rag.collection import settings

    kept = settings(store)
    if not kept:
        output.end(
            f"{store}: nothing is in it. `week3 rag ingest PATH --store {store}` fills it", output.USAGE
        )
    collection = rag.opened(store, kept["embedder"])

    def passages(query: str) -> list[tuple[str, str]]:
        return [(collection.place(each), each.text) for each in collection.pipeline.retrieve(query).chunks]

    return passages


def _new_id() -> str:
    return secrets.token_hex(8)


def _facts(run: "Run") -> dict[str, Any]:
    from spec.agent import StopReason

    answer = run.messages[-1]["content"] if run.stop_reason is StopReason.DONE else None
    results = [{**asdict(each), "status": each.status.value} for each in run.results]
    facts = {"run": run.run_id, "answer": answer, "reason": run.stop_reason.value, "messages": run.messages}
    return {**facts, "results": results, "model_calls": run.model_calls, "tokens": run.tokens}


def _end(run: "Run", talk: Talk) -> NoReturn:
    """By how it ended."""
    from spec import SpecError
    from spec.agent import StopReason

    if run.stop_reason is StopReason.DONE:
        raise typer.Exit(0)
    if isinstance(talk.failure, BrokenPipeError):
        output.let_go()
        raise typer.Exit(output.NOBODY_READS)
    if run.stop_reason is StopReason.CANCELLED:
        raise typer.Exit(output.INTERRUPTED)
    if isinstance(talk.failure, SpecError):
        output.end(str(talk.failure), output.FAILED)
    if talk.failure is not None:
        raise talk.failure
    output.end(f"no answer: {run.stop_reason.value}", output.FAILED)
