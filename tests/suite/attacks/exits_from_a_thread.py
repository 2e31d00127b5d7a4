"""Ends the process from beside the call."""

import os
import threading
import time


def attack():
    threading.Thread(target=os._exit, args=(0,)).start()
    time.sleep(1)
