"""Finds and imports a submission: a folder with a module per topic, and perhaps a `week3.toml`."""

import importlib.util
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from grading.boundary.failures import NotAttempted, SubmissionError
from grading.boundary.frameworks import FRAMEWORKS

_MOST_SETTINGS = 1 << 16  # bytes of week3.toml


@dataclass(frozen=True)
class Settings:
    """What a submission says of itself. declines: names of capabilities, not looked up yet."""

    framework: str = "mlx"
    declines: tuple[str, ...] = ()


def settings_of(folder: Path) -> Settings:
    """What the folder's `week3.toml` declares. Raises SubmissionError when it is wrong."""
    place = folder / "week3.toml"
    if not place.is_file():
        return Settings()
    try:
        with place.open("rb") as file:
            text = file.read(_MOST_SETTINGS + 1)
        if len(text) > _MOST_SETTINGS:
            raise ValueError(f"it may have {_MOST_SETTINGS:,} bytes and has more")
        declared = tomllib.loads(text.decode())
    except (OSError, ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise SubmissionError(f"week3.toml cannot be read: {error}") from None
    framework, declines = declared.get("framework", "mlx"), declared.get("declines", [])
    if framework not in FRAMEWORKS:
        known = ", ".join(FRAMEWORKS)
        raise SubmissionError(f"week3.toml: framework: expected one of {known}, got {framework!r}")
    if not isinstance(declines, list) or not all(isinstance(each, str) for each in declines):
        raise SubmissionError(f"week3.toml: declines: expected a list of names, got {declines!r:.80}")
    return Settings(str(framework), tuple(declines))


def module_file(folder: Path, topic: str) -> Path | None:
    """`<topic>.py` or `<topic>/__init__.py`, None if the topic was not attempted."""
    candidates = (folder / f"{topic}.py", folder / topic / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def load(folder: Path, topic: str) -> ModuleType:
    """Imports the topic by its place. For everything else the folder comes last, so that no file of a
    submission stands in for the standard library, an installed package or `spec`.
    """
    folder = folder.resolve()
    file = module_file(folder, topic)
    if file is None:
        raise NotAttempted(f"not attempted: the submission has no {topic}.py")
    _make_way(folder)
    loaded = sys.modules.get(topic)
    if loaded is not None and loaded.__file__ == str(file):
        return loaded
    places = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(topic, file, submodule_search_locations=places)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[topic] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[topic]
        raise
    return module


_folders: list[Path] = []


def folders() -> tuple[Path, ...]:
    """Those of the submissions that were loaded here."""
    return tuple(_folders)


def _make_way(folder: Path) -> None:
    """Forgets modules of other submissions: two may both have a `helpers.py`."""
    for other in [each for each in _folders if each != folder]:
        _folders.remove(other)
        sys.path.remove(str(other))
        for name, module in list(sys.modules.items()):
            top = other / name.partition(".")[0]
            lies_there = Path(getattr(module, "__file__", None) or "/").is_relative_to(other)
            if lies_there and (top.is_dir() or top.with_suffix(".py").is_file()):
                del sys.modules[name]
    if folder not in _folders:
        _folders.append(folder)
        sys.path.append(str(folder))
