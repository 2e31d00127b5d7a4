"""What can go wrong between the tests and a submission. Each message is a sentence for the report."""


class BoundaryFailure(Exception):
    """Base of everything that the boundary itself reports."""


class SubmissionError(BoundaryFailure):
    """The submission raised or returned something that may not cross: `SystemExit: 0`, a set, …"""


class NotAttempted(BoundaryFailure):
    """The submission has no module for the topic."""


class NotImplementedBySubmission(BoundaryFailure):
    """`not implemented: moe.route`: the name is missing or raises NotImplementedError."""


class Declined(BoundaryFailure):
    """`declined: moe.scoring.sigmoid`: the call asks for what `week3.toml` declines. It was not made.

    Raised beside the tests, never by a submission.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(f"declined: {', '.join(names)}")
        self.names = names


class ProtocolViolation(BoundaryFailure):
    """The other side sent bytes that mean nothing here."""


class Unsendable(BoundaryFailure):
    """A value that this side holds cannot cross."""


class WorkerDied(BoundaryFailure):
    """The submission's process ended: exit code or signal, and the tail of its output."""


class CallTimeout(BoundaryFailure):
    """A call took longer than its limit; the process was killed."""


class NotCalledAgain(BoundaryFailure):
    """The function hung or crashed before: each further call would cost the time of a call, or a process."""


class ChannelClosed(Exception):
    """The other end hung up. The session turns it into WorkerDied."""


class DeadlinePassed(Exception):
    """Time is up. The session turns it into CallTimeout."""
