"""Deployed routers under the suite: what they decline, do by another convention, and get wrong.

Code that nobody here wrote is what the suite is for, so its verdict on it is pinned, requirement by
requirement. A new release may move a line: then read what the test found, and mend the suite or the table.
"""

import re
from collections import defaultdict
from dataclasses import replace

import pytest

from grading.audit.runs import verdicts
from grading.matching import assert_equal
from tests.suite.peers import PEERS, peer

ROUTING = [f"MOE-{number:02d}" for number in range(1, 16)]

# Outcomes. "met in part": some tests ask for what the router declines, and the others pass. The failures are
# told apart by us, in words.
MET, PART, DECLINED = "met", "met in part", "declined"
DIFFERS, WRONG = "by another convention", "wrong"

ORDER = (DIFFERS, "it takes the best k in no order, or equal ones as they come", "experts: expected")
TIES = (DIFFERS, "of equal groups it takes any", "experts, by id: expected")
NO_CHECK = (DIFFERS, "it checks nothing: NaN goes through", "expected InvalidArgument about logits, but")
ONE_EACH = (DIFFERS, "no model has groups of one expert, and it asks each for two", "route raised")

# Softmax, normalised: all else is asked with other options, too.
ONLY_ITS_OWN = {"MOE-03": MET, "MOE-04": PART, "MOE-15": PART}
QWEN3 = {
    "MOE-01": PART,
    "MOE-02": ORDER,
    "MOE-03": MET,
    "MOE-04": PART,
    "MOE-13": PART,
    "MOE-14": NO_CHECK,
    "MOE-15": PART,
}
DEEPSEEK_V3 = {
    "MOE-01": PART,
    "MOE-02": ORDER,
    "MOE-04": PART,
    "MOE-06": MET,
    "MOE-07": PART,
    "MOE-09": ONE_EACH,
    "MOE-10": PART,
    "MOE-11": TIES,
    "MOE-12": PART,
    "MOE-13": PART,
    "MOE-15": PART,
}

# {peer: {requirement: outcome, or outcome, reason and what each failure says}}. It declines all others.
EXPECTED = {
    "transformers, Mixtral": ONLY_ITS_OWN,
    "transformers, Qwen3-MoE": QWEN3,
    "transformers, gpt-oss": {
        "MOE-01": PART,
        "MOE-02": ORDER,
        "MOE-05": MET,
        "MOE-13": PART,
        "MOE-15": PART,
    },
    "transformers, DeepSeek-V3": DEEPSEEK_V3,
    "mlx-lm, Mixtral": ONLY_ITS_OWN,
    "mlx-lm, Qwen3-MoE": QWEN3,
    "mlx-lm, DeepSeek-V3": {
        **DEEPSEEK_V3,
        "MOE-04": (DIFFERS, "a single weight stays as it is when normalised, too", "weights, .*expected 1 "),
        "MOE-06": (
            WRONG,
            "it divides by a sum of 0: NaN where all scores vanish",
            "weights: expected 0, got .*nan",
        ),
        "MOE-10": (
            WRONG,
            "it closes groups with 0, which is more than a negative score",
            "experts, by id: expected",
        ),
    },
}


@pytest.mark.parametrize("name", PEERS)
def test_a_deployed_router_is_judged_as_expected(name):
    (found,) = verdicts([replace(peer(name, *PEERS[name]), only=frozenset(ROUTING))], "moe").values()
    results = defaultdict(list)
    for verdict in found:
        if not verdict.result.of_signature:
            results[verdict.requirement].append(verdict.result)
    expected = {requirement: EXPECTED[name].get(requirement, DECLINED) for requirement in ROUTING}
    for requirement, results_of_it in sorted(results.items()):
        outcome, failures = outcome_of(results_of_it)
        wanted = expected.pop(requirement)
        if isinstance(wanted, str):
            assert_equal(outcome, wanted, f"{requirement}, {failures}: the outcome")
        else:
            _, reason, says = wanted
            assert failures, f"{requirement} is {outcome}, though {reason}"
            strange = [each for each in failures if not re.match(says, each, re.DOTALL)]
            assert not strange, f"{requirement}: {reason}, but: {strange}"
    assert not expected, f"no test ran for {list(expected)}"


def outcome_of(results):
    """What the tests of a requirement found, and what their failures say."""
    failures = [result.message for result in results if result.failing]
    declined = [result for result in results if result.outcome == "declined"]
    if failures:
        return "broken", failures
    return (MET if not declined else DECLINED if len(declined) == len(results) else PART), []
