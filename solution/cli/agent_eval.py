"""week3 agent eval: how well a model calls functions."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime import blas

from . import output
from .generate import DEFAULT_MODEL
from .models import installed

if TYPE_CHECKING:
    from solution.agent.evaluating import Answer

QUESTIONS = "bfcl"


def evaluate(
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="Questions of each of the three sets, drawn; 0 is all.")
    ] = 20,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Draws the questions.")] = 0,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A fetched model, a folder or a GGUF file.")
    ] = DEFAULT_MODEL,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object, with each question's prompt and answers.")
    ] = False,
) -> None:
    """Measure calls of functions, free and constrained, on BFCL: how many are made, valid and right.

    Ctrl-C shows what was measured so far.
    """
    path, folder = installed(model), installed(QUESTIONS)
    blas.preload()
    with output.models_needed():
        from solution.agent.evaluating import Subject, answers, draw, summary
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    from spec import SpecError

    questions = draw(folder, limit, seed)
    found: list[Answer] = []
    code = 0
    try:
        subject = Subject.open(path)
        with output.bar("answers", MofNCompleteColumn(), TimeRemainingColumn()) as progress:
            progress(0, 2 * len(questions))
            for answer in answers(questions, subject):
                found.append(answer)
                progress(len(found), 2 * len(questions))
    except SpecError as error:
        output.end(str(error), output.USAGE)
    except KeyboardInterrupt:
        code = output.INTERRUPTED
    rows = summary(found)
    if as_json:
        answered = {each.id for each in found}
        prompts = {each.id: subject.prompt(each) for _, each in questions if each.id in answered}
        facts = {"model": model, "seed": seed, "limit": limit, "sets": rows, "prompts": prompts}
        print(json.dumps({**facts, "answers": [asdict(each) for each in found]}, ensure_ascii=False))
    else:
        print(f"{model}, {len(found)} of {2 * len(questions)} answers, seed {seed}")
        _show(rows)
    raise typer.Exit(code)


def _show(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'set':12}{'mode':13}{'answers':>8}{'calls':>8}{'cut':>8}{'valid':>8}{'right':>8}{'s each':>8}")
    for row in rows:
        names = "calls", "cut", "valid", "right"
        shares = ("–" if row[name] is None else f"{row[name]:.0%}" for name in names)
        cells = "".join(f"{cell:>8}" for cell in (row["answers"], *shares, f"{row['seconds']:.1f}"))
        print(f"{row['set']:12}{row['mode']:13}{cells}")
