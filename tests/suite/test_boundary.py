"""The boundary between the tests and a submission, in process and isolated, against a topic made up here."""

import gc
import importlib
import itertools
import json
import math
import os
import signal
import socket
import struct
import sys
import threading
import time
import weakref
from pathlib import Path
from textwrap import dedent

import hypothesis.extra.numpy as array_strategies
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spec
from grading.boundary import frames, links
from grading.boundary import recording as recordings
from grading.boundary.codec import Packer, Unpacker, Vocabulary
from grading.boundary.failures import (
    CallTimeout,
    ChannelClosed,
    DeadlinePassed,
    NotAttempted,
    NotCalledAgain,
    NotImplementedBySubmission,
    ProtocolViolation,
    SubmissionError,
    Unsendable,
    WorkerDied,
)
from grading.boundary.frames import MAX_BODY, MAX_BUFFERS, Channel, Frame
from grading.boundary.frameworks import NumpyArrays, arrays_of
from grading.boundary.links import CallersLink
from grading.boundary.loading import settings_of
from grading.boundary.peer import Peer
from grading.boundary.places import add_note, called_at
from grading.boundary.references import Stream
from grading.boundary.session import InProcess, Isolated, Limits, best_tier
from grading.boundary.trace import Reference
from grading.contract import contract
from grading.judging.texts import message_of
from spec.errors import CallbackError, InvalidArgument, OutOfBlocks

CONTRACT = '''
    from dataclasses import dataclass
    from enum import Enum
    from typing import Any

    from spec.errors import SpecError

    __all__ = [
        "Box", "Colour", "Pair", "Wobble", "act", "apply", "count", "echo", "open_box", "take", "unwritten",
    ]

    class Colour(Enum):
        RED = 1
        GREEN = 2

    class Wobble(SpecError):
        """An error of this topic."""

    @dataclass(frozen=True)
    class Pair:
        first: Any
        second: Any = None

    class Box:
        """Holds one thing. PA-01"""

        def __init__(self, content: Any) -> None: ...
        def get(self) -> Any: ...
        def put(self, content: Any) -> None: ...
        def twin(self) -> "Box": ...

    def echo(value): ...
    def act(what): ...
    def apply(function, *args): ...
    def count(n): ...
    def take(stream, n): ...
    def open_box(box): ...
    def unwritten(x): ...
'''

SUBMISSION = '''
    import helpers, os, sys, threading, time

    from spec.errors import InvalidArgument, OutOfBlocks
    from spec.probe import Pair

    KEPT = []

    class Own(InvalidArgument):
        pass

    class Other(Exception):
        pass

    class Box:
        def __init__(self, content):
            self.content = content
        def get(self):
            return self.content
        def put(self, content):
            self.content = content
        def twin(self):
            return Box(self.content)

    def echo(value):
        return value

    def act(what):
        return eval(what) if isinstance(what, str) else what()

    def raises(error):
        raise error

    def spoil(array):
        array[...] = 7
        return array

    def swallow(function):
        try:
            function()
        except Exception as error:
            return type(error).__name__, error.args
        return "nothing"

    def fork_threads(function, n):
        threads = [threading.Thread(target=function, args=(i,)) for i in range(n)]
        [t.start() for t in threads]
        [t.join() for t in threads]

    def apply(function, *args):
        return globals()[function](*args) if isinstance(function, str) else function(*args)

    def count(n):
        try:
            for i in range(n):
                yield i
        finally:
            KEPT.append("closed")

    def take(stream, n):
        taken = [next(stream) for _ in range(n)]
        stream.close()
        return taken

    def open_box(box):
        return box.content

    def unwritten(x):
        """To be written."""
        raise NotImplementedError("not yet")
'''


