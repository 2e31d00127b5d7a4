"""Writes to stdout and stderr for as long as it may."""

import os


def attack():
    lines = b"1 passed in 0.01s\x1b[2K\x1b]0;passed\x07\n" * 1000
    while True:
        os.write(1, lines)
        os.write(2, lines)
