"""How much to draft: as many tokens as pay, by what steps cost and what became of drafts lately."""

from bisect import bisect_left

from .worth import expected_tokens

FORGET = 0.95  # what an earlier verdict still counts, after each later one
FIRST_PAUSE, LONGEST_PAUSE = 16, 64  # steps without a draft before the next trial: doubled after each in vain
HOPE = 0.7  # rate of acceptance for which a trial is made


class Pace:
    """gamma(): how many tokens to draft next. ended(…): what came of it; judged(…): without its time.

    What a step costs is known for each number of drafted tokens that there was, and read off a line through
    two of them for the others: the second token may cost as much as the first, and the next four nothing.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.costs: dict[int, float] = {}  # seconds of a step by drafted tokens
        self.tried, self.right = 1.0, 0.5  # verdicts, as if half of one had been good
        self.idle, self.pause = 0, FIRST_PAUSE

    def gamma(self) -> int:
        rate = self.right / self.tried
        if not any(self.costs):  # what a draft costs is found out by those who have not been wrong
            best, trial = self.most if rate >= 0.5 else 0, self.most
        elif 0 not in self.costs:
            return 0
        else:
            best, trial = self._best(rate), self._best(HOPE) or min(1, self.most)
        return trial if best == 0 and self.idle >= self.pause else best

    def ended(self, proposed: int, accepted: int, seconds: float) -> None:
        before = self.costs.get(proposed, seconds)
        self.costs[proposed] = (before + seconds) / 2
        self.judged(proposed, accepted)

    def judged(self, proposed: int, accepted: int) -> None:
        if proposed == 0:
            self.idle += 1
            return
        verdicts = min(accepted + 1, proposed)
        self.tried = self.tried * FORGET**verdicts + verdicts
        self.right = self.right * FORGET**verdicts + accepted
        if self.idle >= self.pause:
            self.pause = FIRST_PAUSE if accepted == proposed else min(2 * self.pause, LONGEST_PAUSE)
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
