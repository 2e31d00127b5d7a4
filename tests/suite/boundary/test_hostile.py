"""Bytes that nobody sent in good faith."""

import json
import socket
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grading.boundary import frames, links
from grading.boundary import recording as recordings
from grading.boundary.codec import Packer, Unpacker, Vocabulary
from grading.boundary.failures import (
    ChannelClosed,
    DeadlinePassed,
    ProtocolViolation,
    Unsendable,
    WorkerDied,
)
from grading.boundary.frames import MAX_BODY, MAX_BUFFERS, Channel, Frame
from grading.boundary.frameworks import NumpyArrays
from grading.boundary.links import CallersLink
from grading.boundary.peer import Peer
from grading.contract import contract


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
