"""What long context costs in quality: how well SmolLM2 predicts a long text, by position.

One text, read once from its first token on, by each way to stretch the rotation and to keep less of the past.
The model was trained on contexts of 8192 tokens, and the text goes on beyond: it is the chapter on special
method names of Python's own reference, which every Python carries for its `help()`.

Each way takes minutes, so what is measured is kept, and a run goes on where the last one ended.
"""

from runtime import blas

blas.preload()  # before MLX is imported

import hashlib  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass, field, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402

from grading.files import write_whole  # noqa: E402
from solution.models import Decoder, load  # noqa: E402
from solution.models.decoder import Network  # noqa: E402
from solution.models.rotation import Rotation  # noqa: E402
from spec.long_context import NTK, Linear, Scaling, YaRN  # noqa: E402

MODEL, TRAINED = "smollm2-135m-instruct", 8192
TOPIC = "specialnames"
TOKENS = 12288
FACTOR = TOKENS / TRAINED
PIECE = 512  # tokens of a call
STEP = 64  # tokens whose mean loss is kept
RANGES = ((0, 1024), (1024, 2048), (2048, 4096), (4096, 8192), (8192, 10240), (10240, 12288))


@dataclass(frozen=True)
class Way:
    """scaling: of the rotation. cache: options of `Decoder.start`."""

    name: str
    scaling: Scaling | None = None
    cache: dict[str, Any] = field(default_factory=dict)


WAYS = (
    Way("as trained"),
    Way("linear", Linear(FACTOR)),
    Way("NTK", NTK(FACTOR)),
    Way("YaRN", YaRN(FACTOR, TRAINED)),
    Way("window of 1024", None, {"cache": "rolling", "window": 1024}),
    Way("window of 1024 and 4 sinks", None, {"cache": "rolling", "window": 1024, "sinks": 4}),
    Way("keys and values in 8 bits", None, {"cache": "int8"}),
    Way("keys and values in 4 bits", None, {"cache": "int4"}),
)
FIGURES = (  # of the ways that each shows beside "as trained"
    ("Stretched rotations", ("linear", "NTK", "YaRN")),
    ("A window", ("window of 1024", "window of 1024 and 4 sinks")),
    ("Fewer bits", ("keys and values in 8 bits", "keys and values in 4 bits")),
)


def text() -> str:
    from pydoc_data.topics import topics

    return str(topics[TOPIC])


def read(path: Path) -> list[int]:
    """The first tokens of the text, one more than are predicted."""
    from solution.models.tokenizer import Tokenizer  # needs an extra, and benches are collected without it

    return Tokenizer.open(path).encode(text())[: TOKENS + 1]


def losses(decoder: Decoder, way: Way, ids: list[int]) -> np.ndarray:
    """(len(ids) − 1,): minus the logarithm of the probability of each token but the first."""
    model = stretched(decoder, way.scaling).start(max_length=len(ids), **way.cache)
    found = []
    for start in range(0, len(ids) - 1, PIECE):
        piece = ids[start : min(start + PIECE, len(ids) - 1)]
        logits = model.forward(piece)  # (tokens, V)
        top = logits.max(axis=-1, keepdims=True)
        # On MLX's CPU back end a power takes a third of the time of an exponential.
        total = mx.log(mx.power(np.e, logits - top).sum(axis=-1)) + top[:, 0]
        following = mx.array(ids[start + 1 : start + 1 + len(piece)])[:, None]
        found.append(np.array(total - mx.take_along_axis(logits, following, axis=-1)[:, 0]))
    return np.concatenate(found)


def stretched(decoder: Decoder, scaling: Scaling | None) -> Decoder:
    """The same weights with another rotation."""
    rope = replace(decoder.config.rope, scaling=scaling)
    config = replace(decoder.config, rope=rope)
    rotation = Rotation(rope, config.rope_changes_after)
    return replace(decoder, config=config, network=Network(config, decoder.network.weights, rotation))


# What is kept ---------------------------------------------------------------------------------------------


def measure(path: Path, file: Path, say: Callable[[str], None]) -> dict[str, np.ndarray]:
    """The mean losses of each way, of STEP tokens each; those that `file` does not have are measured."""
    ids = read(path)
    about = {"model": MODEL, "text": hashlib.sha256(text().encode()).hexdigest(), "tokens": len(ids) - 1}
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if kept.get("about") != about:
        kept = {"about": about, "losses": {}}
    decoder = load(path, dtype="float32")
    for way in WAYS:
        if way.name not in kept["losses"]:
            say(f"{way.name} …")
            means = losses(decoder, way, ids).reshape(-1, STEP).mean(axis=1)
            kept["losses"][way.name] = means.tolist()
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(kept) + "\n")
    return {way.name: np.array(kept["losses"][way.name]) for way in WAYS}


def perplexity(means: np.ndarray, first: int, end: int) -> float:
    """Of the tokens at these positions."""
    return float(np.exp(means[first // STEP : end // STEP].mean()))


# What is shown --------------------------------------------------------------------------------------------


def report(path: Path, kept: Path, docs: Path, say: Callable[[str], None]) -> None:
    """Measures the model at `path` as far as `kept` does not hold it, and writes a page and its figure."""
    from matplotlib.figure import Figure  # an extra

    means = measure(path, kept, say)
    lines = table(means)
    for line in lines:
        say(line)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    page = PAGE.format(
        model=MODEL, topic=TOPIC, tokens=TOKENS, factor=FACTOR, python=version, table="\n".join(lines)
    )
    write_whole(docs / f"{NAME}.md", page)
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    draw(figure, means)
    figure.savefig(docs / f"{NAME}.png", dpi=110)
    say(f"{docs / NAME}.md and .png")


NAME = "long_context_quality"
PAGE = """\
# Quality over a long context

Written by `week3 bench long_context --quality`. Perplexity of {model}, by position, on one text of
{tokens} tokens: the chapter of the reference of Python {python} that `help()` calls {topic}. Lower is better.
The model was trained on contexts of 8192 tokens; rotations are stretched by {factor}.

{table}

![Perplexity by position]({name}.png)

A curve at a position is the perplexity of the 1024 tokens that end there.
""".replace("{name}", NAME)


def table(means: dict[str, np.ndarray]) -> list[str]:
    """In Markdown: a row for each way, a column for each range of positions."""
    head = [f"{first}–{end}" for first, end in RANGES]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for way, losses in means.items():
        cells = [f"{perplexity(losses, *each):.3g}" for each in RANGES]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def draw(figure: Any, means: dict[str, np.ndarray]) -> None:
    smooth = 1024 // STEP
    ends = np.arange(smooth, TOKENS // STEP + 1) * STEP
    panels = figure.subplots(1, len(FIGURES))
    for panel, (title, ways) in zip(panels, FIGURES, strict=True):
        for way in (WAYS[0].name, *ways):
            rolling = np.convolve(means[way], np.ones(smooth) / smooth, mode="valid")
            panel.plot(ends, np.exp(rolling), label=way, color="black" if way == WAYS[0].name else None)
        panel.axvline(TRAINED, color="grey", linestyle=":")
        panel.set(title=title, xlabel="position", yscale="log")
        for axis in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
            axis("{x:.3g}")
        panel.legend()
    panels[0].set_ylabel("perplexity")
