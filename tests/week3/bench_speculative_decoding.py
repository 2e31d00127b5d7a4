"""Speculative decoding of SmolLM2-135M-Instruct in MLX against plain decoding and what else one would run.

Contenders write the same greedy text after the same prompt and take turns. A time is that of a token, reading
the prompt included; beside it stand tokens a step and how many of the drafted ones were accepted.

The formula: tokens a step, as they were, over what a step costs, as measured alone. What `generate` takes
beyond that is its own.
"""

from runtime import blas

blas.preload()  # before MLX is imported

import time  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from functools import cache, partial  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402

from reference import models as reference  # noqa: E402
from runtime import downloads  # noqa: E402
from solution.models import Decoder, load  # noqa: E402
from solution.speculative_decoding import drafters, generate, verify, walltime_speedup  # noqa: E402
from solution.speculative_decoding.sampling import processed  # noqa: E402
from solution.speculative_decoding.verdicts import verdict  # noqa: E402
from spec.speculative_decoding import Draft, Drafter, Generation, Sampling  # noqa: E402
from tests.week3.races import Row, measure, show  # noqa: E402

MODEL = "smollm2-135m-instruct"
GREEDY, SAMPLED = Sampling(temperature=0.0), Sampling(temperature=0.8, top_k=50, top_p=0.95)
GAMMA, TOKENS, ROUNDS, REPEATS = 5, 64, 3, 2
GAMMAS = (1, 2, 4, 8)
SENTENCE = (
    "The harbour master keeps three lists. The first names every vessel that came in, with its cargo and its "
    "port. The second names the crews. The third, which no one else may read, names who did not return. "
)
QUESTION = "Why is the sky blue? Explain it to a child."


@dataclass(frozen=True)
class Timed:
    """The best of several runs: seconds a token, and what was written."""

    seconds: float
    written: Generation


@cache
def decoder() -> Decoder:
    path = downloads.installed(MODEL)
    if path is None:
        raise FileNotFoundError(f"{MODEL} is not here: week3 model fetch {MODEL}")
    return load(path, dtype="float32")


@cache
def prompts() -> dict[str, list[int]]:
    from solution.models.tokenizer import Tokenizer  # needs an extra, and benches are collected without it

    tokenizer = Tokenizer.open(downloads.installed(MODEL))
    asked = tokenizer.chat([{"role": "user", "content": QUESTION}])
    return {"copy": tokenizer.encode(SENTENCE * 2 + SENTENCE[:59]), "chat": asked}


# Contenders: () -> what was written -----------------------------------------------------------------------


def ours(prompt: list[int], make: Callable[[], Drafter | None], gamma: int, adaptive: bool) -> Generation:
    options = {"max_tokens": TOKENS, "gamma": gamma, "sampling": GREEDY, "seed": 0, "adaptive": adaptive}
    return generate(decoder().start(max_length=1024), make(), prompt, **options)


@cache
def checkpoint() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """config.json and weights in float32, as transformers and mlx-lm name them."""
    return reference.read_gguf(downloads.installed(MODEL))


def mlx_lm_half() -> Callable[[list[int]], list[int]]:
    """mlx-lm's `speculative_generate_step`. It drafts with a model only; no smaller one of these tokens is
    here, so it is half of the layers."""
    from mlx_lm.generate import speculative_generate_step
    from mlx_lm.models import llama

    config, weights = checkpoint()

    def model(layers: list[int]) -> Any:
        made = llama.Model(llama.ModelArgs.from_dict({**config, "num_hidden_layers": len(layers)}))
        kept = {f"model.layers.{old}.": f"model.layers.{new}." for new, old in enumerate(layers)}
        named = []
        for name, values in weights.items():
            prefix = ".".join(name.split(".")[:3]) + "."
            if not name.startswith("model.layers."):
                named.append((name, mx.array(values)))
            elif prefix in kept:
                named.append((kept[prefix] + name.removeprefix(prefix), mx.array(values)))
        made.load_weights([each for each in named if each[0] != "lm_head.weight"])
        return made

    layers = config["num_hidden_layers"]
    whole, half = model(list(range(layers))), model(drafters.every_other(layers))

    def run(prompt: list[int]) -> list[int]:
        steps = speculative_generate_step(
            mx.array(prompt), whole, half, num_draft_tokens=GAMMA, max_tokens=TOKENS
        )
        return [int(token) for token, *_ in steps]

    return run


