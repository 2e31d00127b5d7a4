"""What is declined is not judged, earns nothing and is no accusation; all else is judged as before.

That every capability is asked for by some test is seen in test_no_false_alarm.py.
"""

import json

import pytest

from grading import capabilities
from grading.boundary.failures import Declined, SubmissionError
from grading.boundary.loading import settings_of
from grading.candidates import in_process
from grading.capabilities import Declines, of_topic
from grading.clone import ROOT
from grading.contract import contract
from grading.grade import grade
from grading.matching import check_refusals
from grading.requirements import requirements, topics
from grading.roots import roots
from grading.terminal import Silent
from spec import InvalidArgument
from spec.moe import MIXTRAL, RouterConfig
from spec.topics import TOPICS

ROUTING = {f"MOE-{number:02}" for number in range(1, 15)}
SOURCE = (ROOT / "reference" / "moe.py").read_text(encoding="utf-8")
# Edits of it, each a defect.
SIGMOIDS_OF_SOFTMAX = ('softmax(row) if scoring == "softmax" else sigmoid(row)', "softmax(row)")
TWO_WEIGHTS_AS_THEY_ARE = ("elif config.normalize:", "elif config.normalize and config.top_k != 2:")


def edited(*edits):
    text = SOURCE
    for old, new in edits:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def test_the_list_names_what_the_contracts_have():
    for name, capability in capabilities.capabilities().items():
        topic = name.partition(".")[0]
        assert topic in TOPICS, f"{name} does not begin with a topic"
        assert capability.says.endswith("."), f"{name} says no sentence"
        called = contract(topic).called
        for use in capability.uses:
            for call in use.calls:
                assert call in called, f"{name}: the contract has no {call}"
                parameters = {parameter.name for parameter in called[call].parameters}
                roots = {condition.path.partition(".")[0] for condition in use.where}
                assert roots <= parameters, f"{name}: {call} has no {roots - parameters}"
            kinds = {condition.kind for condition in use.where}
            assert kinds <= {"is", "is_not", "type", "given"}, f"{name}: {kinds}"


@pytest.fixture
def submission(tmp_path):
    """Writes moe.py and week3.toml."""

    def write(source=SOURCE, declines=()):
        (tmp_path / "moe.py").write_text(source, encoding="utf-8")
        names = json.dumps(list(declines))
        (tmp_path / "week3.toml").write_text(f'framework = "numpy"\ndeclines = {names}\n', encoding="utf-8")
        return tmp_path

    return write


def graded(folder, only=None, isolation="in-process"):
    return grade(
        folder, topics=["moe"], seed=1, isolation=isolation, diagnosis=False, only=only, listener=Silent()
    )


def statuses(report):
    return {id: result.status for id, result in report.requirements.items()}


def test_who_declines_everything_earns_nothing_and_is_not_accused(submission):
    names = [capability.name for capability in of_topic("moe")]
    report = graded(submission(declines=names))
    assert set(statuses(report).values()) == {"declined"}
    assert len(report.requirements) == len(requirements("moe"))
    assert (report.score, report.passed, report.nothing_wrong, roots(report)) == (0, False, True, [])
    assert report.declines == names


def test_one_option_declined_changes_only_requirements_that_ask_for_it(submission):
    source = edited(SIGMOIDS_OF_SOFTMAX, TWO_WEIGHTS_AS_THEY_ARE)
    before = graded(submission(source), ROUTING)
    after = graded(submission(source, ["moe.scoring.sigmoid"]), ROUTING)
    changed = {id for id in ROUTING if statuses(before)[id] != statuses(after)[id]}
    assert {statuses(after)[id] for id in changed} == {"declined"}
    assert {statuses(before)["MOE-06"], statuses(before)["MOE-07"]} == {"broken"}
    assert {"MOE-06", "MOE-07"} <= changed
    assert statuses(after)["MOE-03"] == "broken"  # weights that do not sum to one, of a softmax too
    assert statuses(after)["MOE-05"] == "met"
    assert before.score > after.score > 0
    of_seven = [test.outcome for test in after.requirements["MOE-07"].tests]
    assert sorted(of_seven) == ["declined", "declined", "passed", "passed"]


def test_a_bug_is_found_in_the_inputs_that_are_left(submission):
    """The test of independent sigmoids draws whether they are normalised."""
    report = graded(submission(edited(TWO_WEIGHTS_AS_THEY_ARE), ["moe.weights.as_scored"]), {"MOE-06"})
    found = {test.node.partition("::")[2]: test for test in report.requirements["MOE-06"].tests}
    test = found["test_sigmoid_scores_are_independent"]
    assert test.outcome == "failed"
    assert "normalize=True" in test.message
    assert statuses(report) == {"MOE-06": "broken"}


def test_a_test_that_has_next_to_no_input_left_ends(submission, monkeypatch):
    """Hypothesis would draw hundreds until it gave up."""
    asked = []
    monkeypatch.setattr(
        Declined, "__init__", lambda self, names: setattr(self, "names", asked.append(names) or names)
    )
    report = graded(submission(declines=["moe.scoring.softmax"]), {"MOE-01"})
    assert statuses(report) == {"MOE-01": "declined"}
    assert len(asked) <= 30


