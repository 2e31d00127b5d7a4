"""`process_logits`: from logits to probabilities."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import check_refusals
from grading.truth import GroundTruth
from spec.speculative_decoding import Sampling
from tests.week3.speculative_decoding.cases import SEEDS, TRUTH, assert_probs, f32, nudged

reference = GroundTruth("speculative_decoding")

DTYPES = st.sampled_from(["float32", "float16", "bfloat16"])
INF = float("inf")


def check(impl, logits, sampling, prompt=(), outputs=None):
    outputs = [[] for _ in logits] if outputs is None else outputs
    given = logits, sampling, list(prompt), outputs
    assert_probs(impl.process_logits(*given), reference.process_logits(*given))


def steps(seed, rows, vocab, ratio=0.6):
    """Logits of probabilities that fall by `ratio` from one to the next, shuffled: no two are near."""
    rng = np.random.default_rng(seed)
    falling = np.arange(vocab) * np.log(ratio)
    return np.array([rng.permutation(falling) for _ in range(rows)], np.float32)


def cumulative(vocab, ratio=0.6):
    """What the first few of `steps` have together."""
    powers = ratio ** np.arange(vocab)
    return np.cumsum(powers) / powers.sum()


@requirement("SD-01")
@given(seed=SEEDS, rows=st.sampled_from([1, 4]), temperature=st.sampled_from([0.25, 1.0, 2.0]), dtype=DTYPES)
@example(seed=1, rows=4, temperature=0.25, dtype="float32")
@example(seed=1, rows=4, temperature=2.0, dtype="bfloat16")
def test_a_softmax_at_a_temperature(impl, seed, rows, temperature, dtype):
    logits = 3 * np.random.default_rng(seed).standard_normal((rows, 9))
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    check(impl, logits.astype(kind), Sampling(temperature=temperature))


@requirement("SD-01")
@pytest.mark.parametrize("shift", [1000.0, -1000.0])
def test_logits_may_be_of_any_size(impl, shift):
    check(impl, f32([2, 1, 0, -1], [0, -INF, 3, -INF]) + np.float32(shift), Sampling(temperature=0.5))


@requirement("SD-01")
def test_a_temperature_may_be_small(impl):
    check(impl, f32([1, 1, 0], [0, 2, 2]), Sampling(temperature=1e-6))


@requirement("SD-01")
@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_changes_of_logits_are_not_rounded_to_their_dtype(impl, dtype):
    logits = (3 * np.random.default_rng(5).standard_normal((2, 9))).astype(dtype)
    sampling = Sampling(repetition=1.3, presence=0.3, frequency=0.07, bias={0: 0.3, 5: -1.7})
    check(impl, logits, sampling, [1, 2, 3], [[4, 4, 6], [7]])


@requirement("SD-01")
def test_a_vocabulary_may_have_one_token(impl):
    check(impl, f32([3], [-2]), Sampling(top_k=2, top_p=0.5, min_p=0.5))


@requirement("SD-02")
@given(
    rows=st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=3),
    rest=st.sampled_from([{}, {"top_k": 2}, {"top_p": 0.1}, {"min_p": 0.5}]),
)
@example(rows=[[1, 3, 3, 0, -2, 3]], rest={"top_p": 0.1})
@example(rows=[[0, 0, 0, 0, 0, 0], [-1, -2, -1, -2, -2, -1]], rest={"top_k": 2})
def test_at_temperature_0_the_first_of_the_largest(impl, rows, rest):
    check(impl, f32(*rows), Sampling(temperature=0.0, **rest))


@requirement("SD-03")
@given(
    rows=st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=3),
    k=st.integers(0, 8),
)
@example(rows=[[1, 1, 1, 1, 1, 1], [0, 2, 1, 2, 1, 1]], k=2)
@example(rows=[[0, 2, 1, 2, 1, 1]], k=6)
@example(rows=[[0, 2, 1, 2, 1, 1]], k=7)
@example(rows=[[0, 2, 1, 2, 1, 1]], k=0)
@example(rows=[[0, 2, 1, 2, 1, 1]], k=1)
def test_exactly_k_are_kept(impl, rows, k):
    check(impl, f32(*rows), Sampling(top_k=k))


@requirement("SD-03")
def test_k_may_be_large(impl):
    check(impl, steps(1, 2, 130, 0.97), Sampling(top_k=100))


@requirement("SD-04")
@given(seed=SEEDS, kept=st.integers(1, 8), temperature=st.sampled_from([1.0, 0.5]))
@example(seed=1, kept=1, temperature=1.0)
@example(seed=2, kept=3, temperature=0.5)
@example(seed=2, kept=3, temperature=1.0)
@example(seed=2, kept=7, temperature=1.0)
def test_what_reaches_top_p_is_kept_and_no_more(impl, seed, kept, temperature):
    sums = np.concatenate([[0.0], cumulative(8)])
    top_p = float((sums[kept - 1] + sums[kept]) / 2)
    logits = steps(seed, 3, 8) * np.float32(temperature)
    check(impl, logits, Sampling(temperature=temperature, top_p=top_p))


@requirement("SD-04")
@pytest.mark.parametrize("top_p", [0.1, 0.4, 0.7, 1.0])
def test_of_equal_tokens_the_lower_ids_reach_top_p(impl, top_p):
    check(impl, f32([0, 0, 0, 0], [1, 1, -9, 1]), Sampling(top_p=top_p))


@requirement("SD-05")
@given(seed=SEEDS, kept=st.integers(1, 8), temperature=st.sampled_from([1.0, 0.5]))
@example(seed=1, kept=1, temperature=1.0)
@example(seed=2, kept=4, temperature=0.5)
@example(seed=3, kept=2, temperature=1.0)
def test_min_p_is_a_part_of_the_most_probable(impl, seed, kept, temperature):
    min_p = float(0.6 ** (kept - 0.5))
    logits = steps(seed, 3, 8) * np.float32(temperature)
    check(impl, logits, Sampling(temperature=temperature, min_p=min_p))


@requirement("SD-05")
def test_min_p_of_1_keeps_the_most_probable_and_its_equals(impl):
    check(impl, f32([1, 2, 2, 0]), Sampling(min_p=1.0))


@requirement("SD-06")
@given(seed=SEEDS, strength=st.sampled_from([2.0, 0.5, 1.25]))
@example(seed=1, strength=2.0)
@example(seed=2, strength=0.5)
def test_repetition_pushes_down_what_was_there_once(impl, seed, strength):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((2, 9)).astype(np.float32)
    prompt, outputs = [0, 5, 0], [rng.integers(1, 9, 4).tolist(), [7, 7, 5]]
    check(impl, logits, Sampling(repetition=strength), prompt, outputs)


@requirement("SD-06")
def test_repetition_of_the_example(impl):
    check(impl, f32([2, 1, 0, -1]), Sampling(repetition=2.0), [0, 0, 3])


@requirement("SD-07")
@given(seed=SEEDS, presence=st.sampled_from([0.0, 0.5, -0.5]), frequency=st.sampled_from([0.0, 0.25, -1.0]))
@example(seed=1, presence=0.5, frequency=0.0)
@example(seed=1, presence=0.0, frequency=0.25)
@example(seed=1, presence=0.5, frequency=0.25)
@example(seed=1, presence=1.0, frequency=0.0)  # 1 is none for a factor, and for these as good as any
@example(seed=1, presence=0.0, frequency=1.0)
def test_presence_and_frequency_count_the_output(impl, seed, presence, frequency):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((2, 5)).astype(np.float32)
    outputs = [[1, 1, 2, *rng.integers(0, 5, 2).tolist()], [4]]
    check(impl, logits, Sampling(presence=presence, frequency=frequency), [3, 3, 1], outputs)


@requirement("SD-08")
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bias", [{0: -INF, 3: 3.0}, {1: -INF}, {2: 0.5, 0: -1.25}])
def test_a_bias_is_added_and_may_forbid(impl, temperature, bias):
    check(impl, f32([2, 1, 0, -1], [-1, 4, 2, 0]), Sampling(temperature=temperature, bias=bias))


@requirement("SD-09")
@pytest.mark.parametrize("eos_ids", [(3,), (0, 3)])
def test_no_end_before_the_minimum(impl, eos_ids):
    outputs = [[], [1], [1, 2], [1, 2, 1]]
    sampling = Sampling(min_tokens=2, eos_ids=eos_ids)
    check(impl, f32(*[[1, 0, -1, 3]] * 4), sampling, [1, 1, 1], outputs)
    check(impl, f32([1, 0, -1, 3]), replace(sampling, min_tokens=0, temperature=0.0))


ORDERED = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.5, 1.0, 1.5]),
        "top_k": st.sampled_from([0, 2, 3, 5]),
        "top_p": st.sampled_from([1.0, 0.55, 0.7, 0.9]),
        "min_p": st.sampled_from([0.0, 0.05, 0.2]),
        "repetition": st.sampled_from([1.0, 1.5]),
        "presence": st.sampled_from([0.0, 0.75]),
        "bias": st.sampled_from([{}, {1: 1.5, 4: -2.0}]),
    }
)


@requirement("SD-10")
@given(seed=SEEDS, fields=ORDERED)
@example(seed=0, fields={"top_k": 2, "top_p": 0.7})
@example(seed=0, fields={"temperature": 0.5, "min_p": 0.2})
@example(seed=0, fields={"min_p": 0.2, "top_p": 0.7})
@example(seed=3, fields={"repetition": 1.5, "presence": 0.75, "bias": {1: 1.5, 4: -2.0}})
@example(seed=4, fields={"repetition": 1.5, "presence": 0.75})
@example(seed=6, fields={"temperature": 0.5, "presence": 0.75})
@example(seed=5, fields={"repetition": 1.5, "bias": {1: 1.5, 4: -2.0}, "min_p": 0.2, "top_k": 3})
def test_all_in_one_order(impl, seed, fields):
    sampling = Sampling(min_tokens=1, eos_ids=(0,), **fields)
    prompt, outputs = [1, 3], [[], [4], [4, 1]]
    rng = np.random.default_rng(seed)
    while True:
        logits = steps(rng.integers(2**32), 3, 6) + 2 * rng.random((3, 6)).astype(np.float32)
        moved = TRUTH.process_logits(nudged(rng, logits), sampling, prompt, outputs)
        if ((moved == 0) == (TRUTH.process_logits(logits, sampling, prompt, outputs) == 0)).all():
            break
    check(impl, logits, sampling, prompt, outputs)


@requirement("SD-10")
def test_top_k_comes_before_top_p(impl):
    check(impl, f32([2, 1, 0, -1]), Sampling(top_k=2, top_p=0.7))


@requirement("SD-10")
def test_min_p_comes_before_top_p(impl):
    logits = np.log(f32([0.4, 0.2, 0.2, 0.1, 0.1]))
    check(impl, logits, Sampling(min_p=0.3, top_p=0.7))


@requirement("SD-11")
@given(seed=SEEDS, rows=st.sampled_from([1, 3, 5]))
@example(seed=1, rows=3)
def test_each_row_has_its_own_history(impl, seed, rows):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, 8)).astype(np.float32)
    outputs = [rng.integers(0, 8, r).tolist() for r in range(rows)]
    outputs[0] = [7] if rows > 1 else []
    sampling = Sampling(repetition=2.0, frequency=0.5, min_tokens=2, eos_ids=(1,))
    check(impl, logits, sampling, [0], outputs)


@requirement("SD-11")
def test_a_step_without_rows(impl):
    check(impl, np.zeros((0, 5), np.float32), Sampling(repetition=2.0), [1, 2], [])


@requirement("SD-53")
def test_bad_arguments_are_refused(impl):
    sampling = Sampling(top_k=2, bias={3: 1.0}, min_tokens=1, eos_ids=(0,))
    valid = {
        "logits": f32([2, 1, 0, -1], [0, 1, 2, 1]),
        "sampling": sampling,
        "prompt": [1],
        "outputs": [[], [3]],
    }
    check(impl, *valid.values())

    def but(**fields):
        return {"sampling": replace(sampling, **fields)}

    nothing = valid["logits"].copy()
    nothing[1] = -INF
    check_refusals(
        impl.process_logits,
        valid,
        [
            ("logits", {"logits": valid["logits"][0]}),
            ("logits", {"logits": valid["logits"][None]}),
            ("logits", {"logits": nothing}),
            ("logits/bias/sampling", but(bias=dict.fromkeys(range(4), -INF))),
            ("logits/bias/sampling/min_tokens/eos_ids", but(bias=dict.fromkeys(range(1, 4), -INF))),
            ("outputs/logits", {"outputs": [[]]}),
            ("outputs/logits", {"outputs": [[], [3], []]}),
            ("outputs", {"outputs": [[], [4]]}),
            ("outputs", {"outputs": [[-1], []]}),
            ("prompt", {"prompt": [4]}),
            ("prompt", {"prompt": [0, -1]}),
            ("bias", but(bias={4: 1.0})),
            ("bias", but(bias={-1: 1.0})),
            ("eos_ids", but(eos_ids=(4,))),
            ("eos_ids", but(eos_ids=(-1,))),
            ("temperature", but(temperature=-0.5)),
            ("top_k", but(top_k=-1)),
            ("min_tokens", but(min_tokens=-1)),
            ("top_p", but(top_p=0.0)),
            ("top_p", but(top_p=1.5)),
            ("min_p", but(min_p=-0.5)),
            ("min_p", but(min_p=1.5)),
            ("repetition", but(repetition=0.0)),
            ("repetition", but(repetition=-1.0)),
        ],
    )
