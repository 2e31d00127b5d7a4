"""What an attacker may know: the paths of the grader, which the tests append, and the way to it."""

import gc


def channel():
    """The socket to the grader, found in this process as a submission can."""
    return next(thing for thing in gc.get_objects() if type(thing).__name__ == "Channel")


def peer():
    return next(thing for thing in gc.get_objects() if type(thing).__name__ == "Peer")


def forever():
    return float("inf")
