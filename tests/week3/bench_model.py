"""SmolLM2-135M-Instruct in dense float32 against mlx-lm, on the same weights and the same BLAS.

Contenders take turns (`races.py`). The floor of a pass over few tokens is the time in which all cores read
the weights once, measured on the weights themselves, since a smaller array may stay in a cache. Times are
printed, not asserted. The model must be there: week3 model fetch
"""

from runtime import blas

blas.preload()  # before MLX is imported

import os  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from functools import cache  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from runtime import downloads  # noqa: E402
from solution.models import Decoder, generate, load  # noqa: E402
from solution.models.checkpoints import read  # noqa: E402
from solution.models.weights import Dense  # noqa: E402
from tests.week3.bench_model_embeddings import embedding_rows  # noqa: E402
from tests.week3.races import Row, above, measure, product_speed, race, show  # noqa: E402

MODEL = "smollm2-135m-instruct"
CONTEXT, TOKENS = 64, 16  # tokens before, and tokens generated
FEW, PROMPT, SEQUENCES = 5, 512, 8
ROUNDS = 12

Run = Callable[[], Any]


def model_path() -> Path:
    path = downloads.installed(MODEL)
    if path is None:
        raise FileNotFoundError(f"{MODEL} is not here: week3 model fetch {MODEL}")
    return path


@cache
def own() -> Decoder:
    return load(model_path(), dtype="float32")


@cache
def theirs() -> Any:
    """mlx-lm's Llama with the same weights."""
    from mlx_lm.models.llama import Model, ModelArgs

    checkpoint = read(model_path())
    config = checkpoint.config
    arguments = ModelArgs(
        model_type="llama",
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        intermediate_size=config.inner,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        rms_norm_eps=config.eps,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_length,
        rope_theta=config.rope.base,
        rope_traditional=checkpoint.is_interleaved,
        tie_word_embeddings=config.tied,
    )
    model = Model(arguments)
    model.load_weights(list(checkpoint.tensors.items()))
    mx.eval(model.parameters())
    return model


@cache
def ids(count: int) -> list[int]:
    return np.random.default_rng(0).integers(0, own().config.vocab_size, count).tolist()


@cache
def arrays() -> list[np.ndarray]:
    """The matrices that a pass reads."""
    weights = own().network.weights
    matrices = [weights.head]
    for layer in weights.layers:
        assert isinstance(layer.inner, Dense)
        matrices += [layer.qkv, layer.out, layer.inner.gate_up, layer.inner.down]
    return [np.asarray(matrix) for matrix in matrices]


@cache
def one_reading() -> float:
    """Seconds in which all cores together read the weights once."""
    workers, best = os.cpu_count() or 1, float("inf")
    parts = [part for matrix in arrays() for part in np.array_split(matrix.reshape(-1), workers)]
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(10):
            start = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = min(best, time.perf_counter() - start)
    return best


# Decode ---------------------------------------------------------------------------------------------------


def decode() -> Run:
    """TOKENS passes after a context."""
    model = own().start()
    model.forward(mx.array(ids(CONTEXT)))

    def run() -> list[int]:
        model.truncate(CONTEXT)
        return list(generate(model, ids(CONTEXT)[-1:], max_tokens=TOKENS))

    return run


def decode_mlx_lm() -> Run:
    """The same; it computes one token ahead of those that it gives out, so TOKENS passes give one less."""
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

    held = make_prompt_cache(theirs())
    mx.eval(theirs()(mx.array(ids(CONTEXT))[None], cache=held))

    def run() -> list[int]:
        trim_prompt_cache(held, held[0].offset - CONTEXT)
        prompt = mx.array(ids(CONTEXT)[-1:])
        steps = generate_step(prompt, theirs(), max_tokens=TOKENS - 1, prompt_cache=held)
        tokens = [token for token, _ in steps]
        mx.synchronize()
        return tokens

    return run


def decode_rows() -> list[Row]:
    runs = [decode_mlx_lm(), decode()]
    assert runs[0]() == runs[1]()[: TOKENS - 1]
    rival, mine = (seconds / TOKENS for seconds in race(runs, ROUNDS))
    ratio, setting = rival / mine, f"decode at {CONTEXT} tokens"
    bar = "at least 1.25 x faster"
    return [
        Row(f"{setting}: mlx-lm", rival, 1.0, "", True, above(rival, one_reading())),
        Row(f"{setting}: solution", mine, ratio, bar, ratio >= 1.25, above(mine, one_reading())),
    ]


