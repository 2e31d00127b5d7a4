"""What an audit found so far, kept outside the clone, so that an interrupted one goes on where it stopped.

A topic's folder is named after all that could change a result: the code of the judge, of the topic and of its
tests, and the versions of the libraries.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from grading.audit.jobs import Job
from grading.clone import ROOT
from grading.files import write_whole

JUDGE = ("grading", "runtime", "spec/*.py", "tests/week3/*.py")
OF_TOPIC = (
    "spec/{topic}.md",
    "reference/{topic}*",
    "solution/{topic}*",
    "solution/*.py",
    "tests/alternatives/{topic}*",
    "tests/week3/{topic}",
)
LIBRARIES = ("numpy", "torch", "mlx", "hypothesis", "pytest", "scipy", "ml_dtypes")
GENERATED = ("witnesses.json",)


class Journal:
    """One file a job, written when it has ended."""

    def __init__(self, topic: str) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self._folder = Path(home) / "week3" / "audit" / f"{topic}-{fingerprint(topic)}"

    def read(self, job: Job) -> Any:
        """What the job found; None if it has not ended yet."""
        return self._entry(job).get("found")

    def seconds(self, job: Job) -> float:
        """What the job took, in this audit or in one that it goes on with."""
        return float(self._entry(job).get("seconds", 0))

    def write(self, job: Job, found: Any, seconds: float) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._path(job), json.dumps({"found": found, "seconds": seconds}))

    def _entry(self, job: Job) -> dict[str, Any]:
        path = self._path(job)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _path(self, job: Job) -> Path:
        return self._folder / f"{hashlib.sha256(job.name.encode()).hexdigest()[:24]}.json"


def fingerprint(topic: str) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for library in LIBRARIES:
        digest.update(f"{library} {version(library)}\n".encode())
    for path in sorted(_sources(topic)):
        digest.update(f"{path.relative_to(ROOT)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _sources(topic: str) -> Iterator[Path]:
    for pattern in (*JUDGE, *(each.format(topic=topic) for each in OF_TOPIC)):
        for found in ROOT.glob(pattern):
            files = found.rglob("*") if found.is_dir() else [found]
            for path in files:
                if path.is_file() and path.suffix != ".pyc" and path.name not in GENERATED:
                    yield path
