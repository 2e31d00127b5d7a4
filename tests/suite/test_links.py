"""The socket between a submission and the tests, where many threads wait and one of them reads."""

import queue
from types import SimpleNamespace

from grading.boundary.links import CallersLink, forever


def test_a_thread_that_waits_is_woken_once():
    """One that gets no processor for a while must find one wake-up, not one for each reader that stopped."""
    mine, starved = queue.SimpleQueue(), queue.SimpleQueue()
    peer = SimpleNamespace(route=mine.put)
    link = CallersLink(peer, SimpleNamespace(receive=lambda remaining: "a message"))
    link._others.add(starved)
    for _ in range(20):
        assert link.next(mine, forever) == "a message"
    assert starved.qsize() == 1