def write_submission(folder: Path, source: str = SUBMISSION, framework: str = "numpy") -> Path:
    folder.mkdir(mode=0o755)
    (folder / "probe.py").write_text(dedent(source))
    (folder / "helpers.py").write_text("NAME = 'helpers'")
    (folder / "week3.toml").write_text(f'framework = "{framework}"')
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder, and in `spec` the topic `probe` while this module runs."""
    place = tmp_path_factory.mktemp("boundary")
    (place / "spec").mkdir()
    (place / "spec/probe.py").write_text(dedent(CONTRACT))
    before = list(spec.__path__)
    spec.__path__.append(str(place / "spec"))
    importlib.invalidate_caches()
    yield place
    spec.__path__[:] = before
    sys.modules.pop("spec.probe", None)


@pytest.fixture(scope="module")
def probe(place):
    return importlib.import_module("spec.probe")


@pytest.fixture(scope="module")
def folder(place):
    return write_submission(place / "submission")


def isolated(folder, **limits):
    return Isolated(folder, "probe", best_tier(), Limits(**limits))


@pytest.fixture(scope="module", params=["in process", "isolated"])
def session(request, folder, probe):
    session = InProcess.from_folder(folder, "probe") if request.param == "in process" else isolated(folder)
    yield session
    session.close()


@pytest.fixture
def submission(session):
    return session.namespace


@pytest.fixture
def spawn(folder, probe):
    """Isolated sessions that the test may break."""
    opened = []

    def spawn(**limits):
        opened.append(isolated(folder, **limits))
        return opened[-1]

    yield spawn
    for session in opened:
        session.close()


def same(a, b) -> bool:
    """Equal, of the same types, bit by bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    return a == b


# ---- Values. ----

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


# ---- Frameworks. ----


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


# ---- Errors. ----


def test_errors_arrive_as_the_nearest_class_with_arguments_and_traceback(submission):
    with pytest.raises(InvalidArgument, match="window: expected 1") as caught:
        submission.act("raises(Own('window: expected 1'))")
    assert type(caught.value) is InvalidArgument
    assert "in raises" in caught.value.__notes__[0]
    assert "grading/boundary" not in caught.value.__notes__[0]
    with pytest.raises(KeyError):
        submission.act("{}['x']")
    with pytest.raises(SubmissionError, match=r"^Other: odd(\n|$)"):
        submission.act("raises(Other('odd'))")


def test_an_error_tells_what_was_called_and_the_line_that_raised_it(submission):
    line = SUBMISSION.splitlines().index("        raise error")
    with pytest.raises(KeyError) as caught:
        submission.apply("raises", KeyError("x"))
    assert called_at(caught.value) == ("apply", f"probe.py:{line + 1}, in raises: raise error")
    text = message_of(caught.value, "")
    assert text == f"apply raised KeyError: 'x'\nin probe.py:{line + 1}, in raises: raise error"
    with pytest.raises(SubmissionError) as caught:
        submission.act("raises(Other('odd'))")
    assert message_of(caught.value, "").startswith("Other: odd\nin probe.py:")


def test_an_error_of_the_language_tells_the_line_that_is_wrong(place, probe):
    folder = write_submission(place / "unfinished", "x = 1\ny = (\n")
    for session in (InProcess.from_folder(folder, "probe"), isolated(folder)):
        with pytest.raises(SubmissionError, match="^SyntaxError: '\\(' was never closed") as caught:
            session.describe()
        assert called_at(caught.value)[1] == "probe.py:2: y = ("
        session.close()


def test_what_is_told_of_an_error_is_bounded_and_in_its_place():
    error = ValueError()
    add_note(error, "act", "x" * 100_000 + "\n" + "y" * 100_000)
    assert called_at(error) == ("act", "x" * 200)
    assert len(error.__notes__[0]) < 17_000
    assert called_at(ValueError()) == ("", "")


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration"])
def test_what_would_end_the_tests_is_an_ordinary_error(submission, name):
    with pytest.raises(SubmissionError, match=rf"^{name}: 0(\n|$)"):
        submission.act(f"raises({name}(0))")


def test_outcomes_of_pytest_cannot_be_forged(submission):
    with pytest.raises(SubmissionError, match="Skipped: no"):
        submission.act("__import__('pytest').skip('no')")


def test_an_error_whose_arguments_cannot_cross_arrives_as_text(submission):
    with pytest.raises(ValueError, match="object"):
        submission.act("raises(ValueError({1}, object))")


