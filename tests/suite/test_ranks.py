"""A rank that is slow is told from one that does not take part."""

import numpy as np
import pytest

from grading.ranks import DEADLOCK, Ranks


class Scripted:
    """Instead of a condition and threads: what happens in turn, each time that a rank begins to wait."""

    def __init__(self, *events):
        self.events, self.patience = list(events), []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def notify_all(self):
        pass

    def wait(self, seconds):
        self.patience.append(seconds)
        if not self.events:
            return False
        self.events.pop(0)()
        return True


def one(value):
    return np.array([value], np.float32)


def received(ranks, rank, source):
    return ranks.collective(rank).recv((1,), "float32", source)


@pytest.fixture
def ranks():
    ranks = Ranks(2)
    for rank in range(2):
        ranks.collective(rank)
    return ranks


def test_who_has_its_message_and_has_not_woken_yet_holds_up_nobody(ranks):
    """On a busy machine that takes seconds. Rank 1 waits; rank 0 sends and waits; then rank 1 goes on."""

    def rank_0():
        ranks.collective(0).send(one(1), 1)
        assert received(ranks, 0, 1) == 2

    ranks._changed = Scripted(rank_0, lambda: ranks.collective(1).send(one(2), 0))
    assert received(ranks, 1, 0) == 1
    assert ranks._changed.patience[1] > DEADLOCK


def test_two_that_wait_for_each_other_are_told_soon(ranks):
    def rank_0():
        with pytest.raises(AssertionError, match="rank 0 waited for a message from rank 1, and all wait"):
            received(ranks, 0, 1)
        ranks.leave(0)

    ranks._changed = Scripted(rank_0)
    with pytest.raises(AssertionError, match="rank 1 waited for a message from rank 0: rank 0 does not"):
        received(ranks, 1, 0)
    assert ranks._changed.patience[1] == DEADLOCK
