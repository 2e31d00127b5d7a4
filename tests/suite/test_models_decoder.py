"""The MLX decoder computes what transformers computes, whatever a checkpoint looks like."""

import numpy as np
import pytest

from tests.suite.outside import outside
from tests.suite.tiny_models import FAMILIES, logits_of, tiny, tokens


@pytest.fixture(scope="module")
def mx():
    return outside("mlx.core")


@pytest.fixture(scope="module")
def models():
    return outside("solution.models")


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    """A folder in several files, and the model that is in it."""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny(request.param)
    model.save_pretrained(folder, max_shard_size="20KB")
    return folder, model


@pytest.mark.parametrize("count", [1, 7, 50])
def test_logits_are_those_of_transformers(mx, models, saved, count):
    folder, theirs = saved
    assert len(list(folder.glob("*.safetensors"))) > 1
    exact, allowed = logits_of(theirs, tokens(count))
    logits = models.load(folder).start().forward(mx.array(tokens(count)))
    assert logits.dtype == mx.float32
    assert np.abs(np.asarray(logits) - exact).max() <= allowed


def test_a_token_after_another_gives_what_all_at_once_give(mx, models, saved):
    folder, theirs = saved
    exact, allowed = logits_of(theirs, tokens(20))
    model = models.load(folder).start()
    for token, expected in zip(tokens(20), exact, strict=True):
        assert np.abs(np.asarray(model.forward(mx.array([token]))) - expected).max() <= allowed
    assert model.length() == 20