def test_missing_names_and_unwritten_ones_say_so(place, probe, submission):
    folder = place / "sparse"
    if not folder.exists():
        write_submission(folder, "class Box:\n    def __init__(self, content): pass")
    sparse = InProcess.from_folder(folder, "probe").namespace
    with pytest.raises(NotImplementedBySubmission, match=r"^not implemented: probe\.echo$"):
        sparse.echo(1)
    with pytest.raises(NotImplementedBySubmission, match=r"^not implemented: probe\.Box\.get$"):
        sparse.Box(1).get()
    with pytest.raises(NotImplementedBySubmission, match=r"^not implemented: probe\.unwritten$"):
        submission.unwritten(1)
    with pytest.raises(AttributeError):
        _ = submission.no_such_name


def test_the_description_tells_stubs_and_signatures(session):
    described = session.describe()
    assert described["unwritten"].stub and not described["echo"].stub and not described["Box"].stub
    assert str(described["Box"].signatures["put"]) == "Box.put(content)"
    assert str(described["apply"].signatures["apply"]) == "apply(function, *args)"


def test_a_class_of_stubs_is_a_stub_even_without_a_constructor(place, probe):
    names = ("get", "put", "twin")
    methods = "".join(f"    def {name}(self, *a):\n        raise NotImplementedError\n" for name in names)
    folder = place / "stubs"
    write_submission(folder, "class Box:\n" + methods)
    described = InProcess.from_folder(folder, "probe").describe()["Box"]
    assert described.stub
    assert "content" not in str(described.signatures["__init__"])


def test_a_folder_without_the_topic_was_not_attempted(tmp_path, probe):
    for session in (InProcess.from_folder(tmp_path, "probe"), isolated(tmp_path)):
        with pytest.raises(NotAttempted, match="has no probe.py"):
            session.describe()
        session.close()


def test_what_importing_raises_is_raised_for_every_name(place, probe):
    folder = write_submission(place / "broken", "import no_such_module_at_all")
    session = InProcess.from_folder(folder, "probe")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
            _ = session.namespace.echo


def test_siblings_can_be_imported_but_never_hide_the_standard_library(place, probe):
    source = "import helpers, json\ndef act(what): return helpers.NAME, hasattr(json, 'loads')"
    for name in ("one", "two"):  # both have a helpers.py
        folder = write_submission(place / name, source)
        (folder / "helpers.py").write_text(f"NAME = {name!r}")
        (folder / "json.py").write_text("raise SystemExit")
        assert InProcess.from_folder(folder, "probe").namespace.act("") == (name, True)


# ---- Callbacks. ----


def test_callbacks_run_here_and_may_call_back(submission):
    assert submission.apply(lambda x: submission.apply(lambda y: y * 2, x + 1), 4) == 10


def test_a_callback_may_be_inside_a_value_and_come_back(submission, probe):
    def double(x):
        return 2 * x

    back = submission.echo(probe.Pair(double))
    assert back.first is double
    assert submission.act("lambda x: x + 1")(2) == 3


def test_what_a_callback_raises_reaches_the_submission(submission):
    def fail(error):
        def callback():
            raise error

        return callback

    assert submission.apply("swallow", fail(OutOfBlocks("full"))) == ("OutOfBlocks", ("full",))
    assert submission.apply("swallow", fail(KeyError("k"))) == ("KeyError", ("k",))
    assert submission.apply("swallow", fail(json.JSONDecodeError("m", "d", 0)))[0] == "CallbackError"
    with pytest.raises(CallbackError) as caught:
        submission.apply(fail(LookupErrorOfTheTest("text")))
    assert caught.value.args == ("LookupErrorOfTheTest", "text")


class LookupErrorOfTheTest(LookupError):
    pass


def test_a_failed_assertion_in_a_callback_cannot_be_swallowed(submission):
    def check():
        raise AssertionError("seen")

    with pytest.raises(AssertionError, match="seen"):
        submission.apply("swallow", check)
    assert submission.echo(1) == 1


def test_the_deadline_pauses_while_a_callback_runs_here(spawn):
    namespace = spawn(call_seconds=0.5).namespace
    assert namespace.apply(lambda: time.sleep(0.8) or 1) == 1
    with pytest.raises(CallTimeout):
        namespace.apply(lambda: namespace.act("time.sleep(5)"))


