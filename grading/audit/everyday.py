"""The everyday proof, for CI: each defect meets the test that its witness names, and each test a defect.

Where a witness is missing or wrong, all tests of the requirement are asked, as `week3 audit` does.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from grading.audit import witnesses
from grading.audit.cheats import CHEATS, cheat
from grading.audit.runs import Verdict, nodes, verdicts
from grading.bugs import Bug, known_bugs, removed_checks
from grading.candidates import Candidate, edited_reference
from grading.requirements import requirements


@dataclass(frozen=True)
class Proof:
    """seen: {defect: what tests found on it}. wrong: defects whose witness is missing or did not see them.

    tests: {node: requirement}, all of the topic.
    """

    seen: dict[str, list[Verdict]]
    wrong: list[str]
    tests: dict[str, str]

    def failures(self, defect: str) -> list[Verdict]:
        return [verdict for verdict in self.seen.get(defect, []) if verdict.failed]


def prove(topic: str) -> Proof:
    bugs = {bug.key: bug for bug in known_bugs(topic)}
    checks = {check.key: check for check in removed_checks(topic)}
    edits = [edited_reference(key, edit) for key, edit in (bugs | checks).items()]
    hints = witnesses.read(topic)
    hinted = [replace(each, nodes=frozenset(hints[each.name])) for each in edits if each.name in hints]
    proof = Proof(verdicts(hinted, topic) if hinted else {}, [], nodes(topic))

    def unproved(key: str) -> bool:
        failures = proof.failures(key)
        bug = bugs.get(key)
        return not failures or (bug is not None and bug.seen_in_answers and not named(failures, bug))

    proof.wrong.extend(key for key in (*bugs, *checks) if unproved(key))
    own = [
        replace(each, only=frozenset({bugs[each.name].requirement})) for each in edits if each.name in bugs
    ]
    _ask(proof, topic, (each for each in own if unproved(each.name)))
    refusals = frozenset(r.id for r in requirements(topic) if "refuse" in r.title)
    of_checks = [each for each in edits if each.name in checks]
    about_errors = [replace(each, only=refusals) for each in of_checks]
    _ask(proof, topic, (each for each in about_errors if unproved(each.name)))
    _ask(proof, topic, (each for each in of_checks if unproved(each.name)), first_failure=True)
    _ask(proof, topic, map(cheat, CHEATS))
    idle = set(proof.tests) - {
        verdict.result.node for seen in proof.seen.values() for verdict in seen if verdict.failed
    }
    if idle:
        _ask(proof, topic, (replace(each, nodes=frozenset(idle)) for each in edits))
    return proof


def named(failures: Iterable[Verdict], bug: Bug) -> bool:
    return any(bug.title in verdict.result.diagnosis for verdict in failures)


def _ask(proof: Proof, topic: str, candidates: Iterable[Candidate], *, first_failure: bool = False) -> None:
    wanted = list(candidates)
    if wanted:
        for defect, found in verdicts(wanted, topic, first_failure=first_failure).items():
            proof.seen.setdefault(defect, []).extend(found)
