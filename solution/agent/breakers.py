"""Stops asking what fails."""

from threading import Lock

from spec.agent import BreakerPolicy


class Breaker:
    """Of one resource. A probe opens it anew as it begins: one that is never heard of again blocks nobody."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._lock = Lock()
        self._in_a_row = 0  # failed attempts
        self._opened: float | None = None  # time; None while it is closed

    def lets_through(self, now: float) -> bool:
        """Whether an attempt may begin; if so, it does."""
        with self._lock:
            if self._opened is None:
                return True
            if now < self._opened + self._policy.reset_after:
                return False
            self._opened = now
            return True

    def heard(self, *, failed: bool, now: float) -> bool:
        """An attempt has ended. Whether it is open now."""
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if failed else 0
            self._opened = now if self._in_a_row >= self._policy.failures else None
            return self._opened is not None
