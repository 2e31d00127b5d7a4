"""week3 model: models, and data to measure them with, in the user's cache."""

from pathlib import Path
from typing import Annotated

import typer

from runtime import downloads

from . import output

app = typer.Typer(
    help="Fetch, list and remove models, and data to measure them with.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")]


@app.command()
def fetch(names: Names = None) -> None:
    """Bring models and data into your cache; by default all that the project is tested with."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    for name in names or downloads.KNOWN:
        try:
            with output.bar(name, DownloadColumn(), TransferSpeedColumn()) as progress:
                path = downloads.fetch(name, progress)
        except downloads.FetchError as error:
            output.end(str(error), output.FAILED)
        print(f"{name}\n  {path}\n  licence: {downloads.licence(name)}", flush=True)


@app.command("list")
def list_models() -> None:
    """List what is known, and what is here."""
    for name in downloads.names():
        path = downloads.installed(name)
        about = f"{downloads.KNOWN[name].about}; " if name in downloads.KNOWN else ""
        state = f"{_megabytes(path)} MB in {path}" if path else f"not here: week3 model fetch {name}"
        print(f"{name}\n  {about}licence: {downloads.licence(name)}\n  {state}")


@app.command()
def remove(names: Annotated[list[str], typer.Argument(metavar="NAME...")]) -> None:
    """Delete models and data from your cache."""
    missing = [name for name in names if not downloads.remove(name)]
    if missing:
        output.end(
            f"not in {downloads.cache()}: {', '.join(missing)}. `week3 model list` shows what is",
            output.USAGE,
        )


def _megabytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return round(sum(file.stat().st_size for file in files if file.is_file()) / 1e6)


def installed(name: str) -> Path:
    """Where it is; ends the command where it is not."""
    path = downloads.installed(name)
    if path is None:
        try:
            downloads.place_of(name)
        except downloads.FetchError as error:
            output.end(str(error), output.USAGE)
        output.end(f"{name} is not here. `week3 model fetch {name}` brings it", output.USAGE)
    return path
