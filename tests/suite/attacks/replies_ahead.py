"""Answers calls that nobody has made yet."""

from known import channel, forever

from grading.boundary.frames import Frame


def attack():
    for call in range(1000, 1100):
        body = f'["return",{call},[],null]'.encode()
        channel().send(Frame(body, [memoryview(b"")]), forever)