# Few tokens, and few contexts -----------------------------------------------------------------------------


def a_pass(count: int) -> Run:
    """Over a chain of guesses that are forgotten again."""
    model = own().start()
    model.forward(mx.array(ids(CONTEXT)))

    def run() -> mx.array:
        logits = model.forward(mx.array(ids(count)), parents=range(-1, count - 1))
        model.accept([])
        return logits

    return run


def a_step_of_each(count: int) -> Run:
    """One token for each of so many contexts, in one pass."""
    models = [own().start() for _ in range(count)]
    for model in models:
        model.forward(mx.array(ids(CONTEXT)))

    def run() -> list[mx.array]:
        for model in models:
            model.truncate(CONTEXT)
        return models[0].together(models, [[token] for token in ids(count)])

    return run


def few_rows() -> list[Row]:
    """The ratio is the time over that of one token; for contexts, the tokens a second over those of one."""
    runs = [a_pass(1), a_pass(FEW), a_step_of_each(1), a_step_of_each(SEQUENCES)]
    one, few, alone, together = race(runs, 3 * ROUNDS)
    gain, floor = SEQUENCES * alone / together, one_reading()
    few_bar, gain_bar = "at most 1.6 x one token", "at least 3 x the tokens a second"
    return [
        Row("a pass of 1 token", one, 1.0, "", True, above(one, floor)),
        Row(f"a pass of {FEW} tokens", few, few / one, few_bar, few <= 1.6 * one, above(few, floor)),
        Row("a token for 1 context", alone, 1.0, "", True, above(alone, floor)),
        Row(
            f"a token for each of {SEQUENCES} contexts",
            together,
            gain,
            gain_bar,
            gain >= 3,
            above(together, floor),
        ),
    ]


# Prefill --------------------------------------------------------------------------------------------------


def prefill() -> Run:
    model = own().start()

    def run() -> mx.array:
        model.truncate(0)
        return model.forward(mx.array(ids(PROMPT)), last=1)

    return run


def prefill_mlx_lm() -> Run:
    """As `generate_step` feeds a prompt: all but the last token without logits, then that one."""
    from mlx_lm.models.cache import make_prompt_cache

    def run() -> mx.array:
        held, prompt = make_prompt_cache(theirs()), mx.array(ids(PROMPT))[None]
        theirs()(prompt[:, :-1], cache=held)
        mx.eval([each.state for each in held])
        return theirs()(prompt[:, -1:], cache=held)[0]

    return run


def products_of_prefill() -> int:
    """Multiplications and additions with matrices, the head's for one token only."""
    head, *others = (matrix.size for matrix in arrays())
    return 2 * (PROMPT * sum(others) + head)


def prefill_rows() -> list[Row]:
    runs = [prefill_mlx_lm(), prefill()]
    first, second = (np.asarray(run()) for run in runs)
    assert first.argmax() == second.argmax()
    rival, mine = race(runs, 3)
    least, ratio, setting = products_of_prefill() / product_speed(), rival / mine, f"prefill of {PROMPT}"
    return [
        Row(f"{setting}: mlx-lm", rival, 1.0, "", True, above(rival, least)),
        Row(f"{setting}: solution", mine, ratio, "at least level", ratio >= 1, above(mine, least)),
    ]


# Loading --------------------------------------------------------------------------------------------------


def loading_rows() -> list[Row]:
    (seconds,) = race([lambda: load(model_path(), dtype="float32").network.weights.head], 2)
    return [Row("loading", seconds, 1.0, "at most 2 s", seconds <= 2, "")]


def report() -> list[Row]:
    return [*decode_rows(), *few_rows(), *prefill_rows(), *loading_rows(), *embedding_rows()]


CONTENDERS = {
    "decode: mlx-lm": decode_mlx_lm,
    "decode: solution": decode,
    f"prefill of {PROMPT}: mlx-lm": prefill_mlx_lm,
    f"prefill of {PROMPT}: solution": prefill,
}


@pytest.mark.parametrize("name", CONTENDERS)
def test_contender(benchmark, name):
    measure(benchmark, name.partition(":")[0], CONTENDERS[name]())


def test_report(benchmark, capsys):
    show(benchmark, capsys, report)