def test_callbacks_from_threads_of_the_submission_are_served(submission):
    seen = []
    submission.apply("fork_threads", seen.append, 5)
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_overlapping_calls_really_overlap(submission):
    both = threading.Barrier(2, timeout=5)
    results = []
    calls = [threading.Thread(target=lambda: results.append(submission.apply(both.wait))) for _ in range(2)]
    for each in calls:
        each.start()
    for each in calls:
        each.join()
    assert sorted(results) == [0, 1]


def test_calls_from_many_threads_get_their_own_replies(submission):
    wrong = []

    def work(k):
        for i in range(30):
            if submission.apply(lambda x: x + 1, k * 100 + i) != k * 100 + i + 1:
                wrong.append((k, i))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert wrong == []


def test_a_lone_caller_is_always_served_by_the_main_thread(submission):
    where = "threading.current_thread() is threading.main_thread()"
    assert all(submission.act(where) for _ in range(300))
    assert submission.apply(lambda: submission.act(where))


# ---- Objects and streams. ----


def test_objects_keep_their_identity(submission):
    box = submission.Box(1)
    assert submission.echo(box) is box
    assert submission.echo([box, {"b": box}])[1]["b"] is box
    box.put(box)
    assert box.get() is box
    twin = box.twin()
    assert type(twin) is type(box) and twin is not box
    twin.put(5)
    assert submission.open_box(twin) == 5


def test_dropped_objects_are_released_with_the_next_call(submission):
    count = "sum(isinstance(o, Box) for o in __import__('gc').get_objects())"
    gc.collect()
    before = submission.act(count)
    boxes = [submission.Box(i) for i in range(10)]
    assert submission.act(count) == before + 10
    again = submission.echo(boxes[0])
    boxes.clear()
    assert submission.act(count) == before + 1
    assert again.get() == 0


def test_callables_are_released_too_unless_a_recording_needs_them(folder, probe):
    session = InProcess.from_folder(folder, "probe")
    namespace = session.namespace
    for recording in (False, True, True):
        if recording:
            session.start_recording()
        functions = [lambda i=i: i for i in range(5)]
        assert [namespace.apply(each) for each in functions] == [0, 1, 2, 3, 4]
        namespace.echo(0)
        held = weakref.WeakSet(functions)
        del functions
        gc.collect()
        assert len(held) == (5 if recording else 0)
    assert [each.value for each in session.replay(session)] == [0, 1, 2, 3, 4, 0]
    session.start_recording()
    gc.collect()
    assert len(held) == 0


def test_streams_are_pulled_one_item_at_a_time_in_both_directions(submission):
    pulled = []

    def source():
        for i in range(100):
            pulled.append(i)
            yield i

    assert submission.take(source(), 3) == [0, 1, 2]
    assert pulled == [0, 1, 2]
    stream = submission.count(3)
    assert isinstance(stream, Stream)
    assert list(stream) == [0, 1, 2]
    submission.act("KEPT.clear()")
    stream = submission.count(10**9)
    assert next(stream) == 0
    stream.close()
    assert submission.act("list(KEPT)") == ["closed"]


# ---- Recording and replay. ----


def test_a_trace_is_what_happened_and_cannot_change(session):
    session.start_recording()
    submission = session.namespace
    content = np.arange(3.0)
    box = submission.Box(content)
    content[:] = 9
    got = box.get()
    got[:] = 8
    with pytest.raises(InvalidArgument):
        submission.act("raises(InvalidArgument('no'))")
    made, read, failed = session.trace()
    assert (made.name, read.name, read.object_id) == ("Box", "Box.get", made.object_id)
    assert made.args[0].tolist() == read.value.tolist() == [0, 1, 2]
    assert type(failed.error) is InvalidArgument and failed.value is None
    with pytest.raises(ValueError, match="read-only"):
        read.value[0] = 1


