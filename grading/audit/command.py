"""What `week3 audit` does: runs the proof, writes witnesses and page, says which bars are missed."""

import os
import platform
from datetime import date
from typing import TYPE_CHECKING

from grading.audit import page, witnesses
from grading.audit.card import Card, card, sightings
from grading.audit.jobs import Job, jobs
from grading.audit.journal import Journal
from grading.audit.run import run_all

if TYPE_CHECKING:
    from rich.console import Console


SEEDS = 3


def audit(topics: list[str], seeds: int, console: "Console") -> list[Card]:
    """The cards of these topics. Witnesses and docs/audit.md are written as each topic ends."""
    cards = []
    for topic in topics:
        wanted, journal, cores = list(jobs(topic, seeds)), Journal(topic), os.cpu_count() or 1
        with Bar(console, topic) as bar:
            found = run_all(wanted, bar)
        witnesses.write(topic, witnesses.choose(sightings(found), witnesses.read(topic)))
        cards.append(card(topic, found))
        run = {
            "date": date.today().isoformat(),
            "machine": f"{cores} cores, {platform.system()} {platform.machine()}",
            "options": "" if seeds == SEEDS else f" --seeds {seeds}",
            "minutes": round(sum(map(journal.seconds, wanted)) / cores / 60, 1),
        }
        page.record(cards[-1].to_json(), run)
    return cards


class Bar:
    """A line a topic, with the time left where the output is a terminal."""

    def __init__(self, console: "Console", topic: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task(topic, total=None)
        self._console = console
        self._topic = topic

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begun(self, jobs: int, resumed: int, seconds: float) -> None:
        self._progress.update(self._task, total=seconds)
        kept = f", {resumed} kept from earlier" if resumed else ""
        self._console.print(f"{self._topic}: {jobs} jobs{kept}")

    def done(self, job: Job) -> None:
        self._progress.update(self._task, advance=job.seconds)