def transformers_lookup() -> Callable[[list[int], int], list[int]]:
    """transformers with `prompt_lookup_num_tokens`, on PyTorch."""
    import torch
    import transformers

    config, weights = checkpoint()
    model = transformers.LlamaForCausalLM.from_pretrained(
        None,
        config=transformers.AutoConfig.for_model(**config),
        state_dict={name: torch.from_numpy(values) for name, values in weights.items()},
    ).eval()

    def run(prompt: list[int], gamma: int) -> list[int]:
        ids = torch.tensor([prompt])
        drafting = {"prompt_lookup_num_tokens": gamma, "max_matching_ngram_size": 3} if gamma else {}
        with torch.inference_mode():
            found = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, min_new_tokens=TOKENS,
                do_sample=False, **drafting,
            )  # fmt: skip
        return found[0, len(prompt) :].tolist()

    return run


def race_texts(contenders: dict[str, Callable[[], Generation]], rounds: int = ROUNDS) -> dict[str, Timed]:
    """All take their turn in every round; the best turn counts."""
    best: dict[str, Timed] = {}
    for _ in range(rounds):
        for name, contender in contenders.items():
            start = time.perf_counter()
            written = contender()
            seconds = (time.perf_counter() - start) / len(written.tokens)
            if name not in best or seconds < best[name].seconds:
                best[name] = Timed(seconds, written)
    return best


def figures(written: Generation) -> str:
    drafted = sum(written.proposed)
    accepted = f", {sum(written.accepted) / drafted:.0%} of {drafted} accepted" if drafted else ""
    return f"{len(written.tokens) / len(written.proposed):.2f} tokens a step{accepted}"


# Rows -----------------------------------------------------------------------------------------------------


def text_rows(prompt: str, name: str, adaptive: bool, bar: float) -> list[Row]:
    """n-grams against plain decoding; the other drafters and outsiders beside them."""
    ids, whole = prompts()[prompt], decoder()
    half = drafters.every_other(whole.config.layers)
    contenders = {
        "plain": partial(ours, ids, lambda: None, GAMMA, False),
        name: partial(ours, ids, drafters.ngrams, GAMMA, adaptive),
        "a tree of n-grams": partial(ours, ids, lambda: drafters.ngram_tree(2), GAMMA, False),
        "half of the layers": partial(
            ours, ids, lambda: drafters.skipping(whole, half, GREEDY), GAMMA, False
        ),
    }
    theirs = transformers_lookup()
    for label, gamma in (("transformers, plain", 0), ("transformers, prompt lookup", GAMMA)):
        contenders[label] = lambda gamma=gamma: Generation(theirs(ids, gamma), [0] * TOKENS, [], "length")
    other = mlx_lm_half()
    contenders["mlx-lm, half of the layers"] = lambda: Generation(other(ids), [0] * TOKENS, [], "length")
    best = race_texts(contenders)
    plain, rows = best["plain"].seconds, []
    for label, each in best.items():
        told = figures(each.written) if each.written.accepted else ""
        if label == name:
            ratio = plain / each.seconds
            rows.append(
                Row(f"{prompt}: {label}", each.seconds, ratio, f"at least {bar} x plain", ratio >= bar, told)
            )
        else:
            rows.append(Row(f"{prompt}: {label}", each.seconds, plain / each.seconds, "", True, told))
    return rows


class StepCosts:
    """Seconds of a pass over so many tokens after the copying prompt, and of taking them back: the median."""

    def __init__(self) -> None:
        self.model, self.ids = decoder().start(max_length=1024), prompts()["copy"]
        self.model.forward(self.ids, last=1)
        self.measured: dict[int, list[float]] = defaultdict(list)

    def measure(self, *counts: int) -> None:
        for count in counts:
            start = time.perf_counter()
            self.model.forward(self.ids[:count])
            self.model.truncate(len(self.ids))
            self.measured[count].append(time.perf_counter() - start)

    def seconds(self, count: int) -> float:
        return median(self.measured[count])


def right_so_often(text: list[int], rate: float, prompt: int) -> Drafter:
    """Proposes the text itself, and another token at places of it that a stream of random numbers chose."""
    wrong = np.random.default_rng(3).random(len(text)) >= rate

    def propose(_: Any, outputs: list[int], gamma: int, uniforms: Any) -> Draft:
        places = range(len(outputs), min(len(outputs) + gamma, len(text)))
        return Draft([text[place] ^ 1 if wrong[place] else text[place] for place in places])

    return Drafter(propose)


