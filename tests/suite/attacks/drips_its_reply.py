"""Answers byte by byte, slower than anyone should wait."""

import time

from known import channel


def attack():
    while True:
        channel()._socket.send(b"W")
        time.sleep(0.05)