def test_a_recording_is_replayed_against_another_submission(session, place, probe):
    mutant = SUBMISSION.replace("return self.content", "return -self.content")
    folder = place / "mutant"
    if not folder.exists():
        write_submission(folder, mutant)
    session.namespace.Box(0)  # released with the first call of the recording
    session.start_recording()
    submission = session.namespace
    box = submission.Box(1)
    twin = box.twin()
    twin.put(2)
    twin.get()
    submission.apply(lambda x: x + 1, 5)
    del box, twin
    submission.echo(0)
    replayed = session.replay(InProcess.from_folder(folder, "probe"))
    replayed_there = session.replay(isolated(folder))
    assert [each.name for each in replayed] == [each.name for each in session.trace()]
    recorded = session.trace()
    assert [each.value for each in recorded[2:]] == [None, 2, 6, 0]
    assert [each.value for each in replayed[2:]] == [None, -2, 6, 0]
    assert [each.value for each in replayed_there] == [each.value for each in replayed]
    assert isinstance(recorded[1].value, Reference)
    assert recorded[1].value == replayed[1].value


# ---- The process of the submission. ----


def test_prints_do_not_disturb_the_channel(submission):
    submission.act("print('x' * 100000, flush=True)")
    submission.act("os.write(2, b'y' * 1000)")
    assert submission.echo(3) == 3


def test_a_death_is_told_and_the_next_call_has_a_fresh_process(spawn):
    session = spawn()
    box = session.namespace.Box(1)
    with pytest.raises(WorkerDied, match=r"exited with code 3(.|\n)*last words"):
        session.namespace.act("(print('last words', flush=True), os._exit(3))")
    with pytest.raises(WorkerDied, match="the worker that held this has ended"):
        box.get()
    assert session.namespace.echo(2) == 2
    with pytest.raises(WorkerDied, match="SIGSEGV"):
        session.namespace.act("__import__('ctypes').string_at(0)")
    assert session.failures == 2


def test_a_death_during_import_is_told_for_every_name(place, probe):
    session = isolated(write_submission(place / "deadly", "import os\nos._exit(7)"))
    for _ in range(2):
        with pytest.raises(WorkerDied, match="exited with code 7"):
            _ = session.namespace.echo
    assert session.failures == 1
    session.close()


def test_a_call_that_takes_too_long_ends_the_process(spawn):
    session = spawn(call_seconds=0.3)
    session.describe()
    began = time.monotonic()
    with pytest.raises(CallTimeout, match=r"within 0\.3 s"):
        session.namespace.act("time.sleep(60)")
    assert time.monotonic() - began < 2
    assert session.namespace.echo(1) == 1
    assert session.failures == 1


def test_a_function_that_hung_or_crashed_twice_is_not_called_again(spawn):
    session = spawn(call_seconds=0.3)
    session.describe()
    submission = session.namespace
    box = submission.Box(1)
    for _ in range(2):
        with pytest.raises(WorkerDied, match="^in act, the submission's process exited with code 3"):
            submission.act("os._exit(3)")
    for _ in range(2):
        with pytest.raises(NotCalledAgain, match="^act is not called again: it crashed 2 times, at last"):
            submission.act("1")
    with pytest.raises(CallTimeout, match=r"^take did not answer within 0\.3 s; its process was ended"):
        submission.take(iter(lambda: time.sleep(0.01), 1), 10**9)
    with pytest.raises(NotCalledAgain, match=r"^take is not called again: it did not answer within 0\.3 s"):
        submission.take(iter([]), 0)
    assert submission.echo(1) == 1
    with pytest.raises(WorkerDied, match="the worker that held this has ended"):
        box.get()
    assert session.failures == 3


def test_an_interrupted_call_costs_its_process_but_no_later_result(spawn):
    class Interrupt(BaseException):
        pass

    def interrupt(*_):
        raise Interrupt

    session = spawn()
    session.describe()
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(Interrupt):
            session.namespace.act("time.sleep(0.3) or 'late'")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    time.sleep(0.3)
    assert session.namespace.echo(1) == 1


# ---- Calls in this process. ----


@pytest.fixture
def hurried(folder, probe):
    session = InProcess.from_folder(folder, "probe")
    session._call_seconds = 0.3
    return session


