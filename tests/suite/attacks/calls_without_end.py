"""Calls functions that the grader does not have, from many threads."""

import threading
import time

from known import peer


def attack():
    def call():
        while True:
            try:
                peer().call("grade", None, (b"x" * (1 << 20),), {})
            except Exception:
                time.sleep(0.001)

    for _ in range(40):
        threading.Thread(target=call, daemon=True).start()
    time.sleep(60)
