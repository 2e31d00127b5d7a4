"""`week3 model` and `week3 generate`. They join the command line by entry points, see pyproject.toml.

As there, a command imports what it needs when it runs.
"""

import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from runtime import downloads

if TYPE_CHECKING:
    from solution.models import Decoder
    from solution.models.streaming import Told
    from spec.model import Model
    from spec.speculative_decoding import Drafter, Sampling

FAILED, USAGE, INTERRUPTED, NOBODY_READS = 1, 2, 130, 141
DEFAULT_MODEL = "smollm2-135m-instruct"
GAMMA = 5  # tokens that are drafted at most: docs/benchmarks.md
SINKS = 4  # first tokens that a rolling cache keeps, without which text falls apart: StreamingLLM, section 3
# Characters that would steer a terminal.
STEERING = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")

model = typer.Typer(
    help="Fetch, list and remove models.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)
generate = typer.Typer(add_completion=False, rich_markup_mode=None)


# ---- week3 model. ----

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")]


@model.command()
def fetch(names: Names = None) -> None:
    """Bring models into your cache; by default the two that the project is tested with."""
    for name in names or downloads.KNOWN:
        try:
            with _bar(name) as progress:
                path = downloads.fetch(name, progress)
        except downloads.FetchError as error:
            _end(str(error), FAILED)
        print(f"{name}\n  {path}\n  licence: {downloads.licence(name)}", flush=True)


@model.command("list")
def list_models() -> None:
    """List models that are known, and those that are here."""
    for name in downloads.names():
        path = downloads.installed(name)
        about = f"{downloads.KNOWN[name].about}; " if name in downloads.KNOWN else ""
        state = f"{_megabytes(path)} MB in {path}" if path else f"not here: week3 model fetch {name}"
        print(f"{name}\n  {about}licence: {downloads.licence(name)}\n  {state}")


@model.command()
def remove(names: Annotated[list[str], typer.Argument(metavar="NAME...")]) -> None:
    """Delete models from your cache."""
    missing = [name for name in names if not downloads.remove(name)]
    if missing:
        _end(f"not in {downloads.cache()}: {', '.join(missing)}. `week3 model list` shows what is", USAGE)


def _megabytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return round(sum(file.stat().st_size for file in files if file.is_file()) / 1e6)


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# ---- week3 generate. ----


class CacheKind(StrEnum):
    contiguous = "contiguous"
    paged = "paged"
    rolling = "rolling"
    int8 = "int8"


@generate.command()
def generate_text(
    prompt: Annotated[str, typer.Argument(help="What to go on from; - reads it from standard input.")],
    chat: Annotated[bool, typer.Option("--chat", help="Take it as a message to an assistant.")] = False,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A fetched model, a folder or a GGUF file.")
    ] = DEFAULT_MODEL,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the most likely token.")] = 0.0,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest tokens that reach this share.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1)] = 256,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text; repeatable.")
    ] = None,
    cache: Annotated[CacheKind, typer.Option(help="How keys and values are kept.")] = CacheKind.contiguous,
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="WHO", help="Drafts tokens: ngram, skip, or another model with the same tokens."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Random by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object at the end, no stream.")] = False,
) -> None:
    """Let a model go on from a text, token by token."""
    path = downloads.installed(model)
    if path is None:
        _end(f"{model} is not here. `week3 model fetch {model}` brings it", USAGE)
    text = sys.stdin.read() if prompt == "-" else prompt
    from runtime import blas

    blas.preload()
    try:
        from solution.models import generate as go_on
        from solution.models import load
        from solution.models.streaming import tell
        from solution.models.tokenizer import Tokenizer
        from spec import SpecError
        from spec.speculative_decoding import Sampling
    except ModuleNotFoundError as error:
        _end(f"{error.name} is not installed. Models need it: pip install -e '.[models]'", USAGE)

    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    try:
        tokenizer = Tokenizer.open(path)
        ids = tokenizer.chat([{"role": "user", "content": text}]) if chat else tokenizer.framed([text])[0]
        if not ids:
            _end("prompt: expected at least one token, got an empty text", USAGE)
        options = {"sinks": SINKS} if cache is CacheKind.rolling else {}
        decoder = load(path)
        context = decoder.start(cache=cache, **options)
        limit = min(max_tokens, context.max_length - len(ids) + 1)
        ends = tokenizer.eos_ids
        sampling = Sampling(temperature, top_p=1.0 if top_p is None else top_p, eos_ids=tuple(ends))
        if draft is None:
            tokens = go_on(context, ids, max_tokens=max_tokens, sampling=sampling, stop_ids=ends, seed=seed)
        else:
            tokens = _drafted(draft, decoder, context, ids, max_tokens, sampling, seed)
        told = tell(tokens, tokenizer, stop or [], limit, _nothing if as_json else _say)
    except SpecError as error:
        _end(str(error), USAGE)
    except BrokenPipeError:  # whoever read it has seen enough
        _let_go()
        raise typer.Exit(NOBODY_READS) from None
    if as_json:
        facts = {"model": model, "seed": seed, "prompt_tokens": len(ids)}
        print(json.dumps({**facts, **asdict(told)}, ensure_ascii=False))
    else:
        print(flush=True)
        print(_sentence(len(ids), told), file=sys.stderr)
    raise typer.Exit(INTERRUPTED if told.finish == "interrupted" else 0)


def _drafted(
    draft: str,
    decoder: "Decoder",
    context: "Model",
    ids: list[int],
    max_tokens: int,
    sampling: "Sampling",
    seed: int,
) -> Iterator[int]:
    """The tokens, up to one that ends the text, by speculative decoding."""
    from solution.speculative_decoding.loop import Limits, stream

    limits = Limits(max_tokens, GAMMA, sampling, ())
    drafter = _drafter(draft, decoder, sampling)
    ends = sampling.eos_ids
    return takewhile(lambda id: id not in ends, stream(context, drafter, ids, limits=limits, seed=seed))


def _drafter(draft: str, decoder: "Decoder", sampling: "Sampling") -> "Drafter":
    from solution.models import load
    from solution.speculative_decoding import drafters

    if draft == "ngram":
        return drafters.ngrams()
    if draft == "skip":
        return drafters.skipping(decoder, drafters.every_other(decoder.config.layers), sampling)
    path = downloads.installed(draft)
    if path is None:
        _end(f"--draft: expected ngram, skip or a model that is here, got {draft}", USAGE)
    return drafters.smaller(load(path), sampling, decoder.config.vocab_size)


def _say(piece: str) -> None:
    shown = piece.translate(STEERING) if sys.stdout.isatty() else piece
    print(shown, end="", flush=True)


def _let_go() -> None:
    """Writes no more to a pipe that nobody reads, also when Python flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _nothing(piece: str) -> None:
    pass


def _sentence(read: int, told: "Told") -> str:
    first = f", the first after {told.first:.2f} s" if told.first is not None else ""
    speed = f", {told.per_second:.1f} tokens/s" if told.per_second is not None else ""
    return f"{read} tokens read, {told.tokens} written{first}{speed} ({told.finish})"


def _end(sentence: str, code: int) -> NoReturn:
    print(f"week3: {sentence}", file=sys.stderr)
    raise typer.Exit(code)
