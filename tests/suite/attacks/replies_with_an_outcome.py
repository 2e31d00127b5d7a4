"""Answers with exceptions of pytest, of the interpreter and of the boundary itself."""

from known import channel, forever, peer

from grading.boundary.frames import Frame


def attack():
    (call,) = [id for id in range(1, 10_000) if id == peer()._here.within]
    for name in ("Skipped", "Exit", "SystemExit", "KeyboardInterrupt", "UnsatisfiedAssumption", "Fatal"):
        body = f'["raise",{call},[],"{name}",["passed"],""]'.encode()
        channel().send(Frame(body, [memoryview(b"")]), forever)
