"""How much to draft: as many tokens as paid lately."""

from .worth import best_gamma

FORGET = 0.95  # what an earlier verdict still counts, after each later one
TRY_AGAIN = 16  # steps without a draft before one token is tried again


class Pace:
    """gamma(): how many to draft next. ended(…): what came of it.

    Seconds of a step are counted as plain + gamma · extra; extra is what a token costs to draft and verify.
    """

    def __init__(self, most):
        self.most = most
        self.tried = self.right = 1.0  # verdicts on drafted tokens
        self.plain = self.extra = None
        self.idle = 0

    def gamma(self):
        if self.plain is None:
            return 0
        if self.extra is None:
            return self.most
        ratio = self.extra / self.plain if self.plain > 0 else 0.0
        best = best_gamma(self.right / self.tried, max(ratio, 0.0), self.most)
        return 1 if best == 0 and self.idle >= TRY_AGAIN else best

    def ended(self, proposed, accepted, seconds):
        self.idle = 0 if proposed > 0 else self.idle + 1
        if proposed == 0:
            self.plain = seconds if self.plain is None else 0.5 * (self.plain + seconds)
            return
        verdicts = min(accepted + 1, proposed)
        self.tried = FORGET**verdicts * self.tried + verdicts
        self.right = FORGET**verdicts * self.right + accepted
        extra = (seconds - self.plain) / proposed
        self.extra = extra if self.extra is None else 0.5 * (self.extra + extra)
