"""week3 generate: a model goes on from a text."""

import json
import random
import sys
from dataclasses import asdict
from enum import StrEnum
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated

import typer

from runtime import blas, downloads

from . import output
from .models import installed

if TYPE_CHECKING:
    from solution.models import Decoder
    from solution.models.streaming import Told
    from spec.speculative_decoding import Drafter, Sampling

DEFAULT_MODEL = "smollm2-135m-instruct"
GAMMA = 5  # tokens that are drafted at most: docs/benchmarks.md
SINKS = 4  # first tokens that a rolling cache keeps, without which text falls apart: StreamingLLM, section 3

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class CacheKind(StrEnum):
    contiguous = "contiguous"
    paged = "paged"
    rolling = "rolling"
    int8 = "int8"


@app.command()
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
    path = installed(model)
    text = sys.stdin.read() if prompt == "-" else prompt
    blas.preload()
    with output.models_needed():
        from solution.models import load
        from solution.models.streaming import tell
        from solution.models.tokenizer import Tokenizer
        from solution.speculative_decoding import stream
        from spec import SpecError
        from spec.speculative_decoding import Sampling

    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    try:
        tokenizer = Tokenizer.open(path)
        ids = tokenizer.chat([{"role": "user", "content": text}]) if chat else tokenizer.framed([text])[0]
        if not ids:
            output.end("prompt: expected at least one token, got an empty text", output.USAGE)
        options = {"sinks": SINKS} if cache is CacheKind.rolling else {}
        decoder = load(path)
        context = decoder.start(cache=cache, **options)
        limit = min(max_tokens, context.max_length - len(ids))
        ends = tokenizer.eos_ids
        sampling = Sampling(temperature, top_p=1.0 if top_p is None else top_p, eos_ids=tuple(ends))
        drafter = None if draft is None else _drafter(draft, decoder, sampling)
        how = {"max_tokens": max_tokens, "gamma": GAMMA, "sampling": sampling, "seed": seed}
        tokens = takewhile(lambda id: id not in ends, stream(context, drafter, ids, **how))
        told = tell(tokens, tokenizer, stop or [], limit, output.nothing if as_json else output.say)
    except SpecError as error:
        output.end(str(error), output.USAGE)
    except BrokenPipeError:  # whoever read it has seen enough
        output.let_go()
        raise typer.Exit(output.NOBODY_READS) from None
    if as_json:
        facts = {"model": model, "seed": seed, "prompt_tokens": len(ids)}
        print(json.dumps({**facts, **asdict(told)}, ensure_ascii=False))
    else:
        print(flush=True)
        print(_sentence(len(ids), told), file=sys.stderr)
    raise typer.Exit(output.INTERRUPTED if told.finish == "interrupted" else 0)


def _drafter(draft: str, decoder: "Decoder", sampling: "Sampling") -> "Drafter":
    from solution.models import load
    from solution.speculative_decoding import drafters

    if draft == "ngram":
        return drafters.ngrams()
    if draft == "skip":
        return drafters.skipping(decoder, drafters.every_other(decoder.config.layers), sampling)
    path = downloads.installed(draft)
    if path is None:
        output.end(f"--draft: expected ngram, skip or a model that is here, got {draft}", output.USAGE)
    return drafters.smaller(load(path), sampling, decoder.config.vocab_size)


def _sentence(read: int, told: "Told") -> str:
    first = f", the first after {told.first:.2f} s" if told.first is not None else ""
    speed = f", {told.per_second:.1f} tokens/s" if told.per_second is not None else ""
    return f"{read} tokens read, {told.tokens} written{first}{speed} ({told.finish})"
