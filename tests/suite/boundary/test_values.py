"""What crosses the boundary, and in which framework."""

import itertools
import math
import os

import hypothesis.extra.numpy as array_strategies
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grading.boundary.failures import (
    SubmissionError,
    Unsendable,
)
from grading.boundary.frameworks import arrays_of
from grading.boundary.loading import settings_of
from grading.boundary.session import InProcess
from tests.suite.boundary.probes import isolated, same, write_submission

NUMBERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
DTYPES = [np.dtype(each) for each in ("bool", *NUMBERS, ml_dtypes.bfloat16)]


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(array_strategies.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    size = math.prod(shape) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    array = (raw & 1 if dtype.kind == "b" else raw).view(dtype).reshape(shape)
    return draw(st.sampled_from([array, array.T, array[::-1] if array.ndim else array]))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers().map(lambda n: n * 2**200),
    st.floats(),
    st.text(st.characters(exclude_categories=())),  # lone surrogates included
    st.binary(),
)
VALUES = st.recursive(
    st.one_of(SCALARS, arrays()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(SCALARS.filter(lambda key: key == key), inner, max_size=4),
    ),
    max_leaves=12,
)


@given(value=VALUES)
@settings(max_examples=150, deadline=None, database=None)
def test_every_plain_value_and_array_comes_back_as_it_went(session, value):
    assert same(session.namespace.echo(value), value)


@pytest.mark.parametrize(
    "value",
    [
        list(range(100_000)),
        [0.1] * 1000,
        [True] * 100,
        [1, 2.0] * 100,
        [2**63] * 100,
        "ü" * 100_000,
        "\ud83d\ude00",
        b"\xff" * 100_000,
        [b"x" * 300] * 5000,
        np.zeros((1000, 1000)),
        np.array(1, np.float32),
        np.arange(12).astype(">i4").reshape(3, 4).T[::-1].astype("<i4"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_long_values_travel_beside_the_body(submission, value):
    assert same(submission.echo(value), value)


def test_values_of_the_specification_cross(submission, probe):
    value = probe.Pair(probe.Colour.GREEN, probe.Wobble("sentence", 3))
    back = submission.echo(value)
    assert type(back) is probe.Pair
    assert back.first is probe.Colour.GREEN
    assert type(back.second) is probe.Wobble
    assert back.second.args == ("sentence", 3)


def test_numpy_scalars_become_plain_numbers(submission):
    given_ = [np.int64(3), np.float64(0.1), np.float32(0.1), np.bool_(True), ml_dtypes.bfloat16(1.5)]
    assert same(submission.echo(given_), [3, 0.1, float(np.float32(0.1)), True, 1.5])


@pytest.mark.parametrize("value", [{1, 2}, range(3), 1j, object, np.zeros(2, complex)], ids=repr)
def test_other_values_are_refused_with_a_sentence(submission, value):
    with pytest.raises(Unsendable, match="cannot cross"):
        submission.echo(value)
    assert submission.echo(1) == 1


def test_what_cannot_come_back_is_the_submissions_error(submission):
    with pytest.raises(SubmissionError, match="a set cannot cross the boundary"):
        submission.act("{1, 2}")


def test_a_value_that_contains_itself_is_refused(submission):
    loop = []
    loop.append(loop)
    with pytest.raises(Unsendable, match="nested 64 deep"):
        submission.echo(loop)


def test_arguments_cannot_be_changed_through_the_boundary(submission):
    small, large, listed = np.zeros(3), np.zeros(100_000), [1]
    assert submission.apply("spoil", small).tolist() == [7, 7, 7]
    assert submission.apply("spoil", large)[0] == 7
    submission.act("lambda values: values.append(2)")(listed)
    assert not small.any() and not large.any() and listed == [1]


def test_results_are_snapshots(submission):
    content = np.zeros(4)
    box = submission.Box(content)
    first = box.get()
    first += 1
    content += 5
    assert not box.get().any()


@pytest.mark.parametrize("framework", ["mlx", "torch", "numpy"])
def test_arrays_keep_dtype_shape_and_bits_in_every_framework(framework):
    if framework == "mlx":
        os.environ["MLX_ENABLE_TF32"] = "0"
    converter = arrays_of(framework)
    for dtype, shape in itertools.product(DTYPES, [(), (0, 3), (2, 3)]):
        array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
        theirs = converter.incoming(array.copy())
        assert isinstance(theirs, converter.array_type)
        back = converter.outgoing(theirs)
        assert same(np.ascontiguousarray(back).reshape(back.shape), array), (framework, dtype, shape)


def test_negative_strides_and_float64_survive_mlx():
    converter = arrays_of("mlx")
    array = np.array([1 / 3, 0.1, 2.0])
    assert converter.outgoing(converter.incoming(array)).tolist() == array.tolist()
    backwards = converter.incoming(array.astype("f4"))[::-1]
    assert np.array(converter.outgoing(backwards)).tolist() == array.astype("f4")[::-1].tolist()


def test_an_array_of_another_framework_is_named(place, probe):
    source = "import torch\ndef act(what): return [torch.zeros(2)]"
    folder = write_submission(place / "mixed", source, framework="mlx")
    session = InProcess.from_folder(folder, "probe")
    with pytest.raises(SubmissionError, match="returned a torch.Tensor, but week3.toml says mlx"):
        session.namespace.act("")


def test_mlx_arrays_cross_in_both_directions_isolated(place, probe):
    source = "import mlx.core as mx\ndef apply(function, *args): return function(args[0] + mx.array(1.0))"
    folder = write_submission(place / "in_mlx", source, framework="mlx")
    session = isolated(folder)
    seen = []
    try:
        result = session.namespace.apply(lambda x: seen.append(x) or x * 2, np.ones((2, 2), np.float32))
    finally:
        session.close()
    assert same(seen[0], np.full((2, 2), 2, np.float32))
    assert same(result, np.full((2, 2), 4, np.float32))


def test_a_wrong_framework_is_a_clear_error(tmp_path):
    (tmp_path / "week3.toml").write_text('framework = "jax"')
    with pytest.raises(SubmissionError, match="expected one of mlx, torch, numpy, got 'jax'"):
        settings_of(tmp_path)
    (tmp_path / "week3.toml").write_text("framework =")
    with pytest.raises(SubmissionError, match="cannot be read"):
        settings_of(tmp_path)
