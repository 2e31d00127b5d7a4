"""A collection of files, kept in a folder: what `week3 rag` ingests and asks.

Beside the index the folder has `collection.json`: the embedder, where the parts of each text stand in its
file, and which files are empty, since an index knows only what has chunks. A document's metadata name its
file and the version of text and places. Places are written before an index that knows their version, and left
out after it: so a citation is right whenever the machine stopped.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spec import NothingSaved
from spec.rag import Chunk, Document, Embedder, RagConfig, RagPipeline

from .folder import folder
from .pipeline import RagPipeline as Pipeline
from .reading import KINDS, Source, UnreadableFile, read
from .vectors import VectorIndex, load_index
from .words import words

NAME, PART = "collection.json", "collection.json.part"
AT_ONCE = 8  # files between two looks at the progress
VERSION = 16  # hexadecimal digits


class NoCollection(Exception):
    """The folder holds something else, or one of another embedder; the message is a sentence."""


@dataclass
class Report:
    """Files, by what became of them. skipped: with the reason."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


class Collection:
    """embedder_name: written into the folder, since vectors of two embedders cannot be compared."""

    def __init__(
        self,
        path: Path,
        embedder: Embedder,
        embedder_name: str,
        *,
        generate: Callable[[str], Iterable[str]] = lambda prompt: (),
        count_tokens: Callable[[str], int] = len,
        config: RagConfig | None = None,
    ) -> None:
        """Raises NoCollection where the folder holds something else or vectors of another embedder,
        DamagedIndex where its bytes are not those that were saved, OSError, and InvalidArgument for what is
        wrong in `config`."""
        self._storage = folder(path)
        self._name = embedder_name
        kept = settings(path)
        if kept and kept["embedder"] != embedder_name:
            raise NoCollection(
                f"{path}: expected vectors of {embedder_name}, got those of {kept['embedder']}"
            )
        self._places: dict[str, dict[str, Any]] = kept.get("places", {})  # by version
        try:
            self._index = load_index(self._storage)
        except NothingSaved:
            self._index = VectorIndex(embedder.dim)
        self.pipeline: RagPipeline = Pipeline(
            self._index,
            embedder,
            generate,
            config=config or RagConfig(),
            tokenize=words,
            count_tokens=count_tokens,
        )
        self._empty: dict[str, str] = kept.get("empty", {})  # versions by files
        unknown = self._empty.keys() - self.pipeline.documents()
        self.pipeline.ingest([_document(file, "", self._empty[file]) for file in unknown])

    def ingest(self, paths: Sequence[Path], progress: Callable[[int, int], None]) -> Report:
        """Files, and those below folders; what was found below a folder before and is gone is removed. Of a
        file that can no longer be read what it said before stays: it may be locked, or half written.

        progress: called with how many files are done and how many there are. Ctrl-C ends it between two
        files: what was done is kept.
        """
        report, files = Report(), found(paths)
        known = set(self.pipeline.documents())
        above = [path.resolve() for path in paths if path.is_dir()]
        present = {str(each) for each in files}
        gone = [each for each in known - present if any(map(Path(each).is_relative_to, above))]
        try:
            for first in range(0, len(files), AT_ONCE):
                progress(first, len(files))
                self._ingest(files[first : first + AT_ONCE], report)
            self.pipeline.remove(gone)
            report.removed = sorted(gone)
        except KeyboardInterrupt:
            report.interrupted = True
        progress(len(files), len(files))
        self._save()
        return report

    def place(self, chunk: Chunk) -> str:
        """`docs/ci.md:41`, or `paper.pdf, page 3`."""
        source = Source("", **self._places[chunk.metadata["version"]])
        number = source.place(chunk.start + len(chunk.text) - len(chunk.text.lstrip()))
        file, here = Path(chunk.metadata["file"]), Path.cwd()
        shown = file.relative_to(here) if file.is_relative_to(here) else file
        return f"{shown}:{number}" if source.unit == "line" else f"{shown}, {source.unit} {number}"

    def _ingest(self, files: Sequence[Path], report: Report) -> None:
        documents, known = [], self.pipeline.documents()
        for path in files:
            try:
                source = read(path)
            except (UnreadableFile, OSError) as error:
                stays = "; what it said before stays" if str(path) in known else ""
                report.skipped[str(path)] = f"{error}{stays}"
                continue
            places = asdict(source)
            version = hashlib.sha256(json.dumps(places).encode()).hexdigest()[:VERSION]
            del places["text"]
            self._places[version] = places
            documents.append(_document(str(path), source.text, version))
            if not source.text:
                self._empty[str(path)] = version
        done = self.pipeline.ingest(documents)
        report.added += done.added
        report.changed += done.changed
        report.unchanged += done.unchanged

    def _save(self) -> None:
        self._write_settings()
        self._index.save(self._storage)
        chunks = self._index.get(self._index.ids())  # as `pipeline.py` keeps them
        used = {each["metadata"]["version"] for each in chunks}
        without = set(self.pipeline.documents()) - {each["doc_id"] for each in chunks}
        self._empty = {file: version for file, version in self._empty.items() if file in without}
        self._places = {version: places for version, places in self._places.items() if version in used}
        self._write_settings()

    def _write_settings(self) -> None:
        kept = {"embedder": self._name, "places": self._places, "empty": self._empty}
        self._storage.write(PART, json.dumps(kept).encode())
        self._storage.sync(PART)
        self._storage.rename(PART, NAME)


def _document(file: str, text: str, version: str) -> Document:
    return Document(file, text, {"file": file, "version": version})


def settings(path: Path) -> dict[str, Any]:
    """What `collection.json` says, {} in a folder that is empty or will be made. Raises NoCollection."""
    if path.exists() and not path.is_dir():
        raise NoCollection(f"{path}: expected a folder, got a file")
    kept = folder(path).read(NAME)
    if kept is None:
        names = sorted(each.name for each in path.iterdir()) if path.exists() else []
        others = [name for name in names if name != PART and not name.startswith(".")]
        if others:
            raise NoCollection(
                f"{path}: expected a collection or an empty folder, got {', '.join(others[:3])}"
            )
        return {}
    try:
        found: Any = json.loads(kept)
    except ValueError:
        found = None
    if not isinstance(found, dict) or "embedder" not in found:
        raise NoCollection(f"{path / NAME}: expected JSON that names the embedder, got {kept[:40]!r}")
    return found


def found(paths: Iterable[Path]) -> list[Path]:
    """Files that are named, and those below folders whose kind can be read, each once, in order. What is
    hidden below a folder, such as .git and .venv, is not looked at."""
    files: dict[Path, None] = {}
    for path in map(Path.resolve, paths):
        below = sorted(path.rglob("*")) if path.is_dir() else []
        seen = [each for each in below if not any(part[0] == "." for part in each.relative_to(path).parts)]
        readable = [each for each in seen if each.suffix.lower() in KINDS and not each.is_dir()]
        files.update(dict.fromkeys(readable if path.is_dir() else [path]))
    return list(files)