def test_an_endless_call_is_ended_in_process_too(hurried):
    box = hurried.namespace.Box(1)
    began = time.monotonic()
    with pytest.raises(CallTimeout, match=r"^act did not answer within 0\.3 s; the call was ended"):
        hurried.namespace.act("[1 for _ in iter(int, 1)]")
    assert time.monotonic() - began < 5
    with pytest.raises(NotCalledAgain, match=r"^act is not called again: it did not answer within 0\.3 s"):
        hurried.namespace.act("1")
    with pytest.raises(WorkerDied, match="has ended"):
        box.get()
    assert hurried.namespace.echo(1) == 1
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_what_a_test_does_meanwhile_costs_no_time_in_process(hurried):
    assert hurried.namespace.apply(lambda: time.sleep(0.6) or 5) == 5


def test_no_time_is_up_in_a_debugger_nor_beside_another_timer(hurried):
    hurried.describe()
    sleeps = "time.sleep(0.6) or 5"
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        assert hurried.namespace.act(sleeps) == 5
    finally:
        sys.settrace(before)
    handler = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        assert hurried.namespace.act(sleeps) == 5
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def test_control_c_ends_the_run_and_not_only_the_call(hurried, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # CI may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            hurried.namespace.act("__import__('signal').raise_signal(2)")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert hurried.namespace.echo(1) == 1


def test_the_project_is_out_of_sight(spawn):
    namespace = spawn().namespace
    for name in ("reference", "solution", "tests.suite"):
        with pytest.raises(ModuleNotFoundError):
            namespace.act(f"__import__({name!r})")


# ---- Hostile bytes. ----


def no_hurry():
    return 5.0


def in_a_moment():
    end = time.monotonic() + 0.05
    return lambda: end - time.monotonic()


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    yield Channel(ours), theirs
    ours.close()
    theirs.close()


def head(buffers, body, magic=b"WK3\x01"):
    return struct.pack("<4sII", magic, buffers, body)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (head(0, 0, magic=b"HTTP"), "must start with"),
        (head(0, MAX_BODY + 1), "body may have"),
        (head(MAX_BUFFERS + 1, 2), "4,096 buffers"),
        (head(2**32 - 1, 2), "4,096 buffers"),
        (head(2, 2) + struct.pack("<2Q", 2**29, 2**29), "in all"),
    ],
)
def test_a_frame_that_breaks_the_rules_is_refused_before_it_is_read(ends, sent, reason):
    channel, other = ends
    other.sendall(sent)
    with pytest.raises(ProtocolViolation, match=reason):
        channel.receive(no_hurry)


def test_a_body_and_a_whole_frame_may_be_as_large_as_their_caps(ends, monkeypatch):
    monkeypatch.setattr(frames, "MAX_BODY", 100)
    monkeypatch.setattr(frames, "MAX_TOTAL", 1000)
    channel, other = ends
    other.sendall(head(1, 100) + struct.pack("<Q", 900) + bytes(1000))
    frame = channel.receive(no_hurry)
    assert (len(frame.body), frame.buffers[0].nbytes) == (100, 900)
    other.sendall(head(1, 100) + struct.pack("<Q", 901))
    with pytest.raises(ProtocolViolation, match="may have 1,000 bytes in all, got 1,001"):
        channel.receive(no_hurry)


def test_the_results_of_one_test_have_a_cap(hurried, monkeypatch):
    monkeypatch.setattr(recordings, "MOST_BYTES", 1000)
    hurried.start_recording()
    hurried.namespace.act("b'x' * 600")
    with pytest.raises(ProtocolViolation, match="the results of one test may have 1,000 bytes in all"):
        hurried.namespace.act("b'x' * 600")
    hurried.start_recording()
    hurried.namespace.act("b'x' * 600")


def test_a_callback_from_a_thread_brings_no_more_than_its_cap(probe, monkeypatch):
    monkeypatch.setattr(links, "_CALLBACK_BYTES", 10)
    for size in (10, 11):
        hostile = Hostile()
        hostile.send(
            message("call", 1, None, [], "callable", "q1.1", ["t", ["b", size]], ["d"], None), bytes(size)
        )
        hostile.send(message("return", 1, [], 0))
        if size == 10:
            assert hostile.call(len) == 0
        else:
            with pytest.raises(ProtocolViolation, match="a callback from a thread may bring 10 bytes"):
                hostile.call(len)


