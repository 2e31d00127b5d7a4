"""Real models: the ground truth gives what transformers computes and MLX reads, and the solution the same."""

import json

import numpy as np
import pytest

from grading.matching import assert_matches
from grading.tolerance import allowance
from grading.truth import Expected
from reference import models as reference
from solution.models import load
from tests.suite.outside import outside
from tests.suite.real_models import fetched
from tests.suite.test_oracles_models import truth

pytestmark = pytest.mark.xdist_group("real models")  # read and computed once

# "The capital of France is Paris, and the capital of Japan is", and what follows.
CAPITALS = np.array([504, 3575, 282, 4649, 314, 7042, 28, 284, 260, 3575, 282, 3085, 314])
PARIS, TOKYO = 7042, 19081

# "A cat sits on the mat.", "A kitten rests on the rug." and "Interest rates rose again."
CAT = np.array([101, 1037, 4937, 7719, 2006, 1996, 13523, 1012, 102])
KITTEN = np.array([101, 1037, 18401, 16626, 2006, 1996, 20452, 1012, 102])
RATES = np.array([101, 3037, 6165, 3123, 2153, 1012, 102])


def rounding_allowed(function, *args):
    """The truth, and four times what float32 changes in it: over so many numbers none is right by luck."""
    exact, plain = (getattr(side, function)(*args) for side in (truth.exact, truth.plain))
    return Expected(exact, plain.dtype, allowance(exact, plain))


@pytest.fixture(scope="module")
def smollm2():
    return reference.read_gguf(fetched("smollm2-135m-instruct"))


@pytest.fixture(scope="module")
def expected(smollm2):
    """The logits after each of the capitals' tokens, and what float32 may change in them."""
    return rounding_allowed("logits", *smollm2, CAPITALS)


def test_smollm2_gives_the_logits_of_transformers(smollm2, expected):
    torch, transformers = outside("torch"), outside("transformers")
    config, weights = smollm2
    model = transformers.LlamaForCausalLM.from_pretrained(
        None,
        config=transformers.AutoConfig.for_model(**config),
        state_dict={name: torch.from_numpy(values) for name, values in weights.items()},
        attn_implementation="eager",
    ).eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(CAPITALS)[None], use_cache=False).logits[0].numpy()
    assert_matches(theirs, expected)


def test_the_solution_gives_the_logits_of_the_reference(expected):
    logits = load(fetched("smollm2-135m-instruct"), dtype="float32").start().forward(CAPITALS)
    assert_matches(np.array(logits), expected)


def test_smollm2_knows_two_capitals(expected):
    """With tensors in the wrong order transformers computes the same, but the model knows nothing."""
    after = expected.value.argmax(axis=1)
    assert (after[4], after[12]) == (PARIS, TOKYO)


def test_the_blocks_of_a_gguf_file_are_expanded_as_mlx_does(smollm2):
    """Q4_1 and Q8_0: both are one exact product of a code and a half, and one sum, in float32."""
    mx = outside("mlx.core")
    file = fetched("smollm2-135m-instruct")
    theirs = mx.load(str(file), format="gguf")
    _, weights = smollm2
    for name, ours in (("token_embd", "model.embed_tokens"), ("blk.7.ffn_up", "model.layers.7.mlp.up_proj")):
        codes, scales, biases = (theirs[f"{name}.{part}"] for part in ("weight", "scales", "biases"))
        bits = 32 * codes.shape[1] // weights[f"{ours}.weight"].shape[1]
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        expanded = mx.dequantize(codes, scales, biases, group_size=32, bits=bits)
        np.testing.assert_array_equal(np.array(expanded), weights[f"{ours}.weight"])
    np.testing.assert_array_equal(np.array(theirs["output_norm.weight"]), weights["model.norm.weight"])


@pytest.fixture(scope="module")
def minilm():
    return reference.read_folder(fetched("all-minilm-l6-v2"))


def test_minilm_gives_the_embedding_of_transformers(minilm):
    torch, transformers = outside("torch"), outside("transformers")
    folder = fetched("all-minilm-l6-v2")
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    assert [how for how, used in pooling.items() if used is True] == ["pooling_mode_mean_tokens"]
    with torch.no_grad():
        states = model(torch.from_numpy(CAT)[None]).last_hidden_state[0]
    theirs = torch.nn.functional.normalize(states.mean(dim=0), dim=0).numpy()
    assert_matches(theirs, rounding_allowed("embed", *minilm, CAT))


def test_minilm_knows_what_is_alike(minilm):
    cat, kitten, rates = (reference.embed(*minilm, tokens) for tokens in (CAT, KITTEN, RATES))
    assert cat @ kitten > 0.5 > cat @ rates
