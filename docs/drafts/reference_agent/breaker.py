class Breaker:
    """Of one resource. Its owner holds a lock."""

    def __init__(self, policy):
        self.policy = policy
        self.failed = 0  # in a row
        self.opened = None  # when it opened; None while it is closed
        self.probing = False

    def admit(self, now):
        """ "closed" or "probe": how an attempt may be made; None if it may not."""
        if self.opened is None:
            return "closed"
        if self.probing or now < self.opened + self.policy.reset_after:
            return None
        self.probing = True
        return "probe"

    def ended(self, admitted, outcome, now):
        """outcome: "ok", "failed", "refused" by the tool, or "cancelled"."""
        if admitted == "probe":
            self.probing = False
            if outcome in ("ok", "refused"):
                self.failed, self.opened = 0, None
            elif outcome == "failed":
                self.opened = now
        elif self.opened is None and outcome == "ok":
            self.failed = 0
        elif self.opened is None and outcome == "failed":
            self.failed += 1
            if self.failed >= self.policy.failures:
                self.opened = now