@pytest.mark.parametrize("isolation", ["in-process", None])
def test_a_submission_cannot_decline_a_call(submission, isolation):
    """Neither by an exception that is called so nor by the very class."""
    for raised in ("class Declined(Exception): pass", "from grading.boundary.failures import Declined"):
        source = f"{raised}\n\ndef route(logits, config, *, selection_bias=None):\n"
        report = graded(submission(f"{source}    raise Declined(('moe.layer',))\n"), {"MOE-01"}, isolation)
        assert statuses(report) == {"MOE-01": "broken"}


def test_what_is_declined_need_not_be_there(submission):
    source = SOURCE.replace("def expert_choice(", "def _expert_choice(")
    report = graded(submission(source, ["moe.expert_choice"]), {"MOE-49", "MOE-50"})
    assert statuses(report) == {"MOE-49": "met", "MOE-50": "declined"}
    assert {test.outcome for test in report.requirements["MOE-50"].tests} == {"declined"}
    assert not report.requirements["MOE-50"].unwritten


def test_of_several_refusals_those_that_are_not_declined_are_judged():
    refusals = [("config", {"config": n}) for n in (1, 2, 3)]
    refusing = []

    def route(config):
        refusing.append(config)
        if config == 2:
            raise Declined(("moe.capacity",))
        raise InvalidArgument(f"config: expected 0, got {config}")

    with pytest.raises(Declined):
        check_refusals(route, {}, refusals)
    assert refusing == [1, 2, 3]
    accepting = {1: InvalidArgument("config: expected 0, got 1"), 2: Declined(("moe.capacity",))}

    def accepts_three(config):
        if config in accepting:
            raise accepting[config]

    with pytest.raises(AssertionError, match="but the call succeeded"):
        check_refusals(accepts_three, {}, refusals)


CALLS = {  # what declines a call: {capability: (arguments that ask for it, others)}
    "moe.scoring.sigmoid": (RouterConfig(2, "sigmoid"), MIXTRAL),
    "moe.weights.scaled": (RouterConfig(2, scale=2.5), RouterConfig(2)),
    "moe.groups.max": (RouterConfig(2, n_groups=2), RouterConfig(2, n_groups=2, group_score="top2_sum")),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_declined_by_its_arguments(name):
    asks, other = CALLS[name]
    declines = Declines("moe", [name])
    for args, kwargs in (((None, asks), {}), ((None,), {"config": asks})):
        with pytest.raises(Declined, match=f"^declined: {name}$"):
            declines.check("route", args, kwargs)
    declines.check("route", (None, other), {})
    declines.check("route", (), {"config": asks})  # fits the contract no more than its answer will
    declines.check("dispatch", (None, asks), {})
    Declines("paged_attention", [name]).check("route", (None, asks), {})


def test_an_argument_that_is_left_out_has_the_contracts_default():
    declines = Declines("long_context", ["long_context.positions.cache"])
    with pytest.raises(Declined):
        declines.check("RollingKVCache", (8, 2, 1, 4), {"inv_freq": None})
    declines.check("RollingKVCache", (8, 2, 1, 4), {"inv_freq": None, "positions": "absolute"})


def test_names_that_nobody_published_are_refused(submission):
    with pytest.raises(SubmissionError, match="Did you mean moe.scoring.sigmoid?"):
        in_process(submission(declines=["moe.scoring.sigmod"])).open("moe")
    for wrong in ('"moe.scoring.sigmoid"', "[1]"):
        folder = submission()
        (folder / "week3.toml").write_text(f"declines = {wrong}\n")
        with pytest.raises(SubmissionError, match="declines: expected a list of names, got"):
            settings_of(folder)


# ---- The command line. ----


def test_a_name_that_nobody_published_is_a_usage_error_before_anything_is_graded(week3, submission):
    ran = week3("grade", submission(declines=["moe.scoring.sigmod"]))
    assert ran.code == 2
    assert "no capability 'moe.scoring.sigmod'. Did you mean moe.scoring.sigmoid?" in ran.err


def test_what_is_declined_is_allowed_where_what_is_unwritten_is(week3, submission):
    folder = submission(SOURCE + "\n\ndel route\n", [capability.name for capability in of_topic("moe")])
    how = (folder, "--topic", "moe", "--in-process", "--seed", "1")
    assert week3("grade", *how).code == 1
    assert week3("grade", *how, "--allow-unwritten").code == 0


def test_the_published_list_can_be_seen(week3):
    ran = week3("list", "--capabilities")
    assert ran.code == 0
    assert all(
        each.name in ran.out and each.says in ran.out for topic in topics() for each in of_topic(topic)
    )
    as_json = week3("list", "moe", "--capabilities", "--json")
    assert json.loads(as_json.out) == {"moe": {each.name: each.says for each in of_topic("moe")}}