def formula_rows(rate: float = 0.8) -> list[Row]:
    """Measured against predicted over γ, drafts being free and right at a known rate; the time is a token's.

    The row's ratio is the measured speed-up; the bar is on time over that of the formula.
    """
    ids, passes = prompts()["copy"], StepCosts()
    text = ours(ids, lambda: None, 0, False).tokens
    drafter = right_so_often(text, rate, len(ids))
    taken, written = defaultdict(list), {}
    for _ in range(ROUNDS):
        for gamma in GAMMAS:  # what is compared takes turns
            model = decoder().start(max_length=1024)
            model.forward(ids[:-1], last=1)
            start = time.perf_counter()
            written[gamma] = generate(
                model, drafter, ids, max_tokens=TOKENS, gamma=gamma, sampling=GREEDY, seed=0
            )
            taken[gamma].append(time.perf_counter() - start)
            for _ in range(REPEATS):
                passes.measure(1, *(g + 1 for g in GAMMAS))
    known, rows = {gamma: passes.seconds(gamma + 1) for gamma in (0, *GAMMAS)}, []
    for gamma, found in written.items():
        expected = sum(np.interp(n, list(known), list(known.values())) for n in found.proposed)
        seconds = median(taken[gamma])
        predicted = walltime_speedup(rate, gamma, 0) * known[0] / known[gamma]
        told = f"{figures(found)}; predicted {predicted:.2f} x, loop {seconds / expected:.2f} of the formula"
        met, speedup = bool(seconds <= 1.1 * expected), known[0] * TOKENS / seconds
        bar = "loop at most 1.1 x the formula"
        rows.append(Row(f"γ = {gamma}, {rate:.0%} right", seconds / TOKENS, speedup, bar, met, told))
    return rows


def verification_rows() -> list[Row]:
    """What a step's arithmetic takes at V = 49,152 beside its pass. The ratio is its share of the pass."""
    rng = np.random.default_rng(0)
    vocab_size, passes = decoder().config.vocab_size, StepCosts()
    for _ in range(8):
        passes.measure(GAMMA + 1)
    step = passes.seconds(GAMMA + 1)
    logits = (3 * rng.standard_normal((GAMMA + 1, vocab_size))).astype(np.float32)
    uniforms = rng.random(GAMMA + 1, np.float32)
    tokens = logits.argmax(axis=1)[:GAMMA]
    histories = [tokens[:i].tolist() for i in range(GAMMA + 1)]
    rows = []
    for name, sampling in (
        ("greedy", GREEDY),
        ("temperature 0.8", Sampling(temperature=0.8)),
        ("temperature, top-k, top-p", SAMPLED),
    ):
        drafted = processed(logits[:GAMMA] + 0.5, sampling, [], histories[:GAMMA])
        q = None if sampling is GREEDY else drafted

        def arithmetic(sampling: Sampling = sampling, q: np.ndarray | None = q) -> None:
            verdict(processed(logits, sampling, [], histories), q, tokens, uniforms)

        seconds = min(_timed(arithmetic) for _ in range(40))
        share = seconds / step
        rows.append(Row(f"verdict, {name}", seconds, share, "at most 0.03 of a step", share <= 0.03, ""))
    return rows


def _timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def report() -> list[Row]:
    """Every bar, measured in this process."""
    return [
        *text_rows("copy", "n-grams", adaptive=False, bar=1.8),
        *text_rows("chat", "n-grams, adaptive", adaptive=True, bar=0.97),
        *formula_rows(),
        *verification_rows(),
    ]


# For pytest-benchmark -------------------------------------------------------------------------------------


def test_verify(benchmark):
    rng = np.random.default_rng(0)
    probs = rng.random((GAMMA + 1, 49_152), np.float32)
    probs = mx.array(probs / probs.sum(axis=1, keepdims=True))
    tokens, uniforms = mx.array(rng.integers(0, 49_152, GAMMA)), mx.array(rng.random(GAMMA + 1, np.float32))
    measure(benchmark, "verify", lambda: [verify(probs, probs[:GAMMA], tokens, uniforms)])


def test_report(benchmark, capsys):
    show(benchmark, capsys, report)
