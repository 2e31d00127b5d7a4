"""`generate_many`: whole generations have the distribution of plain sampling."""

import numpy as np
import scipy

from grading.marks import requirement
from spec.speculative_decoding import Draft, Drafter, Sampling
from tests.week3.speculative_decoding.cases import f32
from tests.week3.speculative_decoding.cases_toys import Toy

RUNS = 800
FALSE_ALARM = 1e-9
TARGET = np.log(f32([0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.25, 0.45]))
DRAFT = f32([0.3, 0.3, 0.4], [0.6, 0.2, 0.2], [0.25, 0.5, 0.25])
FIRST, END = 0, 2  # the prompt; what ends a text
SEED = 4711  # a fixed one: right code of another generator is accused once in 10⁹ generators


def drawing(prompt, outputs, gamma, uniforms):
    """Draws from the rows of DRAFT, with the uniforms that it is given."""
    last, tokens, rows = [*prompt, *outputs][-1], [], []
    for u in uniforms[:gamma]:
        rows.append(DRAFT[last])
        last = min(int(np.sum(np.cumsum(DRAFT[last]) <= u)), 2)
        tokens.append(last)
    return Draft(tokens, np.array(rows, np.float32).reshape(-1, 3))


def law_of_two():
    """The law of two tokens after FIRST. After END comes nothing, written as the token 0."""
    p = np.exp(TARGET.astype(np.float64))
    law = p[FIRST][:, None] * p
    law[END] = np.sum(law[END]) * (np.arange(3) == 0)
    return law / law.sum()


def counted(generations):
    counts = np.zeros((3, 3))
    for each in generations:
        counts[tuple([*each.tokens, 0][:2])] += 1
    return counts


@requirement("SD-45")
def test_generations_have_the_law_of_the_target(impl):
    """A drawn end token is verified as any other. The test of fit finds a law of which the first token is off
    by 0.12, as it is where a drafted end is dropped."""
    toy = Toy(table=TARGET, vocab=3)
    limits = {"runs": RUNS, "max_tokens": 2, "gamma": 2, "sampling": Sampling(eos_ids=(END,)), "seed": SEED}
    counts = counted(impl.generate_many(toy.model, Drafter(drawing), [[FIRST]], **limits))
    law = law_of_two()
    keep = law > 0
    expected, found = law[keep] * RUNS, counts[keep]
    assert found.sum() == RUNS, f"outputs that cannot be: {counts.tolist()}"
    assert expected.min() >= 10, "the design of this test: at least 10 expected in each cell"
    limit = scipy.stats.chi2.isf(FALSE_ALARM, len(expected) - 1)
    shift = 0.12**2 / 0.5 + 0.12**2 / 0.3  # 0.12 from token 0 to token 1
    assert scipy.stats.ncx2.sf(limit, len(expected) - 1, RUNS * shift) > 0.5, "the design of this test"
    distance = ((found - expected) ** 2 / expected).sum()
    shares = np.round(law.sum(1), 3).tolist(), np.round(counts.sum(1) / RUNS, 3).tolist()
    assert distance <= limit, (
        f"expected first tokens {shares[0]}, got {shares[1]}; distance {distance:.0f}, at most {limit:.0f}"
    )


@requirement("SD-45")
def test_a_drawn_token_is_accepted_as_often_as_p_and_q_agree(impl):
    """In the first step that drafts: 0.8 after token 0, where tokens taken for certain ones would be kept in
    0.32. The number accepted varies less than if all had the mean of these chances (Hoeffding 1956).
    """
    toy, runs = Toy(table=TARGET, vocab=3), 100
    limits = {"runs": runs, "max_tokens": 3, "gamma": 1, "sampling": Sampling(), "seed": SEED}
    found = impl.generate_many(toy.model, Drafter(drawing), [[FIRST]], **limits)
    agree = np.minimum(np.exp(TARGET), DRAFT).sum(axis=1)
    places = [(each, each.proposed.index(1)) for each in found if 1 in each.proposed]
    assert len(places) >= 90, f"proposed: expected a draft in nearly all runs, got one in {len(places)}"
    accepted = sum(each.accepted[place] for each, place in places)
    chance = float(np.mean([agree[[FIRST, *each.tokens][place]] for each, place in places]))
    assert scipy.stats.binomtest(accepted, len(places), chance).pvalue >= FALSE_ALARM, (
        f"accepted: expected {chance:.0%} in the first step that drafts, got {accepted} of {len(places)}"
    )


@requirement("SD-45")
def test_steps_share_no_uniforms(impl):
    """Plain sampling from equal probabilities: a uniform used twice gives the same token twice."""
    toy, runs = Toy(rows=[0.0, 0.0, 0.0], vocab=3), 120
    limits = {"runs": runs, "max_tokens": 2, "gamma": 2, "sampling": Sampling(), "seed": SEED}
    counts = counted(impl.generate_many(toy.model, None, [[FIRST]], **limits))
    distance = ((counts - runs / 9) ** 2 / (runs / 9)).sum()
    limit = scipy.stats.chi2.isf(FALSE_ALARM, 8)
    assert distance <= limit, f"pairs of tokens: expected {runs / 9:.0f} of each, got {counts.tolist()}"