def test_a_truncated_frame_is_a_closed_channel_and_a_slow_one_a_deadline(ends):
    channel, other = ends
    other.sendall(head(1, 10))
    with pytest.raises(DeadlinePassed):
        channel.receive(in_a_moment())
    other.close()
    with pytest.raises(ChannelClosed):
        channel.receive(no_hurry)


def test_a_side_that_never_reads_meets_the_deadline(ends):
    channel, _ = ends
    frame = Frame(b"0", [memoryview(bytes(1 << 24))])
    with pytest.raises(DeadlinePassed):
        channel.send(frame, in_a_moment())


class NoReferences:
    def pack(self, value):
        return None

    def unpack(self, whose, kind, identity):
        raise ProtocolViolation("none here")


def unpack(tree, *buffers):
    vocabulary = Vocabulary.of(contract("probe"))
    unpacker = Unpacker(vocabulary, NumpyArrays(), NoReferences(), [memoryview(b) for b in buffers or (b"",)])
    value = unpacker.unpack(tree)
    unpacker.finish()
    return value


@pytest.mark.parametrize(
    "tree",
    [
        [], ["?"], [None], [["l"]], {}, {"a": 1},
        ["i"], ["i", 5], ["i", "zz"], ["s"], ["s", -1], ["s", 1], ["s", True], ["s", 1.0], ["s", 2**70],
        ["s", 1 << 16],
        ["I", -1], ["I", 2**61], ["I", "8"], ["d", 1], ["d", ["l"], 1], ["d", ["a", "int8", 0], 1],
        ["a"], ["a", "object", 1], ["a", "float32", -1], ["a", "float32", 2], ["a", "float32", "x"],
        ["a", [], 1],
        ["a", "int8", *[0] * 100], ["a", "int8", 0, 2**62, 2**62], ["a", "int8", 2**40],
        ["D"], ["D", "Pair", {}], ["D", "Pair", 3], ["D", "os", {}],
        ["D", "Pair", {"second": 1, "first": 2}],
        ["D", "Pair", {"first": 1, "second": 2, "__class__": 3}], ["D", ["l"], {}],
        ["e", "Colour", "BLUE"], ["e", "Colour", "__class__"], ["e", "Colour"], ["e", "Pair", "first"],
        ["x", "SystemExit", []], ["x", "Wobble", 3], ["x", "BaseException", []], ["x", "Wobble"],
        ["r", 2, "Box", "1"], ["r", 0, "Box"], ["r", 0, [], "1"], ["r", 0, "Box", {}],
    ],
    ids=repr,
)  # fmt: skip
def test_malformed_values_are_violations(probe, tree):
    with pytest.raises(ProtocolViolation):
        unpack(tree)


def test_deep_nesting_bad_booleans_and_stray_bytes_are_violations(probe):
    deep = ["l"]
    for _ in range(80):
        deep = ["l", deep]
    with pytest.raises(ProtocolViolation, match="deep"):
        unpack(deep)
    with pytest.raises(ProtocolViolation, match="neither 0 nor 1"):
        unpack(["a", "bool", 1], b"\x02")
    with pytest.raises(ProtocolViolation, match="belong to no value"):
        unpack(1, b"x")
    with pytest.raises(ProtocolViolation, match="belong to no value"):
        unpack(1, b"", b"x")
    with pytest.raises(ProtocolViolation, match="malformed"):
        unpack(["s", 1], b"\xff")


