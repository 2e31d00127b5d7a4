"""Callbacks, objects and streams, and recorded calls."""

import gc
import json
import threading
import time
import weakref

import numpy as np
import pytest

from grading.boundary.failures import (
    CallTimeout,
)
from grading.boundary.references import Stream
from grading.boundary.session import InProcess
from grading.boundary.trace import Reference
from spec.errors import CallbackError, InvalidArgument, OutOfBlocks


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


def test_a_trace_names_objects_by_what_gave_them(session):
    session.start_recording()
    box = session.namespace.Box(1)
    twin = box.twin()
    twin.put(2)
    twin.get()
    del box, twin
    made, twinned, _, read = session.trace()
    assert isinstance(twinned.value, Reference)
    assert (twinned.object_id, read.object_id) == (made.object_id, twinned.value.id)
