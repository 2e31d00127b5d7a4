"""week3 model: models in the user's cache."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from runtime import downloads

from . import output

app = typer.Typer(
    help="Fetch, list and remove models.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)

# ---- week3 model. ----

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")]


@app.command()
def fetch(names: Names = None) -> None:
    """Bring models into your cache; by default the two that the project is tested with."""
    for name in names or downloads.KNOWN:
        try:
            with _bar(name) as progress:
                path = downloads.fetch(name, progress)
        except downloads.FetchError as error:
            output.end(str(error), output.FAILED)
        print(f"{name}\n  {path}\n  licence: {downloads.licence(name)}", flush=True)


@app.command("list")
def list_models() -> None:
    """List models that are known, and those that are here."""
    for name in downloads.names():
        path = downloads.installed(name)
        about = f"{downloads.KNOWN[name].about}; " if name in downloads.KNOWN else ""
        state = f"{_megabytes(path)} MB in {path}" if path else f"not here: week3 model fetch {name}"
        print(f"{name}\n  {about}licence: {downloads.licence(name)}\n  {state}")


@app.command()
def remove(names: Annotated[list[str], typer.Argument(metavar="NAME...")]) -> None:
    """Delete models from your cache."""
    missing = [name for name in names if not downloads.remove(name)]
    if missing:
        output.end(
            f"not in {downloads.cache()}: {', '.join(missing)}. `week3 model list` shows what is",
            output.USAGE,
        )


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