TREES = st.recursive(
    st.sampled_from([None, True, 0.5, *"isblItFdDexar", "Pair", "int8"]) | st.integers(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=20,
)


@given(tree=TREES)
@settings(max_examples=200, deadline=None, database=None)
def test_any_tree_is_a_value_or_a_violation(probe, tree):
    try:
        unpack(tree, b"abc")
    except ProtocolViolation as violation:
        assert str(violation)


def test_values_that_grow_when_they_are_unpacked_are_bounded(probe):
    with pytest.raises(ProtocolViolation, match="bytes of text and lists"):
        unpack(["I", 1 << 24], b"", bytes(1 << 27))
    with pytest.raises(ProtocolViolation, match="bytes of text and lists"):
        unpack(["l", ["s", 1 << 26], ["s", 1]], b"x", bytes(1 << 26))


class Hostile:
    """A worker that answers what the test tells it to."""

    def __init__(self, *answers: bytes) -> None:
        ours, self._end = socket.socketpair()
        vocabulary = Vocabulary.of(contract("probe"))
        self.peer = Peer(vocabulary, NumpyArrays(), trusted=True, explain=lambda error, name: error)
        self.peer.call_seconds = 5
        CallersLink(self.peer, Channel(ours))
        for answer in answers:
            self.send(answer)

    def send(self, answer: bytes, buffer: bytes = b"") -> None:
        self._end.sendall(head(1, len(answer)) + struct.pack("<Q", len(buffer)) + answer + buffer)

    def call(self, *args):
        return self.peer.call("echo", None, args, {})

    def hang_up(self):
        self._end.shutdown(socket.SHUT_WR)


def message(*parts) -> bytes:
    return json.dumps(parts).encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"9" * 100_000,
        message("return", 1, []),
        message("return", 2, [], 0),
        message("return", "1", [], 0),
        message("return", 1, [["no such", 1]], 0),
        message("return", 1, [[1, 2, 3]], 0),
        message("return", 1, [], ["r", 0, "Wardrobe", "1"]),
        message("return", 1, [], ["r", 1, "callable", "q1.1"]),
        message("return", 1, [], ["r", 1, "Box", "q1.1"]),
        message("raise", 1, [], "SystemExit", [], ""),
        message("raise", 1, [], "ValueError", "x", ""),
        message("call", 1, None, [], "echo", None, 3, ["d"], None),
        message("call", 1, None, [], "echo", None, ["t"], ["d", 1, 2], None),
    ],
    ids=lambda answer: answer[:60].decode(),
)
def test_a_hostile_reply_is_a_violation_and_ends_the_peer(probe, answer):
    hostile = Hostile(answer)
    with pytest.raises((ProtocolViolation, WorkerDied)):
        hostile.call(1)
    with pytest.raises(WorkerDied):
        hostile.call(1)


@given(tree=TREES, end=st.booleans())
@settings(max_examples=100, deadline=None, database=None)
def test_any_message_is_an_answer_or_a_failure_of_the_boundary(probe, tree, end):
    hostile = Hostile(message("return", 1, [], tree) if end else json.dumps(tree).encode())
    hostile.hang_up()
    try:
        hostile.call(1)
    except (ProtocolViolation, ChannelClosed, WorkerDied) as failure:
        assert failure is not None


def test_a_second_reply_to_the_same_call_is_a_violation(probe):
    hostile = Hostile(*[message("return", call, [], 10) for call in (1, 1, 2)])
    assert hostile.call(1) == 10
    with pytest.raises(ProtocolViolation, match="a reply to call 1, which waits for none"):
        hostile.call(2)


@pytest.mark.parametrize(
    ("name", "thing"),
    [
        ("callable.__globals__", "q1.1"),
        ("Stream.next", "q1.1"),
        ("callable", "q9.9"),
        ("echo", None),
        (":describe", None),
    ],
)
def test_the_worker_can_call_nothing_but_what_it_was_given(probe, name, thing):
    request = message("call", 1, 1, [], name, thing, ["t"], ["d"], None)
    hostile = Hostile(request, message("return", 1, [], 0))
    called = []
    assert hostile.call(lambda: called.append(1)) == 0
    assert called == []
    assert b'"raise",1' in hostile._end.recv(1 << 16).split(b"WK3\x01")[2]


def test_a_flood_of_callbacks_is_a_violation(probe):
    requests = [message("call", i, None, [], "callable", "q1.1", ["t"], ["d"], None) for i in range(100)]
    with pytest.raises(ProtocolViolation, match="callbacks at once"):
        Hostile(*requests).call(lambda: time.sleep(0.5))


def test_a_packer_that_is_asked_for_too_much_says_so(probe):
    packer = Packer(Vocabulary.of(contract("probe")), NumpyArrays(), NoReferences())
    with pytest.raises(Unsendable, match="body may have"):
        packer.frame(packer.pack(["x" * 200] * 10_000))
