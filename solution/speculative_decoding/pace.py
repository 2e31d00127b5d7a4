"""How much to draft: as many tokens as pay, by what steps cost and what became of drafts lately."""

from bisect import bisect_left

from .worth import expected_tokens

FORGET = 0.95  # what an earlier verdict still counts, after each later one
FIRST_PAUSE, LONGEST_PAUSE = 8, 32  # steps without a draft before the next trial: doubled by each trial


class Pace:
    """gamma(): how many tokens to draft next. ended(…): what came of it; judged(…): without its time.

    A trial is one token; what more of them cost is found out when it was right. What a step costs is known
    for each number of drafted tokens that there was, and read off a line through two of them for the others:
    the second token may cost as much as the first, and the next four nothing.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.costs: dict[int, float] = {}  # seconds of a step by drafted tokens
        self.tried, self.right = 1.0, 0.5  # verdicts, as if half of one had been good
        self.idle = self.pause = FIRST_PAUSE
        self.all_right = False  # the last draft
        self.asked = 0  # how many tokens for the step that goes on
        self.asked_for_most = False  # and was given some, and timed

    def gamma(self) -> int:
        self.asked = self._next()
        return self.asked

    def _next(self) -> int:
        if self.all_right and not self.asked_for_most:
            return self.most
        best = self._best(self.right / self.tried) if 0 in self.costs and len(self.costs) > 1 else 0
        return min(1, self.most) if best == 0 and self.idle >= self.pause else best

    def ended(self, proposed: int, accepted: int, seconds: float) -> None:
        before = self.costs.get(proposed, seconds)
        self.costs[proposed] = (before + seconds) / 2
        self.asked_for_most |= proposed > 0 and self.asked == self.most
        self.judged(proposed, accepted)

    def judged(self, proposed: int, accepted: int) -> None:
        if proposed == 0:
            self.idle += 1
            return
        verdicts = min(accepted + 1, proposed)
        self.tried = self.tried * FORGET**verdicts + verdicts
        self.right = self.right * FORGET**verdicts + accepted
        self.all_right = accepted == proposed
        was_trial = self.idle >= self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE) if was_trial else FIRST_PAUSE
        self.idle = 0

    def _best(self, rate: float) -> int:
        def tokens_a_second(gamma: int) -> float:
            return expected_tokens(rate, gamma) / max(self._cost(gamma), 1e-9)

        return max(range(self.most + 1), key=tokens_a_second)

    def _cost(self, gamma: int) -> float:
        known = sorted(self.costs)
        place = min(max(bisect_left(known, gamma), 1), len(known) - 1)
        low, high = known[place - 1], known[place]
        slope = (self.costs[high] - self.costs[low]) / (high - low)
        return self.costs[low] + slope * (gamma - low)
