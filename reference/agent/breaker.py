from threading import Lock


class Breaker:
    """Of one resource. Each probe opens it anew, so that one which is never heard of again blocks nobody."""

    def __init__(self, policy):
        self.policy, self.lock = policy, Lock()
        self.failed = 0  # in a row
        self.opened = None  # when; None while it is closed

    def admits(self, now):
        with self.lock:
            if self.opened is not None:
                if now < self.opened + self.policy.reset_after:
                    return False
                self.opened = now
            return True

    def heard(self, failed, now):
        with self.lock:
            self.failed = self.failed + 1 if failed else 0
            self.opened = now if self.failed >= self.policy.failures else None
