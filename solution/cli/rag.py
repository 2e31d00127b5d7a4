"""week3 rag: files in, answers with citations out."""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime import blas

from . import output
from .models import installed

if TYPE_CHECKING:
    from solution.rag.collection import Collection
    from spec.rag import Embedder, RagConfig

EMBEDDER, WRITER = "all-minilm-l6-v2", "smollm2-135m-instruct"
HASHING = "hashing"

app = typer.Typer(
    help="Ask a collection of files.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)

Store = Annotated[Path, typer.Option("--store", metavar="DIR", help="The folder that keeps the collection.")]
EmbedderName = Annotated[
    str, typer.Option("--embedder", metavar="NAME", help="A fetched encoder, a folder, or hashing: no model.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object at the end, no stream.")]


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, and folders of them.")],
    store: Store,
    embedder: EmbedderName = EMBEDDER,
    as_json: AsJson = False,
) -> None:
    """Take in text, Markdown, HTML and PDF.

    What is there already is not read by the model again. A file that cannot be read is told and skipped; what
    it said before stays until it can be read again, or is gone."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        output.end(f"PATH: expected files or folders, not there: {', '.join(missing)}", output.USAGE)
    collection = opened(store, embedder)
    try:
        with _bar("files") as progress:
            report = collection.ingest(paths, progress)
    except OSError as error:
        output.end(_without_errno(error, store), output.FAILED)
    if not report.interrupted and not any(asdict(report).values()):
        print(f"week3: nothing to read in {', '.join(map(str, paths))}", file=sys.stderr)
    if as_json:
        print(json.dumps(asdict(report), ensure_ascii=False))
    else:
        counts = {name: len(getattr(report, name)) for name in ("added", "changed", "unchanged", "removed")}
        print(
            ", ".join(f"{count} {name}" for name, count in counts.items())
            + f", {len(report.skipped)} skipped"
        )
        for path, reason in report.skipped.items():
            print(f"  {path}: {reason}", file=sys.stderr)
    raise typer.Exit(output.INTERRUPTED if report.interrupted else 0)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to answer from the collection.")],
    store: Store,
    embedder: EmbedderName = EMBEDDER,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Who answers: a fetched model, a folder.")
    ] = WRITER,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="Passages that are offered to it.")] = 3,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1)] = 256,
    as_json: AsJson = False,
) -> None:
    """Answer a question, with file and line."""
    from spec import SpecError
    from spec.rag import RagConfig

    if not question.strip():
        output.end("question: expected words, got an empty text", output.USAGE)
    nothing_there = f"{store}: nothing is in it. `week3 rag ingest PATH --store {store}` fills it"
    if not store.exists():  # before a model is loaded
        output.end(nothing_there, output.USAGE)
    path = installed(model)
    blas.preload()
    with output.models_needed():
        from solution.rag.writing import Writer

    try:
        writer = Writer.open(path, max_tokens)
        config = RagConfig(k=k, budget=writer.budget, reserved=max_tokens)
        collection = opened(store, embedder, writer=writer, config=config)
        if not collection.pipeline.documents():
            output.end(nothing_there, output.USAGE)
        answer = collection.pipeline.answer(question, on_text=output.nothing if as_json else output.say)
    except SpecError as error:
        output.end(str(error), output.USAGE)
    except KeyboardInterrupt:
        print(flush=True)
        raise typer.Exit(output.INTERRUPTED) from None
    except BrokenPipeError:
        output.let_go()
        raise typer.Exit(output.NOBODY_READS) from None
    cited = {citation.number for citation in answer.citations}
    passages: list[dict[str, Any]] = [
        {"number": number, "place": collection.place(chunk), "cited": number in cited, "text": chunk.text}
        for number, chunk in enumerate(answer.chunks, start=1)
    ]
    if as_json:
        facts = {"model": model, "embedder": embedder, "answer": answer.text, "passages": passages}
        citations = [asdict(citation) for citation in answer.citations]
        facts |= {"citations": citations, "timings": answer.timings, "problems": answer.problems}
        print(json.dumps(facts, ensure_ascii=False))
        return
    print(flush=True)
    for passage in passages:
        print(f"  [{passage['number']}] {passage['place']}" + ("" if passage["cited"] else ", not cited"))
    stages = ", ".join(f"{stage} {seconds * 1000:.0f} ms" for stage, seconds in answer.timings.items())
    print(stages, file=sys.stderr)
    for stage in answer.problems:
        print(f"week3: {stage} failed and was done without", file=sys.stderr)


@app.command("eval")
def evaluate(
    path: Annotated[Path, typer.Argument(metavar="COLLECTION", help="A folder as BEIR has them.")],
    embedder: EmbedderName = EMBEDDER,
    as_json: AsJson = False,
) -> None:
    """Measure words, vectors and both.

    nDCG@10, Recall@100 and MRR@10 of a folder with judgements, and the milliseconds of each stage."""
    from solution.rag.judging import BadCollection, judge, read_beir

    try:
        collection = read_beir(path)
    except BadCollection as error:
        output.end(str(error), output.USAGE)
    made = _embedder(embedder)
    try:
        with _bar("passages") as progress:
            rows = judge(collection, made, progress)
    except KeyboardInterrupt:
        raise typer.Exit(output.INTERRUPTED) from None
    if as_json:
        print(json.dumps({"collection": str(path), "embedder": embedder, "methods": rows}))
        return
    columns = list(next(iter(rows.values())))
    print(f"{len(collection.documents)} documents, {len(collection.qrels)} queries, {embedder}")
    print(f"{'':8}" + "".join(f"{column:>12}" for column in columns))
    for method, row in rows.items():
        cells = (
            f"{row[column]:.2f}" if column.startswith("ms") else f"{row[column]:.4f}" for column in columns
        )
        print(f"{method:8}" + "".join(f"{cell:>12}" for cell in cells))


def opened(
    store: Path, embedder: str, *, writer: Any = None, config: "RagConfig | None" = None
) -> "Collection":
    made = _embedder(embedder)
    from solution.rag.collection import Collection, NoCollection
    from spec import DamagedIndex, SpecError

    asking = {} if writer is None else {"generate": writer.generate, "count_tokens": writer.count_tokens}
    try:
        return Collection(store, made, embedder, config=config, **asking)
    except DamagedIndex as error:
        output.end(f"{store}: {error}. Remove it, and ingest anew", output.USAGE)
    except (NoCollection, SpecError) as error:
        output.end(str(error), output.USAGE)
    except OSError as error:
        output.end(_without_errno(error, store), output.FAILED)


def _without_errno(error: OSError, store: Path) -> str:
    """What the system says, of the file that it names, or else of the store."""
    return f"{error.filename or store}: {error.strerror or error}"


def _embedder(name: str) -> "Embedder":
    path = None if name == HASHING else installed(name)
    blas.preload()
    from solution.rag import embedders

    with output.models_needed():
        return embedders.hashing() if path is None else embedders.encoder(path)


def _bar(what: str) -> AbstractContextManager[Callable[[int, int], None]]:
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    return output.bar(what, MofNCompleteColumn(), TimeRemainingColumn())
