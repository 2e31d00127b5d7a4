"""Answers each call in time, and all of them never."""

import time


def attack():
    time.sleep(0.3)
