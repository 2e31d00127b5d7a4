"""`generate(adaptive=True)`: as many drafted tokens as pay, by the clock."""

from grading.marks import requirement
from grading.matching import assert_equal
from spec.speculative_decoding import Draft, Drafter, Sampling
from tests.week3.speculative_decoding.cases import f32
from tests.week3.speculative_decoding.cases_toys import Toy

PASS, TOKEN = 1.0, 0.02  # seconds of a call of the target, and of each of its tokens
COUNT = 300
GREEDY = Sampling(temperature=0.0)


class Costly(Toy):
    """A model that takes time by its own clock."""

    def begin(self):
        super().begin()
        self.seconds = 0.0

    def forward(self, tokens, parents=None):
        self.seconds += PASS + TOKEN * len(tokens)
        return super().forward(tokens, parents)


def seconds(impl, cost, propose, adaptive):
    """What 300 tokens take when a drafted token takes `cost` seconds."""
    toy = Costly(rows=f32([1, 3, 2, 0]), vocab=4, max_length=1000)

    def drafts(prompt, outputs, gamma, uniforms):
        toy.seconds += cost * gamma
        return Draft(propose(len(outputs), gamma))

    found = impl.generate(
        toy.model, Drafter(drafts), [0], max_tokens=COUNT, gamma=8, sampling=GREEDY, seed=1,
        adaptive=adaptive, clock=lambda: toy.seconds,
    )  # fmt: skip
    assert_equal(found.tokens, [1] * COUNT, "tokens")
    assert max(found.proposed) <= 8, f"proposed: expected at most 8, got {max(found.proposed)}"
    return toy.seconds, found


PLAIN = COUNT * (PASS + TOKEN)


@requirement("SD-49")
def test_a_drafter_that_is_never_right_costs_little(impl):
    taken, _ = seconds(impl, 0.3, lambda place, gamma: [0] * gamma, True)
    assert taken <= 1.1 * PLAIN, f"seconds: expected at most {1.1 * PLAIN:.0f}, got {taken:.1f}"


@requirement("SD-50")
def test_a_drafter_that_is_always_right_is_used(impl):
    taken, _ = seconds(impl, 0.05, lambda place, gamma: [1] * gamma, True)
    always, _ = seconds(impl, 0.05, lambda place, gamma: [1] * gamma, False)
    assert taken <= 1.25 * always, f"seconds: expected at most {1.25 * always:.1f}, got {taken:.1f}"
