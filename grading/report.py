"""What grading one implementation found: plain data that the JSON file, the terminal and JUnit all show."""

import re
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["met", "broken", "declined", "not attempted", "error"]
Outcome = Literal["passed", "failed", "declined", "error"]
LEVEL_WEIGHTS = {"core": 3, "edge": 2, "scale": 1}
_NOT_IMPLEMENTED = re.compile(r"not implemented: (\w+(?:\.\w+)+)")
_STOPPED = re.compile(
    r"(?:in )?([\w.]+)(?: did not answer within|, the submission's process | cannot be imported: )"
)
_NOT_CALLED = re.compile(r"(?:not run: )?([\w.]+) (?:is not called again|cannot be imported): ")


@dataclass
class TestResult:
    """One test of one requirement."""

    node: str
    outcome: Outcome
    message: str = ""  # one or a few sentences: first differing index, expected, actual, smallest input
    diagnosis: list[str] = field(default_factory=list)  # titles of the known bugs that explain the output
    blob: str = ""  # Hypothesis' encoding of the failing input, for `week3 replay`
    seconds: float = 0.0
    declined: list[str] = field(default_factory=list)  # the capabilities of `week3.toml` that it asks for
    output: str = ""  # the end of what the submission's process had printed, where it has one of its own

    @property
    def failing(self) -> bool:
        """Whether something is wrong, or not there, or came to no verdict."""
        return self.outcome in ("failed", "error")

    @property
    def of_signature(self) -> bool:
        """Whether it looks at the signature alone, which comes before any claim."""
        return "::test_signature[" in self.node

    @property
    def missing(self) -> str:
        """`moe.route` where it failed because that is not implemented."""
        match = _NOT_IMPLEMENTED.match(self.message)
        return match[1] if match and self.failing else ""

    @property
    def stopped(self) -> str:
        """`BlockAllocator.num_free` where that hung or crashed; the topic, where it cannot be imported."""
        match = _STOPPED.match(self.message)
        return match[1] if match and self.outcome == "failed" else ""

    @property
    def not_called(self) -> str:
        """`BlockAllocator.num_free` where that was not called again, or the topic; see `stopped`."""
        match = _NOT_CALLED.match(self.message)
        return match[1] if match and self.outcome == "error" else ""


@dataclass
class RequirementResult:
    id: str
    title: str
    topic: str
    level: str
    needs: list[str]
    status: Status
    tests: list[TestResult]
    message: str = ""
    diagnosis: list[str] = field(default_factory=list)
    waits_for: list[str] = field(default_factory=list)  # the roots: what else must be mended first

    @property
    def declined(self) -> list[str]:
        """The capabilities that its tests asked for in vain."""
        return list(dict.fromkeys(name for test in self.tests for name in test.declined))

    @property
    def met_besides(self) -> bool:
        """Declined in part: what else it asks for is there, and right."""
        passed = [test for test in self.tests if test.outcome == "passed" and not test.of_signature]
        return self.status == "declined" and bool(passed)

    @property
    def unwritten(self) -> bool:
        """Nothing of it is wrong; there is only nothing, or not all of it."""
        failing = [test for test in self.tests if test.failing]
        return self.status == "not attempted" or bool(failing) and all(test.missing for test in failing)


@dataclass
class TopicResult:
    name: str
    status: str  # "complete" | "incomplete" | "not attempted"
    score: float
    max_score: float = 100.0
    missing: list[str] = field(default_factory=list)  # contract names without an implementation, in order
    note: str = ""  # why the topic ended early, if it did


@dataclass
class Report:
    implementation: str
    framework: str
    suite_version: str
    seed: int
    isolation: str
    topics: dict[str, TopicResult]
    requirements: dict[str, RequirementResult]
    seconds: float
    max_score: float = 100.0
    declines: list[str] = field(default_factory=list)  # as `week3.toml` has them

    @property
    def score(self) -> float:
        """Mean over the topics, each 100 × weights of met requirements / all weights."""
        scores = [topic.score for topic in self.topics.values()]
        return sum(scores) / len(scores) if scores else 0.0

    @property
    def passed(self) -> bool:
        return all(requirement.status == "met" for requirement in self.requirements.values())

    @property
    def nothing_wrong(self) -> bool:
        """Everything that is written, and not declined, meets its requirements."""
        return all(r.status in ("met", "declined") or r.unwritten for r in self.requirements.values())
